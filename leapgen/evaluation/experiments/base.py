"""What an experiment is: arms that follow from a plan, a table that follows from what they did, a picture of the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from leapgen.config import LeapConfig
from leapgen.evaluation.arms import Arm
from leapgen.evaluation.figures import Draw
from leapgen.evaluation.results import Table
from leapgen.evaluation.study import Study
from leapgen.tasks.base import Task

SMALL: Mapping[str, Any] = {"n": 16, "problems_limit": 20, "dtype": "float32"}  # on mazes: minutes on two cores
ALONE: Mapping[str, Any] = {"max_blocks": 0, "explain": False}  # LeapConfig.independent's, over any preset


@dataclass(frozen=True)
class Plan:
    """What an experiment is made for.

    Args:
        leap: the settings that arms change: the preset with what the task and the command line change.
        n: paths of a group.
        options: the experiment's own, all of them.
        models: names that arms may use, besides "" for --model.
    """

    task: Task
    leap: LeapConfig
    n: int
    options: Mapping[str, Any] = field(default_factory=dict)
    models: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """A table or figure of the paper as something to run.

    Args:
        source: where in the paper.
        title: what is asked, in one line.
        arms: for a plan.
        summarize: the table of a study whose units are done, or as many as are.
        draw: draws a result into an empty figure.
        size: of the figure, in inches.
        preset: options of ``leapgen eval`` in place of its own defaults.
        by_task: such options by task, over ``preset``.
        options: the experiment's own, with their defaults.
        swept: of the option ``values``: of which type they are, and the least that is allowed.
        problems, paths: the fewest that it makes sense with.
        models: names of further models, by the option that gives them; the first one is needed.
    """

    name: str
    source: str
    title: str
    arms: Callable[[Plan], Sequence[Arm]]
    summarize: Callable[[Study, Plan], Table]
    draw: Draw
    size: tuple[float, float] = (6.4, 3.9)
    preset: Mapping[str, Any] = field(default_factory=dict)
    by_task: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    swept: tuple[type, float] = (int, 1)
    problems: int = 1
    paths: int = 2
    models: tuple[str, ...] = ()

    def defaults(self, task: str) -> dict[str, Any]:
        """What ``leapgen eval``'s options are here, if not given."""
        kind = task.partition("?")[0]
        return {**self.preset, **(SMALL if kind == "maze" else {}), **self.by_task.get(kind, {})}

    def check(self, plan: Plan) -> None:
        """Raises:
            ValueError: the plan lacks what the experiment needs; says what to do.
        """
        if len(plan.task.problems) < self.problems:
            raise ValueError(f"experiment {self.name} needs at least {self.problems} problems; {plan.task.name} has "
                             f"{len(plan.task.problems)}. Choose a larger --problems-limit, or other --problems.")
        if plan.n < self.paths:
            raise ValueError(f"experiment {self.name} needs at least {self.paths} paths; --n is {plan.n}.")
        kind, least = self.swept
        for value in plan.options.get("values") or ():
            if value < least or value != kind(value):
                raise ValueError(f"--values {value} is not allowed: experiment {self.name} takes "
                                 f"{'integers' if kind is int else 'numbers'} >= {least}.")
        if self.models and self.models[0] not in plan.models:
            raise ValueError(f"experiment {self.name} needs a further model: name it by --{self.models[0]}.")
