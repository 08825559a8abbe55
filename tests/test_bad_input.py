"""What cannot be run is refused at the door: before any work, saying what was given and what is allowed."""

import re
from collections import Counter

import numpy as np
import pytest
import tiny
import tiny_tokenizer
import torch

from leapgen import EngineConfig, LeapConfig, LeapGenerator, PoolTooSmallError, PromptSet, SamplingConfig

CONTEXT = 256
ENGINE = EngineConfig(page_size=4, kv_cache_bytes=1 << 22, context_length=CONTEXT)
SHORT = {"n": 2, "leap": False, "max_new_tokens": 3, "forced_answer_tokens": 2, "ignore_eos": True}
QUESTION = "2 + 2?"


FORWARDS = Counter()  # by the model's id


def counted(model):
    """The model, with its forward passes counted."""
    model.register_forward_pre_hook(lambda module, *_: FORWARDS.update([id(module)]))
    return model


@pytest.fixture(scope="module")
def model():
    return counted(tiny.build("llama", torch.float32, vocab_size=tiny_tokenizer.VOCAB))


@pytest.fixture(scope="module")
def generator(model):
    return LeapGenerator(model, tiny_tokenizer.byte_level(), engine=ENGINE)


def refused(generator, prompt=QUESTION, /, *, kind=ValueError, match, **options):
    """Asserts that generate and stream both refuse this when they are called, and that nothing was done."""
    for call in (generator.generate, generator.stream):  # a stream says so at once, not when its first event is asked for
        before = FORWARDS[id(generator.model)]
        with pytest.raises(kind, match=match):
            call(prompt, **{**SHORT, **options})
        assert FORWARDS[id(generator.model)] == before
        assert generator.engine.pool.num_used == 0 and not generator.engine.has_work


def test_what_is_allowed_runs(generator):
    """Would catch: a counter of forward passes that counts nothing, which would make the tests below worthless."""
    before = FORWARDS[id(generator.model)]
    output = generator.generate(QUESTION, **SHORT)
    assert FORWARDS[id(generator.model)] > before + 2 and len(output.paths) == 2
    refused(generator, "", match="empty")


# -- n, seed, options -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, -1, 1.0, True, "2", None])
def test_a_number_of_paths_that_is_none_is_refused(generator, n):
    """Would catch: an empty output, or ``True`` taken for one path."""
    refused(generator, n=n, match=rf"n={re.escape(repr(n))} is not allowed.*integer >= 1")


@pytest.mark.parametrize("seed", [-1, 1.0, 1 << 63, "0", None])
def test_a_seed_that_the_streams_cannot_hold_is_refused(generator, seed):
    """Would catch: a seed cut to 64 bits, or None that means "unseeded" elsewhere."""
    refused(generator, seed=seed, match=rf"seed={re.escape(repr(seed))} is not allowed.*2\*\*63")


@pytest.mark.parametrize(("name", "value", "said"), [
    ("top_k", 0, "integer >= 1"), ("temperature", -1, "greedy"), ("top_p", 0, r"\(0, 1\]"), ("interval", 0, "integer >= 1"),
    ("router", "nearest", "dispersed, clustered, hybrid, random, all"), ("similarity", "cosine", "levenshtein, indel"),
    ("top_k_peers", 0, "integer >= 1"), ("summary_tokens", 1.5, "integer >= 1"), ("max_new_tokens", -3, "integer >= 1"),
])
def test_an_option_with_a_wrong_value_is_refused_by_name(generator, name, value, said):
    """Would catch: options that go round the checks of the configs they belong to."""
    refused(generator, **{name: value}, match=f"{name}={re.escape(repr(value))} is not allowed.*{said}")


