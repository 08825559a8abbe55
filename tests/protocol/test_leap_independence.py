"""Invariants 4 and 7: a path's tokens depend on seed, index and its own tokens, and on nothing around it."""

import pytest
from leap_run import LEAP, QUESTION, SAMPLING, generator

from leapgen import EngineConfig, GenerationFailed, GenerationInterrupted, LeapOutput
from leapgen.record.events import TokenEvent

SMALL = EngineConfig(page_size=4, kv_cache_bytes=1 << 25, max_step_tokens=64)


def tokens(output):
    return [path.token_ids for path in output.paths]


@pytest.fixture(scope="module")
def alone():
    return generator(engine=SMALL).generate(QUESTION, n=4, leap=LEAP, sampling=SAMPLING, seed=3)


def test_same_tokens_when_repeated(alone):
    """Would catch: unseeded randomness anywhere (sampling, triggers, routing)."""
    again = generator(engine=SMALL).generate(QUESTION, n=4, leap=LEAP, sampling=SAMPLING, seed=3)
    assert tokens(again) == tokens(alone)
    other = generator(engine=SMALL).generate(QUESTION, n=4, leap=LEAP, sampling=SAMPLING, seed=4)
    assert tokens(other) != tokens(alone)
    assert len({tuple(path) for path in tokens(alone)}) == 4, "paths repeat each other"


def test_same_tokens_inside_a_larger_batch(alone):
    """Would catch: randomness or numerics that depend on neighbours; groups that wait for each other's blocks."""
    outputs = generator(engine=SMALL).generate(["Name a prime.", QUESTION, "What is 7 * 8? Explain."], n=4, leap=LEAP,
                                               sampling=SAMPLING, seed=3)
    assert tokens(outputs[1]) == tokens(alone)


