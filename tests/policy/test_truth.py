import math

import numpy as np
import pytest

from policy.truth import agreement, bootstrap, mean_rank_violation, pearson, ranks, spearman

IMAGINED = np.array([0.1, 0.9, 0.5, 0.5])
REAL = np.array([0.2, 0.6, 0.7, 0.3])


def test_correlations_by_hand():
    # deviations (-.4, .4, 0, 0) and (-.25, .15, .25, -.15): .16 / sqrt(.32 * .17)
    assert pearson(IMAGINED, REAL) == pytest.approx(0.16 / math.sqrt(0.32 * 0.17))
    assert ranks(IMAGINED).tolist() == [1, 4, 2.5, 2.5]
    # ranks (1, 4, 2.5, 2.5) and (1, 3, 4, 2): 3 / sqrt(4.5 * 5)
    assert spearman(IMAGINED, REAL) == pytest.approx(3 / math.sqrt(22.5))
    assert spearman(REAL**3, REAL) == pytest.approx(1)
    assert math.isnan(pearson(np.ones(4), REAL))


def test_mean_rank_violation_by_hand():
    # policies 1 and 2 are in the wrong order (0.1 apart); 3 is really below 2 but not imagined so
    # (0.4 apart), while 2 is below 3 in neither: the most that each loses is 0, 0.1, 0.1, 0.4
    assert mean_rank_violation(IMAGINED, REAL) == pytest.approx((0.1 + 0.1 + 0.4) / 4)
    assert mean_rank_violation(REAL / 2, REAL) == 0
    assert mean_rank_violation(-REAL, REAL) == pytest.approx((0.5 + 0.4 + 0.5 + 0.4) / 4)


def test_the_interval_narrows_with_episodes_and_follows_its_seed():
    generator = np.random.default_rng(0)
    rates = np.array([[0.1], [0.5], [0.9]])
    widths = []
    for episodes in (10, 1000):
        real = generator.random((3, episodes)) < rates
        imagined = generator.random((3, episodes)) < rates
        low, high = bootstrap(pearson, imagined, real, draws=200)
        assert low <= pearson(imagined.mean(1), real.mean(1)) <= high
        assert bootstrap(pearson, imagined, real, draws=200) == (low, high)
        assert bootstrap(pearson, imagined, real, draws=200, seed=1) != (low, high)
        widths.append(high - low)
    assert widths[1] < widths[0] / 3


def test_episodes_are_drawn_together():
    """Imagined and real outcomes that agree in every episode agree in every draw."""
    successes = np.random.default_rng(0).random((4, 20)) < np.linspace(0.2, 0.8, 4)[:, None]
    assert bootstrap(mean_rank_violation, successes, successes, draws=50) == (0, 0)


def test_a_statistic_that_is_never_a_number():
    same = np.ones((3, 5), bool)
    assert all(math.isnan(end) for end in bootstrap(pearson, same, same, draws=5))


def test_agreement_by_hand():
    imagined, real = np.array([[1, 1, 1, 0, 0, 0], [1, 0, 0, 1, 0, 0]], bool)
    assert agreement(imagined, real) == {
        "same_outcome": 0.5,
        "real_failures": 4,
        "imagined_to_succeed": 2,
        "real_successes": 2,
        "imagined_to_fail": 1,
    }
