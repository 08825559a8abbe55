"""Settings: every wrong value is refused by name, every preset says what it stands for."""

import dataclasses
import functools
import itertools
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig, TemperatureLogitsWarper

from leapgen.config import EngineConfig, LeapConfig, SamplingConfig, plain_values, split_options, unknown_options
from leapgen.generator import LeapGenerator
from leapgen.options import RENAMED
from leapgen.terminal.options import PRESETS

NAN, INF = float("nan"), float("inf")
NOT_POSITIVE = [0, -1, 1.0, 1.5, True, "1", NAN, [1]]
REFUSED = {
    SamplingConfig: {
        "temperature": [-0.1, -1, NAN, INF, "0.6", None, True, [1.0]],
        "top_k": [0, -1, 1.5, 40.0, True, "40", NAN],
        "top_p": [0, -0.1, 1.01, 95, NAN, None, "0.9", True],
        "min_p": [-0.01, 1.01, NAN, None, "0.05", True],
        "repetition_penalty": [0, -1.0, INF, NAN, None, "1.1", True],
        "logits_processors": [[3], ["greedy"], [None]],
    },
    EngineConfig: {
        "page_size": [*NOT_POSITIVE, None],
        "kv_cache_bytes": [*NOT_POSITIVE, 1e9, "8GB"],
        "kv_cache_fraction": [0, -0.5, 1.01, 50, NAN, None, "0.5", True],
        "max_step_tokens": [*NOT_POSITIVE, None],
        "max_batch_size": [*NOT_POSITIVE, None],
        "context_length": [*NOT_POSITIVE, 1],
        "compile": ["yes", 2, 0.5, [True]],
        "draft_tokens": [-1, 1.0, 1.5, True, "6", NAN, [1]],
    },
    LeapConfig: {
        **{name: [*NOT_POSITIVE, None] for name in (
            "interval", "max_new_tokens", "summary_tokens", "top_k_peers", "forced_answer_tokens", "written_answer_tokens")},
        "max_blocks": [-1, 1.0, True, "2", NAN],
        "blocks": [[-1], [0.5], ["0"], [None], [True], 3, "012"],
        "paths_after": [*NOT_POSITIVE],
        "router": ["nearest", "Dispersed", "", None, 3, ["dispersed"]],
        "similarity": ["cosine", "", None, 3, ["indel"]],
        "min_new_tokens": [-1, 1.0, None, True, 16385],
        "stop_token_ids": [-1, [-1], [1.5], ["</s>"], [None], [True], "</s>"],
        "stop_strings": ["", [""], ["ok", ""], [3], [None], 3],
        "sampling_defaults": [{"min_p": 2}, {"minp": 0.05}, {"interval": 3}, {3: 4}, None, 3, "min_p", [0.05]],
    },
}
# These two kinds of setting have tests of their own below.
SWITCHES = {SamplingConfig: ["logprobs"], EngineConfig: ["kernels", "graphs"], LeapConfig: [
    "keep_summary", "finished_share", "self_summarize", "keep_opening", "explain", "start_over", "force_answer",
    "write_answer", "ignore_eos"]}
MARKERS = {SamplingConfig: [], EngineConfig: [], LeapConfig: ["think_start", "think_end"]}
CONFIGS = list(REFUSED)


def cases(table):
    return [pytest.param(config, name, value, id=f"{name}={value!r}")
            for config, names in table.items() for name, values in names.items() for value in values]


# -- wrong values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", CONFIGS)
def test_every_setting_has_values_that_are_tested_for_refusal(config):
    """Would catch: a setting added without a check of its values."""
    tested = {*REFUSED[config], *SWITCHES[config], *MARKERS[config]}
    assert tested == {field.name for field in dataclasses.fields(config)}


@pytest.mark.parametrize(("config", "name", "value"), cases(REFUSED))
def test_a_value_that_is_not_allowed_is_refused_with_name_value_and_what_is(config, name, value):
    """Would catch: a value that fails hours later in the middle of a run, or is silently taken for another."""
    with pytest.raises(ValueError) as raised:
        config(**{name: value})
    message = str(raised.value)
    inner = value[-1] if isinstance(value, list) else value  # what is wrong may be shown alone or in its collection
    assert message.startswith(f"{name}=") and repr(inner) in message and " must be " in message
    assert len(message.split(" must be ")[1]) > 5
    with pytest.raises(ValueError, match=f"{name}="):
        config().replace(**{name: value})


