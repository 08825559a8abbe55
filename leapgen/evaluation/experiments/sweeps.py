"""One setting after the other, with independent paths beside: granularity, traffic, position, temperature."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from leapgen.evaluation.arms import Arm
from leapgen.evaluation.experiments.base import ALONE, Experiment, Plan
from leapgen.evaluation.experiments.measures import Measured, cons_at_n, pass_at_1, spent
from leapgen.evaluation.figures import beside, curve, one
from leapgen.evaluation.results import Column, Point, Row, Table, rows_of
from leapgen.evaluation.study import Study

PASS, CONS, TOKENS = Column("Pass@1"), Column("Cons@N"), Column("tokens a path", "tokens")
INTERVALS = (0.5, 0.75, 1.0, 1.5)  # times T: 2,048, 3,072, 4,096 and 6,144 tokens in the paper
PEERS = (1, 2, 3, 4, 6, 8, 12, 16)
EIGHTHS = (1, 2, 3, 4, 5, 6)  # of the budget: 2K to 12K of 16K tokens in the paper
TEMPERATURES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def measured(study: Study, points: Iterable[Point], along: str,
             notes: Sequence[str] = ()) -> Table:
    """Accuracy and tokens of arms: ``points`` are (arm, key of the paper's number, label, x)."""
    of = Measured(study.records())
    return Table((PASS, CONS, TOKENS), rows_of(points, {
        "Pass@1": lambda arm: of.mean(arm, pass_at_1), "Cons@N": lambda arm: of.mean(arm, cons_at_n),
        "tokens a path": lambda arm: of.mean(arm, spent)}), notes, along)


# -- granularity (Fig. 7, 28) -----------------------------------------------------------------------------------------


def intervals(plan: Plan) -> dict[str, int]:
    """Tokens between blocks by the paper's, of those given or the multiples of the interval."""
    if plan.options.get("values"):
        return {str(int(value)): int(value) for value in plan.options["values"]}
    return {str(int(4096 * times)): max(1, round(plan.leap.interval * times)) for times in INTERVALS}


def granularity_arms(plan: Plan) -> list[Arm]:
    return [Arm("independent", ALONE),
            *(Arm(f"every-{tokens}", {"interval": tokens}) for tokens in intervals(plan).values())]


def granularity_table(study: Study, plan: Plan) -> Table:
    points = [(f"every-{tokens}", key, f"{tokens:,}", float(tokens)) for key, tokens in intervals(plan).items()]
    return measured(study, [("independent", "independent", "alone", None), *points], "interval T (tokens)")


# -- traffic (Fig. 8) -------------------------------------------------------------------------------------------------


def peers(plan: Plan) -> list[int]:
    """No path can read more peers than there are."""
    wanted = [int(value) for value in plan.options.get("values") or PEERS]
    return sorted({min(k, plan.n - 1) for k in wanted} - {0})


def traffic_arms(plan: Plan) -> list[Arm]:
    return [Arm("independent", ALONE), *(Arm(f"top-{k}", {"top_k_peers": k}) for k in peers(plan))]


def traffic_table(study: Study, plan: Plan) -> Table:
    return measured(study, [("independent", "independent", "alone", None),
                            *((f"top-{k}", str(k), f"{k}", float(k)) for k in peers(plan))], "peers read at a block")


# -- position (Fig. 10, 29) -------------------------------------------------------------------------------------------


def positions(plan: Plan) -> dict[str, int]:
    """Own tokens before the one block, in the paper's unit an eighth of the budget, as far as something follows it."""
    budget = plan.leap.max_new_tokens
    if plan.options.get("values"):
        found = {str(int(value)): int(value) for value in plan.options["values"]}
    else:
        found = {str(i): round(budget * i / 8) for i in EIGHTHS}
    return {key: tokens for key, tokens in found.items() if 0 < tokens < budget}


def position_arms(plan: Plan) -> list[Arm]:
    once = [Arm(f"at-{tokens}", {"interval": tokens, "blocks": (0,)}) for tokens in positions(plan).values()]
    return [Arm("independent", ALONE), *once, Arm("every")]


def position_table(study: Study, plan: Plan) -> Table:
    points = [(f"at-{tokens}", key, f"{tokens:,}", float(tokens)) for key, tokens in positions(plan).items()]
    return measured(study, [("independent", "independent", "alone", None), *points, ("every", "every", "all blocks", None)],
                    "position of the one block (tokens)")


# -- temperature (Fig. 27) --------------------------------------------------------------------------------------------


def temperatures(plan: Plan) -> list[float]:
    return sorted({float(value) for value in plan.options.get("values") or TEMPERATURES})


def temperature_arms(plan: Plan) -> list[Arm]:
    return [Arm(f"{name}-{t:g}", leap, {"temperature": t}) for t in temperatures(plan)
            for name, leap in (("alone", ALONE), ("leap", {}))]


def temperature_table(study: Study, plan: Plan) -> Table:
    of = Measured(study.records())
    columns: Mapping[str, tuple[Column, str, Callable[..., Any]]] = {
        "Pass@1": (PASS, "leap", pass_at_1), "Pass@1 alone": (Column("Pass@1 alone"), "alone", pass_at_1),
        "Cons@N": (CONS, "leap", cons_at_n), "Cons@N alone": (Column("Cons@N alone"), "alone", cons_at_n)}
    rows = [Row(f"{t:g}", f"{t:g}", {name: value for name, (_, arm, measure) in columns.items()
                                     if (value := of.mean(f"{arm}-{t:g}", measure)) is not None}, t)
            for t in temperatures(plan)]
    return Table([column for column, _, _ in columns.values()], [row for row in rows if row.values], (), "temperature")


SWEEPS = (
    Experiment("granularity", "Fig. 7, 28", "How often should paths talk?", granularity_arms, granularity_table,
               beside(curve("Pass@1", reference=("alone",)), curve("tokens a path", reference=("alone",))), (8.4, 3.9),
               {"top_k_peers": 2}, options={"values": None}),
    Experiment("traffic", "Fig. 8", "How many peers should a path read?", traffic_arms, traffic_table,
               one(curve("Pass@1", reference=("alone",))), options={"values": None}),
    Experiment("position", "Fig. 10, 29", "When should paths talk, if only once?", position_arms, position_table,
               one(curve("Pass@1", reference=("alone", "all blocks"))), options={"values": None}),
    Experiment("temperature", "Fig. 27", "At which temperature do peers help?", temperature_arms, temperature_table,
               one(curve("Pass@1", also={"Pass@1 alone": "alone"})), options={"values": None},
               swept=(float, 0)),
)
