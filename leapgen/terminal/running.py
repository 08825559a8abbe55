"""A run followed to its end: with progress on the screen and checkpoints on disk; then the short report."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leapgen.checkpoints import Checkpoints
from leapgen.failures import GenerationFailed, GenerationInterrupted
from leapgen.record.run import LeapOutput
from leapgen.terminal.progress import Progress
from leapgen.terminal.report import brief, overview
from leapgen.terminal.screen import Screen
from leapgen.terminal.show import print_paths
from leapgen.terminal.signals import Signals

if TYPE_CHECKING:
    from leapgen.session import Run


def follow(run: Run, files: Sequence[Path], screen: Screen, signals: Signals,
           made_with: Mapping[str, Any]) -> tuple[list[LeapOutput], int]:
    """Takes a run's events until it ends or is stopped, and saves it.

    Returns:
        the outputs, and the exit status: 0; 1 if the run failed or could not be saved; 130 after Ctrl-C, as other signals
        128 and the signal's number.

    Raises:
        OSError: not even the beginning could be saved; nothing was done.
    """
    status = 0
    with signals.stopping(run):
        checkpoints = Checkpoints(run, files, made_with, screen.warn)
        try:
            with Progress(screen, run.outputs(), signals).running() as progress:
                for event in run:
                    progress.update(event)
                    checkpoints.update(event)
        except GenerationInterrupted:
            status = signals.status
        except GenerationFailed as failed:
            status = 1
            screen.error(f"the run failed: {failed}")
        finally:
            run.close()
            try:
                checkpoints.finish()
            except OSError as error:
                status = 1
                screen.error(f"the end of the run is not saved: {error}. What was saved before is still there.")
    outputs = run.outputs()
    if signals.received and not status and not all(output.finished for output in outputs):
        status = signals.status
    return outputs, status


def conclude(outputs: Sequence[LeapOutput], files: Sequence[Path], saved: Path, options: argparse.Namespace,
             screen: Screen, signals: Signals) -> None:
    """The short report, whole texts asked for, and how to see more. Quiet, it is the votes alone."""
    several = saved.is_dir()
    if options.quiet:
        for output in outputs:
            screen.out.print(output.majority() or "", markup=False, highlight=False, soft_wrap=True)
        return
    if several:
        overview(outputs, files, screen.out)
    else:
        brief(outputs[0], screen.out)
        print_paths(outputs[0], options.path, screen.out)
    if signals.received:
        screen.say(f"stopped by {signals.name}")
    one = files[0] if several else saved
    screen.say(f"saved to {saved}; ", (f"leapgen show {one}", "bold"), " shows the whole exchange")
    if not all(output.finished for output in outputs):
        screen.say("not finished; ", (f"leapgen resume {saved}", "bold"), " goes on from here")
