"""``report/index.html``: a study as one page: what was asked, arms, figures, every problem, and the paths of some runs."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from leapgen.answers import normalize_answer
from leapgen.answers.votes import grouped
from leapgen.evaluation.records import PathRecord, Record
from leapgen.evaluation.study import Study
from leapgen.evaluation.table import INDEPENDENT
from leapgen.evaluation.units import Unit
from leapgen.record.files import save_bytes
from leapgen.version import __version__
from leapgen.viewer import page, run_view

RUNS = 20  # that a page carries, unless said otherwise


def write_page(study: Study, summary: Mapping[str, Any], figures: Sequence[Mapping[str, Any]] = (),
               runs: int = RUNS) -> Path:
    """Writes ``report/index.html`` into the study's folder and says where it is; arguments are those of ``study_page``.

    Raises:
        OSError: it cannot be written, or a picture or a run cannot be read.
    """
    file = study.folder / "report" / "index.html"
    file.parent.mkdir(exist_ok=True)
    save_bytes(study_page(study, summary, figures, runs).encode("utf-8"), file)
    return file


def study_page(study: Study, summary: Mapping[str, Any], figures: Sequence[Mapping[str, Any]] = (),
               runs: int = RUNS) -> str:
    """The HTML of a study's page: the same bytes whoever did the units, and in which order.

    Args:
        summary: the study's numbers, as ``leapgen.evaluation.table.summarize`` gives them.
        figures: dictionaries with ``title`` and, each if there is one, ``picture`` (a PNG file), ``source`` (where in the
            paper), ``notes`` (sentences), and a table: ``columns`` of ``name`` and ``unit``, ``rows`` of ``label`` and
            ``values`` by column (``mean``, ``low``, ``high``, ``paper``), and ``paper`` (of which model on which data its
            numbers are).
        runs: how many runs the page carries whole.
    """
    settings, units = summary["settings"], summary["units"]
    records = study.records()
    by_unit = {record.unit: record for record in records if record.paths}
    ran = list(by_unit)
    carried = sorted(ran, key=lambda unit: _order(study, unit))[:runs]
    title = f"{settings['task']} · {Path(settings['model']).name}"
    view = {
        "facts": [["task", settings["task"]], ["model", settings["model"]], ["problems", len(study.problems)],
                  ["groups", settings["groups"]], ["paths a group", settings["n"]], ["seed", str(settings["seed"])]],
        "settings": _settings(settings), "baseline": INDEPENDENT,
        "caption": "Percent; means over problems with 95% bootstrap intervals. Pass@1 is of single paths, Cons@N of votes, "
                   "Pass@N of groups in which any path is right; gains are of Pass@1, in points.",
        "warning": _missing(units["done"], units["all"]),
        "arms": [{"name": arm.name, "changes": _changes(settings["arms"][arm.name]), **summary["arms"][arm.name]}
                 for arm in study.arms],
        "figures": [_figure(figure) for figure in figures],
        "problems": _problems(study, records),
        "left_out": _left_out(study, carried, ran),
        "made_with": f"leapgen {__version__}",
    }
    return page(title, {"title": title, "study": view, "runs": [[unit.problem, unit.arm, unit.group] for unit in carried]},
                [_run(study, by_unit[unit]) for unit in carried])


def _order(study: Study, unit: Unit) -> tuple[int, int, int]:
    """Group by group, and of each problem all arms, so that what is carried can be compared."""
    problems = [problem.id for problem in study.problems]
    return unit.group, problems.index(unit.problem), [arm.name for arm in study.arms].index(unit.arm)


def _settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    apart = ("arms", "problems", "leap", "sampling", "prompts", "leapgen")  # the last is the file's format
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
            units[record.problem].append({"arm": place[record.arm], "group": record.group,
                                          "paths": "".join(map(_sign, record.paths)), "majority": record.majority,
                                          "right": record.majority_right})
    return [{"id": problem.id, "question": problem.question, "answer": problem.answer, "units": units[problem.id]}
            for problem in study.problems]


def _sign(path: PathRecord) -> str:
    return "1" if path.right else "-" if path.answer is None else "0"


def _left_out(study: Study, carried: Sequence[Unit], ran: Sequence[Unit]) -> str | None:
    if len(carried) == len(ran):
        return None
    example = next(unit for unit in ran if unit not in carried)
    return (f"{len(carried)} of {len(ran)} runs are in this page: of the first groups and problems, all arms. "
            f"--runs N takes N of them. The others are in the study's folder: "
            f"leapgen show runs/{example.name}.json.gz --html PAGE makes a page of one.")


def _run(study: Study, record: Record) -> dict[str, Any]:
    """What is right is what the record says, so that nothing is graded again, and needs nothing that graders need."""
    output, problem = study.output(record.unit), study.problem(record.problem)
    known = {normalize_answer(path.answer): path.right for path in record.paths if path.answer is not None}

    def right(answer: str) -> bool | None:
        return known.get(normalize_answer(answer))

    def spelled(answer: str) -> str:
        """Right ones are one, whatever their spelling."""
        return "\0right" if right(answer) else normalize_answer(answer)

    return run_view(output.to_dict(), [path.claims(len(output.blocks)) for path in output.paths], record.majority,
                    groups=partial(grouped, spelled=spelled), right=right, expected=problem.answer, reproducible=True)
