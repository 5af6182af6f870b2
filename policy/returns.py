"""What an action was worth: advantages and returns of a rollout, as pure functions.

Shapes are those of a rollout: L steps of E environments. An episode's end is told by two things
that are not the same: `discounts` are zero where it *terminated*, and `ends` are true where nothing
that comes after belongs to it, truncation included.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def advantages_of(
    rewards: Float[Tensor, "L E"],
    discounts: Float[Tensor, "L E"],
    values: Float[Tensor, "L E"],
    next_values: Float[Tensor, "L E"],
    ends: Bool[Tensor, "L E"],
    lambda_: float,
) -> Float[Tensor, "L E"]:
    """Generalised advantage estimates, backwards over a rollout.

    delta_l = r_l + d_l * v'_l - v_l,  A_l = delta_l + (1 - e_l) * d_l * lambda * A_{l+1},
    l = L-1 ... 0,  A_L = 0

    Args:
        rewards: r, for the action taken at step l.
        discounts: d: gamma, or 0 where the episode terminated at l. Truncation keeps gamma.
        values: v, the critic's value of the observation that step l started from.
        next_values: v', its value of the observation that step l reached, before any reset: at a
            truncation that of `final_obs`.
        ends: e, whether step l was the last of its episode, by termination or truncation.
        lambda_: 0 is the one-step advantage, 1 is Monte Carlo.

    Raises:
        ValueError: lambda_ outside [0, 1].

    Source: Schulman et al., arXiv 1506.02438, eq. 16, cut where an episode ends.
    """
    if not 0 <= lambda_ <= 1:
        raise ValueError(f"lambda_={lambda_} must lie in [0, 1]")
    delta = rewards + discounts * next_values - values
    carried = discounts * lambda_
    advantages = torch.empty_like(delta)
    following = torch.zeros_like(delta[0])
    for step in reversed(range(len(delta))):
        later = torch.where(ends[step], torch.zeros_like(following), carried[step] * following)
        following = delta[step] + later
        advantages[step] = following
    return advantages


def penalized(
    rewards: Float[Tensor, "..."], uncertainty: Float[Tensor, "..."], weight: float
) -> Float[Tensor, "..."]:
    """Rewards that hold it against a step that the model is not sure of it.

    r~_l = r_l - weight * u_l

    Args:
        rewards: r.
        uncertainty: u, the environment's `info["uncertainty"]`.
        weight: how many rewards one unit of uncertainty costs.

    Raises:
        ValueError: a negative weight, which would reward what the model does not know.

    Source: Yu et al. (MOPO), arXiv 2005.13239, section 4.2.
    """
    if weight < 0:
        raise ValueError(f"weight={weight} must not be negative")
    return rewards - weight * uncertainty


def above_average(
    uncertainty: Float[Tensor, "L E"], age: Float[Tensor, "L E"], valid: Bool[Tensor, "L E"]
) -> Float[Tensor, "L E"]:
    """By how much a step is less certain than others of episodes that are as old.

    u_le - mean of u over all valid steps of age_le, and 0 where a step is not valid. A model's
    uncertainty grows with the horizon whatever is done; taken as it is, it would be a price on
    every further step.

    Args:
        uncertainty: u, of every step.
        age: steps that its episode was old.
        valid: which of them count.
    """
    known, old = torch.where(valid, uncertainty, torch.zeros_like(uncertainty)), age.long()
    none = uncertainty.new_zeros(int(old.max()) + 1)
    counts = none.index_add(0, old.flatten(), valid.flatten().to(none.dtype))
    means = none.index_add(0, old.flatten(), known.flatten()) / counts.clamp(min=1)
    return torch.where(valid, known - means[old], known)


def explained_variance(
    values: Float[Tensor, " steps"], returns: Float[Tensor, " steps"]
) -> Float[Tensor, ""]:
    """Share of the returns' variance that the critic's values explain.

    1 - Var[G - v] / Var[G]: 1 is a perfect critic, 0 one that says the same of everything. Returns
    that are all alike leave nothing to explain: 0.

    Args:
        values: v, what the critic had said.
        returns: G, what came out.
    """
    total = returns.var(correction=0)
    rest = (returns - values).var(correction=0)
    return torch.where(total > 0, 1 - rest / total.clamp(min=1e-12), torch.zeros_like(total))
