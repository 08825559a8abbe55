"""Programs that are written, and stacks of them that one call runs."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leapgen_kernels import cpu

KEPT_BYTES = 64 << 20  # of workspace, from one call to the next


class ProgramError(ValueError):
    """The layer cannot be expressed as a program."""


class Program:
    """A layer that one call runs.

    Args:
        code: as ``csrc/program`` reads it.
        widths: of the inputs that have a row for each token; width: of the result.
        row_bytes: of workspace for each token.
    """

    def __init__(self, code: NDArray[np.int64], widths: dict[int, int], width: int, dtype: torch.dtype,
                 row_bytes: int) -> None:
        self.code, self.widths, self.width, self.dtype, self.row_bytes = code, widths, width, dtype, row_bytes
        self._alone = Stack([self], [next(iter(widths))])

    @property
    def num_inputs(self) -> int:
        """Tensors that the code takes, the result among them."""
        return int(self.code[0])

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The result [1, tokens, width].

        Args:
            inputs: [..., tokens, width] or [width] each, as the program was written for.

        Raises:
            ValueError: an input has another shape.
        """
        return self._alone([inputs])


class Stack:
    """Programs that one call runs one after the other, each on the result of the one before.

    Args:
        programs: in their order.
        places: which input of each program is the result of the one before; of the first, one with a row for each token.

    Raises:
        ProgramError: a program's result is not what the next one takes.
    """

    def __init__(self, programs: Sequence[Program], places: Sequence[int]) -> None:
        self._programs, self._places = list(programs), list(places)
        self._width, self.dtype = programs[-1].width, programs[-1].dtype
        for before, program, place in zip(programs[:-1], programs[1:], places[1:], strict=True):
            if (before.width, before.dtype) != (program.widths.get(place), program.dtype) or program.width != self._width:
                raise ProgramError("layers of different widths")
        self._codes = (ctypes.c_void_p * len(programs))(*(program.code.ctypes.data for program in programs))
        self._pointers = ctypes.c_void_p * sum(program.num_inputs for program in programs)
        self._row_bytes = max(program.row_bytes for program in programs)
        self._kept = _Kept()

    def __call__(self, inputs: Sequence[tuple[Tensor, ...]]) -> Tensor:
        """The last program's result [1, tokens, width].

        Args:
            inputs: of each program, as for a call of its own; in the place of the result before, any tensor.

        Raises:
            ValueError: an input has another shape.
        """
        tokens = inputs[0][self._places[0]].shape[-2]
        output, other = torch.empty((2, 1, tokens, self._width), dtype=self.dtype).unbind()
        result, following = (other, output) if len(inputs) % 2 else (output, other)  # the last one writes to output
        held: list[tuple[Tensor, ...]] = []
        pointers: list[int] = []
        for program, given, place in zip(self._programs, inputs, self._places, strict=True):
            if pointers:
                given = (*given[:place], result, *given[place + 1 :])
            for i, width in program.widths.items():
                if given[i].numel() != tokens * width:
                    raise ValueError("inputs of other shapes than the layer's program was written for")
            if not all(map(Tensor.is_contiguous, given)):
                given = tuple(x.contiguous() for x in given)
                held.append(given)
            result, following = following, result
            pointers += (*map(Tensor.data_ptr, given), result.data_ptr())
        workspace = self._workspace(tokens)  # a name of its own: a large one is not kept, and must outlive the call
        cpu.run_layers(self._codes, len(inputs), self._pointers(*pointers), workspace.data_ptr(), tokens, self.dtype)
        return output

    def _workspace(self, tokens: int) -> Tensor:
        size = self._row_bytes * tokens
        workspace = self._kept.workspace
        if workspace is None or workspace.numel() < size:
            workspace = torch.empty(size, dtype=torch.uint8)
            if size <= KEPT_BYTES:
                self._kept.workspace = workspace
        return workspace


class _Kept(threading.local):
    """A thread's own, as engines of one process may share a program."""

    workspace: Tensor | None = None
