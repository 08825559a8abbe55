"""Mazes as a task: the same held-out mazes for everybody, graded room by room."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from leapgen.answers.votes import grouped
from leapgen.tasks.base import Problem, Task
from leapgen.tasks.maze.maze import NAMES, Maze, Shape, make_maze
from leapgen.tasks.maze.walk import labels
from leapgen.tasks.naming import config_of

MAZE_SHAPE = Shape(doors=5, corridors=4, length=2)
MAZE_SETTINGS = {"interval": 72, "max_new_tokens": 216, "summary_tokens": 32, "forced_answer_tokens": 16,
                 "written_answer_tokens": 16, "finished_share": True}


@dataclass(frozen=True)
class MazeTask(Task):
    """Mazes that no training text has, numbered ``held-out/0``, ``held-out/1``, ... Right is the whole route."""

    leap: ClassVar[Mapping[str, Any]] = MAZE_SETTINGS
    words: ClassVar[re.Pattern[str]] = re.compile(rf"(?<= )(?:{'|'.join(NAMES)})\b")

    def grade(self, problem: Problem, answer: str | None) -> bool:
        return answer is not None and route(answer) == problem.answer

    def groups(self, problem: Problem, answers: Sequence[str]) -> list[list[int]]:
        """One answer is one route, whatever separates its rooms."""
        return grouped(answers, route)

    def told(self, problem: Problem, answer: str) -> str:
        """A route by the ways that lead there, as the bundled models have it; what is no route, as any answer."""
        maze, rooms = Maze.parse(problem.question), route(answer).split()
        known = rooms and rooms[-1] in maze.rooms and rooms == [*maze.route_to(rooms[-1])]
        return f"found the way: {labels(maze, rooms[1:3])}." if known and len(rooms) > 1 else super().told(problem, answer)


def route(answer: str) -> str:
    return " ".join(re.findall(r"\w+", answer))


def maze_task(name: str, settings: Mapping[str, Any], numbers: range) -> MazeTask:
    """The mazes of these numbers.

    Args:
        settings: fields of ``Shape``; the others are those of ``MAZE_SHAPE``.

    Raises:
        ValueError: a field or value that is not allowed.
    """
    shape: Shape = config_of(Shape, name, settings, asdict(MAZE_SHAPE))
    problems = []
    for number in numbers:
        maze = make_maze(f"held-out/{number}", shape)
        problems.append(Problem(f"held-out/{number}", maze.question, " ".join(maze.solution)))
    return MazeTask(name, problems, {"maze": asdict(shape), "first": numbers.start})
