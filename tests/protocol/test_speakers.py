"""Speakers: paths of one group with other sentences and other sampling, that read each other."""

import json

import pytest
from leap_run import LEAP, QUESTION, SAMPLING, generator
from test_leap_independence import tokens

from leapgen import LeapOutput, PromptSet, SamplingConfig, SpeakerConfig, stopping
from leapgen.protocol.speaker import shared_out

TERSE = PromptSet(triggers=("Now then.",), nudge="Hm.", plain="Be terse. {question}", forced_answer="\n\nSo:")
COLD = SamplingConfig(temperature=0.3)
SPEAKERS = [SpeakerConfig(2), SpeakerConfig(prompts=TERSE, sampling=COLD)]
ALONE = LEAP.replace(max_blocks=0, max_new_tokens=20)
N = 4


@pytest.fixture(scope="module")
def leap():
    return generator(thinking=True)


def run(leap, config=LEAP, **options):
    return leap.generate(QUESTION, n=N, leap=config, seed=3, **{"sampling": SAMPLING, "speakers": SPEAKERS, **options})


@pytest.fixture(scope="module")
def whole(leap):
    return run(leap)


def test_a_path_alone_speaks_as_in_a_run_where_all_speak_as_it_does(leap):
    """Would catch: a path that draws, is asked or is forced as another speaker would be."""
    mixed = run(leap, ALONE, beginning=["So", None, "So", None])
    plain = run(leap, ALONE, beginning=["So", None, "So", None], speakers=None)
    leap.prompts, terse = TERSE, None
    try:
        terse = run(leap, ALONE, beginning=["So", None, "So", None], speakers=None, sampling=COLD)
    finally:
        leap.prompts = PromptSet()
    assert tokens(mixed) == tokens(plain)[:2] + tokens(terse)[2:]
    assert mixed.paths[0].segments[0].token_ids != mixed.paths[2].segments[0].token_ids
    assert leap.engine.pool.num_used == 0


def test_speakers_read_each_other_in_their_own_sentences(leap, whole):
    """Would catch: a message that only those of its kind get; a trigger or nudge of another's."""
    assert len(whole.blocks) > 0
    assert all(len(block.summaries) == N for block in whole.blocks[:1])
    crossing = [(reader, route.peer) for block in whole.blocks for reader, routes in block.routes.items()
                for route in routes if (reader < 2) != (route.peer < 2)]
    assert crossing
    for path in whole.paths:
        for segment in path.segments:
            if segment.kind == "trigger":
                assert ("Now then." in segment.text) == (path.index >= 2)
            if segment.kind == "comment":
                assert segment.text.endswith("Hm.") == (path.index >= 2)


def test_what_prompts_have_in_common_is_computed_once(leap):
    """Would catch: the chat template's head, or a whole prompt, prefilled for each speaker."""
    output = run(leap, ALONE)
    first, other = (output.paths[i].segments[0].token_ids for i in (0, 2))
    common = next(i for i, (a, b) in enumerate(zip(first, other, strict=False)) if a != b)
    forced = sum(path.count("forced") for path in output.paths)
    assert output.ledger.prefilled == len(first) + len(other) - common + forced and common > 0


@pytest.mark.parametrize("stop", [1, 30, 75, 110, 150])
def test_a_stopped_run_resumes_to_the_same_tokens(leap, whole, stop):
    """Would catch: sentences or sampling that a file forgets, or gives to other paths."""
    part = run(leap, until=stopping.token_limit(stop))
    assert not part.finished
    part = LeapOutput.from_dict(json.loads(json.dumps(part.to_dict())))
    assert [note["paths"] for note in part.made_with["speakers"]] == [2, 2]
    resumed = leap.resume(part)
    assert tokens(resumed) == tokens(whole) and resumed.made_with["speakers"] == part.made_with["speakers"]


def test_a_speakers_processors_are_asked_for_again(leap):
    """Would catch: a run that goes on without a function which a file cannot hold."""
    speakers = [SpeakerConfig(2), SpeakerConfig(sampling=COLD.replace(logits_processors=(lambda ids, scores: scores,)))]
    part = run(leap, speakers=speakers, until=stopping.token_limit(40))
    with pytest.raises(ValueError, match=r"logits_processors \(.*speakers=\.\.\."):
        leap.resume(part)
    assert tokens(leap.resume(part, speakers=speakers)) == tokens(run(leap, speakers=speakers))


def test_equal_questions_keep_their_seeds(leap):
    """Would catch: a second group that repeats the first."""
    first, second = leap.generate([QUESTION, QUESTION], n=N, leap=ALONE, sampling=SAMPLING, seed=3, speakers=SPEAKERS)
    assert tokens(first) == tokens(run(leap, ALONE)) != tokens(second)


@pytest.mark.parametrize(("paths", "n", "shared"), [
    ((None,), 5, [5]), ((None, None), 5, [3, 2]), ((2, None), 5, [2, 3]), ((None, 1, None), 4, [2, 1, 1])])
def test_paths_are_shared_out(paths, n, shared):
    """Would catch: a path without a speaker."""
    assert [one.paths for one in shared_out([SpeakerConfig(count) for count in paths], n)] == shared


@pytest.mark.parametrize(("speakers", "error", "message"), [
    ([], ValueError, "do not make n=4"), ([SpeakerConfig(3)], ValueError, r"\[3\] paths do not make n=4"),
    ([SpeakerConfig(4), SpeakerConfig()], ValueError, "at least one path each"), ([SpeakerConfig(9)], ValueError, "n=4"),
    ("two", TypeError, "list of SpeakerConfig"), ([TERSE], TypeError, "list of SpeakerConfig")])
def test_speakers_that_do_not_make_n_paths_are_refused(leap, speakers, error, message):
    with pytest.raises(error, match=message):
        run(leap, speakers=speakers)


@pytest.mark.parametrize("field", [{"paths": 0}, {"paths": True}, {"prompts": "terse"}, {"sampling": {}}])
def test_a_speakers_fields_are_checked(field):
    with pytest.raises((ValueError, TypeError), match=next(iter(field))):
        SpeakerConfig(**field)
