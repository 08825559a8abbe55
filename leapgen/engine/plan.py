"""What one forward pass reads and writes: it travels to the attention function as a keyword argument."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from leapgen.engine.cache import KVCache


@dataclass(frozen=True)
class PlanTensors:
    """A plan's index tensors on one device; all int64."""

    slots: Tensor  # [tokens]: flat slot each token's KV goes to
    page_table: Tensor  # [sequences, max_pages], 0 where a sequence has fewer
    query_starts: Tensor  # [sequences + 1]
    kv_lengths: Tensor  # [sequences]: tokens with KV once this step has written


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

    @classmethod
    def build(cls, cache: KVCache, pages: list[list[int]], starts: list[int], ends: list[int],
              kernels: bool = True) -> StepPlan:
        """For sequences with these pages, of which positions ``starts[i] .. ends[i] - 1`` are computed now."""
        size = cache.page_size
        query_starts = np.zeros(len(pages) + 1, dtype=np.int64)
        np.cumsum([end - start for start, end in zip(starts, ends, strict=True)], out=query_starts[1:])
        counts = [-(-end // size) for end in ends]
        page_table = np.zeros((len(pages), max(counts)), dtype=np.int64)
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

    def on(self, device: torch.device) -> PlanTensors:
        """The index tensors on a device, moved there once a step."""
        if device not in self._tensors:
            self._tensors[device] = PlanTensors(*(
                torch.from_numpy(array).to(device, non_blocking=True)
                for array in (self.slots, self.page_table, self.query_starts, self.kv_lengths)))
        return self._tensors[device]
