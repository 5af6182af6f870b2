"""How much an action counts in training that a model read off the video: more, the surer it is."""

import numpy as np
from jaxtyping import Float32

SPREAD_SCALE = 0.58
"""Standard deviation of actions that fill their range [-1, 1] evenly (1 / sqrt(3))."""


def confidence(
    spread: Float32[np.ndarray, "*steps size"], scale: float = SPREAD_SCALE
) -> Float32[np.ndarray, "*steps"]:
    """The weight of actions in a loss: w = 1 / (1 + mean(spread^2) / scale^2).

    With `scale` the standard deviation of the actions themselves, this is the reliability of a
    measurement: the share of its variance that is signal and not error. A recorded action, whose
    spread is zero, has the weight 1 exactly; one that is as unsure as a blind guess has 1/2.

    Args:
        spread: standard deviations, normalised; the mean is over the action's dimensions.
        scale: spread at which an action counts half.

    Source: Fuller, Measurement Error Models, 1987, section 1.1 (reliability ratio).
    """
    return 1 / (1 + np.square(spread).mean(-1) / np.float32(scale) ** 2)
