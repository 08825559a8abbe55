"""From a unit's run to its record: answers graded, votes taken, tokens and turns of thought counted."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from leapgen.evaluation.records import PathRecord, Record
from leapgen.evaluation.settings import StudySettings
from leapgen.evaluation.units import Unit
from leapgen.record.run import LeapOutput, PathOutput
from leapgen.tasks.base import Problem, Task

OWN_WORDS = ("own", "answer")
LONGEST = 1000  # characters of a prepared value; of longer ones a record has a digest


class Grading:
    """Grades the runs of a study.

    Args:
        count: tokens of a text in the study's ``count_with``; None without one.
    """

    def __init__(self, task: Task, settings: StudySettings, count: Callable[[str], int] | None = None) -> None:
        self._task, self._count = task, count
        words = sorted(settings.aha, key=len, reverse=True)
        self._aha = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)", re.IGNORECASE) if words else None

    def record(self, unit: Unit, problem: Problem, output: LeapOutput, prepared: Mapping[str, Any]) -> Record:
        """What is kept of a run; ``prepared`` is what followed for it from earlier arms."""
        votes = Votes(self._task, problem)
        majority, shortest = output.majority(votes), output.shortest_majority(votes)
        counts = dataclasses.asdict(output.ledger)
        seconds = counts.pop("seconds")
        return Record(
            unit.arm, unit.problem, unit.group, output.seed, [self._path(problem, path) for path in output.paths],
            majority, self._right(problem, majority), shortest, self._right(problem, shortest), len(output.blocks),
            {name: _brief(value) for name, value in prepared.items()}, output.probes, counts, seconds)

    def _path(self, problem: Problem, path: PathOutput) -> PathRecord:
        tokens, counted = Counter[str](), Counter[str]()
        for segment in path.segments:
            tokens[segment.kind] += len(segment.token_ids)
            if self._count is not None and segment.kind != "prompt":
                counted[segment.kind] += self._count(segment.text)
        own = "\n".join(segment.text for segment in path.segments if segment.kind in OWN_WORDS)
        aha = len(self._aha.findall(own)) if self._aha else 0
        return PathRecord(path.answer, self._right(problem, path.answer), path.finish_reason or "", dict(tokens), aha,
                          path.votes, dict(counted))

    def _right(self, problem: Problem, answer: str | None) -> bool:
        return answer is not None and self._task.grade(problem, answer)


@dataclass(frozen=True)
class Votes:
    """The grader of one problem's votes, as ``LeapOutput.majority`` takes one."""

    task: Task
    problem: Problem
    name: str = "task"

    def same(self, expected: str, answer: str) -> bool:
        return len(self.groups([expected, answer])) == 1

    def groups(self, answers: Sequence[str]) -> list[list[int]]:
        return self.task.groups(self.problem, answers)


def _brief(value: Any) -> Any:
    """As JSON; of a callable its name, of what is long a digest."""
    if callable(value):
        function = getattr(value, "func", value)  # of a partial
        return getattr(function, "__qualname__", type(function).__name__)
    text = json.dumps(value, default=lambda item: _brief(item) if callable(item) else str(item))
    if len(text) > LONGEST:
        return {"characters": len(text), "sha256": hashlib.sha256(text.encode()).hexdigest()}
    return json.loads(text)
