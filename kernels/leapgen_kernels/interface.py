"""What Python and the C++ kernels agree on: the same declarations as ``csrc/shared.h``, which describes them.

The compiled library carries its own declarations as text; ``differences`` compares them with those of this file.
"""

from __future__ import annotations

import ctypes
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, TypeAlias, get_type_hints

import torch

TILE = 32  # positions: segments that several sequences share end at multiples of it
TILE_DEPTH = 32  # the width between gated layers is a multiple of it


@dataclass
class Memory:
    """A tensor [tokens, width] that a program reads or writes: an input, or a buffer of its own."""

    width: int
    dtype: torch.dtype
    shared: bool = False  # an input [width], the same for all tokens
    first: int = 0  # stage that uses it
    last: int = 0
    number: int = -1


# -- plans ------------------------------------------------------------------------------------------------------------


class PlanHeader(NamedTuple):
    sequences: int
    tokens: int
    page_size: int
    max_pages: int
    segments: int
    layers: int
    next_layer: int


class Segment(NamedTuple):
    level: int
    first: int
    last: int
    start: int
    end: int


class Strides(NamedTuple):
    query_token: int
    query_head: int
    key_token: int
    key_head: int
    value_token: int
    value_head: int


# -- gated layers -----------------------------------------------------------------------------------------------------


class Gate(IntEnum):
    NONE = 0
    SILU = 1
    GELU = 2
    GELU_TANH = 3
    RELU = 4


# -- programs ---------------------------------------------------------------------------------------------------------


class ProgramHeader(NamedTuple):
    inputs: int
    buffers: int


class StageKind(IntEnum):
    END = 0
    ROWWISE = 1
    LINEAR = 2
    ATTEND = 3
    GATED = 4


class StageHeader(NamedTuple):
    kind: StageKind
    length: int


class RowwiseStage(NamedTuple):
    invariant: int
    varying: int
    scratch: int


class Operation(IntEnum):
    LOAD_FLOAT32 = 0
    LOAD_BFLOAT16 = 1
    STORE_FLOAT32 = 2
    STORE_BFLOAT16 = 3
    FILL = 4
    ADD = 5
    SUBTRACT = 6
    MULTIPLY = 7
    DIVIDE = 8
    NEGATE = 9
    RSQRT = 10
    RELU = 11
    TANH = 12
    SIGMOID = 13
    SILU = 14
    GELU = 15
    GELU_TANH = 16
    MEAN = 17


class Access(NamedTuple):
    start: int = 0
    outer: int = 0
    inner: int = 0


class Instruction(NamedTuple):
    operation: Operation
    outer: int
    inner: int
    out: Access
    a: Access = Access()
    b: Access = Access()
    memory: Memory | None = None
    row_stride: int = 0
    value: float = 0.0


class LinearStage(NamedTuple):
    x: Memory
    offset: int
    row_stride: int
    depth: int
    matrices: int


class LinearOperands(NamedTuple):
    weight: Memory
    bias: Memory | None
    output: Memory


class AttendStage(NamedTuple):
    plan: Memory
    output: Memory
    query: Memory
    query_offset: int
    key: Memory
    key_offset: int
    value: Memory
    value_offset: int
    strides: Strides
    heads: int
    kv_heads: int
    key_dim: int
    value_dim: int
    window: int
    scaling: float
    softcap: float


class GatedStage(NamedTuple):
    replaced: int
    x: Memory
    offset: int
    row_stride: int
    depth: int
    gate: Gate
    inner: int
    gate_weight: Memory
    gate_bias: Memory | None
    factor_weight: Memory
    factor_bias: Memory | None
    down_weight: Memory
    down_bias: Memory | None
    output: Memory
    columns: int


Word: TypeAlias = "int | Memory | None"
Part: TypeAlias = "Word | float | tuple[Part, ...]"


def words(record: tuple[Part, ...]) -> Iterator[Word]:
    """The record's int64, field by field. A float is a double's bits; a memory stands for its number, not yet known."""
    for part in record:
        if isinstance(part, tuple):
            yield from words(part)
        elif isinstance(part, float):
            yield int.from_bytes(struct.pack("<d", part), "little", signed=True)
        else:
            yield part


