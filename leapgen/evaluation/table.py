"""A study's numbers: accuracy, votes and cost of every arm, gains over the baselines, with intervals."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

import numpy as np

from leapgen.evaluation.definition import FILE
from leapgen.evaluation.metrics import Estimate, estimate
from leapgen.evaluation.records import SPENT, Record
from leapgen.evaluation.study import Study
from leapgen.record.files import save_bytes

INDEPENDENT, EQUAL = "independent", "equal:"
MEASURES: dict[str, Callable[[Record], float]] = {
    "pass_at_1": lambda record: fmean(record.right),
    "cons_at_n": lambda record: record.majority_right,
    "shortest_majority": lambda record: record.shortest_majority_right,
    "pass_at_n": lambda record: any(record.right),
}
COMPARED = ("pass_at_1", "cons_at_n")  # what gains are of


class ArmResults:
    """The finished units of one arm that had something to run."""

    def __init__(self, records: Iterable[Record]) -> None:
        self.records = [record for record in records if record.paths]
        self.problems = list(dict.fromkeys(record.problem for record in self.records))
        self.paths = [path for record in self.records for path in record.voters]

    def by_problem(self, measure: str) -> dict[str, float]:
        """The mean over a problem's groups."""
        found: dict[str, list[float]] = {}
        for record in self.records:
            found.setdefault(record.problem, []).append(MEASURES[measure](record))
        return {problem: fmean(values) for problem, values in found.items()}

    def by_group(self) -> list[float]:
        """Pass@1 over all problems, group by group. Paths that talk are no independent samples: their groups are."""
        found: dict[int, list[float]] = {}
        for record in self.records:
            found.setdefault(record.group, []).append(MEASURES["pass_at_1"](record))
        return [fmean(found[group]) for group in sorted(found)]

    def tokens(self, counted: bool = False) -> dict[str, float]:
        """For each path that votes, by kind; ``discarded`` were sampled and then cut or dropped, ``all`` counts as cost.

        ``counted``: as the study's ``count_with`` counts.
        """
        kinds, discarded = Counter[str](), 0.0
        for record in self.records:
            for path in record.paths:
                kinds.update(path.counted if counted else path.tokens)
            discarded += record.counted - sum(path.counted_spent for path in record.paths) if counted else record.discarded
        means = {kind: kinds[kind] / len(self.paths) for kind in SPENT if kinds[kind]} | {
            "discarded": discarded / len(self.paths)}
        return {**means, "all": sum(means.values())}


def gain(arm: ArmResults, base: ArmResults, measure: str) -> Estimate | None:
    """By how much an arm is above another, over the problems that both have; None without any."""
    one, other = arm.by_problem(measure), base.by_problem(measure)
    common = [problem for problem in one if problem in other]
    return estimate(np.array([one[problem] - other[problem] for problem in common])) if common else None