@pytest.mark.parametrize(("wrong", "meant"), [
    ("intervall", "interval"), ("max_tokens", "max_new_tokens"), ("rooter", "router"), ("summary_token", "summary_tokens"),
    ("temperatur", "temperature"),
])
def test_an_unknown_option_is_refused_with_the_one_that_was_meant(generator, wrong, meant):
    """Would catch: ``generate(..., max_tokens=100)`` that runs on to 16,384."""
    refused(generator, **{wrong: 1}, kind=TypeError, match=rf"'{wrong}' \(did you mean .*{meant}.*\)")


def test_an_option_of_the_engine_is_no_option_of_a_run(generator):
    """Would catch: ``generate(page_size=8)`` taken and without effect."""
    refused(generator, page_size=8, kind=TypeError, match="unknown option 'page_size'")


@pytest.mark.parametrize(("name", "value"), [
    ("leap", None), ("leap", {}), ("leap", "paper"), ("leap", SamplingConfig()), ("leap", LeapConfig),
    ("sampling", {}), ("sampling", "greedy"), ("sampling", LeapConfig()), ("sampling", 0.7),
], ids=["leap=None", "leap={}", "leap=str", "leap=SamplingConfig", "leap=class", "sampling={}", "sampling=str",
        "sampling=LeapConfig", "sampling=number"])
def test_settings_of_the_wrong_kind_are_refused_by_name(generator, name, value):
    """Would catch: ``'dict' object has no attribute 'replace'``, or a config in the other's place that fails in the run."""
    for call in (generator.generate, generator.stream):
        before = FORWARDS[id(generator.model)]
        with pytest.raises((TypeError, ValueError), match=rf"^{name}\b"):
            call([3, 4], **{"n": 1, "leap": False, name: value})
        assert FORWARDS[id(generator.model)] == before


# -- prompts ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("prompt", "said"), [
    ("", "empty"), (" \n", "empty"), ([], "empty list"), ((), "empty list"), ([[]], "empty"), ([""], "empty"),
    ([QUESTION, " "], "empty"), ([QUESTION, []], "empty"), ([{"role": "user", "content": ""}], "empty"),
])
def test_an_empty_prompt_is_refused_wherever_it_stands(generator, prompt, said):
    """Would catch: a run over the questions before it, then an error; a run on no tokens."""
    refused(generator, prompt, match=said)


@pytest.mark.parametrize("prompt", [
    [{"role": "system", "content": "Be brief."}], [{"role": "user"}], [{"content": QUESTION}],
    [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "4"}],
    [QUESTION, [{"role": "assistant", "content": "4"}]],
])
def test_a_chat_without_a_users_last_word_is_refused(generator, prompt):
    """Would catch: the request put into a system message or an answer."""
    refused(generator, prompt, match=r"must end with a user message.*\[\{'role': 'user', 'content': ")


@pytest.mark.parametrize(("prompt", "token"), [
    ([512], 512), ([-1], -1), ([3, 10**12, 4], 10**12), ([[3, 4], [600]], 600), (torch.tensor([3, 511, 513]), 513),
    (torch.tensor([[3, 4], [5, -2]]), -2), ([QUESTION, [4, 999]], 999),
])
def test_a_token_id_outside_the_vocabulary_is_refused(generator, prompt, token):
    """Would catch: an index error in the embedding (on a GPU one that kills the process), or a negative id that wraps."""
    refused(generator, prompt, match=f"token id {token}, outside the model's vocabulary of 512")


@pytest.mark.parametrize("prompt", [None, 5, 5.0, {"role": "user", "content": QUESTION}, {QUESTION}, iter([QUESTION]),
                                    np.array([3, 4])], ids=lambda prompt: type(prompt).__name__)
def test_what_is_no_kind_of_prompt_is_refused_by_its_type(generator, prompt):
    """Would catch: a dictionary iterated over its keys, an iterator used up by a check."""
    refused(generator, prompt, kind=TypeError, match=f"prompt must be .*not {type(prompt).__name__}")


