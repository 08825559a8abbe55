"""``report/index.html``: a study as one page: what was asked, arms, figures, every problem, and the paths of some runs."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from leapgen.evaluation.definition import FILE
from leapgen.evaluation.records import PathRecord, Record
from leapgen.evaluation.study import Study
from leapgen.evaluation.units import Unit
from leapgen.version import __version__
from leapgen.viewer import page, run_view

RUNS = 20  # that a page carries, unless said otherwise
BASELINE = "independent"


def study_page(study: Study, arms: Mapping[str, Mapping[str, Any]], figures: Sequence[Mapping[str, Any]] = (),
               runs: int = RUNS) -> str:
    """The HTML of a study's page, the same bytes whoever did the units.

    Args:
        arms: numbers by arm: ``pass``, ``cons``, ``any``, ``shortest`` (fractions), ``gain`` (over the independent arm) and
            ``equal`` (over its equal-cost arm) as ``{"mean": .., "low": .., "high": ..}``; ``spread`` of ``pass`` between
            groups; ``tokens`` a path, by kind. Those that are missing or None are not shown.
        figures: what a ``Result``'s ``to_dict`` gives, and ``picture``, a PNG file; either may be missing.
        runs: how many runs the page carries whole.
    """
    settings = json.loads((study.folder / FILE).read_text(encoding="utf-8"))
    records = study.records()
    ran = [record.unit for record in records if record.paths]
    carried = sorted(ran, key=lambda unit: _order(study, unit))[:max(runs, 0)]
    title = f"{settings['task']} · {Path(settings['model']).name}"
    view = {
        "facts": [["task", settings["task"]], ["model", settings["model"]], ["problems", len(study.problems)],
                  ["groups", settings["groups"]], ["paths a group", settings["n"]], ["seed", settings["seed"]]],
        "settings": _settings(settings), "baseline": BASELINE,
        "caption": "Percent; means over problems with 95% bootstrap intervals. Pass@1 is of single paths, Cons@N of votes, "
                   "Pass@N of groups in which any path is right.",
        "warning": _missing(len(records), len(study.units)),
        "arms": [{"name": arm.name, "changes": _changes(settings["arms"][arm.name]), **arms.get(arm.name, {})}
                 for arm in study.arms],
        "figures": [_figure(figure) for figure in figures],
        "problems": _problems(study, records),
        "left_out": _left_out(study, carried, ran),
        "made_with": f"leapgen {__version__}",
    }
    return page(title, {"title": title, "study": view, "runs": [[unit.problem, unit.arm, unit.group] for unit in carried]},
                [_run(study, unit) for unit in carried])


def _order(study: Study, unit: Unit) -> tuple[int, int, int]:
    """Group by group, and of each problem all arms, so that what is carried can be compared."""
    problems = [problem.id for problem in study.problems]
    return unit.group, problems.index(unit.problem), [arm.name for arm in study.arms].index(unit.arm)


def _settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    apart = ("arms", "problems", "leap", "sampling", "prompts", "leapgen")
    return {"study": {name: value for name, value in settings.items() if name not in apart}, "protocol": settings["leap"],
            "sampling": settings["sampling"], "sentences": settings["prompts"]}


def _changes(arm: Mapping[str, Any]) -> list[list[Any]]:
    """What an arm has otherwise than the study."""
    changes = [[name, value] for part in ("leap", "sampling") for name, value in arm[part].items()]
    changes += [[name, arm[name]] for name in ("model", "n") if arm[name]]
    return changes + ([["protocol", arm["protocol"]]] if arm["protocol"] != "Leap" else [])


def _missing(done: int, all_of_them: int) -> str | None:
    return None if done == all_of_them else f"{done} of {all_of_them} units are done. All numbers are of these."


def _figure(figure: Mapping[str, Any]) -> dict[str, Any]:
    picture = figure.get("picture")
    data = None if picture is None else base64.b64encode(Path(picture).read_bytes()).decode("ascii")
    return {**figure, "picture": data and f"data:image/png;base64,{data}"}


def _problems(study: Study, records: Sequence[Record]) -> list[dict[str, Any]]:
    place = {arm.name: i for i, arm in enumerate(study.arms)}
    units: dict[str, list[dict[str, Any]]] = {problem.id: [] for problem in study.problems}
    for record in records:
        if record.paths:
            units[record.problem].append({
                "arm": place[record.arm], "group": record.group, "paths": "".join(map(_sign, record.paths)),
                "majority": record.majority, "right": record.majority_right})
    return [{"id": problem.id, "question": problem.question, "answer": problem.answer, "units": units[problem.id]}
            for problem in study.problems]


def _sign(path: PathRecord) -> str:
    return "1" if path.right else "-" if path.answer is None else "0"


def _left_out(study: Study, carried: Sequence[Unit], ran: Sequence[Unit]) -> str | None:
    if len(carried) == len(ran):
        return None
    example = next(unit for unit in ran if unit not in carried)
    return (f"{len(carried)} of {len(ran)} runs are in this page: of the first groups and problems, all arms. "
            f"--runs N takes N of them. The others are in the study's folder: leapgen show runs/{example.name}.json.gz --html "
            "PAGE makes a page of one.")


def _run(study: Study, unit: Unit) -> dict[str, Any]:
    output, problem = study.output(unit), study.problem(unit.problem)
    return run_view(output.to_dict(), [path.claims(len(output.blocks)) for path in output.paths],
                    groups=partial(study.task.groups, problem), right=partial(study.task.grade, problem),
                    expected=problem.answer, reproducible=True)