def summarize(study: Study) -> dict[str, Any]:
    """All numbers of a study as it stands, JSON values: fractions, and tokens a path. The same from the same units.

    Raises:
        ValueError: no unit is finished.
    """
    records = study.records()
    if not records:
        raise ValueError(f"{study.folder}: no unit is finished yet; there are {len(study.units)} to do.")
    results = {arm.name: ArmResults(record for record in records if record.arm == arm.name) for arm in study.arms}
    settings = json.loads((study.folder / FILE).read_text(encoding="utf-8"))
    done = Counter(record.arm for record in records)
    return {"settings": {**settings, "problems": [problem["id"] for problem in settings["problems"]]},
            "units": {"done": len(records), "all": len(study.units)},
            "arms": {name: {"units": {"done": done[name], "all": len(study.units) // len(study.arms)},
                            **(_row(name, result, results, study) if result.records else {})}
                     for name, result in results.items()}}


def _row(name: str, arm: ArmResults, others: Mapping[str, ArmResults], study: Study) -> dict[str, Any]:
    groups = arm.by_group()
    row: dict[str, Any] = {
        "problems": len(arm.problems), "paths": len(arm.paths), "n": sorted({len(record.voters) for record in arm.records}),
        **{measure: vars(estimate(np.array([*arm.by_problem(measure).values()]))) for measure in MEASURES},
        "groups": groups, "spread_between_groups": stdev(groups) if len(groups) > 1 else None,
        "blocks": fmean(record.blocks for record in arm.records), "tokens": arm.tokens(),
        "aha": fmean(path.aha for path in arm.paths), "paths_with_aha": fmean(path.aha > 0 for path in arm.paths),
        "finished": dict(sorted(Counter(path.finish_reason for path in arm.paths).items())),
        "prepared": _prepared(arm.records)}
    if study.settings.count_with:
        row["tokens_counted"] = arm.tokens(counted=True)
    for key, base in (("gain", INDEPENDENT), ("gain_at_equal_tokens", EQUAL + name)):
        if base != name and base in others and others[base].records:
            found = {measure: gain(arm, others[base], measure) for measure in COMPARED}
            row[key] = {measure: value and vars(value) for measure, value in found.items()}
    return row


def _prepared(records: Sequence[Record]) -> dict[str, Any]:
    """What was prepared the same for all units, such as a budget."""
    first = records[0].prepared
    return {name: value for name, value in first.items() if all(record.prepared.get(name) == value for record in records)}


def seconds(study: Study) -> dict[str, Any]:
    """Of every arm: seconds by phase over all units, and counts that depend on what was in flight together."""
    found: dict[str, Any] = {}
    for arm in study.arms:
        spent, counts = Counter[str](), Counter[str]()
        for record in study.records(arm.name):
            spent.update(record.seconds)
            counts.update(record.ledger)
        found[arm.name] = {"seconds": dict(spent), "all": sum(spent.values()), "ledger": dict(counts)}
    return found


def text(summary: Mapping[str, Any]) -> str:
    """The numbers as tables for people."""
    settings, units, counter = summary["settings"], summary["units"], summary["settings"]["count_with"]
    arms = {name: row for name, row in summary["arms"].items() if "pass_at_1" in row}
    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "Pass@1": lambda row: _interval(row["pass_at_1"]),
        "±groups": lambda row: _percent(row["spread_between_groups"]),
        "Cons@N": lambda row: _interval(row["cons_at_n"]),
        "shortest": lambda row: _percent(row["shortest_majority"]["mean"]),
        "Pass@N": lambda row: _percent(row["pass_at_n"]["mean"]),
        "tokens": lambda row: f"{row['tokens']['all']:.0f}",
        **({"counted": lambda row: f"{row['tokens_counted']['all']:.0f}"} if counter else {}),
        "gain": lambda row: _interval((row.get("gain") or {}).get("pass_at_1"), "+"),
        "at equal tokens": lambda row: _interval((row.get("gain_at_equal_tokens") or {}).get("pass_at_1"), "+")}
    cells = [["arm", *columns], *([name, *(column(row) for column in columns.values())] for name, row in arms.items())]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [f"{settings['task']}: {len(settings['problems'])} problems, {settings['groups']} groups of {settings['n']} "
             f"paths, {settings['model']}, seed {settings['seed']}"]
    if units["done"] < units["all"]:
        lines.append(f"NOT COMPLETE: {units['done']} of {units['all']} units are finished.")
    lines += ["", *("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in cells)]
    lines += ["", NOTES, "", "Tokens by kind"]
    lines += [f"  {name}: {_listed(row['tokens'])}" for name, row in arms.items()]
    if counter:
        lines += [f"The same, counted by {counter}", *(f"  {name}: {_listed(row['tokens_counted'])}"
                                                       for name, row in arms.items())]
    lines += ["Turns of thought in the words of a path",
              *(f"  {name}: {row['aha']:.2f}, in {_percent(row['paths_with_aha'])}% of paths"
                for name, row in arms.items()),
              f"  counted: {', '.join(settings['aha']) or 'nothing'}"]
    prepared = [f"  {name}: {', '.join(f'{key}={value}' for key, value in row['prepared'].items())}"
                for name, row in arms.items() if row["prepared"]]
    if prepared:
        lines += ["Followed from other arms", *prepared]
    return "\n".join(lines) + "\n"


NOTES = """Percent, with 95% bootstrap intervals over problems. ±groups: standard deviation of Pass@1 between groups, in
points. gain: points of Pass@1 above independent paths on the same problems; at equal tokens: above the arm equal:NAME, whose
own row says what it spent. tokens: for each path that votes, all after the prompt, and what was sampled and discarded.
Where tokens are counted a second time, equal:NAME is equal in these."""


def write_report(study: Study) -> dict[str, Any]:
    """Writes ``report.json``, ``report.txt`` and ``seconds.json`` into the study's ``report`` folder; gives the numbers.

    ``report.json`` and ``report.txt`` have the same bytes whoever did the units, and in which order.

    Raises:
        ValueError: no unit is finished. OSError: the files cannot be written.
    """
    summary, folder = summarize(study), study.folder / "report"
    folder.mkdir(exist_ok=True)
    for name, data in (("report.json", summary), ("seconds.json", seconds(study))):
        save_bytes(json.dumps(data, indent=1, ensure_ascii=False).encode() + b"\n", folder / name)
    save_bytes(text(summary).encode(), folder / "report.txt")
    return summary


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _listed(tokens: Mapping[str, float]) -> str:
    return ", ".join(f"{kind} {mean:.1f}" for kind, mean in tokens.items())


def _interval(values: Mapping[str, float] | None, sign: str = "") -> str:
    return Estimate(**values).percent(sign) if values else "-"
