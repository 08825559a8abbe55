"""Paths that go on from another answer's beginning: the Prefix Dominance Trap and the tolerance of errors."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from leapgen.evaluation.arms import Arm, Finished, Prepare
from leapgen.evaluation.experiments.base import ALONE, Experiment, Plan
from leapgen.evaluation.experiments.measures import Measured, pass_at_1, spent
from leapgen.evaluation.figures import beside, curve, grouped, one
from leapgen.evaluation.results import Column, Point, Table, rows_of
from leapgen.evaluation.study import Study
from leapgen.evaluation.units import Unit
from leapgen.record.run import LeapOutput
from leapgen.tasks.base import Problem

SOURCE, ANSWERS = "source", 32  # the arm that beginnings are taken from, and its paths
AFRESH = 1 << 40  # added to a unit's seed: with the source's, a path would repeat the answer that its beginning is from
PASS, GAP, TOKENS = Column("Pass@1"), Column("gap", "points"), Column("tokens a path", "tokens")


@dataclass(frozen=True)
class Beginnings:
    """What paths may go on from on one problem: token ids of right and of wrong answers' beginnings, and a fresh seed."""

    good: Sequence[Sequence[int]]
    bad: Sequence[Sequence[int]]
    seed: int

    def draw(self, kind: str) -> random.Random:
        return random.Random(f"{self.seed}/{kind}")


def source(plan: Plan) -> Arm:
    return Arm(SOURCE, ALONE, n=max(ANSWERS, plan.n))


def beginnings(study: Finished, problem: Problem, group: int, plan: Plan) -> Beginnings | None:
    """Beginnings of a group of the source arm's answers, a fraction of their mean length; None unless the problem is among
    those that are drawn from the ones with both right and wrong answers. Answers that end within a beginning are not taken:
    nothing would be left to go on with.
    """
    records = {record.problem: record for record in study.records(SOURCE) if record.group == group}
    lengths = [path.tokens.get("own", 0) + path.tokens.get("answer", 0) for r in records.values() for path in r.paths]
    length = max(1, round(plan.options["fraction"] * float(np.mean(lengths))))

    def places(problem: str, right: bool) -> list[int]:
        return [i for i, path in enumerate(records[problem].paths) if path.right == right and path.own > length]

    mixed = sorted(name for name in records if places(name, True) and places(name, False))
    rng = random.Random(f"{min(record.seed for record in records.values())}/{group}")
    if problem.id not in rng.sample(mixed, min(plan.options["answers"], len(mixed))):
        return None
    thought = thoughts(study.output(Unit(SOURCE, problem.id, group)))
    good, bad = ([thought[i][:length] for i in places(problem.id, right)] for right in (True, False))
    return Beginnings(good, bad, (records[problem.id].seed + AFRESH) % (1 << 63))


def thoughts(output: LeapOutput) -> list[list[int]]:
    """Own tokens of each path, up to where it stopped thinking."""
    return [[token for segment in path.segments if segment.kind == "own" for token in segment.token_ids]
            for path in output.paths]


# -- the trap (Fig. 1, 4, 17) -----------------------------------------------------------------------------------------

WAYS: Mapping[str, Mapping[str, Any]] = {"alone": ALONE, "with peers": {}}


def kinds(plan: Plan) -> tuple[str, ...]:
    return {"bad": ("bad",), "good": ("good",), "both": ("bad", "good")}[plan.options["beginnings"]]


def trap_arms(plan: Plan) -> list[Arm]:
    def starting(kind: str) -> Prepare:
        def prepare(study: Finished, problem: Problem, group: int) -> Mapping[str, Any] | None:
            found = beginnings(study, problem, group, plan)
            if found is None:
                return None
            if kind == "free":
                return {"seed": found.seed}
            choices = found.good if kind == "good" else found.bad
            return {"seed": found.seed, "beginning": found.draw(kind).choice(choices)}

        return prepare

    return [source(plan), *(Arm(f"{kind}, {way}", leap, after=(SOURCE,), prepare=starting(kind))
                            for kind in ("free", *kinds(plan)) for way, leap in WAYS.items())]


