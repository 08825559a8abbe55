"""What comments do to answers, from probes: types of communication, influence, transitions, errors passed on, commitment.

No judge reads anything: a comment's effect is the difference between two probes. A path without an answer agrees with paths
without one. Intervals are bootstrapped over problems.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from leapgen.evaluation.metrics import Estimate, estimate, share
from leapgen.evaluation.probes import Probe, probes_of, standing
from leapgen.evaluation.records import Record
from leapgen.tasks.base import Problem, Task

Type = Literal["consistent", "unaffected", "influenced", "changed"]
TYPES: tuple[Type, ...] = ("consistent", "unaffected", "influenced", "changed")
CHANGES = {"C→C": (True, True), "I→C": (False, True), "C→I": (True, False), "I→I": (False, False)}  # right before and after


class Communication(NamedTuple):
    """What a path's answer did when it read its peers.

    ``type``: all peers' answers, its own before and its own after are one (``consistent``); they are not, and its own is
    what it was (``unaffected``), a peer's (``influenced``), or another and no peer's (``changed``). A peer's is also the
    answer that it comes to alone within the thought that probes are given: its message may be ahead of its reasoning.
    """

    block: int
    path: int
    type: Type
    right_before: bool
    right_after: bool
    peers: int
    wrong_peers: int


@dataclass(frozen=True)
class ProbedRun:
    """One run on a problem.

    Args:
        problem: its id.
        answers: of the paths in the end.
        right: whether an answer is right; asked once for each.
        groups: places of answers that are one, as a grader or a task groups them.
    """

    problem: str
    probes: Sequence[Probe]
    answers: Sequence[str | None]
    right: Callable[[str], bool]
    groups: Callable[[Sequence[str]], list[list[int]]]

    @classmethod
    def of(cls, task: Task, problem: Problem, record: Record) -> ProbedRun:
        """A study's unit."""
        return cls(problem.id, probes_of(record.probes), [path.answer for path in record.paths],
                   lambda answer: task.grade(problem, answer), lambda answers: task.groups(problem, answers))

    def is_right(self, answer: str | None) -> bool:
        if answer is None:
            return False
        if answer not in self._right:
            self._right[answer] = self.right(answer)
        return self._right[answer]

    def agree(self, one: str | None, other: str | None) -> bool:
        return one == other or (one is not None and other is not None and self._numbers[one] == self._numbers[other])

    @cached_property
    def _right(self) -> dict[str, bool]:
        return {}

    @cached_property
    def _numbers(self) -> dict[str, int]:
        """One for all answers that are one."""
        given = list(dict.fromkeys(answer for answer in (*(probe.answer for probe in self.probes), *self.answers)
                                   if answer is not None))
        return {given[place]: number for number, places in enumerate(self.groups(given)) for place in places}

    def probe(self, kind: str, path: int, block: int) -> Probe | None:
        return next((one for one in self.probes if (one.kind, one.path, one.block) == (kind, path, block)), None)

    def standing(self, path: int, block: int) -> str | None:
        """What a path would have answered when a block's comments were read; one that had ended stands by its answer."""
        probe = standing(self.probes, path, block)
        return None if probe is None else self.answers[path] if probe.kind == "end" else probe.answer

    def communications(self, kind: Literal["after", "placebo", "alone"] = "after") -> list[Communication]:
        """One for each path and block at which it read a peer; by ``kind`` in place of the probes after the comment."""
        found = []
        for probe in self.probes:
            before = None if probe.block is None else self.probe("before", probe.path, probe.block)
            if probe.kind == kind and probe.block is not None and before is not None and probe.peers:
                theirs = [self.standing(peer, probe.block) for peer in probe.peers]
                later = [one.answer for peer in probe.peers for one in [self.probe("alone", peer, probe.block)] if one]
                found.append(Communication(
                    probe.block, probe.path, self._type(before.answer, probe.answer, theirs, later),
                    self.is_right(before.answer), self.is_right(probe.answer), len(theirs),
                    sum(not self.is_right(answer) for answer in theirs)))
        return found

    def _type(self, before: str | None, after: str | None, peers: Sequence[str | None], later: Sequence[str | None]) -> Type:
        if self.agree(before, after):
            return "consistent" if all(self.agree(before, answer) for answer in peers) else "unaffected"
        return "influenced" if any(self.agree(after, answer) for answer in (*peers, *later)) else "changed"

    def answers_at(self, own_tokens: int) -> list[tuple[str | None, str | None]]:
        """Of each path that has been probed by then: what it would have answered, and what it answers in the end."""
        found = []
        for path, last in enumerate(self.answers):
            mine = [probe for probe in self.probes if probe.path == path and probe.own_tokens <= own_tokens]
            shares = [probe for probe in mine if probe.kind == "share"]
            if any(probe.kind == "end" for probe in mine):
                found.append((last, last))
            elif shares:
                found.append((max(shares, key=lambda probe: probe.own_tokens).answer, last))
        return found

    def influence(self, block: int, against: Literal["placebo", "alone", "before"] = "placebo") -> np.ndarray:
        """[paths, paths] in nats: how much likelier path i gives peer j's answer for having read the comment of a block.

        Peer j's answer is that before its own comment. NaN where i did not read j, or this was not scored.

        Args:
            against: what it would be otherwise: after a placebo comment, after none, or just before the comment.
        """
        matrix = np.full((len(self.answers), len(self.answers)), np.nan)
        for probe in self.probes:
            other = self.probe(against, probe.path, block)
            if probe.kind == "after" and probe.block == block and other is not None:
                for peer in probe.peers:
                    answer = self.standing(peer, block)
                    if answer in probe.logprobs and answer in other.logprobs:
                        matrix[probe.path, peer] = probe.logprobs[answer] - other.logprobs[answer]
        return matrix


