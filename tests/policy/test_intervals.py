import numpy as np
import pytest

from policy.intervals import fixed_and_broken, wilson


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
