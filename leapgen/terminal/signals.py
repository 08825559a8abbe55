"""Ctrl-C, SIGTERM and SIGHUP: a run that goes on is stopped and kept, anything else is ended."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Protocol

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


class Stoppable(Protocol):
    """A run, or a server."""

    def stop(self) -> None:
        """Asks it to end. Called by a signal handler."""


class Signals:
    """While a command runs, each of the signals raises KeyboardInterrupt, as Ctrl-C does.

    During ``stopping(run)`` none raises: the run is asked to stop, and saving it is not disturbed, however often a signal
    comes. A signal that is ignored (``nohup``) stays so. ``received`` is the first that came.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._run: Stoppable | None = None
        self._before: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    @property
    def status(self) -> int:
        """The exit status of a command that was stopped."""
        return 128 + (self.received or signal.SIGINT)

    @property
    def name(self) -> str:
        return signal.Signals(self.received or signal.SIGINT).name

    @contextmanager
    def stopping(self, run: Stoppable) -> Iterator[None]:
        """For as long as a run goes on and is saved."""
        self._run = run
        try:
            yield
        finally:
            self._run = None

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in NAMES if hasattr(signal, name)):
                handler = signal.getsignal(number)
                if handler not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or number
        if self._run is None:
            raise KeyboardInterrupt
        self._run.stop()
