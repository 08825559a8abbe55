"""Estimates over problems, and baselines of equal cost."""

from itertools import combinations

import numpy as np
import pytest

from leapgen.evaluation.metrics import at_equal_cost, estimate, pass_at


def test_pass_at_k_is_the_share_of_all_draws_of_k_paths_with_a_right_one():
    right = np.random.default_rng(0).random((20, 6)) < 0.3
    for k in range(1, 7):
        drawn = [np.mean([row[list(some)].any() for some in combinations(range(6), k)]) for row in right]
        np.testing.assert_allclose(pass_at(k, right), drawn)
    with pytest.raises(ValueError, match="there are 6 paths"):
        pass_at(7, right)


def test_an_interval_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(200):
        values = rng.binomial(16, 0.4, 100) / 16
        one = estimate(values, repeats=400)
        covered.append(one.low <= 0.4 <= one.high)
        assert one.low <= one.mean <= one.high
    assert 0.88 < np.mean(covered) <= 1
    with pytest.raises(ValueError, match="one value a problem"):
        estimate(np.zeros((2, 2)))


def test_the_budget_of_equal_cost_spends_as_much_and_cuts_later_finds():
    own = np.array([[10, 30, 50, 70]])
    budget, right = at_equal_cost(np.ones((1, 4), dtype=bool), own, own + 5, mean=5 + (10 + 30 + 40 + 40) / 4, step=10)
    assert budget == 40 and right.tolist() == [0.5]
    assert at_equal_cost(np.ones((1, 4), dtype=bool), own, own + 5, mean=1e9)[1].tolist() == [1.0]