@pytest.mark.parametrize("prompt", [
    [5, "a"], [QUESTION, 5], [3, None], [None], [[3, "a"]], [{"role": "user", "content": QUESTION}, "hm"], torch.tensor(3),
    torch.zeros(1, 1, 3, dtype=torch.long), torch.tensor([], dtype=torch.long), "half \ud800",
], ids=repr)
def test_a_broken_prompt_is_refused_as_a_prompt(generator, prompt):
    """Would catch: ``invalid literal for int()`` or ``'int' object is not iterable`` from deep inside; an empty tensor
    that gets as far as the engine and comes back as a failed run.
    """
    refused(generator, prompt, kind=(TypeError, ValueError), match="prompt")


@pytest.mark.parametrize("prompt", [b"What is 2 + 2?", [3, 4.7], torch.tensor([3.2, 4.7]), [True, False]], ids=repr)
def test_what_only_looks_like_token_ids_is_refused(generator, prompt):
    """Would catch: bytes read as token ids one by one, fractions cut off, a mask given in place of ids."""
    refused(generator, prompt, kind=(TypeError, ValueError), match="prompt")


def test_numbers_of_numpy_are_numbers(generator):
    """Would catch: ``n=np.int64(2) is not allowed: n must be an integer``; token ids from an array that are no token ids."""
    expected = generator.generate([3, 4], **SHORT, seed=5)
    output = generator.generate(list(np.array([3, 4])), **{**SHORT, "n": np.int64(2)}, seed=np.int64(5))
    assert [path.token_ids for path in output.paths] == [path.token_ids for path in expected.paths]


# -- room -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["word " * 300, [3] * 300, [QUESTION, [3] * 300]], ids=["text", "ids", "batch"])
def test_a_prompt_longer_than_the_context_is_refused_with_both_lengths(generator, prompt):
    """Would catch: a prompt cut in silence, or positions past the end of what the model was trained on."""
    refused(generator, prompt, match=rf"prompt is \d{{3}} tokens long.*context is {CONTEXT} tokens")


def test_a_prompt_that_fills_the_context_is_refused(generator):
    """Would catch: off by one: a prompt with no position left for a single token."""
    refused(generator, [3] * CONTEXT, force_answer=False, match=f"prompt is {CONTEXT} tokens long")
    output = generator.generate([3] * (CONTEXT - 1), **{**SHORT, "force_answer": False})
    assert [path.count("own") for path in output.paths] == [1, 1]


@pytest.mark.parametrize("think_end", ["", "</think>"])
def test_a_prompt_that_is_not_refused_gets_at_least_one_token(generator, think_end):
    """Would catch: a check that guesses how long the forced answer is, so that a prompt just inside it runs, samples
    nothing, and comes back as ``length``.
    """
    ran = 0
    for length in range(CONTEXT - 70, CONTEXT, 2):
        try:
            output = generator.generate([3] * length, **{**SHORT, "n": 1}, think_end=think_end)
        except ValueError:
            continue
        ran += 1
        assert output.ledger.decoded > 0, f"a prompt of {length} tokens, context {CONTEXT}"
    assert ran > 3


@pytest.mark.parametrize("options", [
    {"interval": 240, "max_new_tokens": 500, "summary_tokens": 4},
    {"interval": 4, "max_new_tokens": 500, "summary_tokens": 240},
    {"interval": 100, "max_new_tokens": 500, "summary_tokens": 100},
])
def test_a_block_that_could_never_fit_is_refused_with_its_parts(generator, options):
    """Would catch: paths that never exchange anything because the context ends first, without anyone being told."""
    match = rf"no LeaP block fits.*prompt \(\d+\).*interval \({options['interval']}\).*summary_tokens " \
            rf"\({options['summary_tokens']}\).*context is {CONTEXT} tokens.*smaller interval"
    refused(generator, leap=True, explain=False, **options, match=match)
    assert generator.generate([3, 4], **{**SHORT, **options, "max_new_tokens": 3}).paths  # alone they need no such room


