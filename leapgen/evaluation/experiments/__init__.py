"""Every experiment of the paper by name."""

from __future__ import annotations

from leapgen.evaluation.experiments.accuracy import ACCURACY
from leapgen.evaluation.experiments.agents import AGENTS
from leapgen.evaluation.experiments.base import Experiment, Plan
from leapgen.evaluation.experiments.beginnings import BEGINNINGS
from leapgen.evaluation.experiments.difficulty import DIFFICULTY
from leapgen.evaluation.experiments.influence import INFLUENCE
from leapgen.evaluation.experiments.spending import SPENDING
from leapgen.evaluation.experiments.sweeps import SWEEPS
from leapgen.options import did_you_mean

__all__ = ["EXPERIMENTS", "Experiment", "Plan", "experiment"]

EXPERIMENTS = {one.name: one for one in (*ACCURACY, *BEGINNINGS, *SWEEPS, *SPENDING, *DIFFICULTY, *INFLUENCE, *AGENTS)}


def experiment(name: str) -> Experiment:
    """An experiment by its name.

    Raises:
        ValueError: there is none; names the nearest.
    """
    if name not in EXPERIMENTS:
        raise ValueError(f"there is no experiment {name!r}{did_you_mean(name, EXPERIMENTS)}. There are: "
                         f"{', '.join(EXPERIMENTS)}.")
    return EXPERIMENTS[name]
