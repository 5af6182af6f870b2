"""What a network says of the actions: a distribution for every step and dimension."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from inverse_dynamics.kinds import is_kind, signed_error, wrap
from video.action_model import Estimate

SMALLEST_SPREAD = 1e-3


class Parameters(NamedTuple):
    """A network's own output, in normalised units.

    Attributes:
        location: median of a number or an angle; log odds of high for a binary dimension.
        log_scale: logarithm of the Laplace distribution's scale; without meaning for a binary one.
    """

    location: Float[Tensor, "*batch steps size"]
    log_scale: Float[Tensor, "*batch steps size"]


def estimate(parameters: Parameters, kinds: Sequence[str]) -> Estimate:
    """What a network's output means.

    A binary dimension with p = sigmoid(location) has mean 2 p - 1 and spread 2 sqrt(p (1 - p)).
    """
    location, log_scale = parameters
    binary = is_kind(kinds, "binary", location)
    mean = torch.where(binary, torch.tanh(location / 2), location)
    mean = torch.where(is_kind(kinds, "angle", mean), wrap(mean), mean)
    return Estimate(mean, torch.where(binary, binary_spread(mean), log_scale.exp()))


def decided(estimate: Estimate, kinds: Sequence[str]) -> Estimate:
    """With binary dimensions as low (-1) or high (1), whichever is likelier; an action is one.

    Its spread is the root-mean-square error of that: 2 sqrt(1 - p) where it is right with
    probability p.
    """
    mean, spread = estimate
    binary = is_kind(kinds, "binary", mean)
    wrong = (1 - mean.abs()).clamp(min=0) / 2
    error = (2 * wrong.sqrt()).clamp(min=SMALLEST_SPREAD)
    one = torch.where(mean < 0, -torch.ones_like(mean), torch.ones_like(mean))
    return Estimate(torch.where(binary, one, mean), torch.where(binary, error, spread))


def mixture(estimates: Sequence[Estimate], kinds: Sequence[str]) -> Estimate:
    """The mean and the spread of a mixture of equal weights.

    A number's members are Laplace distributions with the scales b and the medians m, so the mixture
    has the variance mean(2 b^2) + var(m), and the spread is the scale of a Laplace distribution of
    that variance, sqrt(mean(b^2) + var(m) / 2). Angles go the short way round from their mean
    direction. A binary dimension's 2 p - 1 is the members' mean, and its spread follows from it.

    Args:
        estimates: of the members.
        kinds: of the dimensions.
    """
    means = torch.stack([estimate.mean for estimate in estimates])
    scales = torch.stack([estimate.spread for estimate in estimates])
    # the mean direction: the first one's, moved by the mean of the short ways to the others
    angle = wrap(means[0] + signed_error(means, means[0].expand_as(means), kinds).mean(0))
    mean = torch.where(is_kind(kinds, "angle", means), angle, means.mean(0))
    variance = signed_error(means, mean.expand_as(means), kinds).square().mean(0)
    spread = (scales.square().mean(0) + variance / 2).sqrt()
    return Estimate(mean, torch.where(is_kind(kinds, "binary", means), binary_spread(mean), spread))


def binary_spread(mean: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Standard deviation of a variable that is -1 or 1 and has this mean, never quite zero."""
    return (1 - mean.square()).clamp(min=0).sqrt().clamp(min=SMALLEST_SPREAD)