def types(runs: Sequence[ProbedRun], kind: Literal["after", "placebo", "alone"] = "after",
          block: int | None = None) -> dict[Type, Estimate | None]:
    """The share of each type (the paper's Figure 9, without a judge), at one block or at all."""
    def those(type: Type) -> Callable[[ProbedRun], list[bool]]:
        return lambda run: [one.type == type for one in run.communications(kind) if block in (None, one.block)]

    return {type: _share(runs, those(type)) for type in TYPES}


def transitions(runs: Sequence[ProbedRun]) -> dict[str, Estimate | None]:
    """From right (C) or wrong (I) before a path's first comment to right or wrong in the end (the paper's Figure 13)."""
    def those(change: tuple[bool, bool]) -> Callable[[ProbedRun], list[bool]]:
        return lambda run: [(run.is_right(probe.answer), run.is_right(run.answers[probe.path])) == change
                            for probe in run.probes if probe.kind == "before" and probe.block == 0]

    return {name: _share(runs, those(change)) for name, change in CHANGES.items()}


def propagation(runs: Sequence[ProbedRun]) -> dict[int, Estimate | None]:
    """By how many of the peers that it reads are wrong: the share of right paths that are wrong once they have read them."""
    def those(wrong: int) -> Callable[[ProbedRun], list[bool]]:
        return lambda run: [not one.right_after for one in run.communications()
                            if one.right_before and one.wrong_peers == wrong]

    most = max((one.wrong_peers for run in runs for one in run.communications()), default=-1)
    return {wrong: _share(runs, those(wrong)) for wrong in range(most + 1)}


def mean_influence(runs: Sequence[ProbedRun],
                   against: Literal["placebo", "alone", "before"] = "placebo") -> Estimate | None:
    """Nats, of ``ProbedRun.influence`` over pairs whose answers differ: the mean over problems of each one's mean."""
    values: dict[str, list[float]] = {}
    for run in runs:
        for block in sorted({probe.block for probe in run.probes if probe.block is not None}):
            matrix = run.influence(block, against)
            values.setdefault(run.problem, []).extend(
                matrix[path, peer] for path, peer in zip(*np.nonzero(~np.isnan(matrix)), strict=True)
                if not run.agree(run.standing(path, block), run.standing(peer, block)))
    means = [float(np.mean(theirs)) for theirs in values.values() if theirs]
    return estimate(np.array(means)) if means else None


class Commitment(NamedTuple):
    """Shares of paths that would answer, after some own tokens, as they do in the end, and rightly."""

    committed: Estimate | None
    right: Estimate | None


def commitment(runs: Sequence[ProbedRun]) -> dict[int, Commitment]:
    """By own tokens, at which paths were probed; one that has ended by then counts with its answer."""
    places = sorted({probe.own_tokens for run in runs for probe in run.probes if probe.kind == "share"})

    def committed(own_tokens: int) -> Callable[[ProbedRun], list[bool]]:
        return lambda run: [run.agree(answer, last) for answer, last in run.answers_at(own_tokens)]

    def right(own_tokens: int) -> Callable[[ProbedRun], list[bool]]:
        return lambda run: [run.is_right(answer) for answer, _ in run.answers_at(own_tokens)]

    return {place: Commitment(_share(runs, committed(place)), _share(runs, right(place))) for place in places}


def _share(runs: Sequence[ProbedRun], cases: Callable[[ProbedRun], Sequence[bool]]) -> Estimate | None:
    """Of a run's cases, over all problems; runs on one problem go together."""
    counts: dict[str, list[bool]] = {}
    for run in runs:
        counts.setdefault(run.problem, []).extend(cases(run))
    return share(np.array([(sum(theirs), len(theirs)) for theirs in counts.values()]))
