"""How far a figure hangs on which episodes there happen to be: the percentile bootstrap.

Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3.
"""

import numpy as np
from jaxtyping import Float, Int64

RESAMPLES = 2000
LEVEL = 0.95


def resampled(episodes: int, seed: int = 0) -> Int64[np.ndarray, "resamples episodes"]:
    """As many episodes, drawn with replacement, again and again; the same for the same seed."""
    return np.random.default_rng(seed).integers(episodes, size=(RESAMPLES, episodes))


def interval(figures: Float[np.ndarray, " resamples"]) -> list[float]:
    """Between which a figure lies in 95 % of the resamples."""
    edges = (1 - LEVEL) / 2, (1 + LEVEL) / 2
    return np.quantile(figures, edges).tolist()


def ratio_interval(
    above: Float[np.ndarray, " episodes"], below: Float[np.ndarray, " episodes"]
) -> list[float]:
    """Of sum(above) / sum(below), both of the same episodes."""
    drawn = resampled(len(above))
    with np.errstate(divide="ignore", invalid="ignore"):  # a model may be perfect
        return interval(above[drawn].sum(1) / below[drawn].sum(1))
