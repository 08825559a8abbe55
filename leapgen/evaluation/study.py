"""A study: arms x problems x groups on a folder that any number of processes work on."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from leapgen.evaluation.arms import Arm
from leapgen.evaluation.records import Record
from leapgen.evaluation.settings import StudySettings
from leapgen.evaluation.units import Unit
from leapgen.generator import LeapGenerator
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

    ``settings`` of a study that was opened hold no callables, and its arms no ``protocol`` and ``prepare`` but those that
    ``arm`` finds by their names.
    """

    folder: Path
    task: Task
    arms: list[Arm]
    settings: StudySettings

    @classmethod
    def create(cls, folder: str | os.PathLike[str], task: Task, arms: Sequence[Arm], settings: StudySettings) -> Study:
        """A study to work on. The folder may be new, or hold what other processes have done of it.

        Raises:
            ValueError: the folder holds a study of other settings (says which), or something else; two arms have one name;
                an arm comes after one that is not there, or after itself.
        """
        raise NotImplementedError

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Study:
        """A study to read: records, outputs, what is missing. Its task grades by problems' own graders alone.

        Raises:
            ValueError: the folder holds no study.
        """
        raise NotImplementedError

    @property
    def problems(self) -> Sequence[Problem]:
        return self.task.problems

    @property
    def units(self) -> list[Unit]:
        """All there are: by arm, problem, group."""
        raise NotImplementedError

    def arm(self, name: str) -> Arm:
        """Raises:
            KeyError: the study has none of that name.
        """
        raise NotImplementedError

    def records(self, arm: str | None = None) -> list[Record]:
        """Of finished units as they are on disk now, of one arm or of all, in the order of ``units``."""
        raise NotImplementedError

    def output(self, unit: Unit) -> LeapOutput:
        """The whole run of a finished unit.

        Raises:
            FileNotFoundError: it is not finished, or there was nothing to run.
        """
        raise NotImplementedError

    def missing(self) -> list[Unit]:
        """Units that are not finished, in the order in which they are to be done."""
        raise NotImplementedError

    def work(self, load: Callable[[str], LeapGenerator], *, at_once: int = 4, stale: float = 120.0) -> None:
        """Claims units and runs them until all are finished, here or elsewhere.

        Args:
            load: gives the generator of a model's name. One is loaded at a time.
            at_once: units in flight together.
            stale: seconds without a heartbeat after which a unit is taken from whoever claimed it.
        """
        raise NotImplementedError
