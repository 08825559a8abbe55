"""What the paper's tables ask: how often paths and votes are right, and what an answer costs in tokens and reflection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from leapgen.evaluation.arms import EQUAL, KINDS, Arm, arm
from leapgen.evaluation.experiments.base import ALONE, Experiment, Plan
from leapgen.evaluation.experiments.measures import (
    Measured,
    aha,
    cons_at_n,
    pass_at_1,
    pass_at_n,
    shortest,
    spent,
    tokens,
)
from leapgen.evaluation.figures import bars, dots, one, stacked
from leapgen.evaluation.records import SPENT, Record
from leapgen.evaluation.results import Column, Point, Table, rows_of
from leapgen.evaluation.study import Study

PASS, CONS, TOKENS = Column("Pass@1"), Column("Cons@N"), Column("tokens a path", "tokens")
ROUTED = tuple((router, k) for router in ("random", "clustered", "hybrid", "dispersed") for k in (2, 4))
CONTROLS = {"equal:leap": "alone, at the cost of dispersed top-4", "retry": "alone, told to start afresh",
            "broadcast": "told any found answer, no summaries", "own": "own summary read back",
            "strangers": "strangers' summaries", "scrambled": "peers' summaries, scrambled"}


def routed(router: str, k: int) -> Arm:
    """LeaP with a router; the paper's own setting is called ``leap``, as others go by its name."""
    name = "leap" if (router, k) == ("dispersed", 4) else f"{router}-top-{k}"
    return Arm(name, {"router": router, "top_k_peers": k})


def points(arms: Sequence[Arm], labels: Mapping[str, str] = MappingProxyType({})) -> list[Point]:
    """Rows of arms, named as in the paper."""
    keys = {routed(*one).name: "{} top-{}".format(*one) for one in ROUTED}
    said = {"independent": "alone", **{name: key.replace(" ", ", ") for name, key in keys.items()}, **labels}
    return [(one.name, keys.get(one.name, one.name), said.get(one.name, one.name), None) for one in arms]


# -- main (Tables 1, 5), with the controls that it has not ------------------------------------------------------------


def main_arms(plan: Plan) -> list[Arm]:
    return [Arm("independent", ALONE), *(routed(router, k) for router, k in ROUTED), *controls()]


def controls() -> list[Arm]:
    return [arm(name) for name in CONTROLS if name.partition(":")[0] in (EQUAL, *KINDS)]


def main_table(study: Study, plan: Plan) -> Table:
    of = Measured(study.records())
    spreads = [spread for one in main_arms(plan) if (spread := of.spread(one.name, pass_at_1)) is not None]
    notes = [f"Pass@1 of groups has a standard deviation of at most {100 * max(spreads):.1f} points."] if spreads else []
    gain = Column("gain", "points")
    rows = rows_of(points(main_arms(plan), CONTROLS), {
        "Pass@1": lambda name: of.mean(name, pass_at_1),
        "gain": lambda name: None if name == "independent" else of.difference(name, "independent", pass_at_1),
        "Cons@N": lambda name: of.mean(name, cons_at_n), "Pass@N": lambda name: of.mean(name, pass_at_n),
        "tokens a path": lambda name: of.mean(name, spent)})
    return Table((PASS, gain, CONS, Column("Pass@N"), TOKENS), rows, notes)


# -- votes (Tables 6, 7) ----------------------------------------------------------------------------------------------


def votes_arms(plan: Plan) -> list[Arm]:
    return [Arm("independent", ALONE), *(routed(router, k) for router in ("dispersed", "hybrid") for k in (2, 4))]


def votes_table(study: Study, plan: Plan) -> Table:
    of = Measured(study.records())
    columns = {"Cons@N": lambda name: of.mean(name, cons_at_n), "shortest": lambda name: of.mean(name, shortest),
               "Pass@1": lambda name: of.mean(name, pass_at_1), "tokens a path": lambda name: of.mean(name, spent)}
    return Table((CONS, Column("shortest"), PASS, TOKENS), rows_of(points(votes_arms(plan)), columns),
                 ["shortest: the shortest majority vote, votes divided by the logarithm of their mean length."])


# -- tokens (Fig. 5a, 18a, 19a) and "aha" moments (Fig. 5b, 18b, 19b) --------------------------------------------------


