"""Assembles stages to the code of a program: buffers get their places in the workspace, gated layers their kernel."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from leapgen_kernels.interface import (
    TILE_DEPTH,
    Gate,
    GatedStage,
    Instruction,
    Memory,
    Operation,
    ProgramHeader,
    StageKind,
    Word,
)
from leapgen_kernels.program.stage import LinearCall, Stage, encode

_CACHE_LINE = 64  # bytes: buffers begin on one


def assemble(stages: Sequence[Stage], inputs: Sequence[Memory], buffers: Sequence[Memory],
             dtype: torch.dtype) -> tuple[NDArray[np.int64], int]:
    """The code of a program, and the bytes of workspace that it needs for each token.

    Args:
        stages: alternately instructions and a kernel's call.
        dtype: of what kernels read and write.
    """
    for stage in stages:
        for memory in stage.memories:
            memory.last = max(memory.last, stage.index)
    offsets, row_bytes = lay_out(buffers)
    for number, memory in enumerate([*inputs, *buffers]):
        memory.number = number
    code: list[Word] = [*ProgramHeader(len(inputs), len(buffers)), *offsets]
    codes = [stage.code() for stage in stages]
    for i, one in enumerate(codes):
        if dtype == torch.bfloat16 and (gated := _gated(stages[i : i + 3])) is not None:
            code += encode(StageKind.GATED, gated._replace(replaced=sum(map(len, codes[i : i + 3]))))
        code += one
    code += encode(StageKind.END)
    return np.array([_number(word) if word is None or isinstance(word, Memory) else word for word in code],
                    dtype=np.int64), row_bytes


def _number(memory: Memory | None) -> int:
    return -1 if memory is None else memory.number


def lay_out(buffers: Sequence[Memory]) -> tuple[list[int], int]:
    """Where buffers begin, in bytes a token, and how many bytes a token they need: none overlaps one in use with it."""
    offsets: list[int] = []
    for i, one in enumerate(buffers):
        taken = sorted((offsets[j], offsets[j] + _bytes(other)) for j, other in enumerate(islice(buffers, i))
                       if other.first <= one.last and one.first <= other.last)
        start = 0
        for begin, end in taken:
            if begin - start >= _bytes(one):
                break
            start = max(start, end)
        offsets.append(start)
    return offsets, max((offset + _bytes(one) for offset, one in zip(offsets, buffers, strict=True)), default=0)


def _bytes(memory: Memory) -> int:
    size = memory.width * memory.dtype.itemsize
    return -(-size // _CACHE_LINE) * _CACHE_LINE


def _gated(stages: Sequence[Stage]) -> GatedStage | None:
    """The gated stage that may replace three stages, or None if they are something else than gated layers."""
    if len(stages) < 3:
        return None
    first, between, last = stages
    pair, down = first.call, last.call
    if not isinstance(pair, LinearCall) or not isinstance(down, LinearCall) or between.invariant:
        return None
    if len(pair.operands) != 2 or len(down.operands) != 1:
        return None
    inner = pair.columns[0]
    if (inner, down.head.offset, down.head.depth) != (pair.columns[1], 0, inner) or inner % TILE_DEPTH:
        return None
    found = _gated_product(between.varying)
    if found is None:
        return None
    function, gate, factor, product = found
    operands = {id(one.output): one for one in pair.operands}
    if product is not down.head.x or {id(gate), id(factor)} != set(operands):
        return None
    used_again = any(one.output.last != between.index for one in pair.operands) or down.head.x.last != last.index
    if used_again:
        return None
    x, offset, row_stride, depth, _ = pair.head
    gate_weight, gate_bias, _ = operands[id(gate)]
    factor_weight, factor_bias, _ = operands[id(factor)]
    return GatedStage(0, x, offset, row_stride, depth, function, inner, gate_weight, gate_bias, factor_weight, factor_bias,
                      *down.operands[0], down.columns[0])


def _gated_product(instructions: list[Instruction]) -> tuple[Gate, Memory | None, Memory | None, Memory | None] | None:
    """f and the memories g, u, y, if the instructions are y = f(g) * u of whole rows and nothing else."""
    by_operation = {one.operation: one for one in instructions}
    loads = [one for one in instructions if one.operation is Operation.LOAD_BFLOAT16]
    function = next((gate for gate in Gate if gate and Operation[gate.name] in by_operation), None)
    if len(instructions) != 5 or len(loads) != 2 or function is None:
        return None
    multiply, store = (by_operation.get(kind) for kind in (Operation.MULTIPLY, Operation.STORE_BFLOAT16))
    if multiply is None or store is None or any((one.outer, one.inner) != (1, loads[0].inner) for one in instructions):
        return None
    activation = by_operation[Operation[function.name]]
    gate, factor = sorted(loads, key=lambda load: load.out != activation.a)
    if gate.out != activation.a or store.a != multiply.out \
            or sorted([activation.out, factor.out]) != sorted([multiply.a, multiply.b]):
        return None
    return function, gate.memory, factor.memory, store.memory
