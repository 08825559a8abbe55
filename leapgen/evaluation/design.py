"""The design of a study: its arms, and which of them come after others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from leapgen.evaluation.records import Record
from leapgen.evaluation.settings import StudySettings
from leapgen.evaluation.units import Unit
from leapgen.protocol.base import Method
from leapgen.protocol.leap import Leap
from leapgen.record.run import LeapOutput
from leapgen.tasks.base import Problem, Task


class Finished(Protocol):
    """What ``Arm.prepare`` gets: the study (``leapgen.evaluation.study.Study``), with the units of earlier arms done."""

    @property
    def folder(self) -> Path: ...

    @property
    def settings(self) -> StudySettings: ...

    @property
    def task(self) -> Task: ...

    @property
    def problems(self) -> Sequence[Problem]: ...

    def arguments(self, unit: Unit, prepared: Mapping[str, Any]) -> dict[str, Any]:
        """What a unit asks of ``LeapGenerator.stream``."""

    def records(self, arm: str | None = None) -> list[Record]:
        """Of finished units, in the order of the study's units."""

    def output(self, unit: Unit) -> LeapOutput:
        """The whole run of a finished unit."""


Prepare = Callable[[Finished, Problem, int], Mapping[str, Any] | None]


@dataclass(frozen=True)
class Arm:
    """One way to answer.

    Args:
        name: unique in a study.
        leap: changes to the study's ``LeapConfig``.
        sampling: changes to the study's sampling options.
        protocol: how the paths of a group work together.
        model: which of the study's ``models``; "" is its ``model``.
        n: paths in a group, where it is not the study's number.
        after: names of arms whose units must all be done before one of this arm's can begin.
        prepare: called with the study, a problem and a group when they are: arguments for ``LeapGenerator.stream`` that
            follow from them (``beginning``, ``max_new_tokens``, ``protocol``, ...). They must follow from finished units
            alone: every process has to come to the same. None: there is nothing to run for this unit.
    """

    name: str
    leap: Mapping[str, Any] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    protocol: Method = Leap
    model: str = ""
    n: int | None = None
    after: tuple[str, ...] = ()
    prepare: Prepare | None = None


def depths(arms: Sequence[Arm]) -> dict[str, int]:
    """Of each arm's name, how many arms have to be done before it, one after another.

    Raises:
        ValueError: an arm comes after one that is not there, or after itself.
    """
    known, found = {arm.name: arm for arm in arms}, dict[str, int]()

    def depth(name: str, before: tuple[str, ...]) -> int:
        if name in before:
            raise ValueError(f"arm {name} comes after itself: {' after '.join((*before, name))}.")
        if name not in known:
            raise ValueError(f"arm {before[-1]} comes after {name}, which is not in the study.")
        if name not in found:
            found[name] = max((1 + depth(earlier, (*before, name)) for earlier in known[name].after), default=0)
        return found[name]

    return {arm.name: depth(arm.name, ()) for arm in arms}