# -- signatures -------------------------------------------------------------------------------------------------------

SIGNATURES = {
    "AttendKernel": "int64_t* plan, const void* query, const void* key, const void* value, const Strides* strides, "
                    "void* output, int64_t tokens, int64_t heads, int64_t kv_heads, int64_t key_dim, int64_t value_dim, "
                    "const float* sinks, int64_t window, float scaling, float softcap, int threads",
    "LinearKernel": "const void* x, const void* const* w, const void* const* bias, void* const* y, const int64_t* columns, "
                    "int64_t matrices, int64_t rows, int64_t depth, int64_t x_stride, int threads",
    "GatedKernel": "const void* x, const void* const* w, const void* const* bias, void* y, int64_t gate, int64_t rows, "
                   "int64_t depth, int64_t x_stride, int64_t inner, int64_t columns, int threads",
    "LayersRunner": "const int64_t* const* codes, int64_t layers, void* const* inputs, char* workspace, int64_t tokens, "
                    "int64_t item, LinearKernel* linear, GatedKernel* gated, AttendKernel* attend, int threads",
    "CandidatesKernel": "const void* logits, int64_t rows, int64_t vocab, int64_t stride, int64_t k, int64_t capacity, "
                        "float* normalisers, float* scores, int64_t* ids, int64_t* counts, int exponentials, "
                        "double temperature, double top_p, double min_p, const double* uniforms, int64_t* tokens, "
                        "float* token_logits, float* logprobs, int threads",
}
_CTYPES = {"int64_t": ctypes.c_int64, "int": ctypes.c_int, "float": ctypes.c_float, "double": ctypes.c_double}


def argument_types(signature: str) -> list[type[object]]:
    """The ctypes of a signature's arguments; every pointer is a ``c_void_p``."""
    return [ctypes.c_void_p if "*" in argument else _CTYPES[argument.split()[0]]
            for argument in SIGNATURES[signature].split(", ")]


# -- the comparison ---------------------------------------------------------------------------------------------------

_ENUMS = (Gate, StageKind, Operation)
_STRUCTS = (PlanHeader, Segment, Strides, ProgramHeader, StageHeader, RowwiseStage, Access, Instruction, LinearStage,
            LinearOperands, AttendStage, GatedStage)
_TYPES = {float: "double", Access: "Access", Strides: "Strides"}  # in C++; any other is int64_t
_DECLARATION = re.compile(r"(enum class|struct|constexpr int64_t|using) (\w+)(?: : int64_t)? ?[={] ?(?:void\()?(.*?) ?[})]?")
_FIELDS = re.compile(r"(\w+) ([\w, ]+);")


def differences(text: str) -> list[str]:
    """The names that a library declares otherwise than this file, or that one of them lacks.

    Args:
        text: the library's declarations, one a line.
    """
    ours, theirs = _declared(), _parsed(text)
    return [name for name in ours | theirs if ours.get(name) != theirs.get(name)]


def _declared() -> dict[str, list[str]]:
    """Each declaration of this file in C++: enumerators, fields or arguments with their types, or a value."""
    found = {"kTile": [str(TILE)], "kTileDepth": [str(TILE_DEPTH)]}
    found |= {name: arguments.split(", ") for name, arguments in SIGNATURES.items()}
    for enum in _ENUMS:
        found[enum.__name__] = ["k" + enum(code).name.title().replace("_", "") for code in range(len(enum))]
    for record in _STRUCTS:
        found[record.__name__] = [f"{_TYPES.get(type_, 'int64_t')} {name}" for name, type_ in get_type_hints(record).items()]
    return found


def _parsed(text: str) -> dict[str, list[str]]:
    found = {}
    for line in text.splitlines():
        match = _DECLARATION.fullmatch(line)
        if match is None:
            raise ValueError(f"a declaration in another form than those of csrc/shared.h: {line}")
        kind, name, body = match.groups()
        found[name] = [f"{type_} {field}" for type_, fields in _FIELDS.findall(body) for field in fields.split(", ")] \
            if kind == "struct" else body.split(", ")
    return found
