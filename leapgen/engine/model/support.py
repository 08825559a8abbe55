"""Which models can be served exactly: what their config says, and what a small forward pass shows."""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from leapgen_kernels import cpu
from transformers import PreTrainedConfig, PreTrainedModel

from leapgen.engine.memory.kv import GrowingKVCache, KVCache
from leapgen.engine.model.attention import UnsupportedAttentionError
from leapgen.engine.step import StepPlan

if TYPE_CHECKING:
    from leapgen.engine.runner import Runner

logger = logging.getLogger(__name__)

SERVED_LAYERS = {"full_attention", "sliding_attention", "attention"}
SOME_ROWS = [3, 0]  # of four tokens: neither all, nor the last, nor in order


class UnsupportedModelError(ValueError):
    """The model cannot be served exactly."""

    def __init__(self, model: PreTrainedModel, reason: str) -> None:
        super().__init__(f"{type(model).__name__} cannot be served: {reason}")


class Context(NamedTuple):
    """Positions a sequence may have, and why no more where that is not simply the model's length."""

    length: int
    reason: str = ""
_guard = threading.Lock()
_in_eval_mode: dict[torch.nn.Module, tuple[int, bool]] = {}  # by how many calls a module is held, and what it goes back to


@contextmanager
def eval_mode(model: PreTrainedModel) -> Iterator[None]:
    """Every module in eval mode, and, once no thread needs it so any longer, as it was."""
    modules = list(model.modules())
    with _guard:
        for module in modules:
            holders, training = _in_eval_mode.get(module, (0, False))
            _in_eval_mode[module] = holders + 1, training or module.training
        model.eval()
    try:
        yield
    finally:
        with _guard:
            for module in modules:
                holders, training = _in_eval_mode.pop(module)
                if holders > 1:
                    _in_eval_mode[module] = holders - 1, training
                elif training:
                    module.training = True


def attention_configs(model: PreTrainedModel) -> list[PreTrainedConfig]:
    """Every config object that modules of the model consult for their attention implementation."""
    configs = {id(module.config): module.config for module in model.modules()
               if isinstance(getattr(module, "config", None), PreTrainedConfig)}
    return list(configs.values())


def check_config(model: PreTrainedModel, context_length: int | None) -> Context:
    """Refuses what the config already shows cannot be served; returns the context to use.

    Raises:
        UnsupportedModelError: by name and reason.
        ValueError: ``context_length`` is longer than what the model serves exactly.
    """
    config = model.config.get_text_config(decoder=True)
    if model.config.is_encoder_decoder:
        raise UnsupportedModelError(model, "it is an encoder-decoder; only decoder-only models have one KV cache a path.")
    layer_types = getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None) or []
    others = sorted({str(kind) for kind in layer_types} - SERVED_LAYERS)
    if getattr(model, "_is_stateful", False) and (others or not layer_types):  # a hybrid may have attention layers only
        raise UnsupportedModelError(model, "it has recurrent layers, whose state cannot be cut back or shared by pages.")
    if others:
        raise UnsupportedModelError(model, f"it has layers of type {', '.join(others)}; "
                                    f"served are {', '.join(sorted(SERVED_LAYERS))}.")
    if not getattr(model, "_supports_attention_backend", False):
        raise UnsupportedModelError(model, "its attention does not go through transformers' AttentionInterface "
                                    "(_supports_attention_backend is not set).")
    if getattr(config, "num_kv_shared_layers", 0):
        raise UnsupportedModelError(model, f"{config.num_kv_shared_layers} of its layers read another layer's KV through "
                                    "the cache object.")
    if model.get_output_embeddings() is None:
        raise UnsupportedModelError(model, "it has no language modelling head; load it with AutoModelForCausalLM.")
    if "logits_to_keep" not in inspect.signature(model.forward).parameters and not _takes_any_argument(model):
        raise UnsupportedModelError(model, "its forward does not take logits_to_keep.")
    exact = _exact_context(config)
    if context_length is not None and context_length > exact.length:
        why = f": {exact.reason}" if exact.reason else ""
        raise ValueError(f"context_length={context_length} is not allowed: {type(model).__name__} serves at most "
                         f"{exact.length} positions exactly{why}.")
    if context_length is not None:
        return Context(context_length, "EngineConfig.context_length")
    if exact.reason:
        logger.warning("%s is served up to %d positions: %s.", type(model).__name__, *exact)
    return exact


def _takes_any_argument(model: PreTrainedModel) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(model.forward).parameters.values())


def _exact_context(config: PreTrainedConfig) -> Context:
    """Positions up to which a key, once computed, stays what a full forward would compute.

    Dynamic and long rotary embeddings change every earlier key once the sequence outgrows its original length.
    """
    context = Context(getattr(config, "max_position_embeddings", None) or 1 << 20)
    rope = getattr(config, "rope_parameters", None) or {}
    for parameters in [rope, *(v for v in rope.values() if isinstance(v, dict))]:
        kind = parameters.get("rope_type")
        if kind in ("dynamic", "longrope"):
            original = parameters.get("original_max_position_embeddings") or getattr(
                config, "original_max_position_embeddings", None)
            length = min(context.length, original or context.length)
            context = Context(length, f"its rotary embeddings ({kind}) change every earlier key of a sequence that grows "
                                      f"beyond {length}, and keys are computed once")
    return context


