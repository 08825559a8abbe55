"""A run followed to its end, with a bar, a callback and checkpoints."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext

from tqdm.auto import tqdm

from leapgen.checkpoints import Checkpoints, files_at
from leapgen.record.events import FinishEvent, StreamEvent, TokenEvent
from leapgen.record.run import LeapOutput
from leapgen.session import Run

log = logging.getLogger(__name__)


def follow(run: Run, callback: Callable[[StreamEvent], None] | None = None, progress: bool | None = None,
           checkpoint: str | os.PathLike[str] | None = None, several: bool = False) -> list[LeapOutput]:
    """The run's outputs at its end. Arguments are those of ``LeapGenerator.generate``."""
    if progress is None:
        progress = "ipykernel" in sys.modules
    with run, tqdm(unit=" tokens", desc="LeaP") if progress else nullcontext() as bar:
        saved, ended = None, 0
        if checkpoint is not None:
            saved = Checkpoints(run, files_at(checkpoint, len(run), several))
        try:
            for event in run:
                if bar is not None:
                    if isinstance(event, TokenEvent):
                        bar.update()
                    elif isinstance(event, FinishEvent):
                        ended += 1
                        bar.set_postfix_str(f"{ended} paths ended", refresh=False)
                if callback is not None:
                    callback(event)
                if saved is not None:
                    saved.update(event)
        finally:
            if saved is not None:
                try:
                    saved.finish()
                except OSError as error:  # what was generated is worth more than the file
                    log.warning("the end of the run is not saved: %s", error)
        return run.outputs()
