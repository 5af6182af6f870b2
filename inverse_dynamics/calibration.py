"""Calibration: by how much a model's spread must be widened so that its intervals keep their word.

Split conformal prediction, one dimension at a time, on episodes that neither trained the model nor
judge it: the radius of level q is the quantile of the errors, measured in spreads, that makes an
interval cover a share q of new steps. Steps of an episode resemble each other, so the guarantee
holds for the average over many episodes, not within one.

Source: Lei et al., Distribution-Free Predictive Inference for Regression, JASA 113, 2018.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from inverse_dynamics.kinds import is_kind, signed_error
from video.action_model import Estimate
from video.calibration import Calibration
from video.errors import DatasetError

LEVELS = (0.5, 0.8, 0.9, 0.95)
NORMAL_90 = 1.6449
"""Half the width of a normal distribution's 90 % interval, in standard deviations."""


def fit_calibration(
    estimate: Estimate,
    actions: Float[Tensor, "steps size"],
    kinds: Sequence[str],
    levels: tuple[float, ...] = LEVELS,
) -> Calibration:
    """Measure the radii on steps whose actions are known.

    The radius of level q is the ceil((n + 1) q)-th smallest of n scores.

    Args:
        estimate: what the model says of each step.
        actions: the truth, normalised.
        kinds: of the dimensions.
        levels: shares to be covered.

    Raises:
        DatasetError: too few steps for the highest level.
    """
    count = len(actions)
    if math.ceil((count + 1) * max(levels)) > count:
        raise DatasetError(
            f"{count} steps with known actions are too few to calibrate intervals of "
            f"{max(levels):.0%}. Give more held-out episodes."
        )
    ordered = scores(estimate, actions, kinds).sort(dim=0).values
    ranks = [math.ceil((count + 1) * level) - 1 for level in levels]
    return Calibration(levels, ordered[ranks].float().cpu(), count)


def scores(
    estimate: Estimate, actions: Float[Tensor, "*steps size"], kinds: Sequence[str]
) -> Float[Tensor, "*steps size"]:
    """How badly an action fits: |error| / spread; 1 - p(action) of a binary dimension."""
    error = signed_error(estimate.mean, actions, kinds)
    improbable = (1 - estimate.mean * actions.sign()) / 2
    return torch.where(is_kind(kinds, "binary", error), improbable, error.abs() / estimate.spread)


def covered(
    estimate: Estimate,
    actions: Float[Tensor, "*steps size"],
    calibration: Calibration,
    level: float,
    kinds: Sequence[str],
) -> Bool[Tensor, "*steps size"]:
    """Whether the true action lies in the interval of a level."""
    return scores(estimate, actions, kinds) <= calibration.radius(level).to(actions)


def calibrated_spread(
    estimate: Estimate, calibration: Calibration, kinds: Sequence[str]
) -> Float[Tensor, "*steps size"]:
    """Standard deviation of the normal distribution whose 90 % interval is the calibrated one.

    A binary dimension keeps that of its probability.
    """
    widened = estimate.spread * calibration.radius(0.9).to(estimate.spread) / NORMAL_90
    return torch.where(is_kind(kinds, "binary", widened), estimate.spread, widened)
