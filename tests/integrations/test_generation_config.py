"""The table of GenerationConfig's fields, against transformers itself."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig, LogitsProcessorList

from leapgen import SamplingConfig
from leapgen.integrations.transformers import FOLDER, custom_generate
from leapgen.integrations.transformers.fields import TABLE, fields_of, looked_through, settled
from leapgen.request import settings as configs

IDS = torch.tensor([[5, 6, 7, 8]])
# A value of each field that asks for something.
ASKING = {
    "max_length": 30, "max_new_tokens": 7, "min_length": 9, "min_new_tokens": 3, "max_time": 5.0, "stop_strings": ["stop"],
    "eos_token_id": [416, 3], "do_sample": False, "temperature": 0.3, "top_k": 7, "top_p": 0.5, "min_p": 0.1,
    "repetition_penalty": 1.3, "sequence_bias": {(9,): -10.0}, "no_repeat_ngram_size": 3, "bad_words_ids": [[9]],
    "suppress_tokens": [9], "num_return_sequences": 2, "return_dict_in_generate": True, "pad_token_id": 3,
    "cache_implementation": "quantized", "top_h": 0.4, "typical_p": 0.9, "epsilon_cutoff": 0.01, "eta_cutoff": 0.01,
    "watermarking_config": {"bias": 2.5}, "encoder_repetition_penalty": 1.1, "encoder_no_repeat_ngram_size": 2,
    "begin_suppress_tokens": [9], "forced_bos_token_id": 4, "forced_eos_token_id": 4,
    "exponential_decay_length_penalty": (5, 1.1), "remove_invalid_values": True, "token_healing": True,
    "guidance_scale": 1.5, "penalty_alpha": 0.6, "dola_layers": "high", "num_beams": 2, "num_beam_groups": 2,
    "diversity_penalty": 0.5,
    "constraints": [1], "force_words_ids": [[9]], "prompt_lookup_num_tokens": 3, "assistant_early_exit": 2, "use_mtp": True,
    "use_cache": False, "output_attentions": True, "output_hidden_states": True, "output_scores": True,
    "output_logits": True,
}


def test_every_field_of_this_transformers_has_a_rule():
    """Would catch: a new field of GenerationConfig, which would be taken and ignored."""
    assert {name for name in vars(GenerationConfig()) if not name.startswith("_")} == set(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_a_field_is_heard_or_refused_by_name(maze, name):
    """Would catch: a rule in the table that nothing carries out."""
    model, _ = maze
    if TABLE[name].kind == "idle":
        assert name not in ASKING
        return
    if TABLE[name].kind == "refused" or name == "cache_implementation":
        with pytest.raises(ValueError, match=rf"{name}=.* cannot be honoured: "):
            settled(model, {name: ASKING[name]}, 4)
        assert settled(model, dict.fromkeys([name], TABLE[name].neutral[-1] if TABLE[name].neutral else "static"), 4)
    else:
        before, after = settled(model, {}, 4), settled(model, {name: ASKING[name]}, 4)
        assert _said(before) != _said(after)


def _said(wishes):
    return wishes.options, wishes.n, wishes.as_dict, wishes.pad, len(wishes.processors), wishes.until is None


def test_what_the_model_itself_says_is_heard_and_refused_alike(maze, monkeypatch):
    """Would catch: a model's generation_config.json that asks for beams, and gets samples without a word."""
    model, _ = maze
    monkeypatch.setattr(model.generation_config, "num_beams", 4)
    with pytest.raises(ValueError, match=r"the model's own generation_config says it: num_beams=4 .* pass num_beams=1"):
        settled(model, {}, 4)
    assert settled(model, {"num_beams": 1, "max_new_tokens": 3}, 4).options == {"max_new_tokens": 3}
    monkeypatch.undo()
    monkeypatch.setattr(model.generation_config, "max_new_tokens", 50)
    monkeypatch.setattr(model.generation_config, "stop_strings", ["."])
    assert settled(model, {}, 4).options == {"max_new_tokens": 50, "stop_strings": ["."]}
    assert settled(model, {"max_length": 10}, 4).options["max_new_tokens"] == 6


def test_end_tokens_of_the_model_cannot_be_switched_off(maze):
    """Would catch: eos_token_id=None, which says "never stop" to transformers, taken for "as you like"."""
    for stated in (None, 3, [3, 4]):
        with pytest.raises(ValueError, match=r"eos_token_id.*always end a path"):
            settled(maze[0], {"eos_token_id": stated}, 4)


