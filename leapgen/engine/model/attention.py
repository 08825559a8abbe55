"""Attention over pages: the function transformers calls, and its plain torch form, which is also the oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from leapgen_kernels import cpu, gpu, ops
from torch import Tensor
from transformers import AttentionInterface

from leapgen.engine.memory.kv import GrowingKVCache, LayerSpec
from leapgen.engine.step import Attends, StepPlan

NAME = "leapgen_paged"

# Keyword arguments models pass along that do not change what attention computes here.
_HARMLESS = {"position_ids", "use_cache", "output_attentions", "output_hidden_states", "return_dict", "is_causal",
             "cache_position", "past_key_values", "logits_to_keep", "output_router_logits", "position_embeddings"}


class UnsupportedAttentionError(ValueError):
    """The model asked its attention for something this engine cannot honour exactly."""


def register() -> None:
    """Makes the paged attention known to transformers under ``NAME``. Models opt in by their config."""
    AttentionInterface.register(NAME, attention_forward)


def attention_forward(module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
                      *, leapgen_plan: StepPlan | Tensor | None = None, scaling: float | None = None, dropout: float = 0.0,
                      sliding_window: int | None = None, softcap: float | None = None, s_aux: Tensor | None = None,
                      **kwargs: Any) -> tuple[Tensor, None]:
    """Writes this step's keys and values into the pool and attends over the pages.

    Args:
        query: [1, heads, tokens, key_dim]; key: [1, kv_heads, tokens, key_dim]; value: [1, kv_heads, tokens,
            value_dim]: all sequences of the step, packed flat.
        leapgen_plan: which sequence has which tokens, pages and lengths; packed where the step is compiled.

    Returns:
        [1, tokens, heads, value_dim], and None for the weights.
    """
    if isinstance(leapgen_plan, Tensor):  # a compiled step: checked when it was compiled
        return ops.paged_attention(query, key, value, leapgen_plan, scaling or query.shape[-1] ** -0.5, sliding_window,
                                   softcap, s_aux), None
    return _attend(module, query, key, value, attention_mask, leapgen_plan, dropout, kwargs,
                   scaling=query.shape[-1] ** -0.5 if scaling is None else scaling, sliding_window=sliding_window,
                   softcap=softcap, sinks=s_aux), None


@torch.compiler.disable  # plan and module are no tensors: compiled code would be made for one layer only
def _attend(module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
            plan: StepPlan | None, dropout: float, kwargs: dict[str, Any], **options: Any) -> Tensor:
    if plan is None:
        raise UnsupportedAttentionError(f"{type(module).__name__} is not given the keyword arguments of the model's forward")
    _check(module, query, key, attention_mask, dropout, kwargs)
    layer = module.layer_idx
    plan.windows[layer] = options["sliding_window"]
    if isinstance(plan.cache, GrowingKVCache):
        plan.cache.prepare(layer, key, value)
    _check_layer(module, query, key, value, plan.cache.specs[layer])
    if plan.kernels and cpu.serves(query):
        return cpu.attend(query, key, value, plan.packed(layer), **options)
    if plan.kernels and gpu.serves(query):
        tiles = plan.tiles(Attends.of(query, key))
        return gpu.attend(query, key, value, plan.cache.keys[layer], plan.cache.values[layer], tiles, **options)
    query, key, value = query[0].transpose(0, 1), key[0].transpose(0, 1), value[0].transpose(0, 1)
    plan.cache.write(layer, key, value, plan.on(key.device).slots)
    return paged_attention(query, plan.cache.keys[layer], plan.cache.values[layer], plan, **options)[None]


def _check(module: torch.nn.Module, query: Tensor, key: Tensor, attention_mask: Tensor | None, dropout: float,
           kwargs: dict[str, Any]) -> None:
    name = type(module).__name__
    if attention_mask is not None:
        raise UnsupportedAttentionError(f"{name} passes an attention mask of its own (a bias such as ALiBi?)")
    if dropout:
        raise UnsupportedAttentionError(f"{name} applies attention dropout; call model.eval() first")
    if key.shape[2] != query.shape[2]:
        raise UnsupportedAttentionError(f"{name} attends to {key.shape[2]} keys from {query.shape[2]} queries "
                                        "(cross-attention or a cache of its own)")
    if not getattr(module, "is_causal", True) or kwargs.get("is_causal") is False:
        raise UnsupportedAttentionError(f"{name} is not causal")
    if not isinstance(getattr(module, "layer_idx", None), int):
        raise UnsupportedAttentionError(f"{name} has no layer_idx")
    for argument, given in kwargs.items():
        if given is not None and argument not in _HARMLESS and not _is_packing(argument):
            raise UnsupportedAttentionError(f"{name} passes {argument}= to its attention, which is not known here")


def _check_layer(module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, spec: LayerSpec) -> None:
    """What kernels read and write must be what the pool holds: they see addresses only."""
    given = key.shape[1], key.shape[3], value.shape[3], key.dtype
    if given != (spec.num_kv_heads, spec.key_dim, spec.value_dim, spec.dtype) or not query.dtype == key.dtype == value.dtype:
        raise UnsupportedAttentionError(f"{type(module).__name__} hands over keys {tuple(key.shape)} of {key.dtype}, values "
                                        f"{tuple(value.shape)} of {value.dtype} and queries of {query.dtype}, which the KV "
                                        f"pool does not hold: {spec}")


def _is_packing(argument: str) -> bool:
    return argument.startswith(("cu_seq_lens", "max_length_"))


def paged_attention(query: Tensor, key_cache: Tensor, value_cache: Tensor, plan: StepPlan, *, scaling: float,
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
    tensors = plan.on(query.device)
    output = query.new_empty(*query.shape[:2], value_cache.shape[-1])
    keys, values = key_cache.flatten(0, 1), value_cache.flatten(0, 1)
    page_size = key_cache.shape[1]
    heads, kv_heads = query.shape[1], keys.shape[1]
    for rows, count in _equal_query_lengths(plan):
        lengths = plan.kv_lengths[rows]
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


def _equal_query_lengths(plan: StepPlan) -> list[tuple[np.ndarray, int]]:
    """Rows that can be computed as one rectangle: all decoding sequences, and each prefill length."""
    counts = np.diff(plan.query_starts)
    return [(np.flatnonzero(counts == count), int(count)) for count in np.unique(counts)]
