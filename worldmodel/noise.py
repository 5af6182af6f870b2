"""The noise process: rectified flow, and the two times that mean 'given' and 'absent'.

Time tau runs from 0 (clean) to 1 (noise). Video and actions each have their own (UWM,
arXiv 2504.02792), and every query of the model is a choice of these times (`queries.py`).
"""

import torch
from jaxtyping import Float
from torch import Tensor

GIVEN = 0.0
"""The time of something that is known: it enters the network as it is."""

ABSENT = 1.0
"""The time of something unknown: it enters as pure noise. Training and all queries use this one."""


def corrupt(
    clean: Float[Tensor, "*shape"], noise: Float[Tensor, "*shape"], time: Float[Tensor, "*#shape"]
) -> Float[Tensor, "*shape"]:
    """Interpolate between data and noise.

    x_tau = (1 - tau) * x + tau * eps

    Where tau is exactly `ABSENT` the data does not enter at all, so that even NaN leaves no trace.

    Source: Liu et al., Flow Straight and Fast, arXiv 2209.03003, eq. 1 (time reversed).
    """
    return torch.where(time >= ABSENT, noise, (1 - time) * clean + time * noise)


def velocity(
    noisy: Float[Tensor, "*shape"], clean: Float[Tensor, "*shape"], time: Float[Tensor, "*#shape"]
) -> Float[Tensor, "*shape"]:
    """Velocity of the straight path through `noisy` that starts at `clean`.

    v = (x_tau - x) / tau, which for the true x is eps - x. Needs tau > 0.
    """
    return (noisy - clean) / time


def velocity_weight(time: Float[Tensor, "*shape"], floor: float) -> Float[Tensor, "*shape"]:
    """What turns a squared error in x into one in velocity: 1 / max(tau, floor)^2.

    From v = (x_tau - x) / tau: |v_hat - v|^2 = |x_hat - x|^2 / tau^2. The floor bounds the weight
    of nearly clean samples. At tau = `GIVEN` there is nothing to predict, and the weight is 0.

    Source: Li & He, Back to Basics: Let Denoising Generative Models Denoise, arXiv 2511.13720.
    """
    return torch.where(time > GIVEN, time.clamp(min=floor) ** -2, torch.zeros_like(time))


def logit_normal_times(
    normal: Float[Tensor, "*shape"], mean: float, std: float
) -> Float[Tensor, "*shape"]:
    """Turn standard normal numbers n into times sigmoid(mean + std * n).

    Source: Esser et al., Scaling Rectified Flow Transformers, arXiv 2403.03206, section 3.1.
    """
    return torch.sigmoid(mean + std * normal)
