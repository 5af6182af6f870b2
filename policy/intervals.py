"""How sure a measured success rate is, and what changed between two policies on the same seeds."""

import math
from statistics import NormalDist

import numpy as np
from jaxtyping import Bool

LEVEL = 0.95


def wilson(successes: float, trials: float, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's score interval of a success rate.

    (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)

    Args:
        successes: of the trials.
        trials: n; a fraction where they are worth so many independent ones.
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


def effective_trials(successes: Bool[np.ndarray, "policies starts"]) -> float:
    """How many independent trials it is worth that several policies play the same episodes.

    n_eff = p (1 - p) / Var(p),  Var(p) = sum_i (m_i - p)^2 / (n (n - 1))

    with m_i the share of the policies that succeed from start i of n, and p their mean. It lies
    between n, where all policies do the same, and the number of all episodes.

    Args:
        successes: of each policy from each of the same starts.

    Source: Kish 1965, Survey Sampling, section 8.2 (design effect); Korn & Graubard 1998, Survey
    Methodology 24, for the interval of a rate with it.
    """
    policies, starts = successes.shape
    shares = successes.mean(0)
    rate = shares.mean()
    spread = ((shares - rate) ** 2).sum() / (starts * max(1, starts - 1))
    if spread == 0:  # each start as hard as any other: told from chance by nothing
        return float(starts if rate in (0, 1) else policies * starts)
    return float(np.clip(rate * (1 - rate) / spread, starts, policies * starts))


def fixed_and_broken(
    before: Bool[np.ndarray, " episodes"], after: Bool[np.ndarray, " episodes"]
) -> tuple[int, int]:
    """Episodes that failed and now succeed, and those the other way round.

    Args:
        before: successes on some seeds.
        after: successes on the same seeds.
    """
    return int((after & ~before).sum()), int((before & ~after).sum())
