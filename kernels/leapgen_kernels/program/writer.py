"""Writes programs, instruction by instruction.

A token's numbers are float32 in *rows*, numbered from 0. A *place* is row * ROW + number. Integer arrays of places say which
numbers an instruction reads, so that a view, slice or concatenation costs nothing: it is another array.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from leapgen_kernels import cpu
from leapgen_kernels.interface import (
    Access,
    AttendStage,
    Instruction,
    LinearOperands,
    LinearStage,
    Memory,
    Operation,
    Strides,
)
from leapgen_kernels.program.assembly import assemble
from leapgen_kernels.program.loops import loop_nests
from leapgen_kernels.program.stack import Program, ProgramError
from leapgen_kernels.program.stage import Call, LinearCall, Row, Stage

UNARY = ("negate", "rsqrt", "relu", "tanh", "sigmoid", "silu", "gelu", "gelu_tanh")
BINARY = ("add", "subtract", "multiply", "divide")
ROW = 1 << 24  # more than the numbers of any row

Places: TypeAlias = NDArray[np.int64]


class Heads(NamedTuple):
    """A token's matrix [heads, dim] in memory: from ``start`` on, ``stride`` elements a head, dim contiguous."""

    memory: Memory
    start: int
    stride: int
    heads: int
    dim: int


