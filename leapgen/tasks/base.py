"""A problem; and a task: problems, and how their answers are graded."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from leapgen.answers import Grader, grader


@dataclass(frozen=True)
class Problem:
    """A question and the answer it should get.

    Args:
        id: tells it from the others of its task.
        grader: who says whether an answer is the expected one: ``leapgen.answers.grader`` has the names.
        details: what the task keeps beside it; not compared. ``choices`` are the texts by letter, for the grader ``choice``.
    """

    id: str
    question: str
    answer: str
    grader: str = "exact"
    details: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def is_solved_by(self, answer: str | None) -> bool:
        """Whether an answer is the expected one to this problem's grader."""
        return answer is not None and self.by_grader().same(self.answer, answer)

    def by_grader(self) -> Grader:
        return grader(self.grader, self.details.get("choices"))


@dataclass(frozen=True)
class Task:
    """Problems, and how their answers are graded: each by its own grader, unless a subclass knows better.

    Args:
        name: what ``load_task`` was given.
        source: where the problems come from, so that others can get the same ones: JSON values.

    Attributes:
        leap: changes to ``LeapConfig`` that suit the task.
        words: what carries meaning in a summary, for the placebo that scrambles it; None: any word.

    Raises:
        ValueError, ModuleNotFoundError: a grader is unknown, or not installed; says what to do.
    """

    name: str
    problems: Sequence[Problem]
    source: Mapping[str, Any] = field(default_factory=dict)
    leap: ClassVar[Mapping[str, Any]] = {}
    words: ClassVar[re.Pattern[str] | None] = None

    def __post_init__(self) -> None:
        for name in sorted({problem.grader for problem in self.problems}):
            grader(name)

    def grade(self, problem: Problem, answer: str | None) -> bool:
        """Whether an answer solves one of the task's problems. Never raises; the same for the same answer."""
        return problem.is_solved_by(answer)

    def groups(self, problem: Problem, answers: Sequence[str]) -> list[list[int]]:
        """Places of answers that are one answer, in order of first appearance: what a vote counts."""
        return problem.by_grader().groups(answers)

    def told(self, problem: Problem, answer: str) -> str:
        """The words by which one path tells another an answer that it has found."""
        return boxed(answer)


def boxed(answer: str) -> str:
    return f"The answer is \\boxed{{{answer}}}."
