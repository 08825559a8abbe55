"""Studies made by hand: records with known answers, in place of runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from leapgen.config import LeapConfig
from leapgen.evaluation.experiments import Experiment, Plan
from leapgen.evaluation.records import PathRecord, Record
from leapgen.evaluation.settings import StudySettings
from leapgen.evaluation.units import Unit
from leapgen.record.run import LeapOutput, PathOutput, Segment
from leapgen.tasks.base import Problem, Task

TAKEN = [{"kind": kind, "path": path, "own_tokens": 72 * block + 72, "block": block, "peers": [1 - path], "answer": "yes"}
         for block in (0, 1) for path in (0, 1) for kind in ("before", "after")]
MAZE = LeapConfig(interval=72, max_new_tokens=216)


@dataclass
class Synthetic:
    """What an experiment asks of a study, from memory."""

    task: Task
    made: list[Record] = field(default_factory=list)
    outputs: dict[Unit, LeapOutput] = field(default_factory=dict)
    settings: StudySettings = field(default_factory=lambda: StudySettings("maze"))
    folder: Path = Path("nowhere")

    @property
    def problems(self) -> Sequence[Problem]:
        return self.task.problems

    def records(self, arm: str | None = None) -> list[Record]:
        return [record for record in self.made if arm in (None, record.arm)]

    def output(self, unit: Unit) -> LeapOutput:
        return self.outputs[unit]


def task(problems: int, name: str = "maze") -> Task:
    return Task(name, [Problem(str(i), f"question {i}", "yes") for i in range(problems)])


def plan(experiment: Experiment, problems: int = 4, n: int = 16, leap: LeapConfig = MAZE, models: Sequence[str] = (),
         **options: object) -> Plan:
    return Plan(task(problems), leap, n, {**experiment.options, **options}, {name: name for name in models})


def record(arm: str, problem: object, rights: str, *, group: int = 0, own: int = 10, aha: int = 0, vote: bool | None = None,
           shortest: bool | None = None, seed: int = 7, probes: dict | None = None, **tokens: int) -> Record:
    """``rights``: a path a letter, ``+`` for right. Every path has the same tokens."""
    paths = [PathRecord("yes" if letter == "+" else "no", letter == "+", "stop", {"own": own, **tokens}, aha)
             for letter in rights]
    vote = rights.count("+") * 2 > len(rights) if vote is None else vote
    return Record(arm, str(problem), group, seed, paths, "yes" if vote else "no", vote, None,
                  vote if shortest is None else shortest, probes=probes or {})


def output(tokens: Sequence[Sequence[int]]) -> LeapOutput:
    """A run whose paths reasoned these tokens."""
    return LeapOutput("question", [PathOutput(i, [Segment("prompt", [1]), Segment("own", list(own)), Segment("answer", [9])])
                                   for i, own in enumerate(tokens)])


def everything(experiment: Experiment, made: Plan, right: Callable[[str, int, int], bool] = lambda arm, problem, path: True,
               groups: int = 2) -> Synthetic:
    """A study in which every arm of an experiment has run on every problem."""
    records = [record(arm.name, problem, "".join("-+"[right(arm.name, problem, path)] for path in range(arm.n or made.n)),
                      group=group, own=20 + problem, summary=3, comment=5, answer=2, aha=1, probes={"taken": TAKEN})
               for arm in experiment.arms(made) for problem in range(len(made.task.problems)) for group in range(groups)]
    return Synthetic(made.task, records)
