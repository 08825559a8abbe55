"""Programs for ``csrc/layer.cpp``: a decoder layer as linear layers, attention, and instructions on each token's numbers.

A token's numbers are *rows*, one float32 each, counted from 0. Which number of which row an instruction reads is said by
integer arrays, so that views, slices and concatenations cost nothing: they are other arrays.
"""

from __future__ import annotations

import ctypes
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from leapgen_kernels import cpu

UNARY = ("negate", "rsqrt", "relu", "tanh", "sigmoid", "silu", "gelu", "gelu_tanh")
BINARY = ("add", "subtract", "multiply", "divide")
_OPS = {name: code for code, name in enumerate(
    ("load float32", "load bfloat16", "store float32", "store bfloat16", "fill", *BINARY, *UNARY, "mean"))}
_END, _ROWWISE, _LINEAR, _ATTEND, _GATED = range(5)
_ROW_BYTES = 64  # buffers begin on cache lines
_KEPT_BYTES = 64 << 20  # of workspace from one call to the next

ROW = 1 << 24  # a place is row * ROW + number


class ProgramError(ValueError):
    """What was asked for cannot be said in a program."""


@dataclass
class Memory:
    """A tensor [tokens, width] in memory: an input of the program, or a buffer of its own."""

    width: int
    dtype: torch.dtype
    input: int | None = None
    shared: bool = False  # an input [width] that is the same for all tokens
    first: int = 0  # stages that use it
    last: int = 0
    number: int = -1


@dataclass
class Row:
    """Numbers of a token: in scratch memory of the stages that know them, and in memory if anybody needs them there."""

    width: int
    dtype: torch.dtype
    once: bool  # the same for all tokens
    stage: Stage | None = None  # where it is computed
    memory: Memory | None = None
    scratch: dict[int, int] = field(default_factory=dict)  # stage: where it begins


