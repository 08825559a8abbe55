"""A process that works on a study: some units in flight together on one engine, others as these end."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from leapgen.evaluation.claims import Claim, Claims
from leapgen.evaluation.parts import Parts
from leapgen.evaluation.records import Record
from leapgen.evaluation.units import Unit
from leapgen.failures import GenerationFailed
from leapgen.generator import LeapGenerator
from leapgen.record.events import OutputEvent, TokenEvent
from leapgen.record.run import LeapOutput
from leapgen.session import Run

LOOK = 1.0  # seconds between two looks at what others do


class UnitFailed(RuntimeError):
    """A unit that could not be run, ``__cause__`` says why. What was finished before is on disk."""

    def __init__(self, unit: Unit, cause: Exception) -> None:
        super().__init__(f"arm {unit.arm}, problem {unit.problem}, group {unit.group}: {cause}")
        self.unit = unit


@dataclass(frozen=True)
class Standing:
    """How far a study is, as one of its workers sees it.

    Args:
        done, total: units, of all workers.
        begun: units that were done when this worker began.
        here: units in flight in this worker; ``elsewhere``: in others.
        tokens: sampled by this worker.
        seconds: since it began.
    """

    done: int
    total: int
    begun: int
    here: int
    elsewhere: int
    tokens: int
    seconds: float

    @property
    def seconds_left(self) -> float | None:
        """At the pace of all workers since this one began; None until a unit is done."""
        done = self.done - self.begun
        return self.seconds * (self.total - self.done) / done if done else None


class Source(Protocol):
    """What a worker needs to know of a study."""

    @property
    def folder(self) -> Path: ...

    @property
    def units(self) -> Sequence[Unit]:
        """All there are."""

    @property
    def parts(self) -> Parts:
        """Those that are finished."""

    def begun(self) -> list[Unit]:
        """Those not finished that can be worked on by now, in the order in which they are to be done."""

    def model(self, unit: Unit) -> str:
        """What ``load`` is to be given for it."""

    def prepared(self, unit: Unit) -> Mapping[str, Any] | None:
        """What follows for it from earlier units; None where there is nothing to run."""

    def arguments(self, unit: Unit, prepared: Mapping[str, Any]) -> Mapping[str, Any]:
        """For ``LeapGenerator.stream``."""

    def keep(self, unit: Unit, prepared: Mapping[str, Any] | None, output: LeapOutput | None) -> Record:
        """Saves the whole run, if there is one, and says what is recorded of it."""


@dataclass
class Flight:
    """A unit in flight."""

    unit: Unit
    claim: Claim
    prepared: Mapping[str, Any]
    run: Run


class Worker:
    """Claims units and runs them until all of a study are finished, here or elsewhere.

    Args:
        load: gives the generator of a model's name; called while no unit is claimed. One is kept at a time, and units of the
            one that is there come first.
        at_once: units in flight together.
        watch: called after every step of the engine, and while waiting for others.
    """

    def __init__(self, source: Source, claims: Claims, load: Callable[[str], LeapGenerator], at_once: int,
                 watch: Callable[[Standing], None] | None = None) -> None:
        self._source, self._claims, self._load, self._at_once = source, claims, load, at_once
        self._watch = watch
        self._flights: list[Flight] = []
        self._loaded: tuple[str, LeapGenerator] | None = None
        self._look_at, self._elsewhere, self._tokens = 0.0, 0, 0
        source.parts.refresh()
        self._begun, self._began = len(source.parts), time.monotonic()

    def work(self) -> None:
        """Returns when every unit is finished.

        Raises:
            UnitFailed: a unit cannot be run; says which, and why. Others' work goes on.
        """
        try:
            while True:
                if time.monotonic() >= self._look_at:
                    self._look()
                if self._flights:
                    self._advance()
                elif len(self._source.parts) == len(self._source.units):
                    return
                elif time.monotonic() < self._look_at:
                    time.sleep(max(self._look_at - time.monotonic(), 0))
                self._tell()
        finally:
            for flight in self._flights:
                flight.run.close()

    # -- what to work on ----------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Sees what others have finished, drops what need not be done any more, and begins as much as can be."""
        parts = self._source.parts
        parts.refresh()
        for flight in [flight for flight in self._flights if flight.unit in parts]:  # taken over while we were suspended
            flight.run.close()
            self._end(flight)
            self._claims.drop(flight.claim)
        standing = self._claims.look()
        self._elsewhere = sum(live for _, live in standing.values()) - self._claims.held
        self._look_at = time.monotonic() + LOOK
        free = [unit for unit in self._source.begun() if not standing.get(unit.name, (0, False))[1]]
        name = None if self._loaded is None else self._loaded[0]
        if free and not self._flights and name not in [self._source.model(unit) for unit in free]:
            name = self._source.model(free[0])
            self._loaded = None
            gc.collect()
            self._loaded = name, self._load(name)
            self._look_at = 0.0  # that took a while
            return
        for unit in free:
            if len(self._flights) < self._at_once and self._source.model(unit) == name:
                self._begin(unit, standing)

    def _begin(self, unit: Unit, standing: dict[str, tuple[int, bool]]) -> None:
        claim = self._claims.take(unit.name, standing)
        if claim is None:
            return
        self._source.parts.refresh()  # who finishes a unit writes its record before the claim is dropped
        if unit in self._source.parts:
            self._claims.drop(claim)
            return
        assert self._loaded is not None
        try:
            prepared = self._source.prepared(unit)
            if prepared is None:
                self._finish(claim, self._source.keep(unit, None, None))
                return
            run = self._loaded[1].stream(**self._source.arguments(unit, prepared))
            self._flights.append(Flight(unit, claim, prepared, run))
        except ValueError as error:
            raise UnitFailed(unit, error) from error

    # -- units in flight ----------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """One step of the engine, which moves all units in flight, and everything that came of it."""
        waiting = [flight for flight in self._flights if not flight.run.ready]
        if waiting:
            self._take(waiting[0])
        for flight in list(self._flights):
            while flight in self._flights and flight.run.ready:
                self._take(flight)

    def _take(self, flight: Flight) -> None:
        """Takes one event of a unit's run."""
        try:
            event = next(flight.run)
        except GenerationFailed as failed:
            raise UnitFailed(flight.unit, failed) from failed
        if isinstance(event, TokenEvent):
            self._tokens += 1
        elif isinstance(event, OutputEvent):
            self._end(flight)
            self._finish(flight.claim, self._source.keep(flight.unit, flight.prepared, event.output))

    def _end(self, flight: Flight) -> None:
        self._flights.remove(flight)
        self._look_at = 0.0

    def _finish(self, claim: Claim, record: Record) -> None:
        """Records a unit, unless somebody else has: then that record stands."""
        parts = self._source.parts
        parts.refresh()
        if record.unit not in parts:
            parts.append(self._claims.worker, claim.generation, record)
            parts.refresh()
        self._claims.drop(claim)

    def _tell(self) -> None:
        if self._watch is not None:
            self._watch(Standing(len(self._source.parts), len(self._source.units), self._begun, len(self._flights),
                                 self._elsewhere, self._tokens, time.monotonic() - self._began))
