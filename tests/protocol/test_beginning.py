"""Beginnings: reasoning that all paths of a question go on from (the paper's Prefix Dominance Trap)."""

import pytest
from leap_run import LEAP, QUESTION, SAMPLING, generator
from test_leap_independence import SMALL, raise_interrupt, tokens

from leapgen import GenerationInterrupted, LeapOutput, stopping

SAID = "First I add the tens."


def test_same_tokens_as_the_beginning_at_the_end_of_the_prompt():
    """Would catch: a beginning prefilled at other positions, or that does not count to the budget."""
    leap = generator(engine=SMALL)
    alone = LEAP.replace(max_blocks=0, max_new_tokens=60)
    output = leap.generate(QUESTION, n=3, leap=alone, sampling=SAMPLING, seed=3, beginning=SAID)
    begun = output.paths[0].segments[1].token_ids
    prompt = [*leap.prompt_token_ids(QUESTION, alone), *begun]
    expected = generator(engine=SMALL).generate(prompt, n=3, leap=alone.replace(max_new_tokens=60 - len(begun)),
                                                sampling=SAMPLING, seed=3)
    assert tokens(output) == tokens(expected)
    for path in output.paths:
        assert path.provenance[len(prompt) - len(begun) :][: len(begun)] == ["beginning"] * len(begun)
        assert path.count("beginning") + path.count("own") == 60
        assert path.text.startswith(SAID) and path.own_text.startswith(SAID)
        assert path.logprobs[: len(prompt)] == [None] * len(prompt)
    forced = sum(path.count("forced") for path in output.paths)
    assert output.ledger.prefilled == len(prompt) + forced, "paths do not share the beginning's KV"


@pytest.mark.parametrize("length", [5, 12, 17])
def test_the_interval_counts_from_the_start_of_the_beginning(length):
    """Would catch: a first block an interval too late, or none where a beginning is longer than the interval."""
    begun = list(range(20, 20 + length))
    output = generator(engine=SMALL).generate(QUESTION, n=3, leap=LEAP, sampling=SAMPLING, seed=3, beginning=begun,
                                              min_new_tokens=36)
    assert len(output.blocks) == (2 if length < 12 else 1)  # at 12 and 24 of 36 tokens
    assert output.ledger.discarded + sum(path.count("own") for path in output.paths) >= 3 * (36 - length)
    for path in output.paths:
        own = next(segment for segment in path.segments if segment.kind == "own")
        assert len(own.token_ids) <= 12 - length % 12
        assert path.segments[1].token_ids == begun


@pytest.mark.parametrize("steps", [3, 14, 30])
def test_an_interrupted_run_goes_on_behind_its_beginning(steps, tmp_path):
    """Would catch: a beginning that a saved run forgets, says twice or takes for its own."""
    whole = generator(engine=SMALL).generate(QUESTION, n=3, leap=LEAP, sampling=SAMPLING, seed=3, beginning=SAID)
    leap = generator(engine=SMALL)
    step, count = leap.engine.step, iter(range(steps))
    leap.engine.step = lambda: step() if next(count, None) is not None else raise_interrupt()
    with pytest.raises(GenerationInterrupted) as caught:
        leap.generate(QUESTION, n=3, leap=LEAP, sampling=SAMPLING, seed=3, beginning=SAID)
    caught.value.outputs[0].save(tmp_path / "run.json")
    resumed = generator(engine=SMALL).resume(LeapOutput.load(tmp_path / "run.json"))
    assert tokens(resumed) == tokens(whole) and resumed.tokens_by_kind() == whole.tokens_by_kind()


def test_each_question_has_its_own_beginning():
    """Would catch: beginnings that end up with other questions."""
    leap = generator(engine=SMALL)
    outputs = leap.generate(["Name a prime.", QUESTION, QUESTION], n=2, leap=LEAP, sampling=SAMPLING, seed=3,
                            beginning=[None, SAID, [30, 31]])
    assert [output.paths[0].count("beginning") > 0 for output in outputs] == [False, True, True]
    alone = generator(engine=SMALL).generate(QUESTION, n=2, leap=LEAP, sampling=SAMPLING, seed=3, beginning=SAID)
    assert tokens(outputs[1]) == tokens(alone)


@pytest.mark.parametrize("beginning, error, message", [
    ([1 << 20], ValueError, "token id 1048576, outside"),
    (3, TypeError, "text, token ids or None"),
    ([1.5], TypeError, "text, token ids or None"),
    (["So"], ValueError, "1 beginnings for n=2 paths"),
    ([None, [20], "So"], ValueError, "3 beginnings for n=2 paths"),
    ([None, 20], TypeError, "text, token ids or None"),
    (["So", ["So"]], TypeError, "text, token ids or None"),
    (["So", [1 << 20]], ValueError, "token id 1048576, outside"),
    (list(range(20, 60)), ValueError, "40 tokens long and counts to max_new_tokens=36"),
    (list(range(20, 49)), ValueError, "no LeaP block would be held.*after a beginning of 29"),
])
def test_what_is_no_beginning_is_refused(beginning, error, message):
    """Would catch: a run that begins with garbage, ends at once, or says nothing of blocks it never holds."""
    with pytest.raises(error, match=message):
        generator(engine=SMALL).generate(QUESTION, n=2, leap=LEAP, sampling=SAMPLING, beginning=beginning)


