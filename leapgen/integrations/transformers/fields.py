"""What becomes of every field of transformers' GenerationConfig: one table, for pipeline and ``custom_generate`` alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import transformers
from transformers import GenerationConfig, PreTrainedModel

from leapgen.stopping import Condition, time_limit

Kind = Literal["option", "read", "processor", "idle", "refused"]


class Rule(NamedTuple):
    """What becomes of a field.

    ``option``: it is the option of LeapConfig or SamplingConfig of that name; ``off`` is what an explicit None says.
    ``read``: ``settled`` or its caller does what it says. ``processor``: a logits processor of transformers' does it.
    ``idle``: it changes no token, here as in transformers, or only together with a field that is refused.
    ``refused``: values other than ``neutral`` are an error; ``why`` ends it.
    """

    kind: Kind
    off: Any = None
    neutral: tuple[Any, ...] = ()
    why: str = ""


def _refused(why: str, *neutral: Any) -> Rule:
    return Rule("refused", None, (None, *neutral), why)


_BEAMS = "paths are sampled, not searched by beams"
_DRAFTS = "the engine drafts by itself: EngineConfig(draft_tokens=...)"
_ORDER = "the engine has no such filter behind temperature"
_LENGTH = "a path's length counts words that it was sent"
_KEPT = "steps do not keep them; return_dict_in_generate gives log-probabilities in leap[i].paths[j].segments"
_PROMPT = "it goes by the prompt of a row, and paths of several prompts share a step"
_CONTRAST = "it needs other forward passes"
_IDLE = Rule("idle")
_READ = Rule("read")

TABLE: dict[str, Rule] = {
    # length
    "max_length": _READ, "max_new_tokens": _READ, "min_length": _READ, "min_new_tokens": _READ, "max_time": _READ,
    "stop_strings": Rule("option", ()), "eos_token_id": _READ,
    # sampling
    "do_sample": _READ, "temperature": Rule("option", 1.0), "top_k": _READ, "top_p": Rule("option", 1.0),
    "min_p": Rule("option", 0.0), "repetition_penalty": Rule("processor"),
    "sequence_bias": Rule("processor"), "no_repeat_ngram_size": Rule("processor"), "bad_words_ids": Rule("processor"),
    "suppress_tokens": Rule("processor"), "renormalize_logits": _IDLE,
    "top_h": _refused(_ORDER), "typical_p": _refused(_ORDER, 1.0), "epsilon_cutoff": _refused(_ORDER, 0.0),
    "eta_cutoff": _refused(_ORDER, 0.0), "watermarking_config": _refused(_ORDER),
    "encoder_repetition_penalty": _refused(_PROMPT, 1.0), "encoder_no_repeat_ngram_size": _refused(_PROMPT, 0),
    "begin_suppress_tokens": _refused(_PROMPT), "forced_bos_token_id": _refused("prompts are not empty"),
    "forced_eos_token_id": _refused(_LENGTH), "exponential_decay_length_penalty": _refused(_LENGTH),
    "remove_invalid_values": _refused("logits that are not finite are an error that names path and position", False),
    "token_healing": _refused("a prompt's tokens are taken as they are", False),
    "guidance_scale": _refused(_CONTRAST, 1), "penalty_alpha": _refused(_CONTRAST, 0), "dola_layers": _refused(_CONTRAST),
    # beams
    "num_beams": _refused(_BEAMS, 1), "num_beam_groups": _refused(_BEAMS, 1), "diversity_penalty": _refused(_BEAMS, 0),
    "constraints": _refused(_BEAMS), "force_words_ids": _refused(_BEAMS), "early_stopping": _IDLE, "length_penalty": _IDLE,
    # assistants
    "prompt_lookup_num_tokens": _refused(_DRAFTS), "assistant_early_exit": _refused(_DRAFTS),
    "use_mtp": _refused(_DRAFTS, False), "max_matching_ngram_size": _IDLE, "is_assistant": _IDLE,
    "num_assistant_tokens": _IDLE, "num_assistant_tokens_schedule": _IDLE, "assistant_confidence_threshold": _IDLE,
    "assistant_lookbehind": _IDLE, "target_lookbehind": _IDLE, "assistant_ensemble_weight": _IDLE,
    "speculation_type": _IDLE,
    # how a step is computed
    "use_cache": _refused("the engine computes every KV entry once", True), "cache_implementation": _READ,
    "cache_config": _IDLE, "max_cache_len": _IDLE, "compile_config": _IDLE, "disable_compile": _IDLE, "low_memory": _IDLE,
    "continuous_batching_config": _IDLE, "prefill_chunk_size": _IDLE,
    # what comes back
    "num_return_sequences": _READ, "return_dict_in_generate": _READ, "pad_token_id": _READ,
    "output_attentions": _refused(_KEPT, False), "output_hidden_states": _refused(_KEPT, False),
    "output_scores": _refused(_KEPT, False), "output_logits": _refused(_KEPT, False),
    "bos_token_id": _IDLE, "decoder_start_token_id": _IDLE, "transformers_version": _IDLE,
}
_COMES_BEFORE = ("sequence_bias", "repetition_penalty", "no_repeat_ngram_size", "bad_words_ids", "suppress_tokens")


@dataclass
class Settled:
    """What a call asks for; ``n`` is paths for each prompt, ``options`` are those of LeapConfig and SamplingConfig."""

    n: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    processors: list[Any] = field(default_factory=list)  # in the order in which transformers calls them
    until: Condition | None = None
    as_dict: bool = False
    pad: int | None = None


def fields_of(config: GenerationConfig | None) -> dict[str, Any]:
    """What a GenerationConfig states; its other fields are None."""
    return {} if config is None else {name: value for name, value in vars(config).items()
                                      if value is not None and not name.startswith("_")}


def settled(model: PreTrainedModel, stated: Mapping[str, Any], width: int, built: bool = False) -> Settled:
    """What the fields say, those of the model's own ``generation_config`` first.

    Args:
        stated: fields by name, over the model's own. An explicit None says what it says to transformers.
        width: tokens of the prompt, or of the widest with its padding: what ``max_length`` counts.
        built: transformers has built the logits processors already.

    Raises:
        ValueError: a field that cannot be honoured, or that nobody knows; names it.
    """
    own = {name: value for name, value in fields_of(model.generation_config).items()
           if name in TABLE and name not in ("do_sample", "eos_token_id")}  # its end tokens end a path anyway
    values, result = {**own, **stated}, Settled()
    for name, value in values.items():
        _check(name, value, "" if name in stated else "the model's own generation_config says it: ")
    for name, value in stated.items():  # what the model says of sampling, LeapGenerator knows
        if TABLE[name].kind == "option":
            result.options[name] = TABLE[name].off if value is None else value
    if "stop_strings" in values and values["stop_strings"] is not None:
        result.options["stop_strings"] = values["stop_strings"]
    _take_lengths(values, stated, width, result)
    if "top_k" in stated:
        result.options["top_k"] = stated["top_k"] or None
    if "repetition_penalty" in stated:
        result.options["repetition_penalty"] = stated["repetition_penalty"] or 1.0
    if "eos_token_id" in stated:
        result.options["stop_token_ids"] = _ends(model, stated["eos_token_id"])
    if not built:
        result.processors = _processors(model, values, stated)
    if stated.get("do_sample", True) is False:
        result.options |= {"temperature": 0.0, "top_k": None, "top_p": 1.0, "min_p": 0.0}
    result.n = values.get("num_return_sequences")
    if (result.n or 1) > 1 and result.options.get("temperature") == 0:
        raise ValueError(f"num_return_sequences={result.n} with do_sample=False: greedy paths would all be the same. Use "
                         "do_sample=True, or one path.")
    if values.get("max_time") is not None:
        result.until = time_limit(float(values["max_time"]))
    result.as_dict, result.pad = bool(values.get("return_dict_in_generate")), values.get("pad_token_id")
    return result


def _check(name: str, value: Any, whose: str) -> None:
    rule = TABLE.get(name)
    if rule is None:
        raise ValueError(f"{name}={value!r:.80} is no field of GenerationConfig that leapgen knows (transformers "
                         f"{transformers.__version__}): leave it out.")
    refused = rule.kind == "refused" and not any(value is one or value == one for one in rule.neutral)
    if refused or (name == "cache_implementation" and value == "quantized"):
        why = rule.why or "a quantized cache changes what the model says"
        raise ValueError(f"{whose}{name}={value!r:.80} cannot be honoured: {why}. Leave it out"
                         + (f", or pass {name}={rule.neutral[-1]!r}." if whose else "."))


def _take_lengths(values: Mapping[str, Any], stated: Mapping[str, Any], width: int, result: Settled) -> None:
    """A number of new tokens goes before a length, as in transformers; what is stated goes before the model's own."""
    for new, length in (("max_new_tokens", "max_length"), ("min_new_tokens", "min_length")):
        for source in (stated, values):
            if source.get(new) is not None:
                result.options[new] = source[new]
            elif source.get(length) is not None:
                result.options[new] = max(source[length] - width, 0)
                if new == "max_new_tokens" and not result.options[new]:
                    raise ValueError(f"max_length={source[length]} leaves nothing to generate: the prompt has {width} "
                                     "tokens. Use max_new_tokens.")
            else:
                continue
            break


