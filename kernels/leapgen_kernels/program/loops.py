"""Loop nests: arrays of places as strided accesses, which instructions go through."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from leapgen_kernels.interface import Access


class LoopNest(NamedTuple):
    """Two loops, and what they access of each array."""

    outer: int
    inner: int
    accesses: list[Access]


class _Piece(NamedTuple):
    """Elements that lie evenly in every array."""

    length: int
    starts: NDArray[np.int64]  # of each array
    strides: NDArray[np.int64]


def loop_nests(arrays: Sequence[NDArray[np.int64]]) -> list[LoopNest]:
    """Loop nests that go through arrays [n] together. They cover each element once, in any order."""
    pieces = _pieces(np.stack(arrays))
    period = next(p for p in count(1) if p >= len(pieces) or (len(pieces) % p == 0 and _repeats(pieces, p)))
    outer = len(pieces) // period
    nests = []
    for i in range(period):
        length, starts, inner = pieces[i]
        strides = pieces[i + period].starts - starts if outer > 1 else np.zeros_like(starts)
        nests.append(LoopNest(outer, length, [
            Access(*map(int, one)) for one in zip(starts, strides, inner, strict=True)]))
    return nests


def _pieces(places: NDArray[np.int64]) -> list[_Piece]:
    """Cuts arrays [arrays, n] where the stride of one changes."""
    steps = np.diff(places, axis=1)
    pieces: list[_Piece] = []
    start, total = 0, places.shape[1]
    while start < total:
        if start == total - 1:
            pieces.append(_Piece(1, places[:, start], np.zeros(len(places), dtype=np.int64)))
            break
        changes = np.flatnonzero((steps[:, start:] != steps[:, start, None]).any(axis=0))
        end = start + int(changes[0]) if len(changes) else total - 1
        pieces.append(_Piece(end - start + 1, places[:, start], steps[:, start]))
        start = end + 1
    return pieces


def _repeats(pieces: list[_Piece], period: int) -> bool:
    """Whether the pieces are the first ``period`` ones over and over, moved by the same distance each time."""
    for i in range(len(pieces) - period):
        one, following = pieces[i], pieces[i + period]
        if one.length != following.length or not np.array_equal(one.strides, following.strides):
            return False
        if i >= period and not np.array_equal(following.starts - one.starts, one.starts - pieces[i - period].starts):
            return False
    return True
