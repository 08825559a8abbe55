"""What comments do to answers, on probes made by hand."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from leapgen.answers import grader
from leapgen.evaluation.influence import ProbedRun, commitment, mean_influence, propagation, transitions, types
from leapgen.evaluation.metrics import share
from leapgen.evaluation.probes import Probe


def read(path, before, after, peers, placebo=None, block=0, scores=({}, {}, {})):
    """The probes of a path at a block; ``scores`` before the comment, after the placebo and after the comment."""
    return [Probe("before", path, 10, block, peers, before, logprobs=scores[0]),
            Probe("placebo", path, 10, block, peers, placebo, logprobs=scores[1]),
            Probe("after", path, 10, block, peers, after, logprobs=scores[2])]


def run(*probes, answers=("7", "7", "7", "7"), problem="p"):
    return ProbedRun(problem, [one for some in probes for one in some], answers, partial(grader("exact").same, "7"),
                     grader("exact").groups)


MIXED = run(read(0, "7", "$7$", [1, 2], placebo="9"),  # 2 differs
            read(1, "7.", "7", [0], placebo="7"),
            read(2, "3", "7", [0, 1], placebo="3"),
            read(3, None, "4", [2], placebo=None), answers=("7", "5", "7", None))


def test_types_follow_from_the_probes_before_and_after():
    """Would catch: a changed answer taken for the peers' doing, agreement that goes by spelling, and a path compared with
    what its peers think after their own comments."""
    assert [one.type for one in MIXED.communications()] == ["unaffected", "consistent", "influenced", "changed"]
    assert [one.type for one in MIXED.communications("placebo")] == ["changed", "consistent", "unaffected", "unaffected"]
    agreed = run(read(0, None, "7", [1]), read(1, None, None, [0]))
    assert [one.type for one in agreed.communications()] == ["changed", "consistent"]
    shares = types([MIXED, agreed])
    assert {name: value.mean for name, value in shares.items()} == pytest.approx(
        {"consistent": 2 / 6, "unaffected": 1 / 6, "influenced": 1 / 6, "changed": 2 / 6})
    assert types([MIXED], block=1) == {name: None for name in shares}


def test_a_peer_that_has_ended_stands_by_its_last_answer():
    """Would catch: peers that have ended without an answer, or with one that was forced from them, so that who follows them
    seems to change by itself."""
    ended = run([Probe("end", 1, 9, answer="70")], read(0, "3", "7", [1]))
    assert ended.communications()[0].type == "influenced"
    assert run(read(0, "3", "7", [1])).communications()[0].type == "changed"


def test_a_message_may_be_ahead_of_what_its_peer_would_answer():
    """Would catch: a path that takes over what a peer reports, but has not thought through, as changed by itself."""
    ahead = run([Probe("alone", 1, 10, 0, [0], "7")], read(0, "3", "7", [1]), read(1, "5", "5", [0]))
    assert [one.type for one in ahead.communications()] == ["influenced", "unaffected"]
    assert [one.type for one in ahead.communications("alone")] == ["changed"]


def test_who_reads_nobody_communicates_with_nobody():
    assert run(read(0, "3", "7", [])).communications() == []


def test_transitions_go_from_the_first_comment_to_the_end():
    """Would catch: right and wrong exchanged, later blocks counted, paths without a comment counted."""
    later = run(read(0, "3", "3", [1]), read(0, "7", "7", [1], block=1), answers=("7", "7"), problem="q")
    found = {name: value.mean for name, value in transitions([MIXED, later]).items()}
    assert found == pytest.approx({"C→C": 1 / 5, "C→I": 1 / 5, "I→C": 2 / 5, "I→I": 1 / 5})


def test_errors_are_passed_on_by_wrong_peers():
    """Would catch: paths counted that were wrong before, or peers counted by what they say after."""
    runs = [run(read(0, "7", "3", [1, 2]), read(1, "3", "7", [0]), read(2, "3", "3", [0])),
            run(read(0, "7", "7", [1]), read(1, "7", "7", [0]), problem="q")]
    found = propagation(runs)
    assert {wrong: value and value.mean for wrong, value in found.items()} == {0: 0.0, 1: None, 2: 1.0}


def test_influence_is_what_the_comment_adds_to_the_placebo():
    """Would catch: rows and columns exchanged, gains that any comment brings, scores of an answer the peer gave later."""
    scores = {"7": -5.0, "3": -1.0}, {"7": -4.0, "3": -1.0}, {"7": -1.0, "3": -6.0}
    scored = run(read(0, "3", "7", [1, 2], scores=scores), read(1, "7", "9", [0]), read(2, "3", "3", [0]))
    matrix = scored.influence(0)
    assert matrix[0, 1] == 3.0 and matrix[0, 2] == -5.0 and np.isnan(matrix[1, 0]) and np.isnan(matrix[0, 0])
    assert scored.influence(0, "before")[0, 1] == 4.0
    assert mean_influence([scored]).mean == 3.0  # path 2 says what path 0 said before
    assert mean_influence([MIXED]) is None


def test_commitment_counts_ended_paths_with_their_answers():
    """Would catch: curves over those that are still reasoning, who are the slow ones."""
    shares = [Probe("share", 0, 10, answer="3"), Probe("share", 0, 20, answer="7"), Probe("end", 0, 25, answer="3"),
              Probe("share", 1, 10, answer="5"), Probe("end", 1, 12, answer="5")]
    curve = commitment([run(shares, answers=("7", "5"))])
    assert {own: (one.committed.mean, one.right.mean) for own, one in curve.items()} == {10: (0.5, 0.0), 20: (1.0, 0.5)}


def test_a_share_is_over_cases_and_its_interval_over_problems():
    """Would catch: a problem with one case that weighs as much as one with a hundred; an interval over dependent cases."""
    found = share(np.array([(1, 1), (0, 99)]))
    assert found.mean == pytest.approx(0.01) and (found.low, found.high) == (0.0, 1.0)
    assert share(np.zeros((3, 2))) is None and share(np.zeros((0, 2))) is None
