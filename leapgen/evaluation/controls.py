"""Controls that follow from the task or from other arms: what paths read instead, and a budget of equal cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from leapgen.evaluation.broadcast import Broadcast
from leapgen.evaluation.design import Finished
from leapgen.evaluation.metrics import equal_budget
from leapgen.evaluation.placebos import Scrambled, Strangers
from leapgen.evaluation.units import Unit
from leapgen.tasks.base import Problem

Bank = dict[tuple[int, ...], list[list[str]]]  # summaries by prompt (token ids) and block


@dataclass(frozen=True)
class FromStrangers:
    """The summaries that the paths of ``arm`` wrote on other problems, in the same group."""

    arm: str
    _banks: dict[tuple[Path, int], Bank] = field(default_factory=dict, compare=False)

    def __call__(self, study: Finished, problem: Problem, group: int) -> Mapping[str, Any]:
        if len(study.problems) < 2:
            raise ValueError("strangers' summaries are of other problems, and the study has one problem alone.")
        key = study.folder, group
        if key not in self._banks:
            self._banks.clear()  # of one group at a time
            self._banks[key] = self._bank(study, group)
        return {"protocol": partial(Strangers, bank=self._banks[key])}

    def _bank(self, study: Finished, group: int) -> Bank:
        outputs = [study.output(Unit(self.arm, problem.id, group)) for problem in study.problems]
        return {tuple(output.paths[0].segments[0].token_ids):
                [[summary.text for summary in block.summaries.values() if summary.text] for block in output.blocks]
                for output in outputs}


def scrambled(study: Finished, problem: Problem, group: int) -> Mapping[str, Any]:
    """Peers' summaries in which what carries meaning in this task is exchanged."""
    return {"protocol": Scrambled if study.task.words is None else partial(Scrambled, words=study.task.words)}


def broadcast(study: Finished, problem: Problem, group: int) -> Mapping[str, Any]:
    """Answers that others have found, in the task's words."""
    return {"protocol": partial(Broadcast, told=partial(study.task.told, problem))}


@dataclass(frozen=True)
class EqualCost:
    """The budget at which independent paths spend as many tokens as the paths of ``arm`` did.

    Tokens are all after the prompt, and those sampled and then discarded, for each path that votes, counted by the study's
    ``count_with`` if it has one; the mean is over all problems and groups of the study. The budget is the same for all
    problems. It follows from the finished units of ``independent``:

    - If these spent as much or more, a smaller budget would have cut them: it is the smallest at which they would have spent
      as much, every path keeping what came after its reasoning.
    - If they spent less, only paths that were cut (*censored*) can spend more: each gets the whole difference between
      the two sums, divided by the number of cut paths. They may end before, so that this run can spend less than the arm.
    - If none was cut, no budget makes them spend more, and the budget is as it was.

    What the run then spent is in the report, whatever was aimed at.
    """

    arm: str
    independent: str

    def __call__(self, study: Finished, problem: Problem, group: int) -> Mapping[str, Any]:
        units = [record for record in study.records(self.arm) if record.paths]
        alone = [record for record in study.records(self.independent) if record.paths]
        budget = study.arguments(alone[0].unit, {})["leap"].max_new_tokens
        paths = [path for record in alone for path in record.paths]
        own, voters = np.array([path.own for path in paths]), sum(len(record.voters) for record in units)
        if study.settings.count_with is None:
            spent, rate = np.array([path.spent for path in paths]), np.ones(len(paths))
            mean = sum(record.spent for record in units) / voters
        else:
            spent = np.array([path.counted_spent for path in paths])
            rate = np.array([path.counted.get("own", 0) / max(path.own, 1) for path in paths])
            mean = sum(record.counted for record in units) / voters
        return {"max_new_tokens": equal_budget(own, spent, budget, mean, rate)}