@pytest.mark.parametrize(("config", "name"), [(config, name) for config, names in SWITCHES.items() for name in names])
def test_a_switch_takes_true_or_false_and_nothing_else(config, name):
    """Would catch: ``keep_summary="no"`` from a command line or a YAML file, which is true."""
    for value in (True, False):
        assert getattr(config(**{name: value}), name) is value
    for value in ("no", "false", None, 2, [False]):
        with pytest.raises(ValueError, match=name):
            config(**{name: value})


@pytest.mark.parametrize("name", MARKERS[LeapConfig])
def test_a_thinking_marker_is_text_or_none(name):
    """Would catch: a token id given for a marker, which fails in the tokenizer without saying which setting it was."""
    for value in ("</think>", "", None):
        assert getattr(LeapConfig(**{name: value}), name) == value
    for value in (151668, ["</think>"], True):
        with pytest.raises(ValueError, match=name):
            LeapConfig(**{name: value})


@pytest.mark.parametrize(("config", "name", "value"), cases({
    SamplingConfig: {"logits_processors": [None, 3]},
    LeapConfig: {"blocks": [1.5], "stop_token_ids": [None, 1.5], "stop_strings": [None, 1.5]},
}))
def test_what_is_no_collection_is_refused_by_name(config, name, value):
    """Would catch: ``'NoneType' object is not iterable``, which does not say which of twenty settings it is about."""
    with pytest.raises(ValueError, match=name):
        config(**{name: value})


def test_min_new_tokens_is_at_most_max_new_tokens():
    """Would catch: a path that may not stop before its budget ends, without anyone being told."""
    assert LeapConfig(min_new_tokens=9, max_new_tokens=9).min_new_tokens == 9
    with pytest.raises(ValueError, match=r"min_new_tokens=10 .*max_new_tokens=9"):
        LeapConfig(min_new_tokens=10, max_new_tokens=9)
    with pytest.raises(ValueError, match="min_new_tokens"):
        LeapConfig(min_new_tokens=10).replace(max_new_tokens=9)


@pytest.mark.parametrize("config", CONFIGS)
def test_settings_cannot_be_changed_behind_their_checks(config):
    """Would catch: ``config.top_k = 0`` after construction, which no check sees; replace() that changes the original."""
    one = config()
    name = next(iter(REFUSED[config]))
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(one, name, 3)
    assert one == config()
    with pytest.raises(TypeError, match="no_such_setting"):
        one.replace(no_such_setting=3)


# -- values that are allowed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("config", "name", "value"), cases({
    SamplingConfig: {"temperature": [0, 2, 0.0], "top_k": [1, None, 10**6], "top_p": [1, 1e-9], "min_p": [0, 1],
                     "repetition_penalty": [0.5, 1, 2]},
    EngineConfig: {"kv_cache_bytes": [None, 1], "kv_cache_fraction": [1, 1e-9], "context_length": [None, 2],
                   "page_size": [1]},
    LeapConfig: {"interval": [1, 10**9], "max_blocks": [None, 0, 1], "blocks": [None, ()], "top_k_peers": [1, 99],
                 "min_new_tokens": [0, 16384]},
}))
def test_the_ends_of_every_range_belong_to_it(config, name, value):
    """Would catch: > in place of >=."""
    assert getattr(config(**{name: value}), name) == value


def test_collections_become_tuples_and_one_value_a_collection_of_one():
    """Would catch: a caller's list shared and changed later; a single stop string split into its letters."""
    config = LeapConfig(blocks=[3, 1, 1], stop_token_ids={7}, stop_strings=["b", "a"])
    assert (config.blocks, config.stop_token_ids, config.stop_strings) == ((1, 3), (7,), ("b", "a"))
    assert (LeapConfig(stop_strings="END").stop_strings, LeapConfig(stop_token_ids=5).stop_token_ids) == (("END",), (5,))
    processors = [TemperatureLogitsWarper(2.0)]
    assert SamplingConfig(logits_processors=processors).logits_processors == tuple(processors)