def test_same_tokens_with_a_third_of_the_pool(alone):
    """Would catch: a preempted path that resumes elsewhere in its random stream, or with stale KV."""
    page_bytes = generator(engine=SMALL).engine.runner.cache.bytes_per_token * SMALL.page_size
    third = SMALL.replace(kv_cache_bytes=page_bytes * alone.ledger.pages_peak // 3)
    leap = generator(engine=third)
    output = leap.generate(QUESTION, n=4, leap=LEAP, sampling=SAMPLING, seed=3)
    assert output.ledger.preemptions > 0 and output.ledger.recomputed > 0
    assert tokens(output) == tokens(alone)
    leap.engine.check_integrity()
    assert leap.engine.pool.num_used == 0


@pytest.mark.parametrize("steps", [5, 14, 20, 30, 45, 60])
def test_killed_and_resumed_goes_on_with_the_same_tokens(alone, steps, tmp_path):
    """Would catch: a resumed path with another random branch, a block held twice, state missing from the file."""
    leap = generator(engine=SMALL)
    step, count = leap.engine.step, 0

    def killed_step():
        nonlocal count
        count += 1
        if count > steps:
            raise KeyboardInterrupt
        return step()

    leap.engine.step = killed_step
    with pytest.raises(GenerationInterrupted) as caught:
        leap.generate(QUESTION, n=4, leap=LEAP, sampling=SAMPLING, seed=3)
    partial = caught.value.outputs[0]
    assert not partial.finished and leap.engine.pool.num_used == 0
    partial.save(tmp_path / "run.json")
    resumed = generator(engine=SMALL).resume(LeapOutput.load(tmp_path / "run.json"))
    assert tokens(resumed) == tokens(alone)
    assert resumed.finished
    assert resumed.answers == alone.answers
    assert [block.routes for block in resumed.blocks] == [block.routes for block in alone.blocks]


@pytest.mark.parametrize("option", ["keep_summary", "finished_share", "thinking"])
def test_resume_holds_for_other_settings(option):
    """Would catch: resume that only works for the default protocol."""
    config = LEAP.replace(**{"keep_summary": {"keep_summary": False}, "finished_share": {"finished_share": True},
                             "thinking": {}}[option])
    thinking = option == "thinking"
    whole = generator(engine=SMALL, thinking=thinking).generate(QUESTION, n=4, leap=config, sampling=SAMPLING, seed=8)
    for steps in (13, 26, 40):
        leap = generator(engine=SMALL, thinking=thinking)
        events = leap.stream(QUESTION, n=4, leap=config, sampling=SAMPLING, seed=8)
        step, count = leap.engine.step, iter(range(steps))
        leap.engine.step = lambda step=step, count=count: step() if next(count, None) is not None else raise_interrupt()
        with pytest.raises(GenerationInterrupted) as caught:
            list(events)
        assert tokens(generator(engine=SMALL, thinking=thinking).resume(caught.value.outputs[0])) == tokens(whole)


def raise_interrupt():
    raise KeyboardInterrupt


def test_equal_prompts_get_seeds_of_their_own():
    """Would catch: M groups of one question that are copies of each other, so that their spread is zero."""
    outputs = generator(engine=SMALL).generate([QUESTION, QUESTION], n=2, leap=LEAP, sampling=SAMPLING, seed=3)
    assert [output.seed for output in outputs] == [3, 4]
    assert tokens(outputs[0]) != tokens(outputs[1])


def test_stream_tells_what_generate_returns(alone):
    """Would catch: events out of order, tokens missing from the stream, text that differs from the output's."""
    told = {}
    for event in generator(engine=SMALL).stream(QUESTION, n=4, leap=LEAP, sampling=SAMPLING, seed=3):
        if isinstance(event, TokenEvent):
            told.setdefault(event.path, []).append((event.kind, event.token))
    for path in alone.paths:
        kept = [(s.kind, t) for s in path.segments if s.sampled for t in s.token_ids]
        assert [item for item in told[path.index] if item in kept][-3:] == kept[-3:]
        assert len(told[path.index]) >= len(kept)


def test_closing_the_stream_frees_the_pool():
    """Would catch: pages held by a run whose consumer walked away."""
    leap = generator(engine=SMALL)
    events = leap.stream(QUESTION, n=4, leap=LEAP, sampling=SAMPLING)
    for _ in range(30):
        next(events)
    events.close()
    leap.engine.check_integrity()
    assert leap.engine.pool.num_used == 0


def test_an_exception_in_a_users_callable_keeps_what_was_generated():
    """Would catch: a run lost, or a half-changed path, because a similarity function raised at a block."""
    def broken(a, b):
        raise ZeroDivisionError("user code")

    leap = generator(engine=SMALL)
    with pytest.raises(GenerationFailed, match="user code") as caught:
        leap.generate(QUESTION, n=4, leap=LEAP.replace(similarity=broken), sampling=SAMPLING, seed=3)
    output = caught.value.outputs[0]
    assert all(path.count("own") > 0 for path in output.paths) and not output.blocks
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert leap.engine.pool.num_used == 0
    resumed = generator(engine=SMALL).resume(output, leap=LEAP)
    whole = generator(engine=SMALL).generate(QUESTION, n=4, leap=LEAP, sampling=SAMPLING, seed=3)
    assert tokens(resumed) == tokens(whole)


def test_non_finite_logits_name_path_and_position_and_keep_the_output():
    """Would catch: NaN sampled as a token, or an error that does not say where."""
    leap = generator(engine=SMALL)
    forward, count = leap.engine.runner.forward, iter(range(20))

    def poisoned(chunks):
        logits = forward(chunks)
        if next(count, None) is None:
            logits[-1] = float("nan")
        return logits

    leap.engine.runner.forward = poisoned
    with pytest.raises(GenerationFailed, match=r"path \d at position \d+") as caught:
        leap.generate(QUESTION, n=4, leap=LEAP, sampling=SAMPLING)
    assert all(path.count("own") for path in caught.value.outputs[0].paths)
