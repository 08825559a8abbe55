"""LeaP as ``model.generate(custom_generate=...)``: as a folder or hub repository, and as a callable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import LongTensor, Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation import stopping_criteria as criteria
from transformers.generation.utils import GenerateDecoderOnlyOutput

from leapgen.config import EngineConfig, LeapConfig
from leapgen.following import follow
from leapgen.integrations.transformers.fields import TABLE, Settled, fields_of, looked_through, settled
from leapgen.integrations.transformers.generators import generator_for
from leapgen.integrations.transformers.streaming import Streams
from leapgen.record.run import LeapOutput

_HUB = {"revision", "token", "cache_dir", "force_download", "local_files_only", "proxies", "code_revision"}  # of the folder
_REFUSED = {
    "prefix_allowed_tokens_fn": "it goes by the row of a batch; give a logits processor",
    "assistant_model": "the engine drafts by itself: EngineConfig(draft_tokens=...)",
    "assistant_tokenizer": "the engine drafts by itself: EngineConfig(draft_tokens=...)",
    "negative_prompt_ids": "it needs other forward passes",
    "negative_prompt_attention_mask": "it needs other forward passes",
    "synced_gpus": "paths of different lengths end on different devices at different times",
    "inputs_embeds": "a prompt is token ids",
}


@dataclass
class LeapDecoderOutput(GenerateDecoderOnlyOutput):
    """What ``return_dict_in_generate`` returns: ``sequences``, and in ``leap`` the run of each prompt."""

    leap: list[LeapOutput] | None = None


def generate(model: PreTrainedModel, inputs: Tensor | None = None, generation_config: GenerationConfig | None = None,
             logits_processor: Sequence[Any] | None = None, stopping_criteria: Sequence[Any] | None = None,
             streamer: Any = None, *, input_ids: Tensor | None = None, attention_mask: Tensor | None = None,
             tokenizer: PreTrainedTokenizerBase | None = None, leap: LeapConfig | bool = True, seed: int = 0,
             engine: EngineConfig | None = None, leap_streamers: Sequence[Any] | None = None,
             **options: Any) -> Tensor | LeapDecoderOutput:
    """``model.generate`` by LeaP: what ``custom_generate`` loads from a folder or repository that has it.

    A prompt's token ids are taken as they are. ``leap_inputs`` makes some that explain the tags.

    Args:
        inputs, input_ids: int64 [prompts, length], padded on the left.
        attention_mask: [prompts, length], 0 at the padding; by default the pad tokens are padding.
        tokenizer: the model's; by default found by its name.
        leap, seed, engine: as of ``LeapGenerator``.
        streamer: takes the path's tokens, where there is one path.
        leap_streamers: one for each path, prompts times ``num_return_sequences``.
        options: fields of ``GenerationConfig``, ``LeapConfig`` and ``SamplingConfig``.

    Returns:
        Tensor int64 [prompts x num_return_sequences, longest]: prompt as given, everything that was in the path's context,
        padding on the right. With ``return_dict_in_generate`` a ``LeapDecoderOutput``.

    Raises:
        ValueError, TypeError: what cannot be honoured, by name; before any work.
        GenerationFailed, GenerationInterrupted: as of ``LeapGenerator.generate``.
    """
    ids = _only_one(inputs, input_ids)
    stated = fields_of(generation_config) | {name: options.pop(name) for name in options.keys() & TABLE.keys()}
    for name in options.keys() & (_HUB | _REFUSED.keys()):
        value = options.pop(name)
        if name in _REFUSED and value is not None and value is not False:
            raise ValueError(f"{name} cannot be honoured: {_REFUSED[name]}.")
    wishes = settled(model, stated, ids.shape[1])
    return _run(model, ids, attention_mask, wishes, [*wishes.processors, *(logits_processor or ())],
                stopping_criteria or (), generator_options=(tokenizer, engine), leap=leap, seed=seed, options=options,
                streamers=[streamer] if streamer is not None else leap_streamers)


def custom_generate(model: PreTrainedModel, input_ids: Tensor, logits_processor: Sequence[Any],
                    stopping_criteria: Sequence[Any], generation_config: GenerationConfig, *,
                    leap: LeapConfig | bool = True, seed: int = 0, engine: EngineConfig | None = None,
                    leap_tokenizer: PreTrainedTokenizerBase | None = None, leap_streamers: Sequence[Any] | None = None,
                    **prepared: Any) -> Tensor | LeapDecoderOutput:
    """LeaP as a callable: ``model.generate(**inputs, custom_generate=custom_generate, leap=LeapConfig(...))``.

    transformers prepares everything before it calls: sampling that nobody states is transformers' (temperature 1, top-k 50),
    not the paper's, and ``tokenizer`` and ``streamer`` do not arrive: use ``leap_tokenizer`` and ``leap_streamers``.
    ``LeapConfig`` has everything else, ``stop_strings`` too.

    Raises:
        ValueError: as ``generate``; also without ``max_new_tokens``, whose default of 20 nobody means.
    """
    n = generation_config.num_return_sequences or 1
    if generation_config.max_new_tokens is None:
        raise ValueError("max_new_tokens is not stated: pass it, for transformers' own default is 20 tokens.")
    ids, mask = input_ids[::n], _unrepeated(prepared, n)
    wishes = settled(model, {name: value for name, value in fields_of(generation_config).items()
                             if name in TABLE and name not in ("max_length", "min_length")}, ids.shape[1], built=True)
    return _run(model, ids, mask, wishes, logits_processor, stopping_criteria,
                generator_options=(leap_tokenizer, engine), leap=leap, seed=seed, options={}, streamers=leap_streamers)


def _run(model: PreTrainedModel, ids: Tensor, mask: Tensor | None, wishes: Settled, processors: Iterable[Any],
         stopping: Iterable[Any], *, generator_options: tuple[PreTrainedTokenizerBase | None, EngineConfig | None],
         leap: LeapConfig | bool, seed: int, options: Mapping[str, Any],
         streamers: Sequence[Any] | None) -> Tensor | LeapDecoderOutput:
    prompts, n = _prompts(ids, mask, wishes.pad), wishes.n or 1
    _check_stopping(stopping)
    through, left = looked_through([*processors], ids.shape[1])
    if wishes.options.get("temperature") == 0:  # transformers builds no warper then
        through = {name: value for name, value in through.items() if name not in ("temperature", "top_k", "top_p", "min_p")}
    generator = generator_for(model, *generator_options)
    configs = generator.settings(leap, None, {**options, **wishes.options, **through, "logits_processors": left}
                                 if left else {**options, **wishes.options, **through})
    run = generator.stream(prompts, n, leap=configs[0], sampling=configs[1], seed=seed, until=wishes.until)
    if streamers is None:
        outputs = follow(run)
    else:
        streams = Streams(streamers, prompts, n, configs[0])
        try:
            streams.begin()
            outputs = follow(run, streams)
        finally:
            streams.end()
    sequences = _padded(ids, outputs, _pad(generator.tokenizer, wishes, model))
    return LeapDecoderOutput(sequences=cast(LongTensor, sequences), leap=outputs) if wishes.as_dict else sequences


def leap_inputs(model: PreTrainedModel, prompts: Any, tokenizer: PreTrainedTokenizerBase | None = None,
                leap: LeapConfig | None = None) -> dict[str, Tensor]:
    """Prompts as ``LeapGenerator`` has them, tags explained: ``model.generate(**leap_inputs(model, question), ...)``.

    Args:
        prompts: a question or chat messages, or a list of these.

    Returns:
        ``input_ids`` and ``attention_mask``, int64 [prompts, longest], padded on the left.
    """
    generator = generator_for(model, tokenizer)
    chat = isinstance(prompts, (list, tuple)) and bool(prompts) and isinstance(prompts[0], Mapping)
    rows = [generator.prompt_token_ids(prompt, leap)
            for prompt in ([prompts] if isinstance(prompts, str) or chat else prompts)]
    pad, longest = _pad(generator.tokenizer, Settled(), model), max(map(len, rows))
    ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows], device=model.device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=model.device)
    return {"input_ids": ids, "attention_mask": mask}


def _only_one(inputs: Tensor | None, input_ids: Tensor | None) -> Tensor:
    ids = inputs if input_ids is None else input_ids
    if (inputs is not None and input_ids is not None) or not isinstance(ids, Tensor):
        raise ValueError("give the prompts as input_ids (or as inputs): token ids [prompts, length].")
    if ids.dim() != 2 or not ids.shape[0] or not ids.shape[1] or ids.dtype is torch.bool or ids.is_floating_point():
        raise ValueError(f"input_ids are {ids.dtype} of shape {tuple(ids.shape)}; token ids are integers [prompts, length].")
    return ids


def _prompts(ids: Tensor, mask: Tensor | None, pad: int | None) -> list[list[int]]:
    """Each row without its padding."""
    if mask is not None and mask.shape != ids.shape:
        raise ValueError(f"attention_mask has shape {tuple(mask.shape)}, input_ids {tuple(ids.shape)}: give one number a "
                         "token.")
    rows = []
    for row, seen in zip(ids.tolist(), [[1] * ids.shape[1]] * len(ids) if mask is None else mask.tolist(), strict=True):
        if mask is None:
            seen = [token != pad for token in row] if row[0] == pad and pad is not None else seen
        first = next((place for place, one in enumerate(seen) if one), len(seen))
        if first == len(seen) or not all(seen[first:]):
            raise ValueError("a prompt is empty, or has padding behind its first token. Pad on the left: "
                             "tokenizer.padding_side = 'left'.")
        rows.append(row[first:])
    return rows


def _unrepeated(prepared: dict[str, Any], n: int) -> Tensor | None:
    """The attention mask [prompts, length] among what transformers prepared for a first forward pass of its own.

    Raises:
        ValueError: something else that it did not prepare itself.
    """
    given = {name: value for name, value in prepared.items()
             if name not in ("use_cache", "logits_to_keep", "cache_position") and value is not None}
    mask, positions, cache = (given.pop(name, None) for name in ("attention_mask", "position_ids", "past_key_values"))
    if cache is not None and cache.get_seq_length():
        raise ValueError("past_key_values cannot be honoured: the engine computes every KV entry itself. Pass the whole "
                         "prompt as input_ids.")
    if positions is not None:
        seen = torch.ones_like(positions) if mask is None else mask
        if not ((positions == seen.cumsum(-1) - 1) | (seen == 0)).all():
            raise ValueError("position_ids cannot be honoured: a path's positions count from 0.")
    if given:
        raise ValueError(f"{', '.join(sorted(given))} cannot be honoured: a prompt is token ids.")
    return None if mask is None else mask[::n]


def _check_stopping(stopping: Iterable[Any]) -> None:
    """transformers' own criteria say again what fields say."""
    said = (criteria.MaxLengthCriteria, criteria.MaxTimeCriteria, criteria.EosTokenCriteria)
    for one in stopping:
        if type(one) not in said:
            raise ValueError(f"the stopping criterion {type(one).__name__} cannot be honoured: it sees a batch of rows, and "
                             "paths move one by one. Use stop_strings, eos_token_id or max_time.")


def _pad(tokenizer: PreTrainedTokenizerBase, wishes: Settled, model: PreTrainedModel) -> int:
    ends = model.generation_config.eos_token_id
    candidates = (wishes.pad, tokenizer.pad_token_id, ends[0] if isinstance(ends, (list, tuple)) else ends, 0)
    return int(next(one for one in candidates if one is not None))


def _padded(ids: Tensor, outputs: Sequence[LeapOutput], pad: int) -> Tensor:
    rows = [prompt + path.token_ids[len(path.segments[0].token_ids) :]
            for prompt, output in zip(ids.tolist(), outputs, strict=True) for path in output.paths]
    longest = max(map(len, rows))
    return torch.tensor([row + [pad] * (longest - len(row)) for row in rows], device=ids.device)
