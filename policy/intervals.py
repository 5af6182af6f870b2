"""How sure a measured success rate is, and what changed between two policies on the same seeds."""

import math
from statistics import NormalDist

import numpy as np
from jaxtyping import Bool

LEVEL = 0.95


def wilson(successes: int, trials: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's score interval of a success rate.

    (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)

    Args:
        successes: of the trials.
        trials: n.
        level: share of such intervals that hold the true rate.

    Raises:
        ValueError: no trials, or more successes than trials.

    Source: Wilson 1927, JASA 22; Brown, Cai & DasGupta 2001, eq. 4.
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"{successes} successes of {trials} trials have no interval")
    z = NormalDist().inv_cdf(0.5 + level / 2)
    rate = successes / trials
    half = z * math.sqrt(rate * (1 - rate) / trials + z**2 / (4 * trials**2))
    middle, scale = rate + z**2 / (2 * trials), 1 + z**2 / trials
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def fixed_and_broken(
    before: Bool[np.ndarray, " episodes"], after: Bool[np.ndarray, " episodes"]
) -> tuple[int, int]:
    """Episodes that failed and now succeed, and those the other way round.

    Args:
        before: successes on some seeds.
        after: successes on the same seeds.
    """
    return int((after & ~before).sum()), int((before & ~after).sum())
