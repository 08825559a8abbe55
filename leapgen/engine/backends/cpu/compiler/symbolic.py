"""A tensor of a captured layer as an array that says where each of its numbers lies."""

from __future__ import annotations

import numpy as np
import torch
from leapgen_kernels.program import ProgramError
from torch import Tensor

TOKENS = 3  # views are tried with
TOKEN = 1 << 44  # a place of token t lies t * TOKEN further on


class SymbolicTensor:
    """Where a tensor's numbers lie, for three tokens.

    Args:
        places: of the tensor's shape, int64: ``row * program.ROW + number``, and ``TOKEN`` more for each token.
        dtype: what the numbers are.
        invariant: loop-invariant: the same for all tokens; places are then without a token.
    """

    def __init__(self, places: Tensor, dtype: torch.dtype, invariant: bool) -> None:
        self.places, self.dtype, self.invariant = places, dtype, invariant

    @classmethod
    def for_all_tokens(cls, first: Tensor, dim: int | None, dtype: torch.dtype) -> SymbolicTensor:
        """From the places of token 0, and the dimension that counts tokens; None where there is none."""
        if dim is None:
            return cls(first, dtype, True)
        tokens = torch.arange(TOKENS, dtype=torch.int64).view([-1 if d == dim else 1 for d in range(first.dim() + 1)])
        return cls(first.unsqueeze(dim) + tokens * TOKEN, dtype, False)

    def of_a_token(self) -> tuple[np.ndarray, int | None]:
        """Places of token 0, in the tensor's shape without the dimension of tokens, and which dimension that is.

        Raises:
            ProgramError: numbers of several tokens lie in one place of that shape.
        """
        if self.invariant:
            return self.places.numpy(), None
        token = self.places // TOKEN
        numbers = torch.arange(TOKENS, dtype=torch.int64)
        for dim in range(self.places.dim()):
            shape = [-1 if d == dim else 1 for d in range(self.places.dim())]
            if self.places.shape[dim] == TOKENS and torch.equal(token, numbers.view(shape).expand_as(token)):
                first = self.places.select(dim, 0)
                if torch.equal(self.places, first.unsqueeze(dim) + token * TOKEN):
                    return first.numpy(), dim
        raise ProgramError("an operation mixes tokens")
