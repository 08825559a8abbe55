"""Paged attention in plain torch: computes every model, and is the oracle of the other backends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from leapgen.engine.backends.base import Backend
from leapgen.engine.memory.kv import LayerSpec
from leapgen.engine.step import Prepared, Step, StepBackend


class IndexTensors(NamedTuple):
    """A step's arrays on one device; all int64."""

    slots: Tensor  # [tokens]
    page_table: Tensor  # [sequences, max_pages]
    query_starts: Tensor  # [sequences + 1]
    kv_lengths: Tensor  # [sequences]


class IndexPlan(Prepared):
    """A step with its arrays on each device that asks for them, moved there once."""

    def __init__(self, backend: StepBackend[IndexPlan], step: Step) -> None:
        super().__init__(backend, step.cache.specs, step.positions)
        self.step = step
        self._tensors: dict[torch.device, IndexTensors] = {}

    def on(self, device: torch.device) -> IndexTensors:
        if device not in self._tensors:
            step = self.step
            self._tensors[device] = IndexTensors(*(
                torch.from_numpy(array).to(device, non_blocking=True)
                for array in (step.slots, step.page_table, step.query_starts, step.kv_lengths)))
        return self._tensors[device]


class ReferenceBackend(Backend[IndexPlan]):
    """Plain torch, on any device and in any dtype; the model's modules compute as they are."""

    def serves(self, layers: Mapping[int, LayerSpec]) -> bool:
        return True

    def prepare(self, step: Step) -> IndexPlan:
        return IndexPlan(self, step)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, prepared: IndexPlan, **options: Any) -> Tensor:
        cache = prepared.step.cache
        query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))  # [tokens, heads, dim]
        cache.write(layer, key, value, prepared.on(key.device).slots)
        return paged_attention(query, cache.keys[layer], cache.values[layer], prepared, **options)[None]


def paged_attention(query: Tensor, key_cache: Tensor, value_cache: Tensor, plan: IndexPlan, *, scaling: float,
                    sliding_window: int | None = None, softcap: float | None = None,
                    sinks: Tensor | None = None) -> Tensor:
    """Causal attention of a flat mixed step in plain torch; scores and sums in float32 (float64 for float64).

    Args:
        query: [tokens, heads, key_dim].
        key_cache: [pages, page_size, kv_heads, key_dim]; value_cache: [pages, page_size, kv_heads, value_dim].
        sliding_window: a query sees this many positions, itself included.
        softcap: scores become ``softcap * tanh(scores / softcap)``.
        sinks: [heads]; one more logit a head in the softmax's denominator, without a value.

    Returns:
        [tokens, heads, value_dim] in the query's dtype.
    """
    compute = torch.promote_types(query.dtype, torch.float32)
    step, tensors = plan.step, plan.on(query.device)
    output = query.new_empty(*query.shape[:2], value_cache.shape[-1])
    keys, values = key_cache.flatten(0, 1), value_cache.flatten(0, 1)
    page_size = key_cache.shape[1]
    heads, kv_heads = query.shape[1], keys.shape[1]
    for rows, count in _equal_query_lengths(step):
        lengths = step.kv_lengths[rows]
        index = torch.from_numpy(rows).to(query.device)
        tokens = tensors.query_starts[index][:, None] + torch.arange(count, dtype=torch.int64, device=query.device)  # [B, Q]
        span = torch.arange(int(lengths.max()), dtype=torch.int64, device=query.device)  # [L]
        kv_lengths = tensors.kv_lengths[index][:, None]  # [B, 1]
        # Past its end a sequence reads its first slot again, which is written; the mask takes it out.
        span_or_first = torch.where(span < kv_lengths, span, 0)  # [B, L]
        slots = tensors.page_table[index].gather(1, span_or_first // page_size) * page_size + span_or_first % page_size
        k = keys[slots].to(compute)  # [B, L, kv_heads, key_dim]
        v = values[slots].to(compute)
        q = query[tokens].to(compute).unflatten(2, (kv_heads, heads // kv_heads))  # [B, Q, kv_heads, group, key_dim]
        scores = torch.einsum("bqhgd,blhd->bhgql", q, k) * scaling
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        position = kv_lengths - count + torch.arange(count, dtype=torch.int64, device=query.device)  # [B, Q]
        visible = span <= position[..., None]  # [B, Q, L]
        if sliding_window is not None:
            visible &= span > position[..., None] - sliding_window
        scores = scores.masked_fill(~visible[:, None, None], -torch.inf)
        if sinks is not None:
            sink = sinks.to(compute).view(1, kv_heads, -1, 1, 1).expand(len(rows), -1, -1, count, 1)
            scores = torch.cat([scores, sink], dim=-1)
        weights = scores.softmax(dim=-1)[..., : len(span)]
        output[tokens] = torch.einsum("bhgql,blhd->bqhgd", weights, v).flatten(2, 3).to(query.dtype)
    return output


def _equal_query_lengths(step: Step) -> list[tuple[np.ndarray, int]]:
    """Rows that can be computed as one rectangle: all decoding sequences, and each prefill length."""
    counts = np.diff(step.query_starts)
    return [(np.flatnonzero(counts == count), int(count)) for count in np.unique(counts)]
