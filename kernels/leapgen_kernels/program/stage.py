"""The stages of a program while it is written, and the rows that they compute."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import torch

from leapgen_kernels.interface import (
    AttendStage,
    Instruction,
    LinearOperands,
    LinearStage,
    Memory,
    Part,
    RowwiseStage,
    StageHeader,
    StageKind,
    Word,
    words,
)

_VECTOR = 8  # floats: rows in scratch memory begin at multiples of it


class LinearCall(NamedTuple):
    """A linear layer over several matrices."""

    head: LinearStage
    operands: tuple[LinearOperands, ...]
    columns: tuple[int, ...]


Call: TypeAlias = "LinearCall | AttendStage"


@dataclass
class Stage:
    """A kernel's call, or instructions on rows."""

    index: int
    call: Call | None = None
    invariant: list[Instruction] = field(default_factory=list)  # run once in each thread, for all tokens
    varying: list[Instruction] = field(default_factory=list)  # run for each token
    scratch: int = 0  # floats

    def allocate(self, width: int) -> int:
        """Scratch memory for ``width`` numbers; where it begins."""
        start, self.scratch = self.scratch, self.scratch + -(-width // _VECTOR) * _VECTOR
        return start

    def emit(self, instruction: Instruction, invariant: bool) -> None:
        (self.invariant if invariant else self.varying).append(instruction)

    @property
    def memories(self) -> list[Memory]:
        """What the kernel reads and writes."""
        return [word for word in words(self.call or ()) if isinstance(word, Memory)]

    def code(self) -> list[Word]:
        """The stage as ``csrc/program`` reads it; nothing for a stage without effect."""
        if self.call is not None:
            return encode(StageKind.ATTEND if isinstance(self.call, AttendStage) else StageKind.LINEAR, self.call)
        if not self.varying:
            return []
        head = RowwiseStage(len(self.invariant), len(self.varying), self.scratch)
        return encode(StageKind.ROWWISE, (head, *self.invariant, *self.varying))


def encode(kind: StageKind, body: tuple[Part, ...] = ()) -> list[Word]:
    """A stage's header and body."""
    coded = list(words(body))
    return [*StageHeader(kind, len(coded)), *coded]


@dataclass
class Row:
    """Numbers of a token, computed in one stage or read from an input.

    Each stage that uses a row holds it in scratch memory. A row that a later stage uses is spilled to a buffer.
    """

    width: int
    dtype: torch.dtype
    invariant: bool  # the same for all tokens
    stage: Stage | None = None  # that computes it
    memory: Memory | None = None  # the input, or the buffer it is spilled to
    scratch: dict[int, int] = field(default_factory=dict)  # where it begins, in each stage that holds it
