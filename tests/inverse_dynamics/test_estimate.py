"""Kinds of dimension, what a network's output means, and windows put together; all by hand."""

import math

import numpy as np
import pytest
import torch

from inverse_dynamics.estimate import Estimate, Parameters, estimate
from inverse_dynamics.kinds import fit_to_kinds, signed_error, wrap
from inverse_dynamics.windows import combine, read_video, window_starts
from video.errors import DatasetError
from video.statistics import Normalizer

KINDS = ("number", "angle", "binary")


def test_angles_come_round():
    turned = wrap(torch.tensor([0.0, 0.9, 1.0, 1.5, -1.5, 4.25]))
    torch.testing.assert_close(turned, torch.tensor([0.0, 0.9, -1.0, -0.5, 0.5, 0.25]))
    error = signed_error(torch.tensor([[0.9, 0.9]]), torch.tensor([[-0.9, -0.9]]), KINDS[:2])
    torch.testing.assert_close(error, torch.tensor([[1.8, -0.2]]))


def test_what_the_output_means():
    parameters = Parameters(torch.tensor([[0.5, 1.25, math.log(3.0)]]), torch.full((1, 3), -1.0))
    mean, spread = estimate(parameters, KINDS)
    torch.testing.assert_close(mean, torch.tensor([[0.5, -0.75, 0.5]]))  # p = 3/4
    torch.testing.assert_close(spread, torch.tensor([[0.367879, 0.367879, 0.866025]]))


def test_a_sure_gripper_still_has_a_spread():
    _, spread = estimate(Parameters(torch.tensor([[90.0]]), torch.zeros(1, 1)), ("binary",))
    assert 0 < spread.item() < 0.01


def test_the_range_fits_the_kinds():
    measured = Normalizer(np.array([-1.0, 0.5, 0.0]), np.array([2.0, 0.7, 1.0]))
    fitted = fit_to_kinds(measured, KINDS)
    assert fitted.low.tolist() == [-1.0, -np.float32(math.pi), 0.0]
    assert fitted.high.tolist() == [2.0, np.float32(math.pi), 1.0]
    with pytest.raises(DatasetError, match="3 action dimensions"):
        fit_to_kinds(measured, ["number"])
    with pytest.raises(DatasetError, match="binary, but is always"):
        fit_to_kinds(Normalizer(np.ones(1), np.ones(1)), ["binary"])


def test_windows_cover_a_video_up_to_its_end():
    assert window_starts(10, 4, 2) == [0, 2, 4, 6]
    assert window_starts(9, 4, 2) == [0, 2, 4, 5]
    assert window_starts(4, 4, 2) == [0]
    assert window_starts(3, 4, 2) == [0]


def test_windows_are_combined_by_precision_direction_and_vote():
    """Two windows of one step each that overlap in it, of weights 4 and 1."""
    first = Estimate(torch.tensor([[[1.0, 0.9, 0.9]]]), torch.tensor([[[0.5, 1.0, 0.1]]]))
    other = Estimate(torch.tensor([[[0.0, -0.9, -0.1]]]), torch.tensor([[[1.0, 1.0, 0.9]]]))
    mean, spread = combine([first, other], [0, 0], KINDS)
    assert mean[0, 0, 0].item() == pytest.approx(0.8)
    assert spread[0, 0, 0].item() == pytest.approx(math.sqrt(2 / 5 + 0.16 / 2))
    assert abs(mean[0, 0, 1].item()) == pytest.approx(1.0)  # behind, not in the middle
    assert spread[0, 0, 1].item() == pytest.approx(math.sqrt(1 + 0.01 / 2))
    assert mean[0, 0, 2].item() == pytest.approx(0.4)
    assert spread[0, 0, 2].item() == pytest.approx(math.sqrt(1 - 0.16))


def test_every_step_of_a_video_is_read_in_its_own_place():
    """A reader that says which frame a step begins with, and trusts the middle of a window."""

    def read(frames: torch.Tensor) -> Estimate:
        mean = frames[:, :-1]
        return Estimate(mean, torch.full_like(mean, 0.5))

    frames = torch.arange(11.0).view(1, 11, 1)
    mean, spread = read_video(read, frames, 4, ("number",))
    torch.testing.assert_close(mean[0, :, 0], torch.arange(10.0))
    torch.testing.assert_close(spread, torch.full_like(spread, 0.5))
