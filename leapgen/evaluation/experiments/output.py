"""What an experiment leaves behind: its result with the paper's numbers beside, as JSON and as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leapgen.evaluation import paper
from leapgen.evaluation.experiments.base import Experiment, Plan
from leapgen.evaluation.figures import save_picture
from leapgen.evaluation.results import Result
from leapgen.evaluation.study import Study
from leapgen.record.files import save_json


def result_of(experiment: Experiment, study: Study, plan: Plan) -> Result:
    """The table of what is done, with the paper's numbers for this task and model, or, where it has none, others of its."""
    whose, published = beside(experiment.name, plan.task.name, study.settings.model)
    return Result(experiment.name, experiment.source, experiment.title, experiment.summarize(study, plan), published, whose)


def beside(name: str, task: str, model: str) -> tuple[str, dict[str, Mapping[str, float]]]:
    """Whose numbers the paper prints for an experiment, and these, by column and row: one model's on one data set."""
    whose, published = "", {}
    for entry in paper.entries(name):
        of, columns = entry.at(task, model)
        if columns and whose in ("", of):
            whose = of
            for column, numbers in columns.items():
                published[column] = {**published.get(column, {}), **numbers}
    return whose, published


def save(result: Result, experiment: Experiment, settings: Mapping[str, Any], folder: Path) -> list[Path]:
    """Writes ``NAME.json`` and ``NAME.png``; returns what was written: without matplotlib there is no picture.

    Args:
        settings: what the study was made with, as JSON values.

    Raises:
        OSError: a file cannot be written.
    """
    numbers, picture = (folder / f"{result.name}.{kind}" for kind in ("json", "png"))
    save_json({**result.to_dict(), "settings": settings}, numbers)
    try:
        save_picture(result, experiment.draw, experiment.size, picture)
    except ModuleNotFoundError:
        return [numbers]
    return [numbers, picture]
