"""The attention function that transformers calls: it checks what a model asks for, and the step's backend computes it."""

from __future__ import annotations

from typing import Any, cast

import torch
from leapgen_kernels import ops
from torch import Tensor
from transformers import AttentionInterface

from leapgen.engine.memory.kv import LayerSpec
from leapgen.engine.step import Prepared

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
                      *, leapgen_plan: Prepared | Tensor | None = None, scaling: float | None = None, dropout: float = 0.0,
                      sliding_window: int | None = None, softcap: float | None = None, s_aux: Tensor | None = None,
                      **kwargs: Any) -> tuple[Tensor, None]:
    """Writes this step's keys and values into the pool and attends over the pages.

    Args:
        query: [1, heads, tokens, key_dim]; key: [1, kv_heads, tokens, key_dim]; value: [1, kv_heads, tokens,
            value_dim]: all sequences of the step, packed flat.
        leapgen_plan: the step, prepared by its backend; where the step is compiled, the tensor its kernels read.

    Returns:
        [1, tokens, heads, value_dim], and None for the weights.
    """
    if isinstance(leapgen_plan, Tensor):  # a compiled step: checked when it was compiled
        return ops.paged_attention(query, key, value, leapgen_plan, scaling or query.shape[-1] ** -0.5, sliding_window,
                                   softcap, s_aux), None
    return _attend(module, query, key, value, attention_mask, leapgen_plan, dropout, kwargs,
                   scaling=query.shape[-1] ** -0.5 if scaling is None else scaling, sliding_window=sliding_window,
                   softcap=softcap, sinks=s_aux), None


# Plan and module are no tensors: compiled code would be made for one layer only.
@torch.compiler.disable  # type: ignore[untyped-decorator]  # torch does not annotate it
def _attend(module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
            plan: Prepared | None, dropout: float, kwargs: dict[str, Any], **options: Any) -> Tensor:
    if plan is None:
        raise UnsupportedAttentionError(f"{type(module).__name__} is not given the keyword arguments of the model's forward")
    _check(module, query, key, attention_mask, dropout, kwargs)
    layer = cast(int, module.layer_idx)
    _check_layer(module, query, key, value, plan.layers.get(layer))
    return plan.backend.attend(layer, query, key, value, plan, **options)


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


def _check_layer(module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, held: LayerSpec | None) -> None:
    """What kernels read and write must be what the pool holds: they see addresses only."""
    given = LayerSpec.of(key, value)
    held = held or given  # a layer that is seen for the first time is to be added
    if given != held or not query.dtype == key.dtype == value.dtype:
        raise UnsupportedAttentionError(f"{type(module).__name__} hands over keys {tuple(key.shape)} of {key.dtype} on "
                                        f"{key.device}, values {tuple(value.shape)} of {value.dtype} and queries of "
                                        f"{query.dtype}, which the KV pool does not hold: {held}")


def _is_packing(argument: str) -> bool:
    return argument.startswith(("cu_seq_lens", "max_length_"))