def check_forward(runner: Runner, cache: GrowingKVCache) -> None:
    """Runs two short sequences through the paged step, prefill then decode, and compares with the model as it is.

    This learns the KV geometry from what the layers really write, and finds models that ignore position ids or the rows
    asked for, mask tokens in a way that never reaches the attention function, or keep a cache of their own.

    Raises:
        UnsupportedModelError: by name and reason.
    """
    model = runner.model
    first = [4, 7]
    texts = [[(3 + 7 * i) % min(runner.vocab_size, 1000) for i in range(6)],
             [(5 + 11 * i) % min(runner.vocab_size, 1000) for i in range(9)]]
    last = [len(text) for text in texts]
    with eval_mode(model):
        paged = [_step(runner, cache, texts, starts, ends) for starts, ends in (([0, 0], first), (first, last))]
        some = _step(runner, cache, texts, first, last, SOME_ROWS)
        with torch.no_grad(), _refusing(model, "its own forward fails"):
            inputs = [torch.tensor([text], dtype=torch.int64, device=runner.input_device) for text in texts]
            whole = [model(text, use_cache=False).logits[0] for text in inputs]
    expected = torch.cat([text[:end] for text, end in zip(whole, first, strict=True)] +
                         [text[end:] for text, end in zip(whole, first, strict=True)])
    actual = torch.cat(paged).to(expected.device)
    if actual.shape != expected.shape:
        raise UnsupportedModelError(model, f"logits have shape {tuple(actual.shape)} instead of {tuple(expected.shape)}.")
    if not expected.isfinite().all():
        raise UnsupportedModelError(model, "its logits are not finite for a short text; are its weights whole?")
    # The median over tokens, so that a half-precision expert choice that tips over in one token is no refusal.
    error, tolerance = float(relative_errors(actual, expected).median()), tolerance_of(model, expected.dtype)
    if not error <= tolerance:
        raise UnsupportedModelError(
            model, f"its logits over a paged cache differ from its own by {error:.2g} (relative, median over tokens; "
            f"allowed {tolerance}). It may depend on a mask, a position or a cache that does not reach its attention "
            "function.")
    asked = paged[1][SOME_ROWS]
    if some.shape != asked.shape or not (relative_errors(some, asked) <= tolerance).all():
        raise UnsupportedModelError(model, f"its forward does not heed logits_to_keep: asked for rows {SOME_ROWS} of "
                                    f"{len(paged[1])} it returns logits of shape {tuple(some.shape)}, which are not those.")


def _step(runner: Runner, cache: GrowingKVCache, texts: list[list[int]], starts: list[int], ends: list[int],
          rows: list[int] | None = None) -> torch.Tensor:
    """Logits of positions ``starts[i] .. ends[i] - 1`` of both texts, packed; all of them or these rows."""
    cache.calls.clear()
    plan = StepPlan.build(cache, [[0, 1], [4, 2, 3]], starts, ends, runner.kernels)
    tokens = [t for text, s, e in zip(texts, starts, ends, strict=True) for t in text[s:e]]
    with _refusing(runner.model, "its forward fails over a paged cache"):
        logits = runner.run(tokens, plan, np.array(range(len(tokens)) if rows is None else rows))
    _check_layers(runner.model, cache, plan.windows, runner.context_length)
    return logits


def tolerance_of(model: PreTrainedModel, logits: torch.dtype) -> float:
    """How far logits may be from the model's own, by ``relative_errors``.

    The least precise dtype that the model computes in decides: its logits may have been made float32 at the end.
    """
    dtypes = {logits, *(p.dtype for p in model.parameters() if p.is_floating_point())}
    return 0.1 if min(dtype.itemsize for dtype in dtypes) <= 2 else 1e-3


def warn_of_missing_kernels(cache: KVCache) -> None:
    """Says so if the C++ kernels would serve the cache and are not there."""
    reason = next(filter(None, map(cpu.missing, cache.keys.values())), "")
    if reason:
        logger.warning(
            "the C++ kernels are not used: %s. Plain torch does the work: steps take about twice as long in float32, four "
            "to eight times as long in bfloat16, and draft_tokens=None drafts none. Build them with a C++ compiler that has "
            "OpenMP: pip install -e . in leapgen's folder. EngineConfig(kernels=False) asks for plain torch.", reason)


@contextmanager
def _refusing(model: PreTrainedModel, what: str) -> Iterator[None]:
    """Whatever the model's code raises becomes a refusal; a lack of memory is none."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except UnsupportedAttentionError as error:
        raise UnsupportedModelError(model, str(error)) from error
    except Exception as error:
        raise UnsupportedModelError(model, f"{what}: {type(error).__name__}: {error}") from error


def _check_layers(model: PreTrainedModel, cache: GrowingKVCache, windows: dict[int, int | None], context: int) -> None:
    config = model.config.get_text_config(decoder=True)
    if len(cache.calls) != len(set(cache.calls)):
        raise UnsupportedModelError(model, "two attention modules have the same layer_idx.")
    layers = config.num_hidden_layers
    if len(cache.calls) != layers:
        raise UnsupportedModelError(model, f"{len(cache.calls)} of its {layers} layers use the attention function; the "
                                    "others (recurrent, or with a cache of their own) cannot be paged.")
    window, layer_types = getattr(config, "sliding_window", None), getattr(config, "layer_types", None)
    for layer, passed in windows.items():
        slides = layer_types[layer] == "sliding_attention" if layer_types else (
            bool(window) and window < context and getattr(config, "use_sliding_window", True))
        if slides and passed is None:
            raise UnsupportedModelError(model, f"layer {layer} has a sliding window of {window}, which it applies by a mask "
                                        "and does not tell its attention function.")


def relative_errors(actual: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """[tokens] float64: how far a token's logits are from what they should be, relative to their spread."""
    actual, expected = actual.double(), expected.double()
    spread = (expected - expected.mean(dim=-1, keepdim=True)).norm(dim=-1)
    return (actual - expected).norm(dim=-1) / spread.clamp_min(1e-9)
