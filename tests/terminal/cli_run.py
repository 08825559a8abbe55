"""The command line on a tiny model, with settings in which it holds blocks; and interruptions at a step of choice."""

from __future__ import annotations

import os
from itertools import count

from leap_run import QUESTION

from leapgen.engine import Engine
from leapgen.terminal.cli import main

SMALL = ["--interval", "12", "--max-new-tokens", "36", "--summary-tokens", "10", "--forced-answer-tokens", "6",
         "--written-answer-tokens", "8", "--no-explain", "--temperature", "1.0",
         "--draft-tokens", "0"]  # as many steps every time


def run(folder, save, *options, question=(QUESTION,)):
    return main(["run", *question, "--model", str(folder), "--n", "3", "--save", str(save), *SMALL, *options])


def at_step(monkeypatch, number, action):
    """Has ``action`` called in the middle of the ``number``-th step from now; returns what undoes that."""
    step, steps = Engine.step, count(1)

    def watched(self):
        events = step(self)
        if next(steps) == number:
            action()
        return events

    monkeypatch.setattr(Engine, "step", watched)
    return lambda: monkeypatch.setattr(Engine, "step", step)


def send(*signals):
    """An action: this process gets signals."""
    return lambda: [os.kill(os.getpid(), number) for number in signals]


def tokens(output):
    return [path.token_ids for path in output.paths]