def _ends(model: PreTrainedModel, stated: Any) -> tuple[int, ...]:
    def ids(value: Any) -> set[int]:
        return set() if value is None else set(value) if isinstance(value, (list, tuple)) else {int(value)}

    own = ids(model.generation_config.eos_token_id)
    if not own <= ids(stated):
        raise ValueError(f"eos_token_id={stated!r} cannot be honoured: the model's own {sorted(own)} always end a path. "
                         "Name them too, or use ignore_eos=True with stop_token_ids.")
    return tuple(sorted(ids(stated)))


def _processors(model: PreTrainedModel, values: Mapping[str, Any], stated: Mapping[str, Any]) -> list[Any]:
    """As ``model.generate`` builds them, in its order."""
    from transformers.generation import logits_process as process

    ends = model.generation_config.eos_token_id
    make: dict[str, Callable[[Any], Any]] = {
        "sequence_bias": lambda value: process.SequenceBiasLogitsProcessor(sequence_bias=value),
        "repetition_penalty": process.RepetitionPenaltyLogitsProcessor,
        "no_repeat_ngram_size": process.NoRepeatNGramLogitsProcessor,
        "bad_words_ids": lambda value: process.NoBadWordsLogitsProcessor(value, ends),
        "suppress_tokens": lambda value: process.SuppressTokensLogitsProcessor(value, device=str(model.device)),
    }
    off = {"no_repeat_ngram_size": 0, "repetition_penalty": 1.0}
    return [make[name](values[name]) for name in _COMES_BEFORE
            if values.get(name) is not None and values[name] != off.get(name)]