def cost_arms(plan: Plan) -> list[Arm]:
    return [Arm("independent", ALONE), *(routed(router, k) for router, k in ROUTED if router != "random")]


BY_KIND = {"own": tokens("own", "answer", "forced"), "summaries": tokens("trigger", "summary", "closing"),
         "peers' words": tokens("comment")}


def tokens_table(study: Study, plan: Plan) -> Table:
    of = Measured(study.records())
    columns: dict[str, Any] = {name: lambda arm, value=value: of.mean(arm, value) for name, value in BY_KIND.items()}
    columns["tokens a path"] = lambda name: of.mean(name, spent)
    columns["Pass@1"] = lambda name: of.mean(name, pass_at_1)
    return Table((*(Column(name, "tokens a path") for name in BY_KIND), TOKENS, PASS),
                 rows_of(points(cost_arms(plan)), columns), [f"Counted: {', '.join(SPENT)}; not the prompt."])


def aha_table(study: Study, plan: Plan) -> Table:
    of = Measured(study.records())
    rows = rows_of(points(cost_arms(plan)), {
        "moments": lambda name: of.mean(name, aha),
        "change": lambda name: None if name == "independent" else of.ratio(name, "independent", aha),
        "a thousand own tokens": lambda name: _density(of, name), "Pass@1": lambda name: of.mean(name, pass_at_1)})
    words = ", ".join(study.settings.aha)
    columns = (Column("moments", "a path"), Column("change"), Column("a thousand own tokens", "moments"), PASS)
    none = not any(row.values["moments"].mean for row in rows)
    return Table(columns, rows, [f"Counted, in a path's own words alone: {words}.",
                                 *(["None of them stands in any path."] if none and rows else [])])


def _density(of: Measured, name: str) -> Any:
    def density(record: Record) -> float | None:
        own = BY_KIND["own"](record)
        return 1000 * aha(record) / own if own else None

    return of.mean(name, density)


# -- LeaP-T (Table 2) -------------------------------------------------------------------------------------------------

LEAP_T_ROWS = {"base": ("", ALONE), "sft": ("sft", ALONE), "base with LeaP": ("", {}),
               "base with LeaP, plain prompt": ("", {"explain": False}), "LeaP-T alone": ("leap-t", ALONE),
               "LeaP-T with LeaP": ("leap-t", {"explain": False, "self_summarize": True})}


def leap_t_arms(plan: Plan) -> list[Arm]:
    return [Arm(name, leap, model=model) for name, (model, leap) in LEAP_T_ROWS.items() if not model or model in plan.models]


def leap_t_table(study: Study, plan: Plan) -> Table:
    of = Measured(study.records())
    rows = rows_of([(one.name, one.name, one.name, None) for one in leap_t_arms(plan)], {
        "Pass@1": lambda name: of.mean(name, pass_at_1), "Cons@N": lambda name: of.mean(name, cons_at_n),
        "tokens a path": lambda name: of.mean(name, spent)})
    missing = "No plain SFT: --sft names such a model (leapgen synth --without-peers, leapgen sft)."
    return Table((PASS, CONS, TOKENS), rows, () if "sft" in plan.models else [missing])


ACCURACY = (
    Experiment("main", "Table 1, 5", "Do peers help, and who should hear from whom?", main_arms, main_table,
               one(dots("Pass@1", "tokens a path")), (6.8, 5.4), problems=2),
    Experiment("votes", "Table 6, 7", "Do peers help the vote?", votes_arms, votes_table,
               one(bars({"Cons@N": "majority", "shortest": "shortest majority"}, axis="the vote is right (%)")), (6.8, 3.9)),
    Experiment("tokens", "Fig. 5a, 18a, 19a", "What an answer costs", cost_arms, tokens_table,
               one(stacked(tuple(BY_KIND), "tokens a path")), (6.8, 3.9)),
    Experiment("aha", "Fig. 5b, 18b, 19b", "How often do paths reflect?", cost_arms, aha_table,
               one(bars({"moments": ""}, axis='"aha" moments a path')), (6.8, 3.9)),
    Experiment("leap-t", "Table 2", "What fine-tuning adds", leap_t_arms, leap_t_table,
               one(bars({"Pass@1": "Pass@1", "Cons@N": "Cons@N"}, axis="right (%)")), (7.4, 3.9), models=("leap-t", "sft")),
)
