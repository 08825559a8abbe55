"""Where peers help: accuracy and tokens by how hard a problem is for paths on their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leapgen.evaluation.arms import Arm, Finished
from leapgen.evaluation.experiments.base import ALONE, Experiment, Plan
from leapgen.evaluation.experiments.measures import Measured, own, pass_at_1
from leapgen.evaluation.figures import bars, beside
from leapgen.evaluation.results import Column, Row, Table
from leapgen.evaluation.study import Study
from leapgen.tasks.base import Problem

BINNING, ANSWERS = "binning", 32
AFRESH = 1 << 41  # added to the seed: the run that levels are read from shares no random number with those compared
LEVELS = (("very easy", 1.0), ("easy", 25 / 32), ("medium", 9 / 32), ("hard", 0.0), ("very hard", -1.0))


def level(share: float) -> str:
    """By the share of right answers: all; 25 to 31 of 32; 9 to 24; 1 to 8; none."""
    if share == 0:
        return "very hard"
    return next(name for name, least in LEVELS if share >= least)


def arms(plan: Plan) -> list[Arm]:
    def afresh(study: Finished, problem: Problem, group: int) -> Mapping[str, Any]:
        seed = next(one.seed for one in study.records(BINNING) if (one.problem, one.group) == (problem.id, group))
        return {"seed": (seed + AFRESH) % (1 << 63)}

    return [Arm(BINNING, ALONE, n=max(ANSWERS, plan.n)), Arm("alone", ALONE, after=(BINNING,), prepare=afresh),
            Arm("with peers", after=(BINNING,), prepare=afresh)]


def table(study: Study, plan: Plan) -> Table:
    records = study.records()
    shares = Measured(records).by_problem(BINNING, pass_at_1)
    columns = [Column("Pass@1 alone"), Column("Pass@1 with peers"), Column("gain", "points"),
               Column("tokens alone", "own tokens a path"), Column("tokens with peers", "own tokens a path")]
    rows = []
    for name, _ in LEVELS:
        problems = {problem for problem, share in shares.items() if level(share) == name}
        of = Measured(records, problems)
        values = {"Pass@1 alone": of.mean("alone", pass_at_1), "Pass@1 with peers": of.mean("with peers", pass_at_1),
                  "gain": of.difference("with peers", "alone", pass_at_1), "tokens alone": of.mean("alone", own),
                  "tokens with peers": of.mean("with peers", own)}
        rows.append(Row(name, f"{name}\n({len(problems)})",
                        {key: value for key, value in values.items() if value is not None}))
    return Table(columns, rows, ["In brackets: problems of that level, by the right answers of a run apart "
                                 "(32; 25-31; 9-24; 1-8; 0 of 32). Peers' words are not counted as tokens."])


DIFFICULTY = (
    Experiment("difficulty", "Fig. 12, 30, 31, 32", "Where do peers help?", arms, table,
               beside(bars({"Pass@1 alone": "alone", "Pass@1 with peers": "with peers"}, (1, 0), "Pass@1 (%)"),
                      bars({"tokens alone": "alone", "tokens with peers": "with peers"}, (1, 0), "own tokens a path")),
               (9.6, 4.0)),
)