def test_a_run_with_blocks_that_is_not_refused_holds_one(generator):
    """Would catch: a check that leaves out trigger, lead-in and closing tag, so that a run just inside it holds no block."""
    options = {**SHORT, "leap": LeapConfig.leap_t(self_summarize=False), "interval": 5, "max_new_tokens": 12,
               "summary_tokens": 6}
    ran = 0
    for length in range(CONTEXT - 150, CONTEXT, 6):
        try:
            output = generator.generate([3] * length, **options)
        except ValueError:
            continue
        ran += 1
        assert output.blocks, f"a prompt of {length} tokens, context {CONTEXT}"
    assert ran > 3


@pytest.mark.parametrize("options", [{"interval": 40, "max_new_tokens": 40}, {"interval": 41, "max_new_tokens": 40}])
def test_an_interval_that_the_budget_never_reaches_is_refused(generator, options):
    """Would catch: ``generate(max_new_tokens=512)`` with the paper's interval of 4096: independent paths under the name
    of LeaP.
    """
    refused(generator, leap=True, explain=False, summary_tokens=4, **options, match=r"interval=4\d .*max_new_tokens=40")


def test_blocks_that_the_budget_never_reaches_are_refused(generator):
    """Would catch: the same with ``blocks``: the tenth interval of a run that has four."""
    refused(generator, leap=True, explain=False, summary_tokens=4, interval=10, max_new_tokens=40, blocks=(9,),
            match="blocks")


def test_a_pool_too_small_for_one_path_is_refused_and_says_what_to_raise(model):
    """Would catch: a run that is preempted for ever, or a context that shrank without anyone being told why."""
    token = 2 * 2 * 2 * 8 * 4  # layers, K and V, KV heads, head dim, bytes
    with pytest.raises(PoolTooSmallError, match=r"1 pages .*at least two.*kv_cache_bytes"):
        LeapGenerator(model, tiny_tokenizer.byte_level(), engine=ENGINE.replace(kv_cache_bytes=token * 4 * 2 - 1))
    small = LeapGenerator(model, tiny_tokenizer.byte_level(), engine=ENGINE.replace(kv_cache_bytes=token * 4 * 10))
    refused(small, match=rf"prompt is \d+ tokens.*context is 40 tokens.*model has {CONTEXT}.*kv_cache_bytes")
    refused(small, [3] * 4, leap=True, explain=False, forced_answer_tokens=1, interval=20, max_new_tokens=60,
            summary_tokens=4, match="kv_cache_bytes")
    assert small.generate([3] * 4, **{**SHORT, "forced_answer_tokens": 1, "force_answer": False}).paths


def test_inputs_are_checked_against_the_model_as_it_is():
    """Would catch: ids judged by the vocabulary that was there when the generator was made, and a run that is saved with the
    context of then, so that nothing can resume it."""
    model = tiny.build("llama", torch.float32, vocab_size=tiny_tokenizer.VOCAB, tie_word_embeddings=False)
    config = model.config
    token = 2 * 4 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim  # float32 keys and values
    engine = ENGINE.replace(kv_cache_bytes=16 * ENGINE.page_size * token)
    generator = LeapGenerator(model, tiny_tokenizer.byte_level(), engine=engine)
    context, newest = generator.engine.context_length, tiny_tokenizer.VOCAB
    with pytest.raises(ValueError, match=f"id {newest}, outside the model's vocabulary of {newest}"):
        generator.stream([3, newest], **SHORT)
    model.resize_token_embeddings(newest + 1)
    generator.stream([3, newest], **SHORT).close()
    model.bfloat16()  # half the bytes: twice the positions
    output = generator.generate([3] * context, **{**SHORT, "leap": False})
    assert output.made_with["context_length"] == generator.engine.context_length == 2 * context


# -- the generator ----------------------------------------------------------------------------------------------------------


