"""The terms of PPO's loss, as pure functions of log-probabilities, values and distributions.

Every one is a mean over samples, which are steps of a rollout in any order.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, kl_divergence


def clipped_surrogate(
    log_prob: Float[Tensor, " samples"],
    old_log_prob: Float[Tensor, " samples"],
    advantages: Float[Tensor, " samples"],
    clip: float,
) -> Float[Tensor, ""]:
    """PPO's policy loss: more of what was good, as long as the policy stays near the old one.

    ratio_i = exp(log_prob_i - old_log_prob_i),
    loss = -mean_i min(ratio_i * A_i, clamp(ratio_i, 1 - clip, 1 + clip) * A_i)

    Args:
        log_prob: of the actions taken, under the policy that is trained.
        old_log_prob: under the policy that took them.
        advantages: A.
        clip: the epsilon of the paper.

    Raises:
        ValueError: a clip that is not positive.

    Source: Schulman et al., arXiv 1707.06347, eq. 7.
    """
    if clip <= 0:
        raise ValueError(f"clip={clip} must be positive")
    ratio = (log_prob - old_log_prob).exp()
    clipped = ratio.clamp(1 - clip, 1 + clip)
    return -torch.minimum(ratio * advantages, clipped * advantages).mean()


def clipped_value_loss(
    values: Float[Tensor, " samples"],
    old_values: Float[Tensor, " samples"],
    returns: Float[Tensor, " samples"],
    clip: float,
) -> Float[Tensor, ""]:
    """Squared error of the critic, which gains nothing by moving far in one update.

    near_i = old_i + clamp(v_i - old_i, -clip, clip),
    loss = 1/2 mean_i max((v_i - G_i)^2, (near_i - G_i)^2)

    Args:
        values: v, of the critic that is trained.
        old_values: of the critic before the update.
        returns: G.
        clip: how far a value may move, in units of the returns; infinity: as far as it wants.

    Raises:
        ValueError: a clip that is not positive.

    Source: Engstrom et al., arXiv 2005.12729, section 3, "value function clipping".
    """
    if clip <= 0:
        raise ValueError(f"clip={clip} must be positive")
    near = old_values + (values - old_values).clamp(-clip, clip)
    worse = torch.maximum((values - returns).square(), (near - returns).square())
    return 0.5 * worse.mean()


def anchor_kl(policy: Distribution, anchor: Distribution) -> Float[Tensor, " samples"]:
    """How far a policy has left another one, for each sample: KL(policy || anchor), in nats.

    For diagonal Gaussians, summed over the dimensions j of an action (chunk),
    KL = sum_j log(s'_j / s_j) + (s_j^2 + (m_j - m'_j)^2) / (2 s'_j^2) - 1/2,
    with means m, m' and standard deviations s, s' of policy and anchor.

    Args:
        policy: distributions of actions, one for each sample.
        anchor: likewise, of the same family.
    """
    return kl_divergence(policy, anchor)


def approximate_kl(
    log_prob: Float[Tensor, " samples"], old_log_prob: Float[Tensor, " samples"]
) -> Float[Tensor, ""]:
    """How far the policy has moved in this update: an estimate of KL(old || new), in nats.

    mean_i (ratio_i - 1) - log ratio_i, which has no bias and is never negative.

    Source: J. Schulman, "Approximating KL divergence" (2020), estimator k3.
    """
    log_ratio = log_prob - old_log_prob
    return (log_ratio.exp() - 1 - log_ratio).mean()


def clip_fraction(
    log_prob: Float[Tensor, " samples"], old_log_prob: Float[Tensor, " samples"], clip: float
) -> Float[Tensor, ""]:
    """Share of the samples whose ratio lies outside [1 - clip, 1 + clip]."""
    return (((log_prob - old_log_prob).exp() - 1).abs() > clip).float().mean()


def entropy_of(policy: Distribution) -> Float[Tensor, ""]:
    """Mean entropy of the distributions, in nats; for Gaussians sum_j 1/2 + 1/2 log(2 pi s_j^2)."""
    return policy.entropy().mean()


def standardized(advantages: Float[Tensor, " samples"]) -> Float[Tensor, " samples"]:
    """Advantages with mean 0 and standard deviation 1; a single one becomes 0."""
    centred = advantages - advantages.mean()
    return centred / (advantages.std(correction=0) + 1e-8)
