"""Advantages and returns, by numbers that can be checked by hand."""

import pytest
import torch
from torch.testing import assert_close

from policy.returns import above_average, advantages_of, explained_variance, penalized


def rollout(**changes):
    """Three steps of one environment; each value is the next value of the one before."""
    steps = {
        "rewards": [1.0, 2.0, 3.0],
        "discounts": [0.5, 0.5, 0.5],
        "values": [4.0, 8.0, 16.0],
        "next_values": [8.0, 16.0, 32.0],
        "ends": [False, False, False],
        **changes,
    }
    return {name: torch.tensor(values)[:, None] for name, values in steps.items()}


def advantages(lambda_=0.5, **changes):
    return advantages_of(**rollout(**changes), lambda_=lambda_)[:, 0].tolist()


def test_one_step_advantages():
    assert advantages(0.0) == [1 + 4 - 4, 2 + 8 - 8, 3 + 16 - 16]


def test_monte_carlo_is_the_discounted_return_less_the_value():
    last = 3 + 0.5 * 32
    assert advantages(1.0) == [1 + 0.5 * 2 + 0.25 * last - 4, 2 + 0.5 * last - 8, last - 16]


def test_generalized_advantages():
    assert advantages(0.5) == [1 + 0.25 * (2 + 0.25 * 3), 2 + 0.25 * 3, 3]


def test_termination_bootstraps_from_nothing():
    given = {"discounts": [0.5, 0.0, 0.5], "ends": [False, True, False]}
    assert advantages(0.5, **given) == [1 + 0.25 * (2 - 8), 2 - 8, 3]


def test_truncation_bootstraps_from_the_final_observation():
    # the episode's last observation is worth 100; the next one begins at 16
    given = {"next_values": [8.0, 100.0, 32.0], "ends": [False, True, False]}
    assert advantages(0.5, **given) == [1 + 0.25 * (2 + 50 - 8), 2 + 50 - 8, 3]


def test_environments_do_not_know_each_other():
    one, other = rollout(), rollout(rewards=[5.0, 5.0, 5.0])
    both = {name: torch.cat((one[name], other[name]), dim=1) for name in one}
    found = advantages_of(**both, lambda_=0.9)
    assert_close(found[:, :1], advantages_of(**one, lambda_=0.9))
    assert_close(found[:, 1:], advantages_of(**other, lambda_=0.9))


def test_refuses_a_lambda_that_is_no_share():
    with pytest.raises(ValueError, match=r"lambda_=1\.5 must lie"):
        advantages(1.5)


def test_uncertainty_is_paid_for():
    paid = penalized(torch.tensor([1.0, 0.0]), torch.tensor([0.25, 0.5]), weight=2.0)
    assert paid.tolist() == [0.5, -1.0]
    with pytest.raises(ValueError, match="weight=-1"):
        penalized(torch.zeros(1), torch.zeros(1), weight=-1)


def test_uncertainty_is_compared_with_others_of_the_same_age():
    uncertainty = torch.tensor([[0.25, 0.75, 9.0], [2.0, 9.0, torch.nan], [1.0, 1.0, 1.0]])
    age = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [2.0, 2.0, 2.0]])
    valid = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
    expected = [[-0.25, 0.25, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    assert above_average(uncertainty, age, valid).tolist() == expected


def test_growing_older_costs_nothing():
    age = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 2.0], [1.0, 3.0]])  # one begins anew
    charged = above_average(0.25 * age, age, torch.ones(4, 2, dtype=torch.bool))
    assert charged.tolist() == [[0.0, 0.0]] * 4


@pytest.mark.parametrize(
    ("values", "share"),
    [
        ([0.0, 2.0, 4.0], 1.0),
        ([7.0, 7.0, 7.0], 0.0),
        ([1.0, 2.0, 3.0], 0.75),
        ([4.0, 2.0, 0.0], -3.0),
    ],
)
def test_explained_variance(values, share):
    assert_close(
        explained_variance(torch.tensor(values), torch.tensor([0.0, 2.0, 4.0])).item(), share
    )


def test_equal_returns_leave_nothing_to_explain():
    assert explained_variance(torch.tensor([0.0, 1.0]), torch.tensor([3.0, 3.0])) == 0
