"""Runs saved while they go on, so that a killed process loses at most a block or a minute."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from leapgen.record.events import BlockEvent, OutputEvent, StreamEvent
from leapgen.record.run import LeapOutput

EVERY = 60.0  # seconds between two saves at most
SHARE = 0.03  # of the time that saving by the clock may take
log = logging.getLogger(__name__)


class Unfinished(Protocol):
    """What can be saved at any time, such as a ``leapgen.Run``."""

    def outputs(self) -> list[LeapOutput]:
        """Each question's output as it stands now."""

    def output(self, question: int) -> LeapOutput:
        """One question's output as it stands now."""


class Checkpoints:
    """Saves a run's outputs: at its start, at every block, every minute, and each as soon as it is done.

    A save that fails during the run is reported once, and tried again a minute later and at the end: the disk may have
    space by then.

    Args:
        files: one for each question.
        made_with: added to each ``LeapOutput.made_with``.
        warn: reports a save that failed.

    Raises:
        OSError: not even the start can be saved.
    """

    def __init__(self, run: Unfinished, files: Sequence[Path], made_with: Mapping[str, Any] | None = None,
                 warn: Callable[[str], None] = log.warning) -> None:
        self._run, self._files, self._made_with, self._warn = run, files, made_with or {}, warn
        self._ended: set[int] = set()  # questions whose last state is on disk
        self._failed = False
        self._due = 0.0  # when the clock next asks for a save
        self._save_all()

    def update(self, event: StreamEvent) -> None:
        """Saves if an event or the clock says so."""
        try:
            if isinstance(event, OutputEvent):
                self._save(event.question, event.output)
                self._ended.add(event.question)
            elif isinstance(event, BlockEvent) and not self._failed:
                self._save(event.question, self._run.output(event.question))
            elif time.monotonic() >= self._due:
                self._save_all()
                self._failed = False
        except OSError as error:
            self._due = time.monotonic() + EVERY
            if not self._failed:
                self._failed = True
                self._warn(f"not saved for now: {error}. What was saved before is still there; the run goes on.")

    def finish(self) -> None:
        """Saves what is not on disk yet.

        Raises:
            OSError: it cannot be saved; what was saved before stays.
        """
        self._save_all()

    def _save_all(self) -> None:
        began = time.monotonic()
        for question, output in enumerate(self._run.outputs()):
            if question not in self._ended:
                self._save(question, output)
        ended = time.monotonic()
        self._due = ended + max(EVERY, (ended - began) / SHARE)

    def _save(self, question: int, output: LeapOutput) -> None:
        output.made_with.update(self._made_with)
        output.save(self._files[question])


def files_at(target: str | os.PathLike[str], questions: int, several: bool) -> list[Path]:
    """The files of a run: ``target`` itself, or for several questions ``0.json``, ``1.json``, ... in a folder of that name.

    Raises:
        ValueError: the target is of the wrong kind, or lies in a folder that does not exist.
    """
    target = Path(target)
    if target.is_dir() > several or (target.is_file() and several):
        raise ValueError(f"{target} must be {'a folder' if several else 'a file'}: there "
                         f"{'are several questions' if several else 'is one question'}.")
    if not target.absolute().parent.is_dir():
        raise ValueError(f"{target}: its folder does not exist.")
    if not several:
        return [target]
    target.mkdir(exist_ok=True)
    return [target / f"{question}.json" for question in range(questions)]
