"""What the records of a study come to: means over problems, each problem's being over its groups, with intervals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable

import numpy as np

from leapgen.evaluation.metrics import Estimate, estimate, share
from leapgen.evaluation.records import Record

Value = Callable[[Record], float | None]  # of a record; None where there is nothing to measure


class Measured:
    """Records by arm.

    Args:
        problems: only these; None for all.
    """

    def __init__(self, records: Iterable[Record], problems: Collection[str] | None = None) -> None:
        self.records: dict[str, list[Record]] = defaultdict(list)
        for record in records:
            if record.paths and (problems is None or record.problem in problems):
                self.records[record.arm].append(record)

    def by_problem(self, arm: str, value: Value) -> dict[str, float]:
        """The mean over a problem's groups, by problem; a problem without a value is left out."""
        found: dict[str, list[float]] = defaultdict(list)
        for record in self.records.get(arm, ()):
            if (one := value(record)) is not None:
                found[record.problem].append(one)
        return {problem: float(np.mean(found[problem])) for problem in sorted(found)}

    def mean(self, arm: str, value: Value) -> Estimate | None:
        """None if no problem has a value."""
        return _estimate(self.by_problem(arm, value).values())

    def difference(self, arm: str, base: str, value: Value) -> Estimate | None:
        """How much more an arm has than a base, over the problems that both have."""
        ours, theirs = self.by_problem(arm, value), self.by_problem(base, value)
        return _estimate(ours[problem] - theirs[problem] for problem in ours if problem in theirs)

    def ratio(self, arm: str, base: str, value: Value) -> Estimate | None:
        """By which share the mean of an arm exceeds a base's, over the problems that both have."""
        ours, theirs = self.by_problem(arm, value), self.by_problem(base, value)
        ratio = share(np.array([(ours[problem], theirs[problem]) for problem in ours if problem in theirs]))
        return None if ratio is None else Estimate(ratio.mean - 1, ratio.low - 1, ratio.high - 1)

    def spread(self, arm: str, value: Value) -> float | None:
        """The standard deviation between groups of the mean over problems; None with one group."""
        groups: dict[int, list[float]] = defaultdict(list)
        for record in self.records.get(arm, ()):
            if (one := value(record)) is not None:
                groups[record.group].append(one)
        means = [float(np.mean(values)) for values in groups.values()]
        return float(np.std(means, ddof=1)) if len(means) > 1 else None


def _estimate(values: Iterable[float]) -> Estimate | None:
    found = np.array(list(values), dtype=float)
    return estimate(found) if len(found) else None


def pass_at_1(record: Record) -> float:
    """The share of the paths that are right, of those whose answers count."""
    return float(np.mean(record.right))


def cons_at_n(record: Record) -> float:
    return float(record.majority_right)


def shortest(record: Record) -> float:
    return float(record.shortest_majority_right)


def pass_at_n(record: Record) -> float:
    return float(any(record.right))


def tokens(*kinds: str) -> Value:
    """Tokens of some kinds, a path."""
    return lambda record: float(np.mean([sum(path.tokens.get(kind, 0) for kind in kinds) for path in record.paths]))


own = tokens("own", "answer")


def spent(record: Record) -> float:
    """Tokens a path costs after prompt and beginning, those sampled and then discarded too."""
    return record.spent / len(record.paths)


def spent_by_all(record: Record) -> float:
    """Such tokens of all paths together."""
    return float(record.spent)


def aha(record: Record) -> float:
    return float(np.mean([path.aha for path in record.paths]))
