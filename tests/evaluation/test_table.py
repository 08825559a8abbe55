"""A study's numbers, on records whose numbers are plain."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from leapgen.evaluation.controls import EqualCost
from leapgen.evaluation.metrics import equal_budget
from leapgen.evaluation.records import PathRecord, Record
from leapgen.evaluation.table import ArmResults, gain
from leapgen.tasks.base import Problem


def record(arm, problem, group, right, own=10, comment=0, discarded=0, reason="stop", counted=None):
    paths = [PathRecord("a", one, reason, {"prompt": 50, "own": own, "comment": comment, "answer": 2}, 1,
                        counted=counted or {}) for one in right]
    vote = sum(right) * 2 > len(right)
    return Record(arm, problem, group, 0, paths, "a", vote, "a", vote, ledger={"discarded": discarded})


ALONE = [record("independent", "0", 0, [1, 0, 0, 0]), record("independent", "0", 1, [0, 0, 0, 0]),
         record("independent", "1", 0, [1, 1, 1, 0]), record("independent", "1", 1, [1, 1, 1, 1])]
LEAP = [record("leap", "0", 0, [1, 1, 1, 0], comment=8, discarded=8), record("leap", "1", 0, [1, 1, 1, 1], comment=8),
        record("leap", "2", 0, [0, 0, 0, 0], comment=8), Record("leap", "3", 0, 0)]


def test_measures_are_means_over_a_problem_s_groups_and_groups_are_told_apart():
    """Would catch: a problem with more groups that weighs more; a spread between paths given out as one between groups."""
    arm = ArmResults(ALONE)
    assert arm.by_problem("pass_at_1") == {"0": 0.125, "1": 0.875}
    assert arm.by_problem("cons_at_n") == {"0": 0.0, "1": 1.0} and arm.by_problem("pass_at_n") == {"0": 0.5, "1": 1.0}
    assert arm.by_group() == [0.5, 0.5] and len(ArmResults(LEAP).problems) == 3, "without paths, nothing was run"


def test_a_gain_is_over_the_problems_that_both_have():
    """Would catch: a report halfway that compares easy problems of one arm with hard ones of another."""
    found = gain(ArmResults(LEAP), ArmResults(ALONE), "pass_at_1")
    assert found.mean == pytest.approx(((0.75 - 0.125) + (1.0 - 0.875)) / 2) and found.low < found.mean < found.high
    assert gain(ArmResults(LEAP[2:]), ArmResults(ALONE), "pass_at_1") is None


def test_tokens_of_a_path_are_all_after_the_prompt_and_what_was_discarded():
    """Would catch: a cost that leaves out comments or cut paragraphs, and so favours paths that talk."""
    assert ArmResults(ALONE).tokens() == {"own": 10, "answer": 2, "discarded": 0, "all": 12}
    tokens = ArmResults(LEAP).tokens()
    assert tokens == {"own": 10, "comment": 8, "answer": 2, "discarded": 8 / 12, "all": 20 + 8 / 12}
    other = ArmResults([record("leap", "0", 0, [1] * 4, comment=8, discarded=8, counted={"own": 20, "comment": 40})])
    assert other.tokens(counted=True) == {"own": 20, "comment": 40, "discarded": 6, "all": 66}  # 240 for 80, 24 for 8


def test_the_budget_of_equal_cost_makes_paths_spend_the_mean():
    """Would catch: a budget that is too large by the tokens after the reasoning; one that cut paths alone can use up."""
    own, tail = np.array([40, 80, 100, 100]), 5
    spent = own + tail  # 340 in all, a mean of 85; two were cut at 100
    assert equal_budget(own, spent, 100, 85.0) == 100
    assert equal_budget(own, spent, 100, 65.0) == 67  # 40, 67, 67, 67 and 5 each: the smallest with 260 or more
    assert np.minimum(own, 66).sum() + 20 < 260 <= np.minimum(own, 67).sum() + 20
    assert equal_budget(own, spent, 100, 95.0) == 120  # 40 tokens are missing, for two that may use them
    assert equal_budget(own, spent, 101, 95.0) == 101  # none was cut: more would change nothing
    assert equal_budget(own, own * 2.0 + tail, 100, 185.0, 2.0) == 120  # 80 are missing, and a token of reasoning costs 2
    assert equal_budget(own, own * 2.0 + tail, 100, 125.0, np.full(4, 2.0)) == 67


def test_equal_cost_goes_by_all_units_and_is_the_same_for_each():
    """Would catch: a budget by problem, which lets a baseline know how hard a problem is."""
    alone = [record("independent", str(i), 0, [1, 0], own=100, reason="forced") for i in range(2)]
    leap = [record("leap", "0", 0, [1, 1], own=90, comment=40, discarded=20), record("leap", "1", 0, [1, 1], own=100)]
    study = SimpleNamespace(settings=SimpleNamespace(count_with=None),
                            records=lambda arm: {"leap": leap, "independent": alone}[arm],
                            arguments=lambda unit, prepared: {"leap": SimpleNamespace(max_new_tokens=100)})
    budgets = {EqualCost("leap", "independent")(study, Problem(id, "?", "a"), 0)["max_new_tokens"] for id in ("0", "1")}
    assert budgets == {120}  # (2 * 132 + 20 + 2 * 102) / 4 = 122 tokens a path, 2 of them after the reasoning


def test_equal_cost_goes_by_the_second_tokenizer_where_there_is_one():
    """Would catch: a baseline that is equal in tokens each of which is a sentence for the one and a word for the other."""
    alone = [record("independent", "0", 0, [1, 0], own=100, counted={"own": 200, "answer": 10})]  # a token counts as two
    leap = [record("leap", "0", 0, [1, 1], own=90, comment=8, counted={"own": 180, "comment": 80, "answer": 10})]
    study = SimpleNamespace(settings=SimpleNamespace(count_with="other"),
                            records=lambda arm: {"leap": leap, "independent": alone}[arm],
                            arguments=lambda unit, prepared: {"leap": SimpleNamespace(max_new_tokens=100)})
    assert EqualCost("leap", "independent")(study, Problem("0", "?", "a"), 0) == {
        "max_new_tokens": 130}  # 270 of them in all, 10 after the reasoning: 260 are 130 of the model's
