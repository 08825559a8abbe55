"""Which models can be served exactly: what their config says, and what a small forward pass shows."""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from transformers import PreTrainedConfig, PreTrainedModel

from leapgen.engine.memory.kv import KVCache, LayerSpec
from leapgen.engine.model.attention import UnsupportedAttentionError
from leapgen.engine.model.paged_model import Context, PagedModel
from leapgen.engine.model.probe import Probe
from leapgen.engine.step import Step, StepBackend

logger = logging.getLogger(__name__)

SERVED_LAYERS = {"full_attention", "sliding_attention", "attention"}
SOME_ROWS = [3, 0]  # of four tokens: neither all, nor the last, nor in order
FIRST, LAST = [4, 7], [6, 9]  # lengths of the two texts of the check: what is prefilled, and what is decoded up to
PAGES, NUM_PAGES, PAGE_SIZE = [[0, 1], [4, 2, 3]], 8, 4  # where they lie, in a pool of its own


class UnsupportedModelError(ValueError):
    """The model cannot be served exactly."""

    def __init__(self, model: PreTrainedModel, reason: str) -> None:
        super().__init__(f"{type(model).__name__} cannot be served: {reason}")


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
        if any(module.training for module in modules):
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
    if not cast(torch.Tensor, model.get_input_embeddings().weight).shape[0]:
        raise UnsupportedModelError(model, "its input embedding is empty.")
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


def learn_layers(paged: PagedModel, backend: StepBackend[Any]) -> dict[int, LayerSpec]:
    """The geometry of each attention layer's KV, as the layers hand it over in a step of one token, in the order they run.

    Args:
        backend: one that takes whatever they hand over.

    Raises:
        UnsupportedModelError: by name and reason.
    """
    probe = Probe(backend, KVCache({}, NUM_PAGES, PAGE_SIZE))
    with eval_mode(paged.model):
        _step(paged, probe, [0], [1])
    return probe.cache.specs


def check_forward(paged: PagedModel, backend: StepBackend[Any], layers: Mapping[int, LayerSpec]) -> None:
    """Runs two short sequences through a backend, prefill then decode, and compares with the model as it is.

    This finds models that ignore position ids or the rows asked for, mask tokens in a way that never reaches the attention
    function, or keep a cache of their own; and a backend that computes something else.

    Raises:
        UnsupportedModelError: by name and reason.
    """
    model, probe = paged.model, Probe(backend, KVCache(layers, NUM_PAGES, PAGE_SIZE))
    with eval_mode(model):
        steps = [_step(paged, probe, starts, ends) for starts, ends in (([0, 0], FIRST), (FIRST, LAST))]
        some = _step(paged, probe, FIRST, LAST, SOME_ROWS)
        with torch.no_grad(), _refusing(model, "its own forward fails"):
            inputs = [torch.tensor([text], dtype=torch.int64, device=paged.input_device) for text in _texts(paged)]
            whole = [model(text, use_cache=False).logits[0] for text in inputs]
    expected = torch.cat([text[:end] for text, end in zip(whole, FIRST, strict=True)] +
                         [text[end:] for text, end in zip(whole, FIRST, strict=True)])
    actual = torch.cat(steps).to(expected.device)
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
            "function. If EngineConfig(kernels=False) serves it, the kernels compute something else on this machine.")
    asked = steps[1][SOME_ROWS]
    if some.shape != asked.shape or not (relative_errors(some, asked) <= tolerance).all():
        raise UnsupportedModelError(model, f"its forward does not heed logits_to_keep: asked for rows {SOME_ROWS} of "
                                    f"{len(steps[1])} it returns logits of shape {tuple(some.shape)}, which are not those.")


def agree(paged: PagedModel, cache: KVCache, one: StepBackend[Any], other: StepBackend[Any]) -> bool:
    """Whether two backends compute the same logits, to what a model's dtype allows, for a text in pages 0 and 1."""
    length = min(2 * cache.page_size, 7)
    step, tokens = Step.build(cache, [[0, 1]], [0], [length]), [i % paged.vocab_size for i in range(3, 3 + length)]
    actual, expected = (paged.run(tokens, backend.prepare(step), np.arange(length)) for backend in (one, other))
    return float(relative_errors(actual, expected).median()) <= tolerance_of(paged.model, expected.dtype)


def _texts(paged: PagedModel) -> list[list[int]]:
    vocab = min(paged.vocab_size, 1000)
    return [[(3 + 7 * i) % vocab for i in range(LAST[0])], [(5 + 11 * i) % vocab for i in range(LAST[1])]]


def _step(paged: PagedModel, probe: Probe, starts: list[int], ends: list[int],
          rows: list[int] | None = None) -> torch.Tensor:
    """Logits of positions ``starts[i] .. ends[i] - 1`` of the first texts, packed; all of them or these rows."""
    probe.calls.clear()
    step = Step.build(probe.cache, PAGES[: len(starts)], starts, ends)
    tokens = [t for text, start, end in zip(_texts(paged), starts, ends, strict=False) for t in text[start:end]]
    with _refusing(paged.model, "its forward fails over a paged cache"):
        logits = paged.run(tokens, probe.prepare(step), np.array(range(len(tokens)) if rows is None else rows))
    _check_layers(paged, probe)
    return logits


def tolerance_of(model: PreTrainedModel, logits: torch.dtype) -> float:
    """How far logits may be from the model's own, by ``relative_errors``.

    The least precise dtype that the model computes in decides: its logits may have been made float32 at the end.
    """
    dtypes = {logits, *(p.dtype for p in model.parameters() if p.is_floating_point())}
    return 0.1 if min(dtype.itemsize for dtype in dtypes) <= 2 else 1e-3


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


def _check_layers(paged: PagedModel, probe: Probe) -> None:
    model, config = paged.model, paged.model.config.get_text_config(decoder=True)
    if len(probe.calls) != len(set(probe.calls)):
        raise UnsupportedModelError(model, "two attention modules have the same layer_idx.")
    layers = config.num_hidden_layers
    if len(probe.calls) != layers:
        raise UnsupportedModelError(model, f"{len(probe.calls)} of its {layers} layers use the attention function; the "
                                    "others (recurrent, or with a cache of their own) cannot be paged.")
    window, layer_types = getattr(config, "sliding_window", None), getattr(config, "layer_types", None)
    for layer, passed in probe.windows.items():
        slides = layer_types[layer] == "sliding_attention" if layer_types else (
            window and window < paged.context.length and getattr(config, "use_sliding_window", True))
        if slides and passed is None:
            raise UnsupportedModelError(model, f"layer {layer} has a sliding window of {window}, which it applies by a mask "
                                        "and does not tell its attention function.")


def relative_errors(actual: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """[tokens] float64: how far a token's logits are from what they should be, relative to their spread."""
    actual, expected = actual.double(), expected.double()
    spread: torch.Tensor = (expected - expected.mean(dim=-1, keepdim=True)).norm(dim=-1)
    error: torch.Tensor = (actual - expected).norm(dim=-1)
    return error / spread.clamp_min(1e-9)
