"""One forward pass: what it reads and writes, and what computes it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from collections.abc import Sequence as Rows
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from torch import Tensor, nn

from leapgen.engine.memory.kv import KVCache, LayerSpec


@dataclass(frozen=True)
class Step:
    """Tokens of several sequences packed flat: sequence i has tokens ``query_starts[i] .. query_starts[i + 1] - 1``.

    All arrays are int64.
    """

    cache: KVCache
    slots: np.ndarray  # [tokens]: flat slot each token's KV goes to
    positions: np.ndarray  # [tokens]: position of each token in its sequence
    page_table: np.ndarray  # [sequences, max_pages], 0 where a sequence has fewer
    query_starts: np.ndarray  # [sequences + 1]
    kv_lengths: np.ndarray  # [sequences]: tokens with KV once this step has written

    @classmethod
    def build(cls, cache: KVCache, pages: Rows[Rows[int]], starts: list[int], ends: list[int]) -> Step:
        """For sequences with these pages, of which positions ``starts[i] .. ends[i] - 1`` are computed."""
        size = cache.page_size
        lengths = [end - start for start, end in zip(starts, ends, strict=True)]
        query_starts = np.zeros(len(pages) + 1, dtype=np.int64)
        np.cumsum(lengths, out=query_starts[1:])
        counts = [-(-end // size) for end in ends]
        page_table = np.zeros((len(pages), max(counts, default=0)), dtype=np.int64)
        for row, (own, count) in enumerate(zip(pages, counts, strict=True)):
            page_table[row, :count] = own[:count]
        rows = np.repeat(np.arange(len(pages)), lengths)
        positions = np.arange(query_starts[-1]) - query_starts[rows] + np.array(starts, dtype=np.int64)[rows]
        slots = page_table[rows, positions // size] * size + positions % size
        return cls(cache, slots, positions, page_table, query_starts, np.array(ends, dtype=np.int64))


class Prepared:
    """A step as the backend that computes it reads it; the model's attention function gets it as a keyword argument.

    Args:
        backend: computes the step.
        layers: the geometry of each attention layer's KV, as the pool has it.
        positions: [tokens] int64; what stands behind the step's own tokens is padding.
    """

    def __init__(self, backend: StepBackend[Any], layers: Mapping[int, LayerSpec], positions: np.ndarray) -> None:
        self.backend, self.layers, self.positions = backend, layers, positions

    @property
    def argument(self) -> Prepared | Tensor:
        """The keyword argument: this, or a tensor where compiled layers, which take nothing else, compute the step."""
        return self


OwnPrepared = TypeVar("OwnPrepared", bound=Prepared)  # what a backend makes of a step


class StepBackend(ABC, Generic[OwnPrepared]):
    """What computes a step. ``backends.base.Backend`` is the whole contract of a backend."""

    @abstractmethod
    def prepare(self, step: Step) -> OwnPrepared:
        """The step as ``attend`` reads it; called once a step."""

    @abstractmethod
    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, prepared: OwnPrepared, *, scaling: float,
               sliding_window: int | None = None, softcap: float | None = None, sinks: Tensor | None = None) -> Tensor:
        """Stores the step's keys and values in a layer's pool, and attends over its pages, causally.

        Args:
            query: [1, heads, tokens, key_dim]; key: [1, kv_heads, tokens, key_dim]; value: [1, kv_heads, tokens, value_dim];
                all of the pool's dtype, on its device.
            prepared: of this step, by this backend.
            scaling: of scores.
            sliding_window: a query sees this many positions, itself included.
            softcap: scores become ``softcap * tanh(scores / softcap)``.
            sinks: [heads]; one more logit a head in the softmax's denominator, without a value.

        Returns:
            [1, tokens, heads, value_dim] in the query's dtype.
        """

    @abstractmethod
    def computing(self, model: nn.Module) -> AbstractContextManager[None]:
        """While this is entered, the model's modules compute as they do in a step: by kernels, compiled, or as they are."""
