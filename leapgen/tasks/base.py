"""A stand-in until the tasks are here: problems, and a task that grades them by their own rule."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leapgen.answers import normalize_answer
from leapgen.tasks.problems import Problem, load_problems


class Task:
    """Problems and how answers to them are graded."""

    leap: Mapping[str, Any] = {}
    words: re.Pattern[str] | None = None

    def __init__(self, name: str, problems: Sequence[Problem]) -> None:
        self.name, self.problems = name, problems

    def grade(self, problem: Problem, answer: str | None) -> bool:
        return problem.is_solved_by(answer)

    def groups(self, problem: Problem, answers: Sequence[str]) -> list[list[int]]:
        places: dict[str, list[int]] = {}
        for place, answer in enumerate(answers):
            places.setdefault(normalize_answer(answer), []).append(place)
        return list(places.values())


def load_task(name: str, *, problems: int | None = None, first: int = 0, seed: int = 0, data: Path | None = None) -> Task:
    if name == "maze":
        from leapgen.tasks.maze import Shape, make_maze

        mazes = [make_maze(f"held-out/{i}", Shape(5, 4, 2)) for i in range(first, first + (problems or 100))]
        task = Task(name, [Problem(str(first + i), maze.question, " ".join(maze.solution)) for i, maze in enumerate(mazes)])
        task.leap = {"interval": 72, "max_new_tokens": 216, "summary_tokens": 32, "forced_answer_tokens": 16,
                     "written_answer_tokens": 16, "finished_share": True}
        return task
    return Task(name, load_problems(name)[first : None if problems is None else first + problems])
