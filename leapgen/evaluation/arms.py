"""Arms of a study: ways to answer, each told by changes to the study's settings, a protocol, or a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from leapgen.evaluation.records import Record
from leapgen.evaluation.units import Unit
from leapgen.protocol.base import Method
from leapgen.protocol.leap import Leap
from leapgen.record.run import LeapOutput
from leapgen.tasks.base import Problem, Task


class Finished(Protocol):
    """What ``Arm.prepare`` gets: the study, with the units of earlier arms done. ``leapgen.evaluation.study.Study`` is one."""

    @property
    def task(self) -> Task: ...

    @property
    def problems(self) -> Sequence[Problem]: ...

    def records(self, arm: str | None = None) -> list[Record]:
        """Of finished units, in the order of the study's units."""

    def output(self, unit: Unit) -> LeapOutput:
        """The whole run of a finished unit."""


Prepare = Callable[[Finished, Problem, int], Mapping[str, Any] | None]


@dataclass(frozen=True)
class Arm:
    """One way to answer.

    Args:
        name: unique in a study; ``arm`` reads it as settings.
        leap: changes to the study's ``LeapConfig``.
        sampling: changes to the study's sampling options.
        protocol: how the paths of a group work together.
        model: which of the study's ``models``; "" is its ``model``.
        n: paths in a group, where it is not the study's number.
        after: names of arms whose units must all be done before one of this arm's can begin.
        prepare: called with the study, a problem and a group when they are: arguments for ``LeapGenerator.stream`` that
            follow from them (``beginning``, ``max_new_tokens``, ``protocol``, ...). It must follow from finished units alone:
            every process has to come to the same. None: there is nothing to run for this unit.
    """

    name: str
    leap: Mapping[str, Any] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    protocol: Method = Leap
    model: str = ""
    n: int | None = None
    after: tuple[str, ...] = ()
    prepare: Prepare | None = None


def arm(text: str) -> Arm:
    """The arm that a text tells: ``NAME`` or ``NAME:FIELD=VALUE,...``.

    NAME is one of ``KINDS`` (leap, independent, presets of ``LeapConfig``, placebos) or ``equal:ARM``: independent paths with
    the budget at which they spend as many tokens as ARM's paths do. FIELD is a field of ``LeapConfig`` or
    ``SamplingConfig``, ``model`` or ``n``; numbers of a tuple are joined by ``+``.

    Raises:
        ValueError: an unknown name or field (the nearest are named), or a value that is not allowed.
    """
    raise NotImplementedError


def arms(texts: str | Sequence[str]) -> list[Arm]:
    """Arms by texts (one text may hold several, joined by commas), with those that they come after put before them."""
    raise NotImplementedError
