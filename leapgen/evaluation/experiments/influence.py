"""What reading peers does to a path, seen by probes instead of judges: kinds of communication, and who changes to what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from leapgen.evaluation.arms import Arm
from leapgen.evaluation.experiments.base import ALONE, Experiment, Plan
from leapgen.evaluation.experiments.measures import Measured, pass_at_1
from leapgen.evaluation.figures import bars, one, stacked
from leapgen.evaluation.influence import ProbedRun, Type, propagation, types
from leapgen.evaluation.metrics import Estimate, share
from leapgen.evaluation.placebos import OwnSummary
from leapgen.evaluation.probed import Probed
from leapgen.evaluation.results import Column, Row, Table
from leapgen.evaluation.study import Study

KINDS: dict[str, Type] = {"consistent": "consistent", "unaffected": "unaffected", "influenced": "influenced",
                          "changed otherwise": "changed"}
CHANGES = {"C>C": (True, True), "I>C": (False, True), "I>I": (False, False), "C>I": (True, False)}


def probed_runs(study: Study, arm: str) -> list[ProbedRun]:
    """The runs of an arm that have paths."""
    problems = {problem.id: problem for problem in study.problems}
    return [ProbedRun.of(study.task, problems[record.problem], record) for record in study.records(arm) if record.paths]


# -- kinds of communication (Fig. 9) ----------------------------------------------------------------------------------


def types_arms(plan: Plan) -> list[Arm]:
    return [Arm("leap", protocol=partial(Probed, placebo=OwnSummary, score=False, think=plan.options["think"]))]


def types_table(study: Study, plan: Plan) -> Table:
    runs = probed_runs(study, "leap")
    rows = []
    for block in sorted({read.block for run in runs for read in run.communications()}):
        after, instead = types(runs, block=block), types(runs, "placebo", block)
        values = {name: after[kind] for name, kind in KINDS.items()} | {
            f"{name}, own summary": instead[KINDS[name]] for name in ("influenced", "changed otherwise")}
        tokens = (block + 1) * plan.leap.interval
        rows.append(_row(str(block + 1), f"{tokens:,}", values, tokens))
    return Table([Column(name) for name in (*KINDS, "influenced, own summary", "changed otherwise, own summary")], rows, [
        "Probes are forks that are asked for their answer before and after a comment. Own summary: forks that read this in "
        "the comment's place, and so what is no peer's influence."], "block after (tokens)")


# -- transitions (Fig. 13) --------------------------------------------------------------------------------------------


def transitions_arms(plan: Plan) -> list[Arm]:
    think = plan.options["think"]
    return [Arm("leap", protocol=partial(Probed, score=False, think=think)),
            Arm("alone", ALONE, protocol=partial(Probed, score=False, every=plan.leap.interval))]


def changes(run: ProbedRun, interval: int) -> list[tuple[bool, bool]]:
    """Whether each path was right before the first block (where alone, after as many tokens; if it ended before, there), and
    whether it is in the end.
    """
    first: dict[int, str | None] = {}
    for probe in run.probes:
        at_block = (probe.kind, probe.block) == ("before", 0) or (probe.kind == "share" and probe.own_tokens == interval)
        if at_block or (probe.kind == "end" and probe.path not in first):
            first[probe.path] = probe.answer
    return [(run.is_right(answer), run.is_right(run.answers[path])) for path, answer in sorted(first.items())]


def transitions_table(study: Study, plan: Plan) -> Table:
    rows = []
    runs = {name: probed_runs(study, arm) for name, arm in (("paths", "leap"), ("alone", "alone"))}
    found = {name: [(run.problem, changes(run, plan.leap.interval)) for run in theirs] for name, theirs in runs.items()}
    for key, kind in CHANGES.items():
        label = key.replace(">", " to ").replace("C", "right").replace("I", "wrong")
        rows.append(_row(key, label, {name: _share(theirs, kind) for name, theirs in found.items()}))
    errors = [f"{wrong} wrong: {value.percent()}" for wrong, value in propagation(runs["paths"]).items() if value]
    measured = Measured(study.records())
    notes = ["From a probe before the first block (alone: after as many tokens) to the final answer.",
             *([f"Right paths that are wrong once they have read peers of whom ... are wrong: {', '.join(errors)}."]
               if errors else []),
             *(f"Pass@1 {name}: {value.percent()}." for name, arm in (("with peers", "leap"), ("alone", "alone"))
               if (value := measured.mean(arm, pass_at_1)) is not None)]
    return Table([Column("paths"), Column("alone")], [row for row in rows if row.values], notes)


def _share(found: Sequence[tuple[str, list[tuple[bool, bool]]]], kind: tuple[bool, bool]) -> Estimate | None:
    """Of the paths, over all problems."""
    counts: dict[str, list[bool]] = {}
    for problem, theirs in found:
        counts.setdefault(problem, []).extend(change == kind for change in theirs)
    return share(np.array([(sum(theirs), len(theirs)) for theirs in counts.values()]))


def _row(key: str, label: str, values: Mapping[str, Estimate | None], x: float | None = None) -> Row:
    return Row(key, label, {name: value for name, value in values.items() if value is not None}, x)


LONG = {"interval": 48, "max_new_tokens": 384}  # seven blocks, as in the paper
INFLUENCE = (
    Experiment("types", "Fig. 9", "What becomes of what peers say?", types_arms, types_table,
               one(stacked(tuple(KINDS), "share of communications (%)")), (7.2, 4.0), {"max_new_tokens": 32768},
               {"maze": LONG}, {"think": 0}),
    Experiment("transitions", "Fig. 13", "Who changes to what?", transitions_arms, transitions_table,
               one(bars({"paths": "with peers", "alone": "alone"}, (0, 1), "paths (%)")), (6.4, 3.9),
               {"max_new_tokens": 32768}, {"maze": LONG}, {"think": 0}),
)