SAMPLINGS = st.fixed_dictionaries({}, optional={
    "temperature": st.sampled_from([0.3, 0.9, 1.0, 1.7]), "top_k": st.sampled_from([0, 1, 5, 50]),
    "top_p": st.sampled_from([0.2, 0.95, 1.0]), "min_p": st.sampled_from([0.05, 0.5]),
    "repetition_penalty": st.sampled_from([0.8, 1.0, 1.4]), "no_repeat_ngram_size": st.sampled_from([0, 2]),
    "suppress_tokens": st.sampled_from([[9], [3, 4]]), "sequence_bias": st.sampled_from([{(9,): -5.0}])})


@settings(max_examples=60)
@given(SAMPLINGS, st.integers(0, 9))
def test_the_distribution_is_the_one_transformers_samples_from(maze, options, seed):
    """Would catch: a filter that is left out, applied twice, or in another order than transformers has it."""
    model, _ = maze
    kept = {}

    def spy(model, input_ids, logits_processor, stopping_criteria, generation_config, **_):
        kept.update(processors=logits_processor, config=generation_config)
        return input_ids

    model.generate(IDS, custom_generate=spy, do_sample=True, max_new_tokens=5, **options)
    scores = torch.randn(1, 461, generator=torch.Generator().manual_seed(seed)) * 4
    expected = LogitsProcessorList(kept["processors"])(IDS, scores.clone()).softmax(-1)

    folder = settled(model, {"top_k": 50, **options, "do_sample": True}, 4)  # transformers' own default
    prepared = settled(model, {name: value for name, value in fields_of(kept["config"]).items()
                               if name not in ("max_length", "min_length")}, 4, built=True)
    for wishes, processors in ((folder, folder.processors), (prepared, kept["processors"])):
        through, left = looked_through(processors, 4)
        _, sampling = configs(True, None, {**wishes.options, **through, "logits_processors": left}, model.generation_config)
        torch.testing.assert_close(_distribution(sampling, scores), expected, atol=1e-6, rtol=0)


def _distribution(config: SamplingConfig, scores):
    """In the order that SamplingConfig states, by transformers' own filters."""
    from transformers.generation import logits_process as process

    filters = [*config.logits_processors, process.TemperatureLogitsWarper(config.temperature)]
    if config.repetition_penalty != 1:
        filters.insert(0, process.RepetitionPenaltyLogitsProcessor(config.repetition_penalty))
    if config.top_k is not None:
        filters.append(process.TopKLogitsWarper(config.top_k))
    if config.top_p < 1:
        filters.append(process.TopPLogitsWarper(config.top_p))
    if config.min_p > 0:
        filters.append(process.MinPLogitsWarper(config.min_p))
    return LogitsProcessorList(filters)(IDS, scores.clone()).softmax(-1)


@pytest.mark.parametrize("options", [
    {}, {"repetition_penalty": 1.4}, {"no_repeat_ngram_size": 2}, {"suppress_tokens": [40, 41, 42, 43]},
    {"repetition_penalty": 1.2, "sequence_bias": {(45,): 3.0, (60, 61): -4.0}}, {"bad_words_ids": [[50], [51, 52]]},
    {"min_new_tokens": 12}, {"temperature": None, "top_p": None, "top_k": None}])
@pytest.mark.parametrize("form", [FOLDER, custom_generate], ids=["folder", "callable"])
def test_greedy_tokens_are_those_of_generate(maze, generator, form, options):
    """Would catch: any difference to transformers' own decoding, up to where LeaP does something of its own."""
    model, tokenizer = maze
    ids = torch.tensor([generator.prompt_token_ids("Where is the exit?")])
    options = {"do_sample": False, "max_new_tokens": 24, **options}
    expected = model.generate(ids, **options)[0, ids.shape[1] :].tolist()
    own = {"tokenizer": tokenizer, "trust_remote_code": True} if form is FOLDER else {"leap_tokenizer": tokenizer}
    output = model.generate(ids, custom_generate=form, leap=False, return_dict_in_generate=True, **own, **options).leap[0]
    said = output.paths[0].segments[1]
    assert said.kind == "own" and said.token_ids == expected[: len(said.token_ids)]
    assert len(said.token_ids) == len(expected) or len(said.token_ids) > 8
