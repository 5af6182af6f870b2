"""How good the actions are that a model reads: every figure of `evaluate`, without printing."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from inverse_dynamics.calibration import (
    calibrated_spread,
    covered,
    fit_calibration,
)
from inverse_dynamics.held_out import Reading, Steps, known_steps
from inverse_dynamics.kinds import is_kind, signed_error
from video.action_model import Estimate
from video.calibration import Calibration

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def r2(
    guess: Float[Tensor, "steps size"], true: Float[Tensor, "steps size"], kinds: Sequence[str]
) -> Float[Tensor, " size"]:
    """Share of the variance that is explained: 1 - sum e^2 / sum (y - mean y)^2.

    Errors of angles go the short way round, their mean is that of their directions. Nan for a
    dimension that never changes.
    """
    error = signed_error(guess, true, kinds)
    turns = torch.pi * true
    direction = torch.atan2(turns.sin().mean(0), turns.cos().mean(0)) / torch.pi
    center = torch.where(is_kind(kinds, "angle", true), direction, true.mean(0))
    spread = signed_error(true, center.expand_as(true), kinds).square().sum(0)
    rounding = len(true) * (torch.finfo(true.dtype).eps * true.abs().amax(0)).square()
    return torch.where(spread > 16 * rounding, 1 - error.square().sum(0) / spread, torch.nan)


def coverage(
    steps: Steps, calibration: Calibration, level: float, kinds: Sequence[str]
) -> Float[Tensor, " size"]:
    """Share of the steps whose true action lies in the interval of a level."""
    inside: Bool[Tensor, "steps size"] = covered(
        steps.estimate, steps.actions, calibration, level, kinds
    )
    return inside.float().mean(0)


def cross_coverage(
    readings: Sequence[Reading], level: float, kinds: Sequence[str]
) -> Float[Tensor, " size"]:
    """Coverage of each half of the episodes by intervals that were calibrated on the other half."""
    halves = [known_steps(readings[::2]), known_steps(readings[1::2])]
    shares = []
    for own, other in (halves, halves[::-1]):
        calibration = fit_calibration(own.estimate, own.actions, kinds, (level,))
        shares.append(coverage(other, calibration, level, kinds))
    return (shares[0] + shares[1]) / 2


def doubt(
    estimate: Estimate, calibration: Calibration, kinds: Sequence[str]
) -> Float[Tensor, "*steps"]:
    """One number for how unsure a step is: root-mean-square calibrated spread, normalised."""
    return calibrated_spread(estimate, calibration, kinds).square().mean(-1).sqrt()


def abstention_curve(
    steps: Steps, calibration: Calibration, kinds: Sequence[str]
) -> list[dict[str, float]]:
    """Error of the surest share of the steps, for growing shares.

    Returns:
        For every share of steps that are labelled: the `threshold` of the doubt up to which they
        are, and their `mae`, the mean absolute error over all dimensions, normalised.
    """
    unsure = doubt(steps.estimate, calibration, kinds)
    order = unsure.argsort(stable=True)
    error = signed_error(steps.estimate.mean, steps.actions, kinds).abs().mean(1)[order]
    curve = []
    for share in SHARES:
        kept = max(1, round(share * len(order)))
        threshold, mae = unsure[order[kept - 1]].item(), error[:kept].mean().item()
        curve.append({"share": share, "threshold": threshold, "mae": mae})
    return curve
