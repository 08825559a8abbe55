"""Runs on disk while they go on, so that a killed process loses a block or a minute at most."""

from __future__ import annotations

import os
import time
from pathlib import Path

from leapgen.events import BlockEvent, OutputEvent, StreamEvent
from leapgen.session import Run

EVERY = 60.0  # seconds between two saves at most
SHARE = 0.05  # of the time that saving by the clock may take


class Checkpoint:
    """Saves a run's outputs at its start, at every block, every minute and at the end of each question.

    Args:
        target: a file for a run of one question; for several a folder, which gets ``0.json``, ``1.json``, ...

    Raises:
        ValueError: the target is of the wrong kind, or lies in a folder that does not exist.
        OSError: it cannot be written; what was saved before stays.
    """

    def __init__(self, run: Run, target: str | os.PathLike, several: bool = False) -> None:
        self._run, self._target, self._several = run, Path(target), several
        if self._target.is_dir() > several or (self._target.is_file() and several):
            raise ValueError(f"checkpoint {target} must be {'a folder' if several else 'a file'}: "
                             f"{'there are several questions' if several else 'there is one question'}.")
        if not self._target.absolute().parent.is_dir():
            raise ValueError(f"checkpoint {target}: its folder does not exist.")
        if several:
            self._target.mkdir(exist_ok=True)
        self.save()

    def file(self, question: int) -> Path:
        """Where a question's output is."""
        return self._target / f"{question}.json" if self._several else self._target

    def update(self, event: StreamEvent) -> None:
        """Saves what an event, or the clock, makes due."""
        if isinstance(event, OutputEvent):
            event.output.save(self.file(event.question))
        elif isinstance(event, BlockEvent):
            self._run.output(event.question).save(self.file(event.question))
        elif time.monotonic() >= self._due:
            self.save()

    def save(self) -> None:
        """Saves every question as it stands."""
        began = time.monotonic()
        for question, output in enumerate(self._run.outputs()):
            output.save(self.file(question))
        ended = time.monotonic()
        self._due = ended + max(EVERY, (ended - began) / SHARE)
