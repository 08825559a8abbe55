"""A task: problems, and how their answers are graded."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from leapgen.answers import grader
from leapgen.tasks.problems import Problem


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
