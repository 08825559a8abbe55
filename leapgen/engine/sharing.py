"""Which sequences of a step share pages, and over which positions."""

from __future__ import annotations

from itertools import pairwise
from math import gcd

import numpy as np


def shared_segments(page_table: np.ndarray, kv_lengths: np.ndarray, page_size: int, tile: int = 1) -> np.ndarray:
    """Cuts a step into runs of sequences and the positions whose pages the whole run shares.

    Pages are looked for between neighbours: forks enter the engine one after the other. A run's own shared pages come
    first, then those its parts share, one level deeper; a sequence alone comes last.

    Args:
        page_table: [sequences, max_pages]; kv_lengths: [sequences].
        tile: sharing ends at a multiple of this number of positions, so that a row meets its keys in the same tiles
            whoever shares them.

    Returns:
        [segments, 5] int64: level, first sequence, last sequence + 1, first position, last position + 1.
    """
    counts = -(-kv_lengths // page_size)
    equal = page_table[1:] == page_table[:-1]
    equal &= np.arange(page_table.shape[1]) < np.minimum(counts[1:], counts[:-1])[:, None]
    shared = np.where(equal.all(axis=1), equal.shape[1], equal.argmin(axis=1)) if equal.size else np.zeros(0, dtype=np.int64)
    shared -= shared % (tile // gcd(tile, page_size))
    segments: list[tuple[int, int, int, int, int]] = []
    stack = [(0, 0, len(kv_lengths), 0)] if len(kv_lengths) else []  # level, first, last + 1, first page
    while stack:
        level, first, last, page = stack.pop()
        if last - first == 1:
            segments.append((level, first, last, page * page_size, int(kv_lengths[first])))
            continue
        between = shared[first : last - 1]
        common = int(between.min())
        if common > page:
            end = min(common * page_size, int(kv_lengths[first:last].min()))
            segments.append((level, first, last, page * page_size, end))
            level, page = level + 1, common
        cuts = [first, *(first + 1 + np.flatnonzero(between <= page)).tolist(), last]
        stack.extend((level, start, end, page) for start, end in pairwise(cuts))
    return np.array(segments, dtype=np.int64).reshape(-1, 5)
