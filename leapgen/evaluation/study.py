"""A study: arms x problems x groups on a folder that any number of processes work on."""

from __future__ import annotations

import functools
import gzip
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from leapgen.evaluation.claims import Claims
from leapgen.evaluation.definition import defined, join, read
from leapgen.evaluation.design import Arm, depths
from leapgen.evaluation.grading import Grading
from leapgen.evaluation.parts import Parts
from leapgen.evaluation.records import Record
from leapgen.evaluation.settings import StudySettings
from leapgen.evaluation.units import Unit
from leapgen.evaluation.worker import Standing, Worker
from leapgen.generator import LeapGenerator
from leapgen.pretrained import load_tokenizer
from leapgen.record.files import save_bytes
from leapgen.record.run import LeapOutput
from leapgen.tasks.base import Problem, Task


class Study:
    """Arms x problems x groups on a folder; ``create`` makes or joins one to work on, ``open`` reads one.

    The folder::

        study.json          all settings; another study's are refused
        claims/             UNIT.GENERATION: who works on a unit; its modification time is the heartbeat
        parts/WORKER.jsonl  finished units, a line each
        runs/UNIT.json.gz   the whole run of a unit
        report/             numbers, tables and figures

    """

    def __init__(self, folder: Path, task: Task, arms: Sequence[Arm], settings: StudySettings) -> None:
        self.folder, self.task, self.arms, self.settings = folder, task, list(arms), settings
        self.parts = Parts(folder / "parts")
        self._can_work = True

    @classmethod
    def create(cls, folder: str | os.PathLike[str], task: Task, arms: Sequence[Arm], settings: StudySettings) -> Study:
        """A study to work on. The folder may be new, or hold what other processes have done of it.

        Raises:
            ValueError: the folder holds a study of other settings (says which), or something else; two arms have one name;
                an arm comes after one that is not there, or after itself.
        """
        join(Path(folder), defined(task, arms, settings))
        return cls(Path(folder), task, arms, settings)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Study:
        """A study to read: records, outputs, what is missing.

        Its task has the problems alone, and its arms no ``prepare``; ``protocol`` is LeaP's. So it cannot be worked on.

        Raises:
            ValueError: the folder holds no study.
        """
        study = cls(Path(folder), *read(Path(folder)))
        study._can_work = False
        return study

    # -- what there is ------------------------------------------------------------------------------------------------

    @property
    def problems(self) -> Sequence[Problem]:
        return self.task.problems

    @functools.cached_property
    def units(self) -> list[Unit]:
        """All there are: by arm, problem, group."""
        return [Unit(arm.name, problem.id, group) for arm in self.arms for problem in self.problems
                for group in range(self.settings.groups)]

    def arm(self, name: str) -> Arm:
        """Raises:
            KeyError: the study has none of that name.
        """
        return self._arms[name]

    def problem(self, id: str) -> Problem:
        """Raises:
            KeyError: the study has none of that id.
        """
        return self._problems[id]

    def records(self, arm: str | None = None) -> list[Record]:
        """Of finished units as they are on disk now, of one arm or of all, in the order of ``units``."""
        self.parts.refresh()
        return [self.parts[unit] for unit in self.units if unit in self.parts and arm in (None, unit.arm)]

    def output(self, unit: Unit) -> LeapOutput:
        """The whole run of a finished unit.

        Raises:
            FileNotFoundError: it is not finished, or there was nothing to run.
        """
        with gzip.open(self._run_file(unit)) as file:
            return LeapOutput.from_dict(json.loads(file.read()))

    def missing(self) -> list[Unit]:
        """Units that are not finished, in the order in which they are to be done: group by group, earlier arms first."""
        self.parts.refresh()
        return [unit for unit in self._in_order if unit not in self.parts]

    # -- work -------------------------------------------------------------------------------------------------------

    def work(self, load: Callable[[str], LeapGenerator], *, at_once: int = 4, stale: float = 120.0,
             watch: Callable[[Standing], None] | None = None) -> None:
        """Claims units and runs them until all are finished, here or elsewhere.

        Args:
            load: gives the generator of a model's name. One is kept at a time.
            at_once: units in flight together.
            stale: seconds without a heartbeat after which a unit is taken from whoever claimed it.
            watch: called after every step of the engine, and while waiting for others.

        Raises:
            ValueError: the study was opened to be read, or the tokenizer to count with cannot be loaded.
            UnitFailed: a unit cannot be run; says which, and why.
        """
        if not self._can_work:
            raise ValueError(f"{self.folder} was opened to be read; Study.create makes a study to work on.")
        self._grading  # noqa: B018  a tokenizer that cannot be loaded is said before any work
        with Claims(self.folder / "claims", stale) as claims:
            Worker(self, claims, load, at_once, watch).work()

    def begun(self) -> list[Unit]:
        """Those of ``missing`` whose arm's earlier arms are done, as the parts last read say."""
        missing = [unit for unit in self._in_order if unit not in self.parts]
        unfinished = {unit.arm for unit in missing}
        ready = {arm.name for arm in self.arms if unfinished.isdisjoint(arm.after)}
        return [unit for unit in missing if unit.arm in ready]

    def model(self, unit: Unit) -> str:
        """What ``load`` is given for a unit."""
        name = self.arm(unit.arm).model
        return self.settings.models[name] if name else self.settings.model

    def prepared(self, unit: Unit) -> Mapping[str, Any] | None:
        """What follows for a unit from earlier arms; None: there is nothing to run."""
        prepare = self.arm(unit.arm).prepare
        return {} if prepare is None else prepare(self, self.problem(unit.problem), unit.group)

    def arguments(self, unit: Unit, prepared: Mapping[str, Any]) -> dict[str, Any]:
        """What a unit asks of ``LeapGenerator.stream``."""
        arm = self.arm(unit.arm)
        return {"prompt": self.problem(unit.problem).question, "n": arm.n or self.settings.n,
                "seed": unit.seed(self.settings.seed), "leap": self.settings.leap.replace(**arm.leap),
                "protocol": arm.protocol, **self.settings.sampling, **arm.sampling, **prepared}

    def keep(self, unit: Unit, prepared: Mapping[str, Any] | None, output: LeapOutput | None) -> Record:
        """Saves a unit's whole run and says what is recorded of it; without a run, there was nothing to do."""
        if output is None:
            return Record(unit.arm, unit.problem, unit.group, unit.seed(self.settings.seed))
        data = json.dumps(output.to_dict(), ensure_ascii=False).encode()
        self._run_file(unit).parent.mkdir(exist_ok=True)
        save_bytes(gzip.compress(data, 6, mtime=0), self._run_file(unit))
        return self._grading.record(unit, self.problem(unit.problem), output, prepared or {})

    @functools.cached_property
    def _grading(self) -> Grading:
        return Grading(self.task, self.settings, _counter(self.settings.count_with))

    @functools.cached_property
    def _arms(self) -> dict[str, Arm]:
        return {arm.name: arm for arm in self.arms}

    @functools.cached_property
    def _problems(self) -> dict[str, Problem]:
        return {problem.id: problem for problem in self.problems}

    @functools.cached_property
    def _in_order(self) -> list[Unit]:
        depth = depths(self.arms)
        place = {problem.id: place for place, problem in enumerate(self.problems)}
        return sorted(self.units, key=lambda unit: (depth[unit.arm], unit.group, place[unit.problem]))

    def _run_file(self, unit: Unit) -> Path:
        return self.folder / "runs" / f"{unit.name}.json.gz"


def _counter(name: str | None) -> Callable[[str], int] | None:
    """Counts a text's tokens by the tokenizer of a model's name."""
    if name is None:
        return None
    tokenizer = load_tokenizer(name)
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False))
