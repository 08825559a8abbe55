"""Where a command writes: results to standard output, everything about the work to standard error."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from rich.console import Console
from rich.text import Text


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise  # called while the error is handled; rich would exit, in the middle of a run


class Screen:
    """The two consoles of a command.

    Lines for a standard error that is gone (a closed terminal, a broken pipe) are dropped: they must not end a run.

    Args:
        quiet: only errors and warnings on standard error.
        verbose: leapgen's log lines, and other libraries' warnings.
    """

    def __init__(self, quiet: bool = False, verbose: bool = False) -> None:
        self.out, self.err = _Console(), _Console(stderr=True, file=sys.stderr)  # stays, where loading redirects it
        self.quiet, self.verbose = quiet, verbose
        self._adopted: list[tuple[logging.Logger, list[logging.Handler], bool]] = []

    def error(self, message: object, style: str = "bold red", who: str = "leapgen") -> None:
        self._write(Text.assemble((f"{who}: ", style), str(message)))

    def warn(self, message: object) -> None:
        self.error(message, "bold yellow")

    def say(self, *parts: str | tuple[str, str]) -> None:
        """A line on standard error, unless quiet."""
        if not self.quiet:
            self._write(Text.assemble(*parts))

    def _write(self, text: Text) -> None:
        with suppress(OSError):
            self.err.print(text, soft_wrap=not self.err.is_terminal)

    @contextmanager
    def status(self, message: str) -> Iterator[None]:
        """A spinner on a terminal, a line elsewhere."""
        if self.quiet or not self.err.is_terminal:
            self.say(message)
            yield
        else:
            with self.err.status(Text(message)):
                yield

    @contextmanager
    def logging(self) -> Iterator[None]:
        """Log lines go to the screen, one by one, above a bar if there is one; afterwards all is as it was."""
        handler, root, leapgen = _Handler(self), logging.getLogger(), logging.getLogger("leapgen")
        level = leapgen.level
        root.addHandler(handler)
        leapgen.setLevel(logging.INFO if self.verbose else logging.WARNING)
        logging.captureWarnings(True)
        try:
            yield
        finally:
            logging.captureWarnings(False)
            leapgen.setLevel(level)
            root.removeHandler(handler)
            for logger, handlers, propagate in self._adopted:
                logger.handlers, logger.propagate = handlers, propagate
            self._adopted.clear()

    def adopt(self, *libraries: str) -> None:
        """Sends the log lines of libraries that write to standard error themselves the same way."""
        for logger in map(logging.getLogger, libraries):
            self._adopted.append((logger, logger.handlers, logger.propagate))
            logger.handlers, logger.propagate = [], True


class _Handler(logging.Handler):
    """Of other libraries only errors are shown, unless verbose: their warnings are meant for their callers."""

    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        least = logging.WARNING if self._screen.verbose else logging.ERROR
        who = record.name.partition(".")[0]
        if who == "leapgen" or record.levelno >= least:
            style = {logging.WARNING: "bold yellow", logging.INFO: "dim"}.get(record.levelno, "bold red")
            self._screen.error(self.format(record), style, who)
