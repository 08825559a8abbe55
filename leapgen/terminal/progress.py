"""How far a run is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from rich.progress import BarColumn, ProgressColumn, SpinnerColumn, Task
from rich.progress import Progress as Bar
from rich.table import Column
from rich.text import Text

from leapgen.record.events import BlockEvent, FinishEvent, StreamEvent, TokenEvent
from leapgen.record.run import LeapOutput
from leapgen.terminal.report import counted
from leapgen.terminal.screen import Screen
from leapgen.terminal.signals import Signals

WINDOW = 10.0  # seconds over which tokens a second are counted
EVERY, SHARE = 5.0, 0.05  # a line every five seconds, later every so large a part of the time that has passed
PHASES = {"own": "reasoning", "summary": "summarizing", "answer": "answering"}


class Tally:
    """Counts a run's events.

    Args:
        outputs: the run's questions before its first event; of a resumed run, with what they have.
    """

    def __init__(self, outputs: Sequence[LeapOutput]) -> None:
        self._limits = [output.leap["max_new_tokens"] for output in outputs]
        self._own = {(q, path.index): path.state["own_tokens"] for q, output in enumerate(outputs) for path in output.paths}
        self._ended = {(q, path.index) for q, output in enumerate(outputs) for path in output.paths
                       if path.state["stage"] == "finished"}
        self.blocks = sum(len(output.blocks) for output in outputs)
        self.phase = "starting"
        self._began, self._before = time.monotonic(), sum(self._own.values())
        self._recent: deque[float] = deque()  # when each of the last tokens came

    def update(self, event: StreamEvent) -> None:
        if isinstance(event, TokenEvent):
            if event.kind == "own":
                self._own[event.question, event.path] += 1
            self.phase = PHASES[event.kind]
            now = time.monotonic()
            self._recent.append(now)
            while self._recent[0] < now - WINDOW:
                self._recent.popleft()
        elif isinstance(event, BlockEvent):
            self.blocks += 1
        elif isinstance(event, FinishEvent):
            self._ended.add((event.question, event.path.index))

    @property
    def total(self) -> int:
        """Own tokens, if every path used its whole budget."""
        return sum(self._limits[question] for question, _ in self._own)

    @property
    def remaining(self) -> int:
        """Own tokens left at most: a path that has ended needs no more."""
        return sum(max(self._limits[path[0]] - own, 0) for path, own in self._own.items() if path not in self._ended)

    @property
    def tokens_per_second(self) -> float:
        now = time.monotonic()
        return len(self._recent) / max(min(WINDOW, now - self._began), 1e-3)

    @property
    def seconds_left(self) -> float | None:
        """At most, at the pace so far; None until there is one."""
        done = sum(self._own.values()) - self._before
        return self.remaining * (time.monotonic() - self._began) / done if done else None

    def __str__(self) -> str:
        return f"{self.phase}, {counted(self.blocks, 'block')}, {len(self._ended)}/{len(self._own)} ended"

    def pace(self) -> str:
        left = self.seconds_left
        return f"{self.tokens_per_second:.0f} tokens/s" + (f", at most {clock(left)} left" if left is not None else "")


class Progress:
    """Shows a run's progress on standard error, from its events. A closed standard error is no error."""

    def __init__(self, screen: Screen, outputs: Sequence[LeapOutput], signals: Signals) -> None:
        self._tally, self._screen, self._signals = Tally(outputs), screen, signals
        self._began = self._last = time.monotonic()
        self._bar: Bar | None = None
        if screen.err.is_terminal and not screen.quiet:
            self._bar = Bar(SpinnerColumn(), _Words(self._tally, signals), BarColumn(bar_width=None), _Pace(self._tally),
                            console=screen.err, transient=True, expand=True)
            self._task = self._bar.add_task("", total=self._tally.total)

    @contextmanager
    def running(self) -> Iterator[Progress]:
        with suppress(OSError):
            if self._bar is not None:
                self._bar.start()
        try:
            yield self
        finally:
            with suppress(OSError):
                if self._bar is not None:
                    self._bar.stop()

    def update(self, event: StreamEvent) -> None:
        self._tally.update(event)
        if self._bar is not None:
            self._bar.update(self._task, completed=self._tally.total - self._tally.remaining)
            return
        now = time.monotonic()
        due = 1.0 if isinstance(event, BlockEvent) else max(EVERY, SHARE * (now - self._began))
        if now - self._last >= due:
            self._last = now
            self._screen.say(f"{self._tally}; {self._tally.pace()}")


class _Words(ProgressColumn):
    def __init__(self, tally: Tally, signals: Signals) -> None:
        super().__init__(Column(no_wrap=True))
        self._tally, self._signals = tally, signals

    def render(self, task: Task) -> Text:
        return Text("stopping" if self._signals.received else str(self._tally))


class _Pace(ProgressColumn):
    def __init__(self, tally: Tally) -> None:
        super().__init__(Column(no_wrap=True))
        self._tally = tally

    def render(self, task: Task) -> Text:
        return Text(self._tally.pace(), style="dim")


def clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