@dataclass
class Stage:
    """Instructions on rows, or a kernel's call."""

    index: int
    kind: int = _ROWWISE
    once: list[list[int]] = field(default_factory=list)
    each: list[list[int]] = field(default_factory=list)
    floats: int = 0
    call: list[int | Memory | None] = field(default_factory=list)

    def room(self, width: int) -> int:
        start, self.floats = self.floats, self.floats + -(-width // 8) * 8
        return start


class Heads(NamedTuple):
    """Where a kernel finds a matrix a token: element ``start``, ``stride`` elements a head, dim contiguous."""

    memory: Memory
    start: int
    stride: int
    heads: int
    dim: int


class Writer:
    """Writes a program, instruction by instruction.

    Args:
        dtype: of what kernels read and write: float32 or bfloat16.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.rows: list[Row] = []
        self.inputs: list[Memory] = []
        self._buffers: list[Memory] = []
        self._stages = [Stage(0)]

    # -- rows -------------------------------------------------------------------------------------------------------

    def input(self, width: int, dtype: torch.dtype, shared: bool) -> np.ndarray:
        """The next input: [tokens, width], or [width] where all tokens share it. Returns its places [width]."""
        memory = Memory(width, dtype, input=len(self.inputs), shared=shared)
        self.inputs.append(memory)
        return self._row(Row(width, dtype, shared, memory=memory))

    def number(self, value: float) -> np.ndarray:
        """A constant; its place [1]."""
        row = Row(1, torch.float32, once=True, stage=self._stage)
        start = row.scratch[self._stage.index] = self._stage.room(1)
        self._stage.once.append(_instruction("fill", 1, 1, out=(start, 0, 0), value=value))
        return self._row(row)

    def elementwise(self, op: str, operands: Sequence[np.ndarray], dtype: torch.dtype) -> np.ndarray:
        """One of UNARY or BINARY, on places [n] each; the result's places [n]."""
        width = len(operands[0])
        scratch = [self._in_scratch(places) for places in operands]
        row, start = self._result(width, dtype, operands)
        for outer, inner, (out, *others) in _loops([np.arange(start, start + width), *scratch]):
            self._emit(row, _instruction(op, outer, inner, out, *others))
        return self._row(row)

    def mean(self, places: np.ndarray, dtype: torch.dtype) -> np.ndarray:
        """Means of places [n, m] over m; the result's places [n]."""
        scratch = self._in_scratch(places.ravel()).reshape(places.shape)
        steps = np.diff(scratch, axis=1)
        if steps.size and not (steps == steps[0, 0]).all():
            raise ProgramError("a mean over numbers that do not lie evenly")
        row, start = self._result(len(places), dtype, [places.ravel()])
        inner = int(steps[0, 0]) if steps.size else 0
        for outer, width, (out, a) in _loops([np.arange(start, start + len(places)), scratch[:, 0]]):
            for i in range(outer):
                self._emit(row, _instruction("mean", width, places.shape[1], (out[0] + i * out[1], out[2], 0),
                                             (a[0] + i * a[1], a[2], inner)))
        return self._row(row)

    # -- kernels ----------------------------------------------------------------------------------------------------

    def linear(self, x: np.ndarray, weights: Sequence[tuple[Memory, Memory | None, int]]) -> list[np.ndarray]:
        """x W^T + bias for each (W, bias, columns). Takes x's places, returns the results' places."""
        source = self._matrix(x.reshape(1, -1))
        stage = self._kernel(_LINEAR)
        outputs = [self._buffer(columns, self.dtype) for *_, columns in weights]
        operands = [part for (w, bias, _), y in zip(weights, outputs, strict=True) for part in (w, bias, y)]
        stage.call = [source.memory, source.start, source.memory.width, len(x), len(weights), *operands,
                      *(columns for *_, columns in weights)]
        return [self._finish(y) for y in outputs]

    def attend(self, query: np.ndarray, key: np.ndarray, value: np.ndarray, plan: Memory, scaling: float, window: int | None,
               softcap: float | None) -> np.ndarray:
        """Attention over pages; takes places [heads, dim] each, returns [heads, value_dim]."""
        q, k, v = (self._matrix(places) for places in (query, key, value))
        stage = self._kernel(_ATTEND)
        output = self._buffer(q.heads * v.dim, self.dtype)
        where = [part for one in (q, k, v) for part in (one.memory, one.start)]
        strides = [part for one in (q, k, v) for part in (one.memory.width, one.stride)]
        stage.call = [plan, output, *where, *strides, q.heads, k.heads, q.dim, v.dim, window or 0, _bits(scaling),
                      _bits(softcap or 0.0)]
        return self._finish(output).reshape(q.heads, v.dim)

    def finish(self, places: np.ndarray) -> Program:
        """The program whose result, an input to be written [tokens, width], is these places."""
        result = Memory(len(places), self.dtype, input=len(self.inputs))
        self.inputs.append(result)
        self._store(self._stage, self._in_scratch(places), result)
        widths = {i: memory.width for i, memory in enumerate(self.inputs[:-1]) if not memory.shared}
        return Program(self._assemble(), widths, len(places), self.dtype, self._row_bytes)

    # -- parts ------------------------------------------------------------------------------------------------------

    @property
    def _stage(self) -> Stage:
        return self._stages[-1]

    def _row(self, row: Row) -> np.ndarray:
        self.rows.append(row)
        return (len(self.rows) - 1) * ROW + np.arange(row.width)

    def _result(self, width: int, dtype: torch.dtype, operands: Sequence[np.ndarray]) -> tuple[Row, int]:
        once = all(self.rows[row].once for places in operands for row in np.unique(places // ROW))
        row = Row(width, dtype, once, stage=self._stage)
        start = row.scratch[self._stage.index] = self._stage.room(width)
        return row, start

    def _emit(self, row: Row, instruction: list[int]) -> None:
        (self._stage.once if row.once else self._stage.each).append(instruction)

    def _in_scratch(self, places: np.ndarray) -> np.ndarray:
        """Where these places are in scratch memory now; loads what is not there yet."""
        where = np.empty_like(places)
        for number in np.unique(places // ROW):
            ours = places // ROW == number
            where[ours] = self._bring(self.rows[number]) + places[ours] % ROW
        return where

    def _bring(self, row: Row) -> int:
        stage = self._stage
        if stage.index not in row.scratch:
            if row.memory is None:
                if row.once or row.stage is None:
                    raise ProgramError("what is the same for all tokens is used in several places")
                row.memory = self._buffer(row.width, row.dtype)
                row.memory.first = row.stage.index
                start = row.scratch[row.stage.index]
                self._store(row.stage, np.arange(start, start + row.width), row.memory)
            start = row.scratch[stage.index] = stage.room(row.width)
            load = _instruction(f"load {_name(row.dtype)}", 1, row.width, (start, 0, 1), (0, 0, 1), memory=row.memory,
                                row_stride=0 if row.once else row.width)
            (stage.once if row.once else stage.each).append(load)
            row.memory.last = stage.index
        return row.scratch[stage.index]

    def _store(self, stage: Stage, scratch: np.ndarray, memory: Memory) -> None:
        for outer, inner, (out, a) in _loops([np.arange(len(scratch)), scratch]):
            stage.each.append(_instruction(f"store {_name(memory.dtype)}", outer, inner, out, a, memory=memory,
                                           row_stride=memory.width))

    def _matrix(self, places: np.ndarray) -> Heads:
        """Places [heads, dim] in memory, as a kernel can read them."""
        heads, dim = places.shape
        row = self.rows[int(places[0, 0]) // ROW]
        start = int(places[0, 0]) % ROW
        stride = int(places[1, 0] - places[0, 0]) if heads > 1 else dim
        as_it_lies = places[0, 0] + np.arange(heads)[:, None] * stride + np.arange(dim)
        if row.memory is None or row.once or row.dtype != self.dtype or not np.array_equal(places, as_it_lies):
            memory = self._buffer(places.size, self.dtype)
            memory.first = self._stage.index
            self._store(self._stage, self._in_scratch(places.ravel()), memory)
            return Heads(memory, 0, dim, heads, dim)
        return Heads(row.memory, start, stride, heads, dim)

    def _kernel(self, kind: int) -> Stage:
        """The kernel's call, after the instructions so far, with room for those to come."""
        stage = Stage(len(self._stages), kind)
        self._stages += [stage, Stage(stage.index + 1)]
        return stage

    def _buffer(self, width: int, dtype: torch.dtype) -> Memory:
        self._buffers.append(Memory(width, dtype, first=self._stage.index, last=self._stage.index))
        return self._buffers[-1]

    def _finish(self, output: Memory) -> np.ndarray:
        output.first = self._stage.index - 1
        return self._row(Row(output.width, output.dtype, False, memory=output))

    def _assemble(self) -> np.ndarray:
        for stage in self._stages:
            for memory in stage.call:
                if isinstance(memory, Memory):
                    memory.last = max(memory.last, stage.index)
        offsets, self._row_bytes = _lay_out(self._buffers)
        for number, memory in enumerate([*self.inputs, *self._buffers]):
            memory.number = number
        code = [len(self.inputs), len(self._buffers), *offsets]
        coded = [_code(stage) for stage in self._stages]
        for i, stage in enumerate(self._stages):
            if gated := self._gated(stage):
                length = sum(map(len, coded[i : i + 3]))
                code += [_GATED, 1 + len(gated), length, *gated]
            code += coded[i]
        return np.array([-1 if part is None else part.number if isinstance(part, Memory) else part
                         for part in [*code, _END, 0]], dtype=np.int64)

    def _gated(self, first: Stage) -> list[int | Memory | None] | None:
        """What one kernel needs to do this stage and the next two, if they are f(x V) * (x W) and a layer of that alone."""
        if first.kind != _LINEAR or len(first.call) != 13 or first.index + 2 >= len(self._stages):
            return None
        between, last = self._stages[first.index + 1 : first.index + 3]
        if last.kind != _LINEAR or len(last.call) != 9 or self.dtype != torch.bfloat16:
            return None
        x, start, stride, depth, _, *pairs, inner, other = first.call
        product, offset, _, length, _, *second, columns = last.call
        found = _gate_and_factor(between.each)
        if found is None or between.once or (inner, offset, length) != (other, 0, inner) or inner % cpu.GATED_STEP:
            return None
        activation, gate, factor, stored = found
        operands = {id(pairs[2]): pairs[:2], id(pairs[5]): pairs[3:5]}
        alone = [pairs[2].last, pairs[5].last, product.last] == [between.index, between.index, last.index]
        if stored is not product or {id(gate), id(factor)} != set(operands) or not alone:
            return None
        return [x, start, stride, depth, cpu.GATES.index(activation) + 1, inner, *operands[id(gate)], *operands[id(factor)],
                *second, columns]


def _code(stage: Stage) -> list[int | Memory | None]:
    """The stage as the interpreter reads it."""
    if stage.kind != _ROWWISE:
        return [stage.kind, len(stage.call), *stage.call]
    if not stage.each:
        return []
    body = [len(stage.once), len(stage.each), stage.floats, *(part for one in [*stage.once, *stage.each] for part in one)]
    return [_ROWWISE, len(body), *body]


def _gate_and_factor(instructions: list[list[Any]]) -> tuple[str, Memory, Memory, Memory] | None:
    """f and the memories g, u, y, if these instructions are y = f(g) * u of whole rows and nothing else."""
    if len(instructions) != 5:
        return None
    names = {code: name for name, code in _OPS.items()}
    by_op = {names[one[0]]: one for one in instructions}
    loads = [one for one in instructions if names[one[0]] == "load bfloat16"]
    activation = next((name for name in cpu.GATES if name in by_op), None)
    if len(loads) != 2 or activation is None or not {"multiply", "store bfloat16"} <= by_op.keys():
        return None
    act, multiply, store = by_op[activation], by_op["multiply"], by_op["store bfloat16"]
    if any(one[1:3] != [1, loads[0][2]] for one in instructions):
        return None

    def out(one: list[Any]) -> list[int]:
        return one[3:6]

    gate, factor = sorted(loads, key=lambda one: out(one) != act[6:9])
    if out(gate) != act[6:9] or sorted([out(act), out(factor)]) != sorted([multiply[6:9], multiply[9:12]]) \
            or store[6:9] != out(multiply):
        return None
    return activation, gate[12], factor[12], store[12]


class Program:
    """A layer that one call runs.

    Args:
        code: as ``csrc/layer.cpp`` reads it.
        widths: of the inputs that have a row for each token; width: of the result.
        row_bytes: workspace a token.
    """

    def __init__(self, code: np.ndarray, widths: dict[int, int], width: int, dtype: torch.dtype, row_bytes: int) -> None:
        self.code, self.widths, self.width, self.dtype, self.row_bytes = code, widths, width, dtype, row_bytes
        self._alone = Stack([self], [next(iter(widths))])

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The result [1, tokens, width].

        Args:
            inputs: [..., tokens, width] or [width] each, as the program was written for.
        """
        return self._alone([inputs])


class Stack:
    """Programs that one call runs one after the other, each on what the one before has made.

    Args:
        programs: in their order.
        places: which input of each is what the one before has made; of the first, one with a row for each token.

    Raises:
        ProgramError: one makes something else than the next one takes.
    """

    def __init__(self, programs: Sequence[Program], places: Sequence[int]) -> None:
        self._programs, self._places = list(programs), list(places)
        self._width, self.dtype = programs[-1].width, programs[-1].dtype
        for before, program, place in zip(programs[:-1], programs[1:], places[1:], strict=True):
            if (before.width, before.dtype) != (program.widths.get(place), program.dtype) or program.width != self._width:
                raise ProgramError("layers of different widths")
        self._codes = (ctypes.c_void_p * len(programs))(*(program.code.ctypes.data for program in programs))
        self._pointers = ctypes.c_void_p * sum(int(program.code[0]) for program in programs)
        self._row_bytes = max(program.row_bytes for program in programs)
        self._kept = threading.local()  # engines of one process may share a program

    def __call__(self, inputs: Sequence[tuple[Tensor, ...]]) -> Tensor:
        """The last program's result [1, tokens, width].

        Args:
            inputs: of each program, as for a call of its own; what the one before makes may be anything.
        """
        tokens = inputs[0][self._places[0]].shape[-2]
        output, other = torch.empty((2, 1, tokens, self._width), dtype=self.dtype)
        made, following = (other, output) if len(inputs) % 2 else (output, other)  # the last one writes to output
        held, pointers = [], []
        for program, given, place in zip(self._programs, inputs, self._places, strict=True):
            if pointers:
                given = (*given[:place], made, *given[place + 1 :])
            for i, width in program.widths.items():
                if given[i].numel() != tokens * width:
                    raise ValueError("inputs of other shapes than the layer's program was written for")
            if not all(map(Tensor.is_contiguous, given)):
                given = tuple(x.contiguous() for x in given)
                held.append(given)
            made, following = following, made
            pointers += (*map(Tensor.data_ptr, given), made.data_ptr())
        workspace = self._workspace(tokens)  # held until the call is over: a large one is nobody else's
        cpu.run_layers(self._codes, len(inputs), self._pointers(*pointers), workspace.data_ptr(), tokens, self.dtype)
        return output

    def _workspace(self, tokens: int) -> Tensor:
        size = self._row_bytes * tokens
        workspace = getattr(self._kept, "workspace", None)
        if workspace is None or workspace.numel() < size:
            workspace = torch.empty(size, dtype=torch.uint8)
            if size <= _KEPT_BYTES:
                self._kept.workspace = workspace
        return workspace


def _name(dtype: torch.dtype) -> str:
    if dtype not in cpu.DTYPES:
        raise ProgramError(f"numbers of {dtype}")
    return cpu.DTYPES[dtype]


def _bits(value: float) -> int:
    return struct.unpack("q", struct.pack("d", value))[0]


def _instruction(op: str, outer: int, inner: int, out: tuple[int, int, int], a: tuple[int, int, int] = (0, 0, 0),
                 b: tuple[int, int, int] = (0, 0, 0), *, memory: Memory | None = None, row_stride: int = 0,
                 value: float = 0.0) -> list[int]:
    return [_OPS[op], outer, inner, *out, *a, *b, memory, row_stride, _bits(value)]


def _loops(arrays: Sequence[np.ndarray]) -> list[tuple[int, int, list[tuple[int, int, int]]]]:
    """Arrays [n] as loops: (outer, inner, (start, outer stride, inner stride) of each array), in any order."""
    places = np.stack(arrays)
    steps = np.diff(places, axis=1)
    pieces: list[tuple[int, np.ndarray, np.ndarray]] = []  # length, starts, strides
    start = 0
    while start < places.shape[1]:
        if start == places.shape[1] - 1:
            pieces.append((1, places[:, start], np.zeros(len(places), dtype=np.int64)))
            break
        changes = np.flatnonzero((steps[:, start:] != steps[:, start, None]).any(axis=0))
        end = start + int(changes[0]) if len(changes) else places.shape[1] - 1
        pieces.append((end - start + 1, places[:, start], steps[:, start]))
        start = end + 1
    period = next(p for p in count(1) if p >= len(pieces) or (len(pieces) % p == 0 and _repeats(pieces, p)))
    loops = []
    for i in range(period):
        length, starts, inner = pieces[i]
        outer = len(pieces) // period
        strides = pieces[i + period][1] - starts if outer > 1 else np.zeros_like(starts)
        loops.append((outer, length, [tuple(map(int, one)) for one in zip(starts, strides, inner, strict=True)]))
    return loops


def _repeats(pieces: list[tuple[int, np.ndarray, np.ndarray]], period: int) -> bool:
    """Whether the pieces are the same ``period`` ones again and again, each time as far along."""
    for i in range(len(pieces) - period):
        (length, start, inner), (next_length, next_start, next_inner) = pieces[i], pieces[i + period]
        if length != next_length or not np.array_equal(inner, next_inner):
            return False
        if i >= period and not np.array_equal(next_start - start, start - pieces[i - period][1]):
            return False
    return True


def _lay_out(buffers: list[Memory]) -> tuple[list[int], int]:
    """Where each buffer begins, in bytes a token, and how many bytes a token there are: none overlaps one in use with it."""
    offsets: list[int] = []
    for i, one in enumerate(buffers):
        taken = sorted((offsets[j], offsets[j] + _bytes(other)) for j, other in enumerate(buffers[:i])
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
    return -(-size // _ROW_BYTES) * _ROW_BYTES
