"""What a wrong action costs: pure functions of a network's output, the true actions and a mask.

An action whose mask is False costs exactly nothing, whatever stands in its place, NaN included.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from inverse_dynamics.estimate import Parameters
from inverse_dynamics.kinds import is_kind, signed_error


def action_loss(
    parameters: Parameters,
    actions: Float[Tensor, "batch steps size"],
    mask: Bool[Tensor, "batch steps #size"],
    kinds: Sequence[str],
    weight: Float[Tensor, "batch steps"] | None = None,
) -> Float[Tensor, ""]:
    """Mean negative log-likelihood of the known actions; 0 where none is known.

    Args:
        parameters: the network's output.
        actions: the true ones, normalised.
        mask: where they are known; of all dimensions, or of each.
        kinds: of the dimensions: numbers and angles are Laplace-distributed, angles the short way
            round, binary dimensions Bernoulli.
        weight: how much each step counts; None: all the same. The mean is over the known steps,
            however much they count.
    """
    actions = actions.masked_fill(~mask, 0.0)
    error = signed_error(parameters.location, actions, kinds)
    binary = is_kind(kinds, "binary", actions)
    loss = torch.where(
        binary,
        bernoulli_loss(parameters.location, actions),
        laplace_loss(error, parameters.log_scale),
    )
    return masked_mean(loss if weight is None else loss * weight[..., None], mask)


def laplace_loss(
    error: Float[Tensor, "*shape"], log_scale: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """-log p of Laplace's distribution without its constant: |e| / b + log b."""
    return error.abs() * (-log_scale).exp() + log_scale


def bernoulli_loss(
    log_odds: Float[Tensor, "*shape"], true: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """-log p of a dimension that is high where `true` is positive: log(1 + exp(-+ log odds))."""
    return F.softplus(torch.where(true > 0, -log_odds, log_odds))


def state_loss(
    predicted: Float[Tensor, "batch frames state_dim"],
    state: Float[Tensor, "batch frames state_dim"],
    mask: Bool[Tensor, "batch frames #state_dim"],
) -> Float[Tensor, ""]:
    """Mean absolute error of the robot's state where it is known; 0 where it never is."""
    if state.shape[-1] == 0:
        return predicted.new_zeros(())
    return masked_mean((predicted - state.masked_fill(~mask, 0.0)).abs(), mask)


def redraw_loss(
    redrawn: Float[Tensor, "batch frames views channels rows columns"],
    frames: Float[Tensor, "batch frames views channels height width"],
) -> Float[Tensor, ""]:
    """Share of the small frames' variance that was not redrawn.

    mean (x - x_hat)^2 / mean (x - mean x)^2, where x is the frame averaged down to the size of what
    was redrawn, and mean x the batch's mean of every small pixel. It is 1 for the mean picture.
    """
    small = shrunk(frames, redrawn)
    variance = (small - small.mean((0, 1))).square().mean()
    return (small - redrawn).square().mean() / variance.clamp(min=1e-6)


def movement_loss(
    redrawn: Float[Tensor, "batch frames views channels rows columns"],
    frames: Float[Tensor, "batch frames views channels height width"],
) -> Float[Tensor, ""]:
    """Share of the small frames' movement that was not redrawn.

    mean (dx - dx_hat)^2 / mean dx^2, where dx is the difference of neighbouring small frames. It is
    1 for a picture that stands still, however good it is.
    """
    moved = shrunk(frames, redrawn).diff(dim=1)
    return (moved - redrawn.diff(dim=1)).square().mean() / moved.square().mean().clamp(min=1e-6)


def shrunk(
    frames: Float[Tensor, "batch frames views channels height width"],
    like: Float[Tensor, "batch frames views channels rows columns"],
) -> Float[Tensor, "batch frames views channels rows columns"]:
    """Frames averaged down to the size of others."""
    size = (like.shape[-2], like.shape[-1])
    return F.adaptive_avg_pool2d(frames.flatten(0, 2), size).view_as(like)


def masked_mean(
    loss: Float[Tensor, "batch steps size"], mask: Bool[Tensor, "batch steps #size"]
) -> Float[Tensor, ""]:
    """Mean over the steps and dimensions of which the mask is True; 0 without any."""
    weight = mask.expand_as(loss).to(loss.dtype)
    return (loss * weight).sum() / weight.sum().clamp(min=1)
