"""A study without a model: a generator whose runs take as many steps as their question says, and answer by their seed."""

from __future__ import annotations

import random

from leapgen.evaluation.settings import StudySettings
from leapgen.record.events import OutputEvent, TokenEvent
from leapgen.record.ledger import Ledger
from leapgen.record.run import LeapOutput, PathOutput, Segment
from leapgen.tasks.base import Problem, Task

SETTINGS = StudySettings("stub", n=3, groups=2)


def problems(steps):
    """A problem for each number of steps; the answer of each is yes."""
    return Task("stub", [Problem(str(place), f"{count} steps", "yes") for place, count in enumerate(steps)])


def output(question, n, seed, own=10, leap=None):
    rng = random.Random(seed)
    paths = [PathOutput(index, [Segment("prompt", [1, int(question.split()[0])]),
                                Segment("own", list(range(rng.randint(1, own))), "wait, I wait"),
                                Segment("answer", [7], "yes, wait")], rng.choice(["yes", "no"]), "stop")
             for index in range(n)]
    ledger = Ledger(discarded=rng.randint(0, 3), seconds={"reason": rng.random()})
    return LeapOutput(question, paths, ledger=ledger, seed=seed, finished=True)


class Run:
    """Its tokens come one a step of the engine, which any run that is asked moves."""

    def __init__(self, engine, question, n, seed, leap):
        self.engine, self.left, self.made, self.closed = engine, int(question.split()[0]), (question, n, seed), False
        self.leap, self.events = leap, []
        engine.runs.append(self)

    @property
    def ready(self):
        return bool(self.events) or self.closed

    def __next__(self):
        if not self.ready:
            self.engine.step()
        if self.closed:
            raise StopIteration
        event = self.events.pop(0)
        if isinstance(event, OutputEvent):
            self.close()
        return event

    def close(self):
        self.closed = True
        if self in self.engine.runs:
            self.engine.runs.remove(self)


class Engine:
    """A generator as ``Study.work`` uses one; ``asked`` holds the arguments of all runs, ``seen`` the runs in each step."""

    def __init__(self, at_step=lambda step: None):
        self.runs, self.asked, self.seen, self.at_step = [], [], [], at_step

    def stream(self, prompt, n, *, seed, leap, protocol, **options):
        self.asked.append({"prompt": prompt, "n": n, "seed": seed, "leap": leap, "protocol": protocol, **options})
        return Run(self, prompt, n, seed, leap)

    def step(self):
        self.seen.append([run.made[0] for run in self.runs])
        self.at_step(len(self.seen))
        for run in self.runs:
            run.left -= 1
            run.events.append(TokenEvent(0, 0, "own", 1, ""))
            if run.left == 0:
                run.events.append(OutputEvent(0, output(*run.made, own=run.leap.max_new_tokens)))
