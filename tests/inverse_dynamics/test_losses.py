"""The losses by hand, and that masked actions leave no trace."""

import math

import pytest
import torch

from inverse_dynamics.estimate import Parameters
from inverse_dynamics.losses import (
    action_loss,
    bernoulli_loss,
    laplace_loss,
    masked_mean,
    movement_loss,
    redraw_loss,
    state_loss,
)
from inverse_dynamics.network import ActionReader


def test_laplace():
    error, log_scale = torch.tensor([0.0, -1.0, 2.0]), torch.tensor([0.0, math.log(2.0), -1.0])
    loss = laplace_loss(error, log_scale)
    torch.testing.assert_close(loss, torch.tensor([0.0, 1.193147, 4.436564]))


def test_bernoulli():
    loss = bernoulli_loss(torch.tensor([0.0, 2.0, 2.0]), torch.tensor([1.0, 1.0, -1.0]))
    torch.testing.assert_close(loss, torch.tensor([0.693147, 0.126928, 2.126928]))


def test_a_loss_is_the_mean_over_known_steps():
    loss = torch.tensor([[[1.0, 3.0], [5.0, 7.0], [100.0, 100.0]]])
    mask = torch.tensor([[[True], [True], [False]]])
    assert masked_mean(loss, mask).item() == 4.0
    assert masked_mean(loss, torch.zeros_like(mask)).item() == 0.0


def test_every_kind_has_its_own_loss():
    """A number off by .5, an angle off by .2 the short way round, a gripper at even odds."""
    parameters = Parameters(torch.tensor([[[0.5, 0.9, 0.0]]]), torch.zeros(1, 1, 3))
    actions = torch.tensor([[[0.0, -0.9, 1.0]]])
    loss = action_loss(
        parameters, actions, torch.ones(1, 1, 1, dtype=torch.bool), ("number", "angle", "binary")
    )
    assert loss.item() == pytest.approx((0.5 + 0.2 + math.log(2)) / 3, abs=1e-6)


def test_an_unsure_step_counts_less():
    """Errors of 1 and 3 at scale 1, the second of which counts a quarter: (1 + 0.75) / 2."""
    parameters = Parameters(torch.tensor([[[1.0], [3.0]]]), torch.zeros(1, 2, 1))
    known = torch.ones(1, 2, 1, dtype=torch.bool)
    weight = torch.tensor([[1.0, 0.25]])
    loss = action_loss(parameters, torch.zeros(1, 2, 1), known, ("number",), weight)
    assert loss.item() == pytest.approx(0.875)


def test_dimensions_of_other_embodiments_do_not_count():
    loss = torch.tensor([[[1.0, 100.0]], [[100.0, 3.0]]])
    own = torch.tensor([[[True, False]], [[False, True]]])
    assert masked_mean(loss, own).item() == 2.0


def test_state_loss():
    true = torch.tensor([[[1.0, 2.0], [float("nan"), 0.0]]])
    loss = state_loss(torch.zeros(1, 2, 2), true, torch.tensor([[[True], [False]]]))
    assert loss.item() == 1.5
    assert state_loss(torch.zeros(1, 2, 0), torch.zeros(1, 2, 0), torch.ones(1, 2, 0).bool()) == 0


def test_redrawing_counts_what_is_left_of_the_variance():
    """Two frames of 2x2, redrawn as one pixel: their means are 1 and 3, 1 away from their own."""
    frames = torch.tensor([[0.0, 2.0, 0.0, 2.0], [3.0, 3.0, 1.0, 5.0]]).view(1, 2, 1, 1, 2, 2)
    shape = (1, 2, 1, 1, 1, 1)
    assert redraw_loss(torch.full(shape, 2.0), frames).item() == pytest.approx(1.0)
    half = torch.tensor([1.5, 2.5]).view(shape)
    assert redraw_loss(half, frames).item() == pytest.approx(0.25)


def test_redrawn_movement_counts_what_is_left_of_it():
    """The small frames are 1, 3, 4, so they move by 2 and 1."""
    frames = torch.tensor([[0.0, 2.0, 0.0, 2.0], [3.0, 3.0, 1.0, 5.0], [4.0] * 4])
    frames = frames.view(1, 3, 1, 1, 2, 2)
    shape = (1, 3, 1, 1, 1, 1)
    assert movement_loss(torch.full(shape, 2.0), frames).item() == pytest.approx(1.0)
    other_place = torch.tensor([11.0, 13.0, 14.0]).view(shape)
    assert movement_loss(other_place, frames).item() == pytest.approx(0.0)
    half = torch.tensor([0.0, 1.0, 1.5]).view(shape)
    assert movement_loss(half, frames).item() == pytest.approx((1 + 0.25) / (4 + 1))


def test_masked_actions_leave_loss_and_gradients_bit_identical():
    torch.manual_seed(0)
    network = ActionReader([1, 2, 4, 4], ["number", "angle", "binary"], 2, 16, 1, 2, 4)
    torch.nn.init.normal_(network.read_actions.weight)
    network.eval()
    latents, actions, state = (
        torch.randn(3, 5, 1, 2, 4, 4),
        torch.rand(3, 4, 3),
        torch.rand(3, 5, 2),
    )
    mask, state_mask = torch.rand(3, 4, 1) < 0.5, torch.rand(3, 5, 1) < 0.5
    found = []
    for value in (0.0, 7.0, float("nan"), float("inf")):
        network.zero_grad()
        readout = network(latents)
        loss = action_loss(readout.actions, actions.masked_fill(~mask, value), mask, network.kinds)
        spoilt = state.masked_fill(~state_mask, value)
        loss = loss + state_loss(readout.state, spoilt, state_mask)
        loss.backward()
        found.append([loss.detach(), *(p.grad.clone() for p in network.parameters())])
    for others in found[1:]:
        assert all(one.equal(other) for one, other in zip(found[0], others, strict=True))
    assert any(gradient.any() for gradient in found[0][1:])
