"""Signals deferred: a step that has begun is finished before Ctrl-C is handled."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]


class Deferred:
    """Defers signals while the ``with`` block runs; their handlers are called at its end.

    The second signal of a kind is not deferred. Only the main thread receives signals; in other threads nothing changes.
    """

    def __init__(self) -> None:
        self.arrived: list[tuple[int, FrameType | None]] = []
        self._handlers: dict[int, Callable[[int, FrameType | None], object]] = {}

    def __enter__(self) -> Deferred:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                handler = signal.getsignal(number)
                if callable(handler):
                    self._handlers[number] = handler
                    signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        for number, frame in self.arrived:
            self._handlers[number](number, frame)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if any(earlier == number for earlier, _ in self.arrived):
            self.arrived.clear()
            self._handlers[number](number, frame)
        self.arrived.append((number, frame))
