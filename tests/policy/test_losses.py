"""The terms of PPO's loss, by numbers that can be checked by hand."""

import math

import pytest
import torch
from torch.distributions import Categorical, Independent, Normal
from torch.testing import assert_close

from policy.losses import (
    anchor_kl,
    approximate_kl,
    clip_fraction,
    clipped_surrogate,
    clipped_value_loss,
    entropy_of,
    standardized,
)

RATIOS = torch.tensor([1.0, 1.5, 0.5, 1.5, 0.5])
ADVANTAGES = torch.tensor([2.0, 2.0, 2.0, -2.0, -2.0])


def gaussian(mean, std):
    return Independent(Normal(torch.tensor([mean]), torch.tensor([std])), 1)


def test_clipped_surrogate():
    # a gain counts up to 1.2, a loss in full; moving away from what was bad counts down to 0.8
    expected = -(2.0 + 2.4 + 1.0 - 3.0 - 1.6) / 5
    found = clipped_surrogate(RATIOS.log(), torch.zeros(5), ADVANTAGES, clip=0.2)
    assert_close(found.item(), expected)


def test_what_is_clipped_has_no_gradient():
    log_prob = RATIOS.log().requires_grad_()
    clipped_surrogate(log_prob, torch.zeros(5), ADVANTAGES, clip=0.2).backward()
    assert log_prob.grad is not None
    assert_close(log_prob.grad, -torch.tensor([2.0, 0.0, 1.0, -3.0, 0.0]) / 5)


def test_clipped_value_loss():
    values, old = torch.tensor([1.0, 3.0]), torch.tensor([0.0, 0.0])
    returns = torch.tensor([2.0, 2.0])
    # near: 0.5 and 0.5; the squares are 1 against 2.25, 1 against 2.25
    assert_close(clipped_value_loss(values, old, returns, clip=0.5).item(), 2.25 / 2)
    assert_close(clipped_value_loss(values, old, returns, clip=math.inf).item(), 0.5)


@pytest.mark.parametrize("loss", [clipped_surrogate, clipped_value_loss])
def test_refuses_a_clip_that_lets_nothing_move(loss):
    with pytest.raises(ValueError, match="clip=0"):
        loss(torch.zeros(1), torch.zeros(1), torch.zeros(1), clip=0.0)


def test_kl_of_diagonal_gaussians_to_the_anchor():
    found = anchor_kl(gaussian([1.0, 0.0], [1.0, 2.0]), gaussian([0.0, 0.0], [2.0, 2.0]))
    assert_close(found, torch.tensor([math.log(2) + (1 + 1) / 8 - 0.5]))


def test_kl_of_choices_to_the_anchor():
    policy, anchor = (Categorical(torch.tensor([p])) for p in ([0.5, 0.5], [0.25, 0.75]))
    assert_close(
        anchor_kl(policy, anchor), torch.tensor([0.5 * math.log(2) + 0.5 * math.log(2 / 3)])
    )


def test_approximate_kl():
    assert approximate_kl(torch.tensor([0.3]), torch.tensor([0.3])) == 0
    found = approximate_kl(torch.tensor([math.log(2), math.log(0.5)]), torch.zeros(2))
    assert_close(found.item(), ((1 - math.log(2)) + (-0.5 + math.log(2))) / 2)


def test_clip_fraction():
    assert_close(clip_fraction(RATIOS.log(), torch.zeros(5), clip=0.2).item(), 0.8)


def test_entropy_of_a_gaussian():
    expected = 2 * (0.5 + 0.5 * math.log(2 * math.pi)) + math.log(3)
    assert_close(entropy_of(gaussian([5.0, 1.0], [1.0, 3.0])).item(), expected)


def test_standardized():
    assert_close(standardized(torch.tensor([1.0, 3.0])), torch.tensor([-1.0, 1.0]))
    assert standardized(torch.tensor([4.0])).tolist() == [0.0]