def test_a_generator_of_blocks_is_read_once_and_kept():
    """Would catch: a check that uses the generator up, so that no block is ever held and nobody is told."""
    assert LeapConfig(blocks=(i for i in (0, 2))).blocks == (0, 2)


def test_a_router_of_the_users_own_can_be_set():
    """Would catch: a callable that ``route`` and ``resume`` speak of, refused by the config that leads there."""
    def nobody(receiver, messages, k, rng):
        return []

    assert LeapConfig(router=nobody).router is nobody
    assert LeapConfig(similarity=math.dist).similarity is math.dist


@pytest.mark.parametrize("similarity", [
    lambda a, b: 1.0, lambda a, b, scale=2: 1.0, lambda texts: [], lambda texts, model=None: [], lambda texts, *rest: [],
    lambda texts, **options: [], functools.partial(lambda model, texts: [], 3), functools.partial(lambda a, b, c: 1.0, c=3),
    SimpleNamespace(compare=math.dist).compare,
])
def test_a_similarity_takes_a_pair_or_all_summaries(similarity):
    """Would catch: a model bound as a default taken for the second of a pair."""
    assert LeapConfig(similarity=similarity).similarity is similarity


@pytest.mark.parametrize("similarity", [
    lambda: 1.0, lambda a, b, c: 1.0, lambda *texts: 1.0, lambda a, b, *, model: 1.0, max])
def test_a_similarity_whose_arguments_tell_nothing_is_refused_at_the_door(similarity):
    """Would catch: a TypeError at the first block, hours into a run."""
    with pytest.raises(ValueError, match=r"similarity=.*two arguments \(str, str\) -> float, or one"):
        LeapConfig(similarity=similarity)


@pytest.mark.parametrize("router", [lambda peers, k, rng: [], lambda: [], lambda a, b, c, d, e: [], lambda *, k: []])
def test_a_router_that_cannot_be_called_is_refused_at_the_door(router):
    """Would catch: the same; a router written for similarities alone."""
    with pytest.raises(ValueError, match=r"router=.*\(receiver, messages, k, rng\) -> senders"):
        LeapConfig(router=router)


def test_numbers_of_numpy_are_numbers():
    """Would catch: ``interval=np.int64(512) is not allowed: interval must be an integer``, in a sweep over np.arange."""
    assert LeapConfig(interval=np.int64(512)).interval == 512
    assert SamplingConfig(top_k=np.int32(5), temperature=np.float32(0.5)).top_k == 5
    assert EngineConfig(page_size=np.int64(8)).page_size == 8


# -- presets ----------------------------------------------------------------------------------------------------------------


def difference(preset):
    """The settings in which a preset departs from the paper's."""
    return {field.name: getattr(preset, field.name) for field in dataclasses.fields(preset)
            if getattr(preset, field.name) != getattr(LeapConfig(), field.name)}


def test_the_defaults_are_the_papers():
    """Would catch: a default that drifts from arXiv 2505.07787, section 3.1, so that results cannot be compared."""
    leap, sampling = LeapConfig.paper(), SamplingConfig()
    assert leap == LeapConfig()
    assert (leap.interval, leap.max_new_tokens, leap.summary_tokens, leap.top_k_peers) == (4096, 16384, 256, 4)
    assert (leap.router, leap.similarity, leap.max_blocks, leap.blocks) == ("dispersed", "levenshtein", None, None)
    assert leap.keep_summary and leap.explain and leap.force_answer
    assert not (leap.finished_share or leap.self_summarize or leap.ignore_eos)
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.6, 0.95, 40)
    assert (sampling.min_p, sampling.repetition_penalty) == (0.0, 1.0)


