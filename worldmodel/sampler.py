"""The sampler: Euler steps along the flow from noise to data, for any model that predicts x.

Nothing here knows about video, actions or networks; `queries.py` says what is denoised.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from worldmodel.noise import ABSENT, GIVEN, velocity

Predict = Callable[[tuple[Tensor, ...], float], tuple[Tensor, ...]]


def euler(
    predict: Predict, noise: tuple[Float[Tensor, "..."], ...], steps: int
) -> tuple[Float[Tensor, "..."], ...]:
    """Integrate dx/dtau = v(x, tau) from tau = 1 to 0 in equal steps.

    x_{tau'} = x_tau + (tau' - tau) * v,  v = (x_tau - x_hat(x_tau, tau)) / tau

    The last step lands on the model's prediction itself, so one step returns x_hat(eps, 1), the
    mean of what may come.

    Args:
        predict: `predict(noisy, tau)` gives the predicted clean tensors, in the same order.
        noise: the tensors to start from; several are integrated side by side on one clock.
        steps: number of calls of `predict`.

    Raises:
        ValueError: fewer than one step.

    Source: Liu et al., arXiv 2209.03003, section 2.1.
    """
    if steps < 1:
        raise ValueError(f"steps={steps}: the sampler needs at least one step")
    state = noise
    for index in range(steps):
        time = ABSENT + (GIVEN - ABSENT) * index / steps
        following = ABSENT + (GIVEN - ABSENT) * (index + 1) / steps
        clean = predict(state, time)
        if following == GIVEN:
            return clean
        state = tuple(
            x + (following - time) * velocity(x, x_hat, torch.full_like(x, time))
            for x, x_hat in zip(state, clean, strict=True)
        )
    raise AssertionError("unreachable: the last step returns")
