"""Mixture of agents (arXiv 2406.04692; Fig. 26): layers of agents, each of whom gets the answers of the layer before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leapgen.evaluation.arms import Arm, Finished
from leapgen.evaluation.experiments.base import ALONE, Experiment, Plan
from leapgen.evaluation.experiments.measures import Measured, cons_at_n, pass_at_1, spent_by_all
from leapgen.evaluation.figures import bars, beside
from leapgen.evaluation.records import Record
from leapgen.evaluation.results import Column, Point, Table, rows_of
from leapgen.evaluation.study import Study
from leapgen.evaluation.units import Unit
from leapgen.record.run import PathOutput
from leapgen.tasks.base import Problem

ANSWER = 4000  # characters of an answer that the next layer reads, its end
ASKED = """{question}

Several others have answered this. Some of them may be wrong. Weigh what they say, then give one answer of your own.

{answers}"""


def layers(plan: Plan) -> list[str]:
    """Their arms; the last layer is one agent, whose answer is the mixture's."""
    return [*(f"moa layer {i}" for i in range(1, plan.options["layers"])), "moa"]


def arms(plan: Plan) -> list[Arm]:
    def reading(before: str) -> Any:
        def prepare(study: Finished, problem: Problem, group: int) -> Mapping[str, Any]:
            paths = study.output(Unit(before, problem.id, group)).paths
            answers = "\n\n".join(f"Answer {i}: {answered(path)}" for i, path in enumerate(paths, 1))
            return {"prompt": ASKED.format(question=problem.question, answers=answers)}

        return prepare

    names, agents = layers(plan), plan.options["agents"]
    first, *others = (Arm(name, ALONE, n=1 if name == "moa" else agents) for name in names)
    later = [Arm(one.name, one.leap, n=one.n, after=(before,), prepare=reading(before))
             for before, one in zip(names, others, strict=False)]
    return [Arm("independent", ALONE), Arm("leap"), first, *later]


def answered(path: PathOutput) -> str:
    """What a path wrote once it had thought; all it thought, where it wrote nothing."""
    written = "".join(segment.text for segment in path.segments if segment.kind == "answer")
    return (written or path.own_text)[-ANSWER:].strip()


def table(study: Study, plan: Plan) -> Table:
    records = study.records()
    chain = {name for name in layers(plan) if name != "moa"}
    earlier: dict[tuple[str, int], int] = {}
    for record in records:
        if record.arm in chain:
            earlier[record.problem, record.group] = earlier.get((record.problem, record.group), 0) + record.spent

    def spent(record: Record) -> float:
        """Of a mixture, the tokens of all its layers."""
        return spent_by_all(record) + (earlier.get((record.problem, record.group), 0) if record.arm == "moa" else 0)

    of = Measured(records)
    points: list[Point] = [
        ("independent", "independent", f"alone, {plan.n} paths", None), ("leap", "leap", f"LeaP, {plan.n} paths", None),
        ("moa", "moa", f"mixture, {plan.options['layers']} layers of {plan.options['agents']}", None)]
    rows = rows_of(points, {"Pass@1": lambda arm: of.mean(arm, pass_at_1), "Cons@N": lambda arm: of.mean(arm, cons_at_n),
                            "tokens a problem": lambda arm: of.mean(arm, spent)})
    return Table((Column("Pass@1"), Column("Cons@N"), Column("tokens a problem", "tokens")), rows,
                 ["A mixture gives one answer; its tokens are those of all layers. The last layer is one agent."])


AGENTS = (
    Experiment("moa", "Fig. 26", "Mixture of agents", arms, table,
               beside(bars({"Pass@1": "Pass@1", "Cons@N": "Cons@N"}, axis="right (%)"), bars({"tokens a problem": ""})),
               (8.8, 3.9), {"groups": 4}, options={"layers": 4, "agents": 3}),
)