def trap_table(study: Study, plan: Plan) -> Table:
    of = Measured(study.records())
    said = {"free": "no beginning", "bad": "bad beginning", "good": "good beginning"}
    points = [(f"{kind}, {way}", f"{kind}, {way}", f"{said[kind]}, {way}", None)
              for kind in ("free", *kinds(plan)) for way in WAYS]

    def gap(base: str) -> Any:
        return lambda arm: None if arm.startswith("free") else of.difference(base.format(arm.split(", ")[1]), arm, pass_at_1)

    rows = rows_of(points, {"Pass@1": lambda arm: of.mean(arm, pass_at_1), "gap": gap("free, alone"),
                            "gap to its like": gap("free, {}"), "tokens a path": lambda arm: of.mean(arm, spent)})
    return Table((PASS, GAP, Column("gap to its like", "points"), TOKENS), rows, [
        "gap: how far a row stays below free paths without peers, as in the paper; to its like: below free paths that work "
        f"as it does. {_drawn(of, 'free, alone')}"])


def _drawn(of: Measured, arm: str) -> str:
    problems = len(of.by_problem(arm, pass_at_1))
    return f"{problems} problem{'s' * (problems != 1)} that had right and wrong answers."


# -- error tolerance (Fig. 11) ----------------------------------------------------------------------------------------


def shares(plan: Plan) -> list[int]:
    """Good beginnings of n."""
    wanted = plan.options.get("values") or (round(plan.n * k / 16) for k in range(9))
    return sorted({min(int(value), plan.n) for value in wanted})


def tolerance_arms(plan: Plan) -> list[Arm]:
    def starting(good: int) -> Prepare:
        def prepare(study: Finished, problem: Problem, group: int) -> Mapping[str, Any] | None:
            found = beginnings(study, problem, group, plan)
            if found is None:
                return None
            right, wrong = (_several(found.draw(kind), choices, plan.n)
                            for kind, choices in (("good", found.good), ("bad", found.bad)))
            return {"seed": found.seed, "beginning": [*right[:good], *wrong[good:]]}

        return prepare

    mixed = [Arm(f"good-{good}", {}, after=(SOURCE,), prepare=starting(good)) for good in shares(plan)]
    alone = [Arm(f"alone-{good}", ALONE, after=(SOURCE,), prepare=starting(good)) for good in (0, plan.n)]
    return [source(plan), *mixed, *alone]


def _several(rng: random.Random, choices: Sequence[Sequence[int]], n: int) -> list[Sequence[int]]:
    """n of them, each as often as the others, as far as n allows."""
    drawn: list[Sequence[int]] = []
    while len(drawn) < n:
        drawn += rng.sample(list(choices), min(len(choices), n - len(drawn)))
    return drawn


def tolerance_table(study: Study, plan: Plan) -> Table:
    of = Measured(study.records())
    points: list[Point] = [(f"good-{good}", str(round(16 * good / plan.n)), str(good), float(good)) for good in shares(plan)]
    points += [("alone-0", "all bad", "alone, all bad", None), (f"alone-{plan.n}", "all good", "alone, all good", None)]
    rows = rows_of(points, {"Pass@1": lambda arm: of.mean(arm, pass_at_1), "tokens a path": lambda arm: of.mean(arm, spent)})
    return Table((PASS, TOKENS), rows, [_drawn(of, "alone-0")], f"good beginnings of {plan.n}")


LONG = {"interval": 48, "max_new_tokens": 384, "problems_limit": 30}  # a path has time to turn back
SERIES = {"alone": 1, "with peers": 0}  # and their colours
BEGINNINGS = (
    Experiment("trap", "Fig. 1, 4, 17", "The Prefix Dominance Trap", trap_arms, trap_table,
               beside(grouped("Pass@1", SERIES), grouped("gap", SERIES, "points below free paths alone")), (8.4, 3.9),
               {"n": 16, "temperature": 1.0}, {"maze": LONG},
               {"fraction": 0.15, "answers": 10, "beginnings": "bad"}),
    Experiment("tolerance", "Fig. 11", "How many bad beginnings can peers bear?", tolerance_arms, tolerance_table,
               one(curve("Pass@1", reference=("alone, all bad", "alone, all good"))), (6.4, 3.9),
               {"n": 16, "temperature": 1.0}, {"maze": LONG},
               {"fraction": 0.3, "answers": 10, "values": None}, swept=(int, 0)),
)
