"""How far a study is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from leapgen.terminal.progress import EVERY, SHARE, WINDOW, clock
from leapgen.terminal.report import counted
from leapgen.terminal.screen import Screen

if TYPE_CHECKING:
    from leapgen.evaluation.worker import Standing

OFTEN = 0.1  # seconds between two looks of the bar: a step may be far shorter


class StudyProgress:
    """Shows on standard error what a worker says of its study. A closed standard error is no error."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._began = self._shown = time.monotonic()
        self._recent: deque[tuple[float, int]] = deque()  # when, and how many tokens there were
        self._bar: Progress | None = None
        if screen.err.is_terminal and not screen.quiet:
            self._bar = Progress(SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=None),
                                 TextColumn("{task.fields[pace]}", style="dim"), console=screen.err, transient=True,
                                 expand=True)
            self._task = self._bar.add_task("starting", total=None, pace="")

    @contextmanager
    def running(self) -> Iterator[StudyProgress]:
        with suppress(OSError):
            if self._bar is not None:
                self._bar.start()
        try:
            yield self
        finally:
            with suppress(OSError):
                if self._bar is not None:
                    self._bar.stop()

    def update(self, standing: Standing) -> None:
        now = time.monotonic()
        due = OFTEN if self._bar is not None else max(EVERY, SHARE * (now - self._began))
        if now - self._shown < due:
            return
        self._shown = now
        self._recent.append((now, standing.tokens))
        while self._recent[0][0] < now - max(WINDOW, 2 * due):
            self._recent.popleft()
        if self._bar is not None:
            self._bar.update(self._task, description=words(standing), completed=standing.done, total=standing.total,
                             pace=self._pace(standing))
        else:
            self._screen.say(f"{words(standing)}; {self._pace(standing)}")

    def _pace(self, standing: Standing) -> str:
        (before, earlier), (now, tokens) = self._recent[0], self._recent[-1]
        rate = (tokens - earlier) / (now - before) if now > before else standing.tokens / max(standing.seconds, 1e-3)
        left = standing.seconds_left
        return f"{rate:.0f} tokens/s" + (f", about {clock(left)} left" if left is not None else "")


def words(standing: Standing) -> str:
    """What a study has done, and who works on it."""
    elsewhere = f", {standing.elsewhere} elsewhere" if standing.elsewhere else ""
    working = f"{standing.here} in flight{elsewhere}" if standing.here else f"waiting for {standing.elsewhere} elsewhere"
    return f"{standing.done}/{counted(standing.total, 'unit')} done, {working}"
