"""What the heads' mistakes cost: pure functions of predictions, labels and masks.

A label whose mask is False costs exactly nothing, whatever stands in its place, NaN included.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from worldmodel.heads import MemberOutputs


@dataclass
class HeadsObjective:
    """How the parts of the heads' loss are weighed.

    Attributes:
        reward: weight of the reward's loss.
        success: of the success classifier's.
        state: of the robot state's.
        error: of the model's own error's.
        success_weight: what a missed success costs beside a false one. Successes are the rarer
            frames, but a false one is what reinforcement learning exploits. At w the classifier
            says success where its probability is above 1 / (1 + w).
    """

    reward: float = 1.0
    success: float = 1.0
    state: float = 1.0
    error: float = 0.5
    success_weight: float = 0.3


class FrameLabels(NamedTuple):
    """What is known of each frame of R blocks.

    Attributes:
        reward: of the step that led to it, normalised like `MemberOutputs.reward`.
        reward_mask: where it is known.
        success: of that step.
        success_mask: where it is known.
        state: the robot's, normalised.
        state_mask: where it is known.
        error: true root-mean-square error of the imagined latents.
        error_mask: where it is known.
    """

    reward: Float[Tensor, "rows frames"]
    reward_mask: Bool[Tensor, "rows frames"]
    success: Bool[Tensor, "rows frames"]
    success_mask: Bool[Tensor, "rows frames"]
    state: Float[Tensor, "rows frames state_dim"]
    state_mask: Bool[Tensor, "rows frames"]
    error: Float[Tensor, "rows frames"]
    error_mask: Bool[Tensor, "rows frames"]

    def take(self, rows: Int64[Tensor, " chosen"]) -> "FrameLabels":
        """Some of the blocks."""
        return FrameLabels(*(value[rows] for value in self))


class HeadsLosses(NamedTuple):
    """Means over the labelled frames; 0 where there are none."""

    reward: Float[Tensor, ""]
    success: Float[Tensor, ""]
    state: Float[Tensor, ""]
    error: Float[Tensor, ""]

    def total(self, objective: HeadsObjective) -> Float[Tensor, ""]:
        """The weighed sum."""
        return (
            objective.reward * self.reward
            + objective.success * self.success
            + objective.state * self.state
            + objective.error * self.error
        )


def heads_losses(
    predicted: MemberOutputs,
    labels: FrameLabels,
    weights: Float[Tensor, "members rows"],
    objective: HeadsObjective,
) -> HeadsLosses:
    """The losses of all members.

    Args:
        predicted: what each member says of each frame.
        labels: what is true.
        weights: what each block counts for each member (`bootstrap_weights`).
        objective: brings the weight of success.
    """
    return HeadsLosses(
        reward=huber(predicted.reward, labels.reward, labels.reward_mask, weights),
        success=cross_entropy(
            predicted.success_logit,
            labels.success,
            labels.success_mask,
            weights,
            objective.success_weight,
        ),
        state=squared(predicted.state, labels.state, labels.state_mask, weights),
        error=huber(predicted.log_error, log_error(labels.error), labels.error_mask, weights),
    )


def huber(
    predicted: Float[Tensor, "members rows frames"],
    true: Float[Tensor, "rows frames"],
    mask: Bool[Tensor, "rows frames"],
    weights: Float[Tensor, "members rows"],
) -> Float[Tensor, ""]:
    """Huber's loss: d^2 / 2 for |d| < 1, else |d| - 1/2."""
    true = true.masked_fill(~mask, 0.0).expand_as(predicted)
    return _mean(F.huber_loss(predicted, true, reduction="none"), mask, weights)


def squared(
    predicted: Float[Tensor, "members rows frames size"],
    true: Float[Tensor, "rows frames size"],
    mask: Bool[Tensor, "rows frames"],
    weights: Float[Tensor, "members rows"],
) -> Float[Tensor, ""]:
    """Squared error, the mean over the last axis; 0 where that is empty."""
    if true.shape[-1] == 0:
        return predicted.new_zeros(())
    true = true.masked_fill(~mask[..., None], 0.0)
    return _mean((predicted - true).square().mean(-1), mask, weights)


def cross_entropy(
    logit: Float[Tensor, "members rows frames"],
    true: Bool[Tensor, "rows frames"],
    mask: Bool[Tensor, "rows frames"],
    weights: Float[Tensor, "members rows"],
    positive_weight: float,
) -> Float[Tensor, ""]:
    """Binary cross-entropy with weighed positives.

    - w y log sigmoid(s) - (1 - y) log (1 - sigmoid(s))

    Args:
        logit: log odds s.
        true: y.
        mask: where y is known.
        weights: what each row counts for each member.
        positive_weight: w; the minimum is where sigmoid(s) = w p / (w p + 1 - p) for a true
            probability p.
    """
    loss = F.binary_cross_entropy_with_logits(
        logit,
        true.to(logit.dtype).expand_as(logit),
        reduction="none",
        pos_weight=logit.new_tensor(positive_weight),
    )
    return _mean(loss, mask, weights)


def log_error(error: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Logarithm of an error, which is never taken for less than a thousandth."""
    return error.clamp(min=1e-3).log()


def bootstrap_weights(
    episodes: Int64[Tensor, " rows"], members: int, seed: int
) -> Float[Tensor, "members rows"]:
    """What a row's episode counts for each member: exponential numbers of mean 1.

    So every member has a bootstrap sample of its own, in which no episode is quite missing. It is
    a pure function of seed and episode, the same in every batch.

    Args:
        episodes: number of each row's episode.
        members: size of the ensemble.
        seed: of the samples.

    Source: Rubin, The Bayesian Bootstrap, Annals of Statistics 9(1), 1981.
    """
    numbers, place = torch.unique(episodes.cpu(), return_inverse=True)
    samples = [np.random.default_rng((seed, int(n))).exponential(1.0, members) for n in numbers]
    weights = torch.from_numpy(np.stack(samples, axis=1)).float()
    return weights[:, place].to(episodes.device)


def _mean(loss: Tensor, mask: Tensor, weights: Tensor) -> Float[Tensor, ""]:
    """Weighed mean over the labelled frames."""
    weight = weights[..., None] * mask
    return (loss * weight).sum() / weight.sum().clamp(min=1e-6)
