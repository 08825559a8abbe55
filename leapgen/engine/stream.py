"""Which random numbers a sequence draws its tokens by."""

from __future__ import annotations

from typing import NamedTuple


class Stream(NamedTuple):
    """The random stream of one sequence.

    ``branch`` tells apart continuations of one path from the same position (a fork, a re-decode after a crop), which
    would otherwise draw the same numbers.
    """

    seed: int = 0  # 64 bits
    path: int = 0  # 32 bits
    branch: int = 0  # 32 bits
