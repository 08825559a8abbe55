"""LeaP-S as published: after the last block the first paths go on, the others were there for their summaries."""

import json

import pytest
from leap_run import LEAP, QUESTION, SAMPLING, generator
from test_leap_independence import tokens

from leapgen import EngineConfig, FinishEvent, LeapConfig, LeapOutput, stopping

ALL = LEAP.replace(blocks=(0,), max_new_tokens=60, min_new_tokens=60)
ONE = ALL.replace(paths_after=1)
N = 4


@pytest.fixture(scope="module")
def leap():
    return generator()


def run(leap, config, **options):
    return leap.generate(QUESTION, n=N, leap=config, sampling=SAMPLING, seed=3, **options)


@pytest.fixture(scope="module")
def one(leap):
    return run(leap, ONE)


def state(output):
    return [(path.token_ids, path.provenance, path.finish_reason, path.answer, path.votes) for path in output.paths]


@pytest.mark.parametrize("paths", [1, 3])
def test_those_that_go_on_have_the_tokens_they_have_where_all_go_on(leap, paths):
    """Would catch: summaries or routes that change with who goes on."""
    whole = run(leap, ALL)
    some = run(leap, ALL.replace(paths_after=paths))
    assert tokens(some)[:paths] == tokens(whole)[:paths]
    assert some.blocks[0].summaries == whole.blocks[0].summaries
    assert some.blocks[0].routes == {path: whole.blocks[0].routes[path] for path in range(paths)}


def test_no_token_is_spent_on_those_that_stop(leap, one):
    """Would catch: comments prefilled for nobody, answers forced from paths that are done, a cost that hides peers'."""
    first, *others = one.paths
    for path in others:
        assert [segment.kind for segment in path.segments] == ["prompt", "own", "trigger", "summary"]
        assert path.finish_reason == "retired" and not path.votes and path.count("own") <= ONE.interval
    assert first.votes and first.finish_reason == "forced" and first.count("own") > ONE.interval
    forced = sum(path.count("trigger", "closing", "comment", "forced") for path in one.paths)
    assert one.ledger.injected == forced and one.ledger.prefilled == one.ledger.prompt + forced
    assert one.ledger.decoded == (sum(path.count("own", "summary", "answer") for path in one.paths) + one.ledger.discarded)
    assert one.ledger.decoded < run(leap, ALL).ledger.decoded / 2
    assert leap.engine.pool.num_used == 0


def test_those_that_stop_have_no_vote(one):
    """Would catch: a majority, or a share of right paths, over paths that nobody let finish."""
    loaded = LeapOutput.from_dict(json.loads(json.dumps(one.to_dict())))
    assert loaded.voters == loaded.paths[:1] == one.paths[:1]
    for path in loaded.paths:
        path.answer = "7" if path.votes else "8"
    assert loaded.majority() == loaded.shortest_majority() == "7"


@pytest.mark.parametrize("keep_summary", [True, False])
@pytest.mark.parametrize("stop", [10, 45, 70, 95, 110])
def test_a_stopped_run_resumes_to_the_same_tokens(leap, stop, keep_summary):
    """Would catch: a path that comes back to life after the block, or one that a file lets vote."""
    config = ONE.replace(keep_summary=keep_summary)
    part = run(leap, config, until=stopping.token_limit(stop))
    assert not part.finished
    resumed = leap.resume(LeapOutput.from_dict(json.loads(json.dumps(part.to_dict()))))
    assert state(resumed) == state(run(leap, config))
    assert leap.engine.pool.num_used == 0


@pytest.mark.parametrize("engine", [{"draft_tokens": 4, "kv_cache_bytes": 1 << 17}, {"max_step_tokens": 7}])
def test_tokens_do_not_depend_on_the_steps(one, engine):
    """Would catch: a path that stops or not by how far another has come."""
    leap = generator(engine=EngineConfig(**{"page_size": 4, "kv_cache_bytes": 1 << 25, **engine}))
    assert state(run(leap, ONE)) == state(one)


def test_two_blocks_are_read_by_all_but_the_last(leap):
    """Would catch: peers that stop at the first of several blocks."""
    output = run(leap, ONE.replace(blocks=(0, 2)))
    assert [sorted(block.routes) for block in output.blocks] == [list(range(N)), [0]]
    assert [path.finish_reason for path in output.paths[1:]] == ["retired"] * (N - 1)


def test_nothing_is_written_where_nobody_would_read_it(leap):
    """Would catch: a block held for paths that have all ended; peers that end early and have a vote after all."""
    config = ONE.replace(min_new_tokens=0, stop_token_ids=tuple(range(3, 400)))  # every path ends with its first token
    events = list(leap.stream(QUESTION, n=N, leap=config, sampling=SAMPLING, seed=3))
    output = events[-1].output
    assert not output.blocks and [path.votes for path in output.paths] == [True] + [False] * (N - 1)
    assert sum(isinstance(event, FinishEvent) for event in events) == N


@pytest.mark.parametrize("changes, message", [
    ({"paths_after": 0}, "paths_after=0 is not allowed"), ({"paths_after": True}, "an integer >= 1"),
    ({"paths_after": 1}, "which block is the last"), ({"paths_after": 1, "max_blocks": 0}, "which block is the last"),
    ({"paths_after": 1, "blocks": ()}, "which block is the last")])
def test_a_last_block_has_to_be_named(changes, message):
    """Would catch: paths that wait to stop at a block that is never the last."""
    with pytest.raises(ValueError, match=message):
        LeapConfig(**changes)


@pytest.mark.parametrize("changes", [{"blocks": (0, 9)}, {"blocks": None, "max_blocks": 5}])
def test_a_last_block_beyond_the_budget_is_refused(leap, changes):
    """Would catch: peers that run to the end of the budget, where the cost of a single path was asked for."""
    with pytest.raises(ValueError, match="last block that would not be held"):
        run(leap, ONE.replace(**changes))
    assert run(leap, ONE.replace(blocks=(0, 9), max_blocks=1)).finished


def test_single_takes_how_many_go_on():
    """Would catch: the published setting lost behind the library's."""
    assert LeapConfig.single(paths=1) == LeapConfig(blocks=(0,), paths_after=1)
    assert LeapConfig.single(2048).paths_after is None