@pytest.mark.parametrize(("preset", "departs"), [
    (LeapConfig.paper(), {}),
    (LeapConfig.official(), {"similarity": "indel", "sampling_defaults": (("min_p", 0.05),)}),
    (LeapConfig.single(), {"blocks": (0,)}),
    (LeapConfig.single(2048), {"blocks": (0,), "interval": 2048}),
    (LeapConfig.single(2048, paths=1), {"blocks": (0,), "interval": 2048, "paths_after": 1}),
    (LeapConfig.leap_t(), {"self_summarize": True, "explain": False}),
    (LeapConfig.official_leap_t(), {"self_summarize": True, "keep_opening": False, "explain": False, "similarity": "indel",
                                    "sampling_defaults": (("min_p", 0.05),)}),
    (LeapConfig.independent(), {"max_blocks": 0, "explain": False}),
    (LeapConfig.retry(), {"max_blocks": 0, "explain": False, "start_over": True}),
])
def test_a_preset_departs_from_the_paper_in_what_it_names_alone(preset, departs):
    """Would catch: a preset that changes the budget or the sampling on the side."""
    assert difference(preset) == departs


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_takes_changes_and_checks_them(preset):
    """Would catch: changes that lose to the preset or go round the checks."""
    make = getattr(LeapConfig, preset)
    changed = make(router="all", similarity="levenshtein", explain=True, blocks=(1,), max_blocks=3)
    assert (changed.router, changed.similarity, changed.explain) == ("all", "levenshtein", True)
    assert (changed.blocks, changed.max_blocks) == ((1,), 3)
    with pytest.raises(ValueError, match="top_k_peers=0"):
        make(top_k_peers=0)
    with pytest.raises(TypeError, match="nearest"):
        make(nearest=3)


@settings(max_examples=100)
@given(st.integers(1, 8), st.integers(1, 30), st.none() | st.integers(0, 4),
       st.none() | st.sets(st.integers(0, 6), max_size=3))
def test_a_run_communicates_if_some_block_comes_before_the_budget_ends(interval, budget, max_blocks, blocks):
    """Would catch: blocks promised (and their room reserved, their tags explained) in a run too short to reach one."""
    config = LeapConfig(interval=interval, max_new_tokens=budget, max_blocks=max_blocks, blocks=blocks)
    numbers = itertools.count() if blocks is None else sorted(blocks)
    first = next(iter(numbers), None)
    assert config.communicates == (max_blocks != 0 and first is not None and (first + 1) * interval < budget)


STATED_MODEL = SimpleNamespace(model=SimpleNamespace(generation_config=GenerationConfig(temperature=1.0, min_p=0.01)))


@pytest.mark.parametrize(("leap", "sampling", "options", "expected"), [
    (LeapConfig.official(), None, {}, {"min_p": 0.05, "temperature": 1.0}),
    (LeapConfig.official(interval=64), None, {"top_k": 9}, {"min_p": 0.05, "temperature": 1.0, "top_k": 9}),
    (LeapConfig.official(), None, {"min_p": 0.2}, {"min_p": 0.2, "temperature": 1.0}),
    (LeapConfig.official(), SamplingConfig(), {}, {"min_p": 0.0}),
    (LeapConfig.official(), SamplingConfig(min_p=0.3), {"top_k": 9}, {"min_p": 0.3, "top_k": 9}),
    (LeapConfig.official(sampling_defaults={}), None, {}, {"min_p": 0.01, "temperature": 1.0}),
    (LeapConfig.paper(), None, {}, {"min_p": 0.01, "temperature": 1.0}),
    (True, None, {}, {"min_p": 0.01, "temperature": 1.0}),
])
def test_a_presets_sampling_holds_unless_a_run_says_otherwise(leap, sampling, options, expected):
    """Would catch: ``LeapConfig.official()`` that samples without the published code's min-p; a user's own sampling lost."""
    assert LeapGenerator.settings(STATED_MODEL, leap, sampling, options)[1] == SamplingConfig(**expected)


def test_a_presets_sampling_goes_through_a_file():
    """Would catch: a run that cannot be resumed because JSON made its pairs lists."""
    config = LeapConfig.official(sampling_defaults={"top_p": 0.9, "min_p": 0.05})
    values = json.loads(json.dumps(plain_values(config)))
    assert LeapConfig(**{name: value for name, value in values.items() if value is not None}) == config
    assert hash(config) == hash(config.replace())


# -- sampling ---------------------------------------------------------------------------------------------------------------


STATED = {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "min_p": 0.1, "repetition_penalty": 1.05}


