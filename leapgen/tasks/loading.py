"""A task by the name a user gives."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

from leapgen.options import did_you_mean
from leapgen.tasks.base import Task
from leapgen.tasks.benchmarks import BENCHMARKS, benchmark_task
from leapgen.tasks.gym.task import gym_task
from leapgen.tasks.maze.task import maze_task
from leapgen.tasks.naming import split_name
from leapgen.tasks.problems import load_problems
from leapgen.validation import is_int, require

GYM = "gym:"
MADE = 100  # problems of a task that can make any number of them, where nobody says how many


def load_task(name: str | os.PathLike[str], *, problems: int | None = None, first: int = 0, seed: int = 0,
              data: str | os.PathLike[str] | None = None) -> Task:
    """Problems, and how their answers are graded.

    Args:
        name: ``maze``, ``gym:NAME`` with a name of reasoning-gym's, ``aime24``, ``aime25``, ``aimo25``, ``gpqa-diamond``,
            ``math500``, ``zebralogic``, or a file that ``leapgen.tasks.problems.load_problems`` reads. ``maze`` and
            ``gym:NAME`` take settings: ``maze?doors=3&length=1``. A name goes before a file of that name; ``./maze`` is
            the file.
        problems: how many; None: all there are, or 100 of those that are made.
        first: number of the first one, from 0.
        seed: of the order of choices, and of what reasoning-gym makes. Mazes are the same for every seed.
        data: a folder of files by a benchmark's name, instead of ``$LEAPGEN_DATA``.

    Raises:
        ValueError: an unknown name or setting, a malformed file, or more problems than there are; says what is allowed.
        OSError: a file cannot be read, or a benchmark is neither here nor to be had; says where to put what.
        ModuleNotFoundError: a package is missing; says how to install it.
    """
    name = os.fspath(name)
    require(problems is None or is_int(problems, 1), "problems", problems, "a number of at least 1, or None for all")
    require(is_int(first, 0), "first", first, "a number of at least 0")
    require(is_int(seed, 0), "seed", seed, "a number of at least 0")
    bare, settings = split_name(name)
    numbers = range(first, first + (problems or MADE))
    if bare == "maze":
        return maze_task(name, settings, numbers)
    if bare.startswith(GYM):
        return gym_task(name, bare.removeprefix(GYM), settings, numbers, seed)
    if name in BENCHMARKS:
        return _part(benchmark_task(name, seed, None if data is None else Path(data)), problems, first)
    return _part(_file_task(name), problems, first)


def _file_task(name: str) -> Task:
    file = Path(name)
    if not name or (not file.exists() and not file.suffix and file.name == name):
        known = ["maze", f"{GYM}NAME", *BENCHMARKS]
        raise ValueError(f"there is no task {name!r}{did_you_mean(name, known)}. Tasks: {', '.join(known)}, or a file.")
    if not file.exists():
        near = did_you_mean(file.name, [other.name for other in file.parent.glob("*")])
        raise FileNotFoundError(f"{file}: there is no such file{near}.")
    problems = load_problems(file)
    return Task(name, problems, {"file": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()})


def _part(task: Task, problems: int | None, first: int) -> Task:
    """The problems asked for.

    Raises:
        ValueError: there are fewer.
    """
    there, wanted = len(task.problems), first + (problems or 1)
    if wanted > there:
        raise ValueError(f"{task.name} has {there} problems; problems={problems} from first={first} would take {wanted}.")
    return replace(task, problems=task.problems[first: None if problems is None else wanted])