class Writer:
    """Writes a program.

    Args:
        dtype: of what kernels read and write: float32 or bfloat16.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.inputs: list[Memory] = []
        self._rows: list[Row] = []
        self._buffers: list[Memory] = []
        self._stages = [Stage(0)]

    # -- rows -------------------------------------------------------------------------------------------------------

    def input(self, width: int, dtype: torch.dtype, shared: bool) -> Places:
        """The next input: [tokens, width], or [width] where all tokens share it. Returns its places [width]."""
        memory = Memory(width, dtype, shared=shared)
        self.inputs.append(memory)
        return self._places(Row(width, dtype, shared, memory=memory))

    def number(self, value: float) -> Places:
        """A constant; returns its place [1]."""
        row = self._row(1, torch.float32, invariant=True)
        start = row.scratch[self._stage.index]
        self._stage.emit(Instruction(Operation.FILL, 1, 1, Access(start), value=value), invariant=True)
        return self._places(row)

    def elementwise(self, op: str, operands: Sequence[Places], dtype: torch.dtype) -> Places:
        """One of UNARY or BINARY, on places [n] each; returns the result's places [n]."""
        scratch = [self._in_scratch(places) for places in operands]
        row, result = self._result(len(operands[0]), dtype, operands)
        for outer, inner, (out, *accesses) in loop_nests([result, *scratch]):
            a, b = (*accesses, Access())[:2]
            self._stage.emit(Instruction(Operation[op.upper()], outer, inner, out, a, b), row.invariant)
        return self._places(row)

    def mean(self, places: Places, dtype: torch.dtype) -> Places:
        """Means of places [n, m] over m; returns the result's places [n].

        Raises:
            ProgramError: the numbers of a mean do not lie evenly.
        """
        scratch = self._in_scratch(places.ravel()).reshape(places.shape)
        steps = np.diff(scratch, axis=1)
        if steps.size and not (steps == steps[0, 0]).all():
            raise ProgramError("a mean over numbers that do not lie evenly")
        stride = int(steps[0, 0]) if steps.size else 0
        row, result = self._result(len(places), dtype, [places.ravel()])
        for outer, inner, (out, a) in loop_nests([result, scratch[:, 0]]):
            for i in range(outer):  # a mean's loops are over the means and over the numbers of each
                means = Access(out.start + i * out.outer, out.inner)
                numbers = Access(a.start + i * a.outer, a.inner, stride)
                self._stage.emit(Instruction(Operation.MEAN, inner, places.shape[1], means, numbers), row.invariant)
        return self._places(row)

    # -- kernels ----------------------------------------------------------------------------------------------------

    def linear(self, x: Places, weights: Sequence[tuple[Memory, Memory | None, int]]) -> list[Places]:
        """x W^T + bias for each (W, bias, columns), x at places [depth]; returns the results' places [columns]."""
        source = self._matrix(x.reshape(1, -1))
        self._open_stage()
        outputs = [self._buffer(columns, self.dtype) for *_, columns in weights]
        head = LinearStage(source.memory, source.start, source.memory.width, len(x), len(weights))
        operands = tuple(LinearOperands(w, bias, y) for (w, bias, _), y in zip(weights, outputs, strict=True))
        self._call(LinearCall(head, operands, tuple(columns for *_, columns in weights)))
        return [self._output(y) for y in outputs]

    def attend(self, query: Places, key: Places, value: Places, plan: Memory, scaling: float, window: int | None,
               softcap: float | None) -> Places:
        """Attention over pages; takes places [heads, dim] each, returns [heads, value_dim]."""
        q, k, v = (self._matrix(places) for places in (query, key, value))
        self._open_stage()
        output = self._buffer(q.heads * v.dim, self.dtype)
        strides = Strides(q.memory.width, q.stride, k.memory.width, k.stride, v.memory.width, v.stride)
        self._call(AttendStage(plan, output, q.memory, q.start, k.memory, k.start, v.memory, v.start, strides, q.heads,
                               k.heads, q.dim, v.dim, window or 0, float(scaling), float(softcap or 0.0)))
        return self._output(output).reshape(q.heads, v.dim)

    def finish(self, places: Places) -> Program:
        """The program whose result [tokens, width] has these places; the result is its last input, which it writes."""
        result = Memory(len(places), self.dtype)
        self.inputs.append(result)
        self._store(self._stage, self._in_scratch(places), result)
        widths = {i: memory.width for i, memory in enumerate(self.inputs[:-1]) if not memory.shared}
        code, row_bytes = assemble(self._stages, self.inputs, self._buffers, self.dtype)
        return Program(code, widths, len(places), self.dtype, row_bytes)

    # -- parts ------------------------------------------------------------------------------------------------------

    @property
    def _stage(self) -> Stage:
        return self._stages[-1]

    def _open_stage(self) -> None:
        self._stages.append(Stage(len(self._stages)))

    def _places(self, row: Row) -> Places:
        self._rows.append(row)
        return (len(self._rows) - 1) * ROW + np.arange(row.width)

    def _row(self, width: int, dtype: torch.dtype, invariant: bool) -> Row:
        """A row that this stage computes."""
        return Row(width, dtype, invariant, self._stage, scratch={self._stage.index: self._stage.allocate(width)})

    def _result(self, width: int, dtype: torch.dtype, operands: Sequence[Places]) -> tuple[Row, Places]:
        """A row that this stage computes of operands, and where it lies in scratch memory [width]."""
        invariant = all(self._rows[row].invariant for places in operands for row in np.unique(places // ROW))
        row = self._row(width, dtype, invariant)
        start = row.scratch[self._stage.index]
        return row, np.arange(start, start + width)

    def _in_scratch(self, places: Places) -> Places:
        """Where these places lie in the stage's scratch memory; loads the rows that it does not hold."""
        where = np.empty_like(places)
        for number in np.unique(places // ROW):
            ours = places // ROW == number
            where[ours] = self._held(self._rows[number]) + places[ours] % ROW
        return where

    def _held(self, row: Row) -> int:
        """Where the row begins in the stage's scratch memory; loads it if the stage does not hold it."""
        stage = self._stage
        if stage.index not in row.scratch:
            memory = row.memory or self._spill(row)
            start = row.scratch[stage.index] = stage.allocate(row.width)
            load = Operation["LOAD_" + _name(row.dtype)]
            stage.emit(Instruction(load, 1, row.width, Access(start, 0, 1), Access(0, 0, 1), memory=memory,
                                   row_stride=0 if row.invariant else row.width), row.invariant)
            memory.last = stage.index
        return row.scratch[stage.index]

    def _spill(self, row: Row) -> Memory:
        """Stores the row where it is computed, to a buffer from which later stages load it."""
        if row.invariant or row.stage is None:
            raise ProgramError("what is the same for all tokens is used in several places")
        row.memory = self._buffer(row.width, row.dtype)
        row.memory.first = row.stage.index
        start = row.scratch[row.stage.index]
        self._store(row.stage, np.arange(start, start + row.width), row.memory)
        return row.memory

    def _store(self, stage: Stage, scratch: Places, memory: Memory) -> None:
        store = Operation["STORE_" + _name(memory.dtype)]
        for outer, inner, (out, a) in loop_nests([np.arange(len(scratch)), scratch]):
            stage.emit(Instruction(store, outer, inner, out, a, memory=memory, row_stride=memory.width), invariant=False)

    def _matrix(self, places: Places) -> Heads:
        """Places [heads, dim] in memory, as a kernel reads them: where they lie, or in a buffer."""
        heads, dim = places.shape
        row, start = self._rows[int(places[0, 0]) // ROW], int(places[0, 0]) % ROW
        stride = int(places[1, 0] - places[0, 0]) if heads > 1 else dim
        strided = places[0, 0] + np.arange(heads)[:, None] * stride + np.arange(dim)
        if row.memory is None or row.invariant or row.dtype != self.dtype or not np.array_equal(places, strided):
            memory = self._buffer(places.size, self.dtype)
            self._store(self._stage, self._in_scratch(places.ravel()), memory)
            return Heads(memory, 0, dim, heads, dim)
        return Heads(row.memory, start, stride, heads, dim)

    def _call(self, call: Call) -> None:
        """Makes this stage a kernel's call; instructions go on in the next."""
        self._stage.call = call
        self._open_stage()

    def _buffer(self, width: int, dtype: torch.dtype) -> Memory:
        self._buffers.append(Memory(width, dtype, first=self._stage.index, last=self._stage.index))
        return self._buffers[-1]

    def _output(self, output: Memory) -> Places:
        return self._places(Row(output.width, output.dtype, False, memory=output))


def _name(dtype: torch.dtype) -> str:
    if dtype not in cpu.DTYPES:
        raise ProgramError(f"numbers of {dtype}")
    return cpu.DTYPES[dtype].upper()
