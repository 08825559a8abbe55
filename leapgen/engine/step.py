"""What one forward pass reads and writes: it travels to the attention function as a keyword argument."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from math import gcd
from typing import NamedTuple

import numpy as np
import torch
from leapgen_kernels import cpu, gpu
from torch import Tensor

from leapgen.engine.backends.cuda.tiles import cut
from leapgen.engine.memory.kv import KVCache


@dataclass(frozen=True)
class PlanTensors:
    """A plan's index tensors on one device; all int64."""

    slots: Tensor  # [tokens]: flat slot each token's KV goes to
    page_table: Tensor  # [sequences, max_pages], 0 where a sequence has fewer
    query_starts: Tensor  # [sequences + 1]
    kv_lengths: Tensor  # [sequences]: tokens with KV once this step has written


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


@dataclass
class StepPlan:
    """Sequences of one step packed flat: sequence i has tokens ``query_starts[i] .. query_starts[i + 1] - 1``."""

    cache: KVCache
    slots: np.ndarray  # [tokens]
    page_table: np.ndarray  # [sequences, max_pages]
    query_starts: np.ndarray  # [sequences + 1]
    kv_lengths: np.ndarray  # [sequences]
    kernels: bool = True  # whether compiled kernels may be used; without, plain torch
    windows: dict[int, int | None] = field(default_factory=dict)  # sliding window each layer asked for, as layers run
    _tensors: dict[torch.device, PlanTensors] = field(default_factory=dict)
    _tiles: dict[Attends, gpu.Tiles] = field(default_factory=dict)
    _packed: Tensor | None = None
    _packed_layers: int = 0

    @classmethod
    def build(cls, cache: KVCache, pages: list[array[int]], starts: list[int], ends: list[int],
              kernels: bool = True) -> StepPlan:
        """For sequences with these pages (or lists of int), of which positions ``starts[i] .. ends[i] - 1`` are computed."""
        size = cache.page_size
        query_starts = np.zeros(len(pages) + 1, dtype=np.int64)
        np.cumsum([end - start for start, end in zip(starts, ends, strict=True)], out=query_starts[1:])
        counts = [-(-end // size) for end in ends]
        page_table = np.zeros((len(pages), max(counts, default=0)), dtype=np.int64)
        for row, (own, count) in enumerate(zip(pages, counts, strict=True)):
            page_table[row, :count] = own[:count]
        rows, positions = cls._flat(query_starts, starts)
        slots = page_table[rows, positions // size] * size + positions % size
        return cls(cache, slots, page_table, query_starts, np.array(ends, dtype=np.int64), kernels)

    @staticmethod
    def _flat(query_starts: np.ndarray, starts: list[int]) -> tuple[np.ndarray, np.ndarray]:
        lengths = np.diff(query_starts)
        rows = np.repeat(np.arange(len(lengths)), lengths)
        positions = np.arange(query_starts[-1]) - query_starts[rows] + np.array(starts, dtype=np.int64)[rows]
        return rows, positions

    @cached_property
    def positions(self) -> np.ndarray:
        """[tokens]: position of each token in its sequence."""
        lengths = np.diff(self.query_starts)
        return self._flat(self.query_starts, list(self.kv_lengths - lengths))[1]

    def packed(self, layer: int | None = None) -> Tensor:
        """The plan as the C++ kernel reads it, one int64 tensor.

        Six counts (sequences, tokens, page size, width of the page table, segments, layers) and whose turn it is; then the
        layers' addresses in the order they run, slots, query starts, KV lengths, segments, page table. Each call of the
        kernel takes the next layer's turn; ``layer`` sets it.
        """
        layers = list(self.cache.keys)
        if self._packed is None or self._packed_layers != len(layers):
            segments = shared_segments(self.page_table, self.kv_lengths, self.cache.page_size, cpu.TILE)
            counts = [len(self.kv_lengths), len(self.slots), self.cache.page_size, self.page_table.shape[1], len(segments),
                      len(layers), 0]
            self._packed = torch.from_numpy(np.concatenate(
                [np.array(counts, dtype=np.int64), self.cache.addresses, self.slots, self.query_starts, self.kv_lengths,
                 segments.ravel(), self.page_table.ravel()]))
            self._packed_layers = len(layers)
        if layer is not None:
            self._packed[6] = layers.index(layer)
        return self._packed

    def on(self, device: torch.device) -> PlanTensors:
        """The index tensors on a device, moved there once a step."""
        if device not in self._tensors:
            self._tensors[device] = PlanTensors(*(
                torch.from_numpy(array).to(device, non_blocking=True)
                for array in (self.slots, self.page_table, self.query_starts, self.kv_lengths)))
        return self._tensors[device]

    @property
    def attends(self) -> list[Attends]:
        """What layers have asked for tiles."""
        return list(self._tiles)

    def tiles(self, attends: Attends) -> gpu.Tiles:
        """The step's attention cut for the GPU kernels: once a step for all layers of a shape."""
        if attends not in self._tiles:
            device, shape = attends.device, attends.tile_shape
            segments = shared_segments(self.page_table, self.kv_lengths, self.cache.page_size)
            tiles = cut(segments, self.query_starts, self.page_table.shape[1], shape.narrow_tokens, shape.wide_tokens,
                        attends.target)
            small = [torch.from_numpy(array.astype(np.int32, copy=False)).to(device, non_blocking=True) for array in (
                self.positions, tiles.part_starts, self.page_table.ravel(), tiles.narrow, tiles.wide)]
            self._tiles[attends] = gpu.Tiles(self.on(device).slots, *small, num_parts=int(tiles.part_starts[-1]))
        return self._tiles[attends]


def shared_segments(page_table: np.ndarray, kv_lengths: np.ndarray, page_size: int, tile: int = 1) -> np.ndarray:
    """Cuts a step into runs of sequences and the positions whose pages the whole run shares.

    Pages are looked for between neighbours: forks enter the engine one after the other. A run's own shared pages come
    first, then those its parts share, one level deeper; a sequence alone comes last.

    Args:
        page_table: [sequences, max_pages]; kv_lengths: [sequences].
        tile: sharing ends at a multiple of so many positions: each row then meets its keys in the same tiles whoever shares.

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
