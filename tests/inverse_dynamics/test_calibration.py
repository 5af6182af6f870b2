"""Conformal radii by hand; coverage of new data; the abstention curve."""

import pytest
import torch

from inverse_dynamics.calibration import (
    calibrated_spread,
    covered,
    fit_calibration,
    scores,
)
from inverse_dynamics.held_out import Reading, Steps
from inverse_dynamics.scores import abstention_curve, coverage, cross_coverage, r2
from video.action_model import Estimate
from video.calibration import Calibration
from video.errors import DatasetError

NUMBER = ("number",)


def test_scores_of_every_kind():
    estimate = Estimate(torch.tensor([[1.0, 0.9, 0.5]]), torch.tensor([[0.5, 0.1, 0.9]]))
    kinds = ("number", "angle", "binary")
    found = scores(estimate, torch.tensor([[0.0, -0.9, -1.0]]), kinds)
    torch.testing.assert_close(found, torch.tensor([[2.0, 2.0, 0.75]]))  # p(high) = 3/4


def test_the_radius_is_the_next_larger_rank():
    """Nine scores .2 to 1.8: ceil(10 * .65) = 7th, ceil(10 * .9) = 9th."""
    actions = torch.arange(1, 10)[:, None] / 10
    estimate = Estimate(torch.zeros(9, 1), torch.full((9, 1), 0.5))
    found = fit_calibration(estimate, actions, NUMBER, (0.65, 0.9))
    torch.testing.assert_close(found.radii, torch.tensor([[1.4], [1.8]]))
    assert found.steps == 9
    again = Calibration.from_json(found.to_json())
    assert again.radii.equal(found.radii)
    assert again.levels == found.levels
    torch.testing.assert_close(
        calibrated_spread(Estimate(torch.zeros(1, 1), torch.ones(1, 1)), again, NUMBER),
        torch.tensor([[1.8 / 1.6449]]),
    )
    with pytest.raises(ValueError, match=r"level=0\.7 was not calibrated"):
        found.radius(0.7)


def test_too_few_steps_are_refused():
    with pytest.raises(DatasetError, match="8 steps"):
        fit_calibration(
            Estimate(torch.zeros(8, 1), torch.ones(8, 1)), torch.zeros(8, 1), NUMBER, (0.9,)
        )


def test_new_steps_are_covered_as_promised():
    """Spreads that are a third of what they should be, errors that are not Laplace."""
    generator = torch.Generator().manual_seed(0)

    def draw(count: int) -> tuple[Estimate, torch.Tensor]:
        true_spread = torch.rand(count, 2, generator=generator) + 0.1
        actions = true_spread * torch.randn(count, 2, generator=generator)
        return Estimate(torch.zeros(count, 2), true_spread / 3), actions

    kinds = ("number", "number")
    calibration = fit_calibration(*draw(3000), kinds)
    estimate, actions = draw(3000)
    for level in (0.5, 0.9):
        shares = coverage(Steps(estimate, actions), calibration, level, kinds)
        assert (shares - level).abs().max() < 0.03
    assert covered(estimate, torch.zeros_like(actions), calibration, 0.5, kinds).all()


def test_each_half_of_the_episodes_is_covered_by_the_others_intervals():
    """Scores .1 to 1.9 and .05 to .95: at 80 % the radii are the 16th of 19 scores, 1.6 and .8."""

    def reading(number: int, unit: float) -> Reading:
        actions = torch.arange(1, 20)[:, None] * unit
        estimate = Estimate(torch.zeros(19, 1), torch.ones(19, 1))
        return Reading(number, "", estimate, actions, torch.ones(19, dtype=torch.bool))

    share = cross_coverage([reading(0, 0.1), reading(1, 0.05)], 0.8, NUMBER)
    assert share.item() == pytest.approx((1.0 + 8 / 19) / 2)  # all below 1.6; .1 to .8 below .8


def test_r2():
    true = torch.tensor([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]])
    guess = torch.tensor([[1.0, 1.0], [2.0, 1.0], [4.0, 1.0]])
    explained = r2(guess, true, ("number", "number"))
    assert explained[0].item() == pytest.approx(1 - 1 / 8)
    assert explained[1].isnan()
    constant = torch.full((33, 1), -0.8)  # which float32 cannot sum exactly
    assert r2(torch.zeros(33, 1), constant, NUMBER).isnan()
    around = torch.tensor([[0.9], [-0.9]])
    assert r2(-around, around, ("angle",)).item() == pytest.approx(1 - 0.08 / 0.02, abs=1e-3)


def test_the_surest_steps_come_first():
    spread = torch.arange(1, 11)[:, None] / 10
    steps = Steps(Estimate(torch.zeros(10, 1), spread), spread.flip(0))
    calibration = Calibration((0.9,), torch.tensor([[1.6449]]), 10)
    curve = abstention_curve(steps, calibration, NUMBER)
    assert [point["share"] for point in curve] == pytest.approx([n / 10 for n in range(1, 11)])
    assert curve[0]["mae"] == pytest.approx(1.0)  # the surest step is the worst here
    assert curve[-1]["mae"] == pytest.approx(0.55)
    assert curve[2]["threshold"] == pytest.approx(0.3)
