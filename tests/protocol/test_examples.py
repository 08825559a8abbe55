"""The example protocols: each runs, streams, is counted and resumes to the same tokens, as LeaP does."""

import json
import runpy
from pathlib import Path

import pytest
from leap_run import LEAP, QUESTION, SAMPLING, generator

from leapgen import CutEvent, EngineConfig, LeapOutput, SegmentEvent, TokenEvent, stopping
from leapgen.answers import normalize_answer

FOLDER = Path(__file__).parents[2] / "examples" / "protocols"
PROTOCOLS = {file.stem: runpy.run_path(str(file))[name] for file, name in (
    (FOLDER / "asynchronous.py", "Asynchronous"), (FOLDER / "debate.py", "Debate"), (FOLDER / "verifier.py", "Verified"))}
N, SETTINGS = 4, LEAP.replace(max_new_tokens=60)
EVERY = pytest.mark.parametrize("name", PROTOCOLS)


def leapgen(**engine):
    return generator(thinking=True, engine=EngineConfig(page_size=4, kv_cache_bytes=1 << 25, **engine))


@pytest.fixture(scope="module")
def leap():
    return leapgen(max_step_tokens=64)


def run(leap, name, question=QUESTION, **options):
    return leap.generate(question, N, leap=SETTINGS, sampling=SAMPLING, seed=5, protocol=PROTOCOLS[name], **options)


@pytest.fixture(scope="module")
def whole(leap):
    return {name: run(leap, name) for name in PROTOCOLS}


def tokens(output):
    return [(path.token_ids, path.provenance, path.finish_reason) for path in output.paths]


@EVERY
def test_an_example_is_short(name):
    """Would catch: a protocol interface that asks for much."""
    assert len((FOLDER / f"{name}.py").read_text().splitlines()) <= 100


@EVERY
def test_paths_end_meet_and_leave_no_page(name, leap, whole):
    """Would catch: a protocol in which nothing is exchanged, or that waits for ever."""
    output = whole[name]
    assert output.finished and len(output.blocks) > 1 and any(path.count("comment") for path in output.paths)
    assert leap.engine.pool.num_used == 0
    leap.engine.check_integrity()


@EVERY
@pytest.mark.parametrize("engine", [{"draft_tokens": 4, "kv_cache_bytes": 1 << 18},
                                    {"draft_tokens": 0, "max_step_tokens": 7}],
                         ids=["drafts, small pool", "small steps"])
def test_tokens_do_not_depend_on_the_steps(name, engine, whole):
    """Would catch: a protocol that goes by who was faster."""
    leap = generator(thinking=True, engine=EngineConfig(**{"page_size": 4, "kv_cache_bytes": 1 << 25, **engine}))
    assert tokens(run(leap, name)) == tokens(whole[name])


@EVERY
def test_tokens_do_not_depend_on_other_questions(name, leap, whole):
    """Would catch: a protocol object, or a state of one, that two questions share."""
    first, second = run(leap, name, [QUESTION, "Hm?"])
    assert tokens(first) == tokens(whole[name]) and tokens(second) != tokens(first)


@EVERY
@pytest.mark.parametrize("stop", [1, 40, 110, 180])
def test_a_stopped_run_resumes_to_the_same_tokens(name, stop, leap, whole):
    """Would catch: a state that a file does not keep; words that are read twice."""
    part = run(leap, name, until=stopping.token_limit(stop))
    assert not part.finished
    part = LeapOutput.from_dict(json.loads(json.dumps(part.to_dict())))
    with pytest.raises(ValueError, match=rf"the protocol \({PROTOCOLS[name].__name__}, now Leap\)"):
        leap.resume(part)
    resumed = leap.resume(part, protocol=PROTOCOLS[name])
    assert tokens(resumed) == tokens(whole[name])
    assert ({(block.index, *map(str, block.routes.items())) for block in resumed.blocks}
            == {(block.index, *map(str, block.routes.items())) for block in whole[name].blocks})


def test_a_state_of_another_protocol_is_refused_in_words(leap):
    """Would catch: what a protocol had kept, dropped without a word where its run is resumed by another."""
    part = leap.generate(QUESTION, N, leap=SETTINGS, sampling=SAMPLING, seed=5, until=stopping.token_limit(40))
    run = leap.resume_stream(part, protocol=PROTOCOLS["debate"], check=False)
    with pytest.raises(ValueError, match="state of skipping, shared, but Debate keeps none"):
        list(run)
    assert leap.engine.pool.num_used == 0


@EVERY
def test_a_listener_has_the_paths_text_and_every_token_is_counted(name, leap, whole):
    """Would catch: a move of a path that is not told, or not counted."""
    text, decoded = [""] * N, 0
    for event in leap.stream(QUESTION, N, leap=SETTINGS, sampling=SAMPLING, seed=5, protocol=PROTOCOLS[name]):
        if isinstance(event, TokenEvent) and not event.aside:
            text[event.path] += event.text
        elif isinstance(event, SegmentEvent) and not event.aside:
            text[event.path] += event.segment.text
        elif isinstance(event, CutEvent):
            assert text[event.path].endswith(event.text)
            text[event.path] = text[event.path].removesuffix(event.text)
        decoded += isinstance(event, TokenEvent)
    output, ledger = whole[name], whole[name].ledger
    assert text == [path.text for path in output.paths]
    assert ledger.decoded == sum(path.count("own", "summary", "answer") for path in output.paths) + ledger.discarded
    assert 0 <= ledger.decoded - decoded <= N * len(output.blocks)  # end tokens of summaries are counted, and not told


@EVERY
def test_a_comment_says_whose_words_it_holds(name, whole):
    """Would catch: a peer's words that nobody can trace."""
    output, traced = whole[name], 0
    for path in output.paths:
        for segment in path.segments:
            for source in segment.sources:
                said = [block.summaries[source.sender] for block in output.blocks if source.sender in block.summaries]
                assert source.block in [message.block for message in said] and source.sender != path.index
                assert 0 <= source.start <= source.end <= len(segment.token_ids)
                traced += 1
    assert traced


def test_asynchronous_paths_read_messages_of_earlier_intervals_only(whole):
    """Would catch: a barrier in disguise; a path that reads what depends on how fast others are."""
    for block in whole["asynchronous"].blocks:
        for path, routes in block.routes.items():
            assert all(block.summaries[route.peer].block < block.summaries[path].block for route in routes)
    assert any(routes for block in whole["asynchronous"].blocks for routes in block.routes.values())


def test_debaters_read_those_who_disagree_and_end_after_the_last_round(whole):
    """Would catch: echo in place of argument, a debate without an end."""
    output = whole["debate"]
    assert len(output.blocks) <= 3
    for block in output.blocks:
        for path, routes in block.routes.items():
            own = block.summaries[path].answer
            assert all(own is None or block.summaries[route.peer].answer != own for route in routes)
    assert all(message.answer is None or normalize_answer(message.answer) == message.answer
               for block in output.blocks for message in block.summaries.values())


def test_solvers_read_the_verifier_and_it_reads_all_of_them(whole):
    """Would catch: a verifier that is by-passed."""
    output = whole["verifier"]
    for block in output.blocks:
        for path, routes in block.routes.items():
            peers = [route.peer for route in routes]
            assert peers == ([N - 1] if path != N - 1 else sorted(set(block.summaries) - {N - 1}))
    assert output.paths[-1].count("own") == 0 and output.paths[-1].count("summary")