@given(st.sets(st.sampled_from(sorted(STATED))), st.sampled_from([None, False, True]))
@settings(max_examples=64)
def test_a_models_generation_config_gives_what_it_states_and_the_paper_the_rest(names, do_sample):
    """Would catch: transformers' own defaults (temperature 1, top-k 50, greedy) taken for the model's advice."""
    stated = {name: STATED[name] for name in names}
    sampling = SamplingConfig.from_generation_config(GenerationConfig(do_sample=do_sample, **stated))
    assert sampling == SamplingConfig(**stated)


def test_top_k_zero_in_a_generation_config_is_no_top_k():
    """Would catch: transformers' way to switch top-k off refused, or taken for "not stated"."""
    assert SamplingConfig.from_generation_config(GenerationConfig(top_k=0)) == SamplingConfig(top_k=None)


def test_a_generation_config_with_a_wrong_value_is_refused_by_name():
    """Would catch: a broken file's value used."""
    with pytest.raises(ValueError, match=r"top_p=1\.5"):
        SamplingConfig.from_generation_config(SimpleNamespace(top_p=1.5))
    assert SamplingConfig.from_generation_config(SimpleNamespace()) == SamplingConfig()


def test_greedy_is_temperature_zero_and_no_filter():
    """Would catch: a greedy preset that still filters, or that cannot be changed."""
    assert SamplingConfig.greedy() == SamplingConfig(temperature=0, top_k=None, top_p=1)
    assert SamplingConfig.greedy(repetition_penalty=1.2).repetition_penalty == 1.2
    with pytest.raises(ValueError, match="repetition_penalty=0"):
        SamplingConfig.greedy(repetition_penalty=0)


# -- options by name --------------------------------------------------------------------------------------------------------


def test_options_go_to_the_config_that_has_them():
    """Would catch: an option lost on the way, or given to both."""
    shares = split_options({"interval": 3, "top_p": 0.5, "page_size": 4}, LeapConfig, SamplingConfig, EngineConfig)
    assert shares == [{"interval": 3}, {"top_p": 0.5}, {"page_size": 4}]
    assert split_options({}, LeapConfig, SamplingConfig) == [{}, {}]


def test_no_option_name_belongs_to_two_configs():
    """Would catch: ``generate(top_k=...)`` that silently sets two things, or the other one of two."""
    names = [field.name for config in CONFIGS for field in dataclasses.fields(config)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(("wrong", "meant"), [
    ("intervall", "interval"), ("temprature", "temperature"), ("max_tokens", "max_new_tokens"),
    ("top_k_peer", "top_k_peers"), ("summary_token", "summary_tokens"), ("stop_string", "stop_strings"),
])
def test_an_unknown_option_is_refused_with_the_one_that_was_meant(wrong, meant):
    """Would catch: a misspelt option swallowed, so that a run uses the default and its author does not know."""
    with pytest.raises(TypeError, match=rf"'{wrong}' \(did you mean .*{meant}") as raised:
        split_options({wrong: 3, "interval": 4}, LeapConfig, SamplingConfig)
    assert all(name in str(raised.value) for name in ("top_p", "router"))


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
@pytest.mark.parametrize("use", [lambda **options: LeapConfig(**options), lambda **options: LeapConfig().replace(**options),
                                 lambda **options: split_options(options, LeapConfig, SamplingConfig)],
                         ids=["config", "replace", "option"])
def test_an_old_name_is_refused_with_the_new_one(old, new, use):
    """Would catch: a renamed setting that stays without effect, or an error that leaves its author to search."""
    with pytest.raises(TypeError, match=rf"'{old}' \(it is now {new}\)"):
        use(**{old: 3})
    use(**{new: 3})


@pytest.mark.parametrize("config", CONFIGS)
def test_a_config_names_the_option_that_was_meant(config):
    """Would catch: Python's own "unexpected keyword argument", which names nothing."""
    name = dataclasses.fields(config)[0].name
    with pytest.raises(TypeError, match=rf"'{name}x' \(did you mean {name}"):
        config(**{f"{name}x": 3})


def test_every_unknown_option_is_named_and_one_like_none_gets_no_suggestion():
    """Would catch: only the first of several mistakes told, or a far-fetched suggestion."""
    message = str(unknown_options(["zzzz", "intervall"], LeapConfig))
    assert "'intervall' (did you mean interval?), 'zzzz'." in message
