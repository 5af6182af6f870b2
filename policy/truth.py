"""Does the dream tell the truth? Pure functions of several policies' imagined and real success."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

Rates = Float[np.ndarray, " policies"]
Successes = Bool[np.ndarray, " episodes"]


def pearson(imagined: Rates, real: Rates) -> float:
    """Linear correlation; not a number where either is the same for all policies."""
    x, y = imagined - imagined.mean(), real - real.mean()
    scale = np.sqrt((x**2).sum() * (y**2).sum())
    return float((x * y).sum() / scale) if scale > 0 else float("nan")


def spearman(imagined: Rates, real: Rates) -> float:
    """Correlation of the ranks; equal values share the mean of theirs."""
    return pearson(ranks(imagined), ranks(real))


def ranks(values: Rates) -> Rates:
    """From 1 for the smallest; equal values share the mean of their ranks."""
    smaller = (values[None] < values[:, None]).sum(1)
    equal = (values[None] == values[:, None]).sum(1)
    return smaller + (equal + 1) / 2


def mean_rank_violation(imagined: Rates, real: Rates) -> float:
    """What it costs, in real success, to believe the imagined order of two policies.

    MMRV = 1/N sum_i max_j |R_i - R_j| [(S_i < S_j) != (R_i < R_j)]
    for imagined S and real R: 0 if both put all policies into the same order.

    Source: Li et al., SIMPLER, arXiv 2405.05941, section IV ("Mean Maximum Rank Violation").
    """
    gap = np.abs(real[:, None] - real[None])
    wrong = (imagined[:, None] < imagined[None]) != (real[:, None] < real[None])
    return float((gap * wrong).max(1).mean())


def agreement(imagined: Successes, real: Successes) -> dict[str, float]:
    """Whether single episodes end alike in imagination and in reality.

    Two rates may be equal while the episodes behind them are not.

    Args:
        imagined: successes.
        real: of episodes that began alike.

    Returns:
        `same_outcome`, the share that ends alike; `real_failures` and how many of them are
        `imagined_to_succeed`; `real_successes` and how many of them are `imagined_to_fail`.
    """
    return {
        "same_outcome": float((imagined == real).mean()),
        "real_failures": int((~real).sum()),
        "imagined_to_succeed": int((imagined & ~real).sum()),
        "real_successes": int(real.sum()),
        "imagined_to_fail": int((real & ~imagined).sum()),
    }


def bootstrap(
    statistic: Callable[[Rates, Rates], float],
    imagined: Bool[np.ndarray, "policies episodes"],
    real: Bool[np.ndarray, "policies episodes"],
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of a statistic of success rates, by drawing episodes again.

    An episode is drawn in both environments and for all policies at once, since they share its
    seed. Draws for which the statistic is not a number are left out.

    Args:
        statistic: of imagined and real success rates.
        imagined: successes.
        real: of the same seeds.
        draws: how many.
        seed: of the draws.
        level: share of the draws inside the interval.

    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, section 13.3.
    """
    generator = np.random.default_rng(seed)
    count = imagined.shape[1]
    values = []
    for _ in range(draws):
        drawn = generator.integers(count, size=count)
        values.append(statistic(imagined[:, drawn].mean(1), real[:, drawn].mean(1)))
    known = np.array(values)[~np.isnan(values)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
