"""What reading peers does to a path, seen by probes instead of judges: kinds of communication, and who changes to what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from leapgen.evaluation.arms import Arm
from leapgen.evaluation.experiments.base import ALONE, Experiment, Plan
from leapgen.evaluation.experiments.measures import Measured, pass_at_1
from leapgen.evaluation.figures import bars, one, stacked
from leapgen.evaluation.placebos import OwnSummary
from leapgen.evaluation.probed import Probed
from leapgen.evaluation.probes import Probe, probes_of, standing
from leapgen.evaluation.records import Record
from leapgen.evaluation.results import Column, Row, Table
from leapgen.evaluation.study import Study
from leapgen.tasks.base import Problem, Task

KINDS = ("consistent", "unaffected", "influenced", "changed otherwise")
CHANGES = ("C>C", "I>C", "I>I", "C>I")
Same = Callable[[str | None, str | None], bool]


def same_answers(task: Task, problem: Problem, answers: Iterator[str | None]) -> Same:
    """Whether two of these answers are one, as the task groups them; none is the same as none."""
    stated = list(dict.fromkeys(answer for answer in answers if answer is not None))
    group = {stated[i]: number for number, places in enumerate(task.groups(problem, stated)) for i in places}
    return lambda a, b: (a is None) == (b is None) and (a is None or b is None or group[a] == group[b])


def communications(probes: list[Probe], same: Same) -> Iterator[tuple[int, str, bool | None]]:
    """Of every path that read peers: the block, the kind of communication, and whether a placebo in its place changed it.

    ``consistent``: path and peers agreed before, and it still does; ``unaffected``: they did not, it holds on to its answer;
    ``influenced``: it takes over one that a peer it read held; ``changed otherwise``: it takes another one.
    """
    for after in probes:
        if after.kind != "after" or after.block is None or not after.peers:
            continue
        before = standing(probes, after.path, after.block)
        peers = [peer for one in after.peers if (peer := standing(probes, one, after.block)) is not None]
        if before is None or not peers:
            continue
        placebo = next((probe for probe in probes if (probe.kind, probe.path, probe.block)
                        == ("placebo", after.path, after.block)), None)
        changed = None if placebo is None else not same(placebo.answer, before.answer)
        if same(before.answer, after.answer):
            agree = all(same(peer.answer, before.answer) for peer in peers)
            yield after.block, "consistent" if agree else "unaffected", changed
        else:
            taken = after.answer is not None and any(same(peer.answer, after.answer) for peer in peers)
            yield after.block, "influenced" if taken else "changed otherwise", changed


# -- kinds of communication (Fig. 9) ----------------------------------------------------------------------------------


def types_arms(plan: Plan) -> list[Arm]:
    return [Arm("leap", protocol=partial(Probed, placebo=OwnSummary, score=False, think=plan.options["think"]))]


def types_table(study: Study, plan: Plan) -> Table:
    problems = {problem.id: problem for problem in study.problems}
    found: dict[int, list[tuple[int, str, bool | None]]] = {}

    def of(record: Record) -> list[tuple[int, str, bool | None]]:
        if id(record) not in found:
            probes = probes_of(record.probes)
            same = same_answers(study.task, problems[record.problem], (probe.answer for probe in probes))
            found[id(record)] = [*communications(probes, same)]
        return found[id(record)]

    records = study.records("leap")
    measured = Measured(records)
    rows = []
    for block in sorted({block for record in records for block, _, _ in of(record)}):
        def kinds(record: Record, block: int = block) -> Mapping[str, int]:
            return Counter(kind for place, kind, _ in of(record) if place == block)

        def placebos(record: Record, block: int = block) -> Mapping[str, int]:
            return Counter("changed" if changed else "held" for place, _, changed in of(record)
                           if place == block and changed is not None)

        values = {kind: measured.share("leap", kinds, kind) for kind in KINDS}
        values["changed by a placebo"] = measured.share("leap", placebos, "changed")
        tokens = (block + 1) * plan.leap.interval
        rows.append(Row(str(block + 1), f"{tokens:,}",
                        {name: one for name, one in values.items() if one is not None}, tokens))
    return Table([*map(Column, KINDS), Column("changed by a placebo")], rows,
                 ["Probes are forks that are asked for their answer before and after a comment. Changed by a placebo: of "
                  "forks that read their own summary instead, those that answer otherwise than before."],
                 "block after (tokens)")


# -- transitions (Fig. 13) --------------------------------------------------------------------------------------------


def transitions_arms(plan: Plan) -> list[Arm]:
    return [Arm("leap", protocol=partial(Probed, score=False, think=plan.options["think"])),
            Arm("alone", ALONE, protocol=partial(Probed, score=False, every=plan.leap.interval))]


def changes(task: Task, problem: Problem, record: Record, interval: int) -> Mapping[str, int]:
    """Paths by whether they were right before the first block (where alone, after as many tokens), and in the end."""
    first: dict[int, Probe] = {}
    for probe in probes_of(record.probes):
        at_block = (probe.kind, probe.block) == ("before", 0) or (probe.kind == "share" and probe.own_tokens == interval)
        if at_block or (probe.kind == "end" and probe.path not in first):
            first[probe.path] = probe
    return Counter("IC"[task.grade(problem, first[i].answer)] + ">" + "IC"[path.right]
                   for i, path in enumerate(record.paths) if i in first)


def propagation(task: Task, problem: Problem, record: Record) -> Iterator[tuple[int, bool]]:
    """Of paths that were right before a comment: how many wrong peers they read, and whether they are wrong after it."""
    probes = probes_of(record.probes)
    for after in probes:
        if after.kind == "after" and after.block is not None:
            before = standing(probes, after.path, after.block)
            if before is not None and task.grade(problem, before.answer):
                peers = [standing(probes, peer, after.block) for peer in after.peers]
                wrong = sum(peer is not None and not task.grade(problem, peer.answer) for peer in peers)
                yield wrong, not task.grade(problem, after.answer)


def transitions_table(study: Study, plan: Plan) -> Table:
    problems, measured = {problem.id: problem for problem in study.problems}, Measured(study.records())

    def counts(record: Record) -> Mapping[str, int]:
        return changes(study.task, problems[record.problem], record, plan.leap.interval)

    rows = []
    for kind in CHANGES:
        values = {column: measured.share(arm, counts, kind) for column, arm in (("paths", "leap"), ("alone", "alone"))}
        rows.append(Row(kind, kind.replace(">", " to ").replace("C", "right").replace("I", "wrong"),
                        {name: one for name, one in values.items() if one is not None}))
    told = [one for record in study.records("leap") if record.paths
            for one in propagation(study.task, problems[record.problem], record)]
    misled = [f"{number}: {sum(wrong for n, wrong in told if n == number)} of {sum(n == number for n, _ in told)}"
              for number in sorted({n for n, _ in told})]
    notes = ["From a probe before the first block (alone: after as many tokens) to the final answer.",
             *([f"Right paths that are wrong right after a comment, by wrong peers they read: {'; '.join(misled)}."]
               if misled else []),
             *(f"Pass@1 {name}: {value.percent()}." for name, arm in (("with peers", "leap"), ("alone", "alone"))
               if (value := measured.mean(arm, pass_at_1)) is not None)]
    return Table([Column("paths"), Column("alone")], [row for row in rows if row.values], notes)


LONG = {"interval": 48, "max_new_tokens": 384}  # seven blocks, as in the paper
INFLUENCE = (
    Experiment("types", "Fig. 9", "What becomes of what peers say?", types_arms, types_table,
               one(stacked(KINDS, "share of communications (%)")), (7.2, 4.0), {"max_new_tokens": 32768}, {"maze": LONG},
               {"think": 0}),
    Experiment("transitions", "Fig. 13", "Who changes to what?", transitions_arms, transitions_table,
               one(bars({"paths": "with peers", "alone": "alone"}, (0, 1), "paths (%)")), (6.4, 3.9),
               {"max_new_tokens": 32768}, {"maze": LONG}, {"think": 0}),
)
