"""Cuts a step's attention into tiles for the GPU kernels: some tokens, and positions of which they share the pages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
import torch
from leapgen_kernels import gpu
from torch import Tensor

from leapgen.engine.memory.kv import KVCache
from leapgen.engine.sharing import shared_segments
from leapgen.engine.step import Prepared, Step, StepBackend

STEP = 64  # positions a kernel takes at once: pieces are multiples of it
MIN_NARROW, MIN_WIDE = 128, 256  # positions a piece has at least, so that its part costs little beside what it reads
MAX_WIDE_PIECES = 16  # of one segment: each is a part of every token that shares it


class Attends(NamedTuple):
    """What the cut of a step into tiles depends on: layers that have these in common share it."""

    device: torch.device
    heads: int
    kv_heads: int
    dtype: torch.dtype

    @classmethod
    def of(cls, query: Tensor, key: Tensor) -> Attends:
        return cls(query.device, query.shape[1], key.shape[1], query.dtype)

    @property
    def tile_shape(self) -> gpu.TileShape:
        return gpu.TileShape.of(self.heads // self.kv_heads, self.dtype)

    @property
    def target(self) -> int:
        """Tiles of a width that keep the device busy: each is a program for each KV head."""
        return max(gpu.programs(self.device) // self.kv_heads, 1)


class Tiled(Prepared, ABC):
    """A step cut into tiles, over one pool."""

    cache: KVCache

    @abstractmethod
    def tiles(self, attends: Attends) -> gpu.Tiles:
        """What the kernels read; the same for all layers of a shape."""


class TilePlan(Tiled):
    """A step that is cut as its layers ask for it, once for all layers of a shape."""

    def __init__(self, backend: StepBackend[Tiled], step: Step) -> None:
        super().__init__(backend, step.cache.specs, step.positions)
        self.cache = step.cache
        self._step = step
        self._tiles: dict[Attends, gpu.Tiles] = {}

    @property
    def attends(self) -> list[Attends]:
        """What layers have asked for."""
        return list(self._tiles)

    def tiles(self, attends: Attends) -> gpu.Tiles:
        if attends not in self._tiles:
            self._tiles[attends] = self._cut(attends)
        return self._tiles[attends]

    def _cut(self, attends: Attends) -> gpu.Tiles:
        step, shape = self._step, attends.tile_shape
        segments = shared_segments(step.page_table, step.kv_lengths, step.cache.page_size)
        tiles = cut(segments, step.query_starts, step.page_table.shape[1], shape.narrow_tokens, shape.wide_tokens,
                    attends.target)
        slots = torch.from_numpy(step.slots).to(attends.device, non_blocking=True)
        positions, part_starts, pages, narrow, wide = (
            torch.from_numpy(array.astype(np.int32, copy=False)).to(attends.device, non_blocking=True) for array in (
                step.positions, tiles.part_starts, step.page_table.ravel(), tiles.narrow, tiles.wide))
        return gpu.Tiles(slots, positions, part_starts, pages, narrow, wide, int(tiles.part_starts[-1]))


class StaticPlan(Tiled):
    """The plan of every step of one batch size: always the same tensors."""

    def __init__(self, backend: StepBackend[Tiled], cache: KVCache, positions: np.ndarray,
                 tiles: dict[Attends, gpu.Tiles]) -> None:
        super().__init__(backend, cache.specs, positions)
        self.cache, self._tiles = cache, tiles

    def tiles(self, attends: Attends) -> gpu.Tiles:
        return self._tiles[attends]


class TileList(NamedTuple):
    """Tiles as eight int32 each (``leapgen_kernels.paged`` names the fields), and where each token's parts begin."""

    narrow: np.ndarray  # [tiles, 8]: tokens that are few enough for a narrow tile
    wide: np.ndarray  # [tiles, 8]
    part_starts: np.ndarray  # [tokens + 1] int32


def cut(segments: np.ndarray, query_starts: np.ndarray, page_stride: int, narrow_tokens: int, wide_tokens: int,
        target: int) -> TileList:
    """Every position of every segment once for each of its tokens, in about ``target`` tiles of a width, or fewer.

    A width never has more than ``target`` tiles beyond one for each block of each segment's tokens.

    Args:
        segments: [segments, 5], parents before children, as ``sharing.shared_segments`` gives them.
        query_starts: [sequences + 1].
        page_stride: width of the page table.
        narrow_tokens, wide_tokens: tokens a tile holds at most.
    """
    if not len(segments):
        none = np.zeros((0, 8), dtype=np.int32)
        return TileList(none, none, np.zeros(1, dtype=np.int32))
    level, first, last, start, end = segments.T
    tokens = query_starts[last] - query_starts[first]
    narrow = tokens <= narrow_tokens
    width = np.where(narrow, narrow_tokens, wide_tokens)
    blocks, lengths = -(-tokens // width), end - start
    pieces = np.ones(len(segments), dtype=np.int64)
    for kind, least in ((narrow, MIN_NARROW), (~narrow, MIN_WIDE)):
        pieces[kind] = -(-lengths[kind] // max(least, -(-int((blocks * lengths)[kind].sum()) // target)))
    pieces = np.maximum(pieces, 1)
    pieces[~narrow] = np.minimum(pieces[~narrow], MAX_WIDE_PIECES)
    piece = (-(-lengths // pieces) + STEP - 1) // STEP * STEP
    pieces = np.maximum(-(-lengths // piece), 1)

    before, following = [], [0] * (int(level.max()) + 2)  # parts that a segment's tokens have from the levels above
    for depth, count in zip(level.tolist(), pieces.tolist(), strict=True):
        before.append(following[depth])
        following[depth + 1] = following[depth] + count
    alone = last - first == 1
    parts = np.zeros(len(query_starts) - 1, dtype=np.int64)
    parts[first[alone]] = (np.array(before) + pieces)[alone]
    part_starts = np.zeros(query_starts[-1] + 1, dtype=np.int32)
    np.cumsum(np.repeat(parts, np.diff(query_starts)), out=part_starts[1:])

    counts = blocks * pieces
    which = np.repeat(np.arange(len(segments)), counts)
    within = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
    block, number = within % blocks[which], within // blocks[which]  # tiles that read the same pages are neighbours
    tiles = np.zeros((len(which), 8), dtype=np.int32)
    tiles[:, 0] = query_starts[first][which] + block * width[which]
    tiles[:, 1] = np.minimum(width[which], tokens[which] - block * width[which])
    tiles[:, 2] = first[which] * page_stride
    tiles[:, 3] = start[which] + number * piece[which]
    tiles[:, 4] = np.minimum(tiles[:, 3] + piece[which], end[which])
    tiles[:, 5] = np.array(before)[which] + number
    is_narrow = narrow[which]
    return TileList(tiles[is_narrow], tiles[~is_narrow], part_starts)
