"""What an experiment leaves behind: its result with the paper's numbers beside, as JSON, a picture and a page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leapgen.evaluation import paper
from leapgen.evaluation.experiments.base import Experiment, Plan
from leapgen.evaluation.figures import save_picture
from leapgen.evaluation.report import write_page
from leapgen.evaluation.results import Result
from leapgen.evaluation.study import Study
from leapgen.record.files import save_json


def result_of(experiment: Experiment, study: Study, plan: Plan) -> Result:
    """The table of what is done, with the paper's numbers for this task and model, or, where it has none, others of its."""
    whose, published = beside(experiment.name, plan.task.name, study.settings.model)
    return Result(experiment.name, experiment.source, experiment.title, experiment.summarize(study, plan), published, whose)


def beside(name: str, task: str, model: str) -> tuple[str, dict[str, Mapping[str, float]]]:
    """Whose numbers the paper prints for an experiment, and these, by column and row: one model's on one data set."""
    whose = ""
    published: dict[str, Mapping[str, float]] = {}
    for entry in paper.entries(name):
        of, columns = entry.at(task, model)
        if columns and whose in ("", of):
            whose = of
            for column, numbers in columns.items():
                published[column] = {**published.get(column, {}), **numbers}
    return whose, published


def claim(folder: Path, experiment: Experiment, options: Mapping[str, Any]) -> None:
    """Notes in a study's folder which experiment it is; its arms alone do not tell what they were prepared with.

    Raises:
        ValueError: it is another one's, or one of other options. OSError.
    """
    file, wanted = folder / "experiment.json", {"experiment": experiment.name, **options}
    if not file.exists():
        save_json(wanted, file)
    found = json.loads(file.read_text(encoding="utf-8"))
    other = [f"{name}: {found.get(name)} there, {wanted.get(name)} asked for" for name in {**found, **wanted}
             if found.get(name) != wanted.get(name)]
    if other:
        raise ValueError(f"{folder} holds an experiment of other options: {'; '.join(other)}. Go on as it was begun, or "
                         "choose another --output.")


def save(result: Result, experiment: Experiment, study: Study, plan: Plan, summary: Mapping[str, Any],
         runs: int) -> list[Path]:
    """Writes ``NAME.json``, ``NAME.png`` and ``index.html`` into the study's report; returns what was written.

    Without matplotlib there is no picture.

    Args:
        summary: what ``leapgen.evaluation.table.write_report`` gave.
        runs: how many runs the page carries.

    Raises:
        OSError: a file cannot be written.
    """
    numbers, picture = (study.folder / "report" / f"{result.name}.{kind}" for kind in ("json", "png"))
    figure: dict[str, Any] = result.to_dict()
    save_json({**figure, "options": dict(plan.options), "units": summary["units"], "settings": summary["settings"]}, numbers)
    try:
        save_picture(result, experiment.draw, experiment.size, picture)
    except ModuleNotFoundError:
        return [numbers, write_page(study, summary, [figure], runs)]
    return [numbers, picture, write_page(study, summary, [{**figure, "picture": picture}], runs)]
