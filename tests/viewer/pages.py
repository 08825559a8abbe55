"""Runs and studies to be looked at, made by hand."""

from __future__ import annotations

import random

from leapgen.evaluation.arms import arms
from leapgen.evaluation.settings import StudySettings
from leapgen.evaluation.study import Study
from leapgen.record.ledger import Ledger
from leapgen.record.message import Message, Source
from leapgen.record.run import BlockRecord, LeapOutput, PathOutput, Route, Segment
from leapgen.tasks.base import Problem, Task

WORDS = ["we", "have", "the", "sum", "of", "all", "primes", "below", "a", "hundred", "so", "count", "them", "and", "check"]
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\u2028</q> <!-- "


def run(n: int = 4, blocks: int = 2, tokens: int = 40, say: str = "", question: str = "How many primes are below 100?",
        seed: int = 0) -> LeapOutput:
    """A run in which path i says ``summary b of i`` at block b, and reads the two paths after it."""
    rng = random.Random(seed)
    segments = [[Segment("prompt", [1] * 9)] for _ in range(n)]
    held = []
    for block in range(blocks):
        messages = {}
        for i in range(n):
            text = f"summary {block + 1} of {i}. {say} \\boxed{{{25 if (i + block) % 2 else 24}}}"
            segments[i] += [Segment("own", [2] * tokens, " ".join(rng.choices(WORDS, k=tokens)) + "\n\n"),
                            Segment("trigger", [3] * 4, "I pause here. <summarize> In short,", block),
                            *([Segment("summary", [4] * 8, f" {text} </summarize>", block)] if i else
                              [Segment("summary", [4] * 7, f" {text}", block),
                               Segment("closing", [7], " </summarize>", block)])]
            messages[i] = Message(i, text, block, num_tokens=8)
        routes = {i: [Route((i + k) % n, 0.5 * k) for k in (1, 2) if k < n] for i in range(n)}
        for i, told in routes.items():
            quotes = "\n".join(f'Peer {k}: "{messages[route.peer].text}"' for k, route in enumerate(told, 1))
            sources = [Source(3 + k, 4 + k, route.peer, block) for k, route in enumerate(told)]
            segments[i].append(Segment("comment", [5] * 20, f"\n\n<comment> {quotes} </comment>\n\nI compare.", block,
                                       sources=sources))
        held.append(BlockRecord(block, messages, routes))
    paths = []
    for i in range(n):
        answer = None if i == 1 else "25" if i != 2 else "24"
        segments[i] += [Segment("own", [2] * tokens, " ".join(rng.choices(WORDS, k=tokens))),
                        Segment("answer", [6] * 3, f"\n\n\\boxed{{{answer}}}" if answer else "\n\nI do not know.")]
        paths.append(PathOutput(i, segments[i], answer, "stop", {"stage": "finished"}))
    ledger = Ledger(decoded=100, seconds={"reason": 1.5})
    return LeapOutput(question, paths, held, ledger, seed, "tiny", {"interval": tokens}, {"temperature": 0.6}, True)


def study(folder, problems: int = 3, groups: int = 2, seconds: float = 1.5):
    """A study of two arms, done but for the last unit."""
    made = Study.create(folder, Task("primes", [Problem(f"p/{i}", f"How many primes are below {90 + i}?", "25")
                                                for i in range(problems)]),
                        arms(["independent", "leap:router=random"]), StudySettings("org/tiny", n=4, groups=groups))
    for place, unit in enumerate(made.units[:-1]):
        output = run(blocks=2 if unit.arm != "independent" else 0, seed=place, question=made.problem(unit.problem).question)
        output.ledger.seconds["reason"] = seconds
        made.parts.append("worker", 0, made.keep(unit, {}, output))
    return made