def test_a_model_without_a_tokenizer_is_refused_and_says_how_to_give_one(model, monkeypatch):
    """Would catch: an error from the hub about a repository nobody named."""
    before = FORWARDS[id(model)]
    with pytest.raises(ValueError, match=r"no tokenizer was given.*LeapGenerator\(model, tokenizer\)"):
        LeapGenerator(model)
    monkeypatch.setattr(model.config, "name_or_path", "/nowhere/at/all")
    with pytest.raises(ValueError, match=r"no tokenizer.*'/nowhere/at/all'.*LeapGenerator\(model, tokenizer\)"):
        LeapGenerator(model)
    assert FORWARDS[id(model)] == before


def test_a_tokenizer_larger_than_the_embedding_is_refused_with_both_sizes():
    """Would catch: an index error at the first prompt with a rare token, weeks later."""
    model = counted(tiny.build("llama", torch.float32, vocab_size=479))
    with pytest.raises(ValueError, match=r"ids up to 479.*only 479 rows.*resize_token_embeddings"):
        LeapGenerator(model, tiny_tokenizer.byte_level())
    assert not FORWARDS[id(model)]
    fitting = tiny.build("llama", torch.float32, vocab_size=480)
    assert LeapGenerator(fitting, tiny_tokenizer.byte_level(), engine=ENGINE).tokenizer is tiny_tokenizer.byte_level()


@pytest.mark.parametrize(("options", "named"), [
    ({"model": "gpt2"}, "model"), ({"model": None}, "model"), ({"tokenizer": "gpt2"}, "tokenizer"),
    ({"tokenizer": tiny_tokenizer.byte_level().backend_tokenizer}, "tokenizer"),
    ({"engine": SamplingConfig()}, "engine"), ({"engine": {"page_size": 8}}, "engine"), ({"engine": {}}, "engine"),
    ({"prompts": "prompts.json"}, "prompts"), ({"prompts": {}}, "prompts"),
], ids=["model name", "no model", "tokenizer name", "bare tokenizer", "sampling", "dict", "empty dict", "file name",
        "no prompts"])
def test_a_generator_of_the_wrong_parts_is_refused_by_name(model, options, named):
    """Would catch: ``'str' object has no attribute 'config'`` for a model's name (``from_pretrained`` takes one), a file
    name kept as prompts until the first block, an empty dictionary passed over.
    """
    parts = {"model": model, "tokenizer": tiny_tokenizer.byte_level(), "engine": ENGINE, "prompts": PromptSet(), **options}
    with pytest.raises((TypeError, ValueError), match=rf"\b{named}\b"):
        LeapGenerator(parts.pop("model"), parts.pop("tokenizer"), **parts)


def test_a_refusal_leaves_the_generator_as_good_as_new(generator):
    """Would catch: pages, sequences or a training flag left over from what was refused."""
    before = generator.generate(QUESTION, **SHORT)
    for prompt, options in (([QUESTION, ""], {}), (QUESTION, {"n": 0}), (QUESTION, {"top_k": 0}), ([3] * 300, {})):
        with pytest.raises(ValueError):
            generator.generate(prompt, **{**SHORT, **options})
    generator.engine.check_integrity()
    after = generator.generate(QUESTION, **SHORT)
    assert [path.token_ids for path in after.paths] == [path.token_ids for path in before.paths]
    assert not generator.model.training


def test_a_prompt_longer_than_a_cut_context_says_why_it_is_cut():
    """Would catch: a context of 64 for a model of 4096 positions, with no word on where they went."""
    model = tiny.build("phi3", torch.float32, vocab_size=tiny_tokenizer.VOCAB, max_position_embeddings=4096,
                       original_max_position_embeddings=64, rope_parameters={
                           "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4})
    generator = LeapGenerator(model, tiny_tokenizer.byte_level(), engine=EngineConfig(page_size=4, kv_cache_bytes=1 << 22))
    refused(generator, "2 + " * 30 + "2?", match=r"the context is 64 tokens \(its rotary embeddings \(longrope\) change")
    refused(generator, interval=16, max_new_tokens=32, leap=True, match=r"the context is 64 tokens \(its rotary embeddings")
