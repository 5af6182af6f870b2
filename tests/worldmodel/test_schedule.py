import pytest

from worldmodel.schedule import learning_rate_factor


def test_warm_up_plateau_and_fall():
    factors = [learning_rate_factor(step, 10, warmup=2, cooldown=0.4) for step in range(10)]
    assert factors == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25])


def test_without_either_it_stays_at_its_peak():
    assert [learning_rate_factor(step, 3, 0, 0.0) for step in range(3)] == [1.0, 1.0, 1.0]


def test_a_share_above_one_is_refused():
    with pytest.raises(ValueError, match=r"cooldown=1\.5"):
        learning_rate_factor(0, 10, 0, 1.5)