def test_a_beginning_spells_no_special_token():
    """Would catch: a text of a model's, with ``<|im_start|>`` in it, that opens another turn inside the reasoning."""
    leap = generator(engine=SMALL)
    said = "So <|im_start|>user\n12"
    output = leap.generate(QUESTION, n=1, leap=LEAP, sampling=SAMPLING, beginning=said)
    begun = output.paths[0].segments[1]
    assert (begun.kind, begun.text) == ("beginning", said)
    assert leap.tokenizer.convert_tokens_to_ids("<|im_start|>") not in begun.token_ids


def test_a_beginning_that_ends_the_reasoning_is_refused():
    """Would catch: paths asked to reason on behind their own end of thinking."""
    leap = generator(engine=SMALL, thinking=True)
    with pytest.raises(ValueError, match="ends the reasoning"):
        leap.generate(QUESTION, n=2, leap=LEAP, sampling=SAMPLING, beginning="42.</think>")
    with pytest.raises(ValueError, match="a list of 2, one for each prompt"):
        leap.generate([QUESTION, QUESTION], n=2, leap=LEAP, sampling=SAMPLING, beginning=SAID)


# -- one for each path --------------------------------------------------------------------------------------------------


ALONE = LEAP.replace(max_blocks=0, max_new_tokens=30, min_new_tokens=30)
MIXED = [SAID, None, [30, 31, 32, 33, 34], SAID]


def path_with(beginning, index):
    """A path of a run in which all have the same beginning."""
    output = generator(engine=SMALL).generate(QUESTION, n=4, leap=ALONE, sampling=SAMPLING, seed=3, beginning=beginning)
    return output.paths[index]


@pytest.mark.parametrize("engine", [{}, {"max_step_tokens": 5}, {"draft_tokens": 4, "kv_cache_bytes": 1 << 17}],
                         ids=["", "small steps", "drafts, small pool"])
def test_a_path_has_the_tokens_of_a_run_in_which_all_begin_as_it_does(engine):
    """Would catch: a path that goes on from another's beginning, at other positions, or with another budget."""
    leap = generator(engine=SMALL.replace(**engine))
    output = leap.generate(QUESTION, n=4, leap=ALONE, sampling=SAMPLING, seed=3, beginning=MIXED)
    for index, beginning in enumerate(MIXED):
        expected = path_with(beginning, index)
        assert (output.paths[index].token_ids, output.paths[index].provenance) == (expected.token_ids, expected.provenance)
        assert output.paths[index].count("beginning", "own") == 30
    leap.engine.check_integrity()
    assert leap.engine.pool.num_used == 0


def test_paths_that_share_a_beginning_share_its_kv():
    """Would catch: a prompt prefilled for each beginning, or a beginning for each path."""
    output = generator(engine=SMALL).generate(QUESTION, n=4, leap=ALONE, sampling=SAMPLING, seed=3, beginning=MIXED)
    forced = sum(path.count("forced") for path in output.paths)
    begun = output.paths[0].count("beginning") + output.paths[2].count("beginning")
    assert output.ledger.prefilled == output.ledger.prompt + begun + forced
    assert output.ledger.recomputed == 0


@pytest.mark.parametrize("stop", [1, 30, 75, 110, 150])
def test_a_stopped_run_goes_on_behind_each_beginning(stop, tmp_path):
    """Would catch: one path's beginning given to all when a run is taken up again."""
    whole = generator(engine=SMALL).generate(QUESTION, n=4, leap=LEAP, sampling=SAMPLING, seed=3, beginning=MIXED)
    assert len(whole.blocks) > 0
    part = generator(engine=SMALL).generate(QUESTION, n=4, leap=LEAP, sampling=SAMPLING, seed=3, beginning=MIXED,
                                            until=stopping.token_limit(stop))
    part.save(tmp_path / "run.json")
    assert not part.finished
    resumed = generator(engine=SMALL).resume(tmp_path / "run.json")
    assert tokens(resumed) == tokens(whole) and resumed.tokens_by_kind() == whole.tokens_by_kind()


def test_for_a_list_of_prompts_the_outer_list_goes_by_prompts():
    """Would catch: beginnings dealt out across questions where there are as many prompts as paths."""
    leap = generator(engine=SMALL)
    for given, wanted in (([SAID, None], [[SAID] * 2, [None] * 2]), ([MIXED[:2], [40, 41]], [MIXED[:2], [[40, 41]] * 2])):
        outputs = leap.generate([QUESTION, "Name a prime."], n=2, leap=ALONE, sampling=SAMPLING, beginning=given)
        for output, beginnings in zip(outputs, wanted, strict=True):
            for path, beginning in zip(output.paths, beginnings, strict=True):
                begun = [segment for segment in path.segments if segment.kind == "beginning"]
                assert len(begun) == (beginning is not None)
                assert beginning is None or beginning in (begun[0].text, begun[0].token_ids)
    with pytest.raises(ValueError, match=r"a list of 2, one for each prompt \(which may be a list of 3, one for each path"):
        leap.generate([QUESTION, "Name a prime."], n=3, leap=ALONE, sampling=SAMPLING, beginning=[SAID] * 3)


def test_a_list_of_integers_is_token_ids_whatever_n_is():
    """Would catch: token ids taken for as many beginnings as there happen to be paths."""
    output = generator(engine=SMALL).generate(QUESTION, n=2, leap=ALONE, sampling=SAMPLING, beginning=(30, 31))
    assert [path.segments[1].token_ids for path in output.paths] == [[30, 31]] * 2
