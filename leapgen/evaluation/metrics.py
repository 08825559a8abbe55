"""What runs on problems come to: Pass@1, Pass@k and votes with bootstrap intervals, and baselines of equal cost."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A mean over problems and its 95% bootstrap interval; a fraction unless said otherwise."""

    mean: float
    low: float
    high: float

    def percent(self, sign: str = "") -> str:
        return f"{100 * self.mean:{sign}.1f} [{100 * self.low:{sign}.1f}, {100 * self.high:{sign}.1f}]"


def estimate(values: np.ndarray, repeats: int = 4000, seed: int = 0) -> Estimate:
    """The mean of ``values`` [problems]; problems are drawn with replacement for the interval."""
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"one value a problem was expected, not an array of shape {values.shape}.")
    drawn = np.random.default_rng(seed).integers(0, len(values), (repeats, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), (0.025, 0.975))
    return Estimate(float(values.mean()), float(low), float(high))


def share(cases: np.ndarray, repeats: int = 4000, seed: int = 0) -> Estimate | None:
    """The share of cases in which something happened, over all problems; None if there is no case.

    ``cases`` [problems, 2]: in how many cases of a problem it happened, and of how many. Problems are drawn with replacement
    for the interval; draws without any case are left out.
    """
    cases = np.asarray(cases, dtype=float).reshape(-1, 2)
    if not cases[:, 1].sum():
        return None
    drawn = np.random.default_rng(seed).integers(0, len(cases), (repeats, len(cases)))
    happened, total = cases[drawn].sum(axis=1).T
    low, high = np.quantile(happened[total > 0] / total[total > 0], (0.025, 0.975))
    return Estimate(float(cases[:, 0].sum() / cases[:, 1].sum()), float(low), float(high))


def pass_at(k: int, right: np.ndarray) -> np.ndarray:
    """The chance that one of k paths is right, by problem: the unbiased estimate of Chen et al. (arXiv 2107.03374, Eq. 1).

    ``right``: bool [problems, paths]. Raises ValueError if there are fewer than k paths.
    """
    paths = right.shape[1]
    if not 1 <= k <= paths:
        raise ValueError(f"k={k} is not allowed: there are {paths} paths.")
    return np.array([1 - comb(paths - int(row.sum()), k) / comb(paths, k) for row in right])


def at_equal_cost(right: np.ndarray, own: np.ndarray, spent: np.ndarray, mean: float,
                  step: int = 4) -> tuple[int, np.ndarray]:
    """Independent paths with the budget at which they spend ``mean`` tokens each: that budget, and Pass@1 by problem.

    The run they are taken from had a budget so large that a smaller one only cuts it, and its task is one where a path that
    was cut before it found the answer cannot give it.

    Args:
        right: bool [problems, paths], with the large budget; own: int, reasoning tokens; spent: int, all after the prompt.
    """
    tail = spent - own
    for budget in range(step, int(own.max()) + step, step):
        if (np.minimum(own, budget) + tail).mean() >= mean:
            break
    return budget, (right & (own <= budget)).mean(axis=1)


def equal_budget(own: np.ndarray, spent: np.ndarray, budget: int, mean: float, rate: np.ndarray | float = 1.0) -> int:
    """The budget at which independent paths spend ``mean`` each, from how they did with ``budget``.

    Where they spent as much or more, it is the smallest budget that leaves them as much if it cuts their reasoning alone.
    Where they spent less, those that were cut get the difference, which is more than they may use.

    Args:
        own: int [paths], reasoning tokens; spent: [paths], the cost of all that counts.
        rate: [paths], what a reasoning token of each path costs.
    """
    rate = np.broadcast_to(rate, own.shape)
    missing, cut = mean * len(own) - spent.sum(), own >= budget
    if missing > 0:
        return budget + int(np.ceil(missing / rate[cut].sum())) if cut.any() else budget
    rest = (spent - own * rate).sum()
    low, high = 1, max(int(own.max()), 1)
    while low < high:  # what is spent grows with the budget
        middle = (low + high) // 2
        if (np.minimum(own, middle) * rate).sum() + rest >= mean * len(own):
            high = middle
        else:
            low = middle + 1
    return low
