"""Draws from the distributions of stochastic actors, by a generator of one's own.

PyTorch's distributions only draw from the global generator.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, Normal


def draw(
    distribution: Distribution, generator: torch.Generator | None = None
) -> Float[Tensor, "..."]:
    """One draw from each distribution of a batch.

    Args:
        distribution: normal or categorical ones, `Independent` or not.
        generator: where chance comes from.

    Raises:
        TypeError: a distribution of another kind.
    """
    base = distribution.base_dist if isinstance(distribution, Independent) else distribution
    if isinstance(base, Normal):
        noise = torch.empty_like(base.loc).normal_(generator=generator)
        return base.loc + base.scale * noise
    if isinstance(base, Categorical):
        chosen = torch.multinomial(base.probs.flatten(0, -2), 1, generator=generator)
        return chosen.view(base.batch_shape).to(base.logits.dtype)
    raise TypeError(f"cannot draw from {type(base).__name__}; there are Normal and Categorical")


def likeliest(distribution: Distribution) -> Float[Tensor, "..."]:
    """The mode of each distribution of a batch."""
    return distribution.mode.float()
