"""A step as the C++ kernels read it."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from leapgen_kernels import cpu
from leapgen_kernels.interface import PlanHeader
from torch import Tensor

from leapgen.engine.sharing import shared_segments
from leapgen.engine.step import Prepared, Step, StepBackend

_TURN = PlanHeader._fields.index("next_layer")


class PackedPlan(Prepared):
    """A step in one int64 tensor.

    A ``PlanHeader``; then the layers' addresses in the order they run, slots, query starts, KV lengths, segments, page
    table. Each call of the kernel takes the next layer's turn.

    Args:
        compiled: whether compiled layers compute the step. They take any number of tokens from two on, so that a single
            one gets padding behind it.
    """

    def __init__(self, backend: StepBackend[PackedPlan], step: Step, compiled: bool) -> None:
        positions = step.positions if len(step.positions) != 1 or not compiled else np.append(step.positions, 0)
        super().__init__(backend, step.cache.specs, positions)
        self._compiled = compiled
        self._turns = {layer: turn for turn, layer in enumerate(step.cache.keys)}
        segments = shared_segments(step.page_table, step.kv_lengths, step.cache.page_size, cpu.TILE)
        header = PlanHeader(
            sequences=len(step.kv_lengths), tokens=len(step.slots), page_size=step.cache.page_size,
            max_pages=step.page_table.shape[1], segments=len(segments), layers=len(self._turns), next_layer=0)
        self._packed = np.concatenate(
            [np.array(header, dtype=np.int64), step.cache.addresses, step.slots, step.query_starts, step.kv_lengths,
             segments.ravel(), step.page_table.ravel()])

    @property
    def argument(self) -> PackedPlan | Tensor:
        return self._tensor if self._compiled else self

    def at(self, layer: int) -> Tensor:
        """The plan at a layer's turn."""
        self._packed[_TURN] = self._turns[layer]
        return self._tensor

    @cached_property
    def _tensor(self) -> Tensor:  # made while the model runs: the caller may be in inference mode
        return torch.from_numpy(self._packed)
