"""What tokens buy: more paths (Fig. 6), and one block before a single path goes on (Tables 3, 4)."""

from __future__ import annotations

from leapgen.evaluation.arms import Arm
from leapgen.evaluation.experiments.base import ALONE, Experiment, Plan
from leapgen.evaluation.experiments.measures import Measured, cons_at_n, pass_at_1, spent, spent_by_all
from leapgen.evaluation.figures import against, dots, one
from leapgen.evaluation.results import Column, Point, Table, rows_of
from leapgen.evaluation.study import Study

PATHS = (2, 3, 4, 5, 6, 7, 8)
MIXED = ((2, 2), (4, 2), (8, 2), (16, 2), (8, 4), (16, 4))  # paths before the block, and peers that each reads


# -- scaling (Fig. 6) -------------------------------------------------------------------------------------------------


def paths(plan: Plan) -> list[int]:
    return sorted({int(value) for value in plan.options.get("values") or PATHS})


def scaling_arms(plan: Plan) -> list[Arm]:
    return [Arm(f"{name}-{n}", leap, n=n) for n in paths(plan) for name, leap in (("leap", {}), ("alone", ALONE))]


def scaling_table(study: Study, plan: Plan) -> Table:
    of = Measured(study.records())
    points = [(f"{name}-{n}", f"{name}-{n}", f"{n}" if name == "leap" else f"{n} alone", None)
              for name in ("leap", "alone") for n in paths(plan)]
    rows = rows_of(points, {"Cons@N": lambda arm: of.mean(arm, cons_at_n), "Pass@1": lambda arm: of.mean(arm, pass_at_1),
                            "tokens a problem": lambda arm: of.mean(arm, spent_by_all)})
    return Table((Column("Cons@N"), Column("Pass@1"), Column("tokens a problem", "tokens")), rows,
                 ["The number at a point is that of its paths."])


# -- one block, then a single path (Tables 3, 4) ----------------------------------------------------------------------


def single_arms(plan: Plan) -> list[Arm]:
    """The block after an eighth and after a quarter of the budget: 2K and 4K of the paper's 16K tokens."""
    return [Arm("independent", ALONE),
            *(Arm(f"{at}, {n} paths, top-{k}", {"interval": tokens, "blocks": (0,), "top_k_peers": k, "paths_after": 1}, n=n)
              for at, tokens in places(plan).items() for n, k in MIXED)]


def places(plan: Plan) -> dict[str, int]:
    return {"2K": max(1, round(plan.leap.max_new_tokens / 8)), "4K": max(1, round(plan.leap.max_new_tokens / 4))}


def single_table(study: Study, plan: Plan) -> Table:
    of, at = Measured(study.records()), places(plan)
    points: list[Point] = [("independent", "independent", "alone", None)]
    for one_arm in single_arms(plan)[1:]:
        place, mixed, k = one_arm.name.split(", ")
        key = place if (mixed, k) == ("4 paths", "top-2") else one_arm.name  # Table 3 is of four paths and two peers
        points.append((one_arm.name, key, f"{mixed} to {at[place]:,} tokens, {k}", None))
    answers = "tokens an answer"
    rows = rows_of(points, {"Pass@1": lambda arm: of.mean(arm, pass_at_1),
                            answers: lambda arm: of.mean(arm, spent if arm == "independent" else spent_by_all)})
    return Table((Column("Pass@1"), Column(answers, "tokens")), rows,
                 ["An answer of a single path costs the tokens of all paths that came as far as the block."])


SPENDING = (
    Experiment("scaling", "Fig. 6", "What do more paths buy?", scaling_arms, scaling_table,
               one(against("tokens a problem", "Cons@N", {"leap-": "with peers", "alone-": "alone"})), preset={"groups": 4},
               options={"values": None}),
    Experiment("single", "Table 3, 4", "One block, then a single path", single_arms, single_table,
               one(dots("Pass@1", "tokens an answer")), (6.8, 4.4), preset={"groups": 8}),
)