def looked_through(processors: Sequence[Any], width: int) -> tuple[dict[str, Any], tuple[Any, ...]]:
    """Options for what the engine does itself, and the processors that are left, in their order.

    A repetition penalty is the engine's only where nothing comes before it, for the engine begins with it.
    """
    from transformers.generation import logits_process as process

    options: dict[str, Any] = {}
    left: list[Any] = []
    for one in processors:
        kind = type(one)
        if kind is process.TemperatureLogitsWarper:
            options["temperature"] = one.temperature
        elif kind is process.TopKLogitsWarper:
            options["top_k"] = one.top_k
        elif kind is process.TopPLogitsWarper:
            options["top_p"] = one.top_p
        elif kind is process.MinPLogitsWarper:
            options["min_p"] = one.min_p
        elif kind is process.MinNewTokensLengthLogitsProcessor:
            options["min_new_tokens"] = one.min_new_tokens
        elif kind is process.MinLengthLogitsProcessor:
            options.setdefault("min_new_tokens", max(one.min_length - width, 0))
        elif kind is process.RepetitionPenaltyLogitsProcessor and not isinstance(one.prompt_ignore_length, int):
            options["repetition_penalty"] = 1.0 if left else one.penalty
            if left:  # anew: it knows how much of each row is padding, which paths do not have
                left.append(process.RepetitionPenaltyLogitsProcessor(one.penalty))
        elif kind is not process.LogitNormalization:  # which changes no draw
            left.append(one)
    return options, tuple(left)
