"""Output that is longer than the screen goes through the user's pager."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

NOT_FOUND = 127  # a shell's status for a command that it does not know


@contextmanager
def paged(console: Console, allowed: bool = True) -> Iterator[Console]:
    """Holds back what is printed to the console; then shows it in ``$PAGER`` (less) if it is longer than the terminal.

    Where standard output is no terminal, nothing is held back.
    """
    if not allowed or not sys.stdout.isatty():
        yield console
        return
    with console.capture() as capture:
        yield console
    text = capture.get()
    pager = os.environ.get("PAGER", "less")
    if text.count("\n") < console.height or not pager.strip() or not _page(text, pager):
        sys.stdout.write(text)


def _page(text: str, pager: str) -> bool:
    """Whether the pager could be started. It gets colours, and it ends at once if all fits (unless ``$LESS`` says so)."""
    process = subprocess.Popen(pager, shell=True, stdin=subprocess.PIPE, text=True, encoding="utf-8",
                               env={"LESS": "FRX", **os.environ})
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C belongs to the pager
    try:
        process.communicate(text)
    except BrokenPipeError:  # it was left before the end
        process.wait()
    finally:
        signal.signal(signal.SIGINT, before)
    return process.returncode != NOT_FOUND
