import numpy as np
import pytest

from policy.intervals import effective_trials, fixed_and_broken, wilson


def test_wilson_by_hand():
    # z = 1.959964: (0.5 + z^2/20) / (1 + z^2/10) -+ ..., as every table gives it
    assert wilson(5, 10) == pytest.approx((0.236593, 0.763407), abs=1e-6)
    assert wilson(0, 10) == pytest.approx((0.0, 0.277533), abs=1e-6)
    assert wilson(10, 10) == pytest.approx((0.722467, 1.0), abs=1e-6)
    assert wilson(50, 100, level=0.9) == pytest.approx((0.418854, 0.581146), abs=1e-4)


def test_impossible_counts_are_refused():
    for successes, trials in ((0, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="have no interval"):
            wilson(successes, trials)


def test_fixed_and_broken_by_hand():
    before = np.array([True, True, False, False, False])
    after = np.array([True, False, True, True, False])
    assert fixed_and_broken(before, after) == (2, 1)


def test_the_same_starts_played_by_several_policies_are_worth_less_than_as_many_others():
    alike = np.array([[True, True, False, False]] * 3)
    assert effective_trials(alike) == 4  # each policy tells what the first one did
    # shares 1, 1/2, 1/2, 0 of mean 1/2: Var(p) = (1/4 + 1/4) / (4 * 3) = 1/24, so 1/4 / (1/24) = 6
    some = np.array([[True, True, False, False], [True, False, True, False]])
    assert effective_trials(some) == pytest.approx(6)
    apart = np.array([[True, False, True, False], [False, True, False, True]])
    assert effective_trials(apart) == 8
    assert effective_trials(np.ones((3, 5), bool)) == 5
    assert effective_trials(np.array([[True, False, True]])) == 3


def test_starts_that_say_nothing_are_worth_as_much_as_others():
    generator = np.random.default_rng(0)
    successes = generator.random((3, 2000)) < 0.7
    assert effective_trials(successes) == pytest.approx(6000, rel=0.1)
