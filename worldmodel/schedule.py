"""The learning-rate schedule."""


def learning_rate_factor(step: int, total: int, warmup: int, cooldown: float) -> float:
    """Warm up, stay, and fall linearly to zero over the run's last `cooldown` share.

    f(s) = min(1, (s + 1) / warmup, (total - s) / (cooldown * total))

    Args:
        step: the optimiser step that is about to be taken, from 0.
        total: steps of the whole run.
        warmup: steps of warm-up; 0 for none.
        cooldown: share of the run, in [0, 1].

    Raises:
        ValueError: a cooldown outside [0, 1].

    Source: Hu et al., MiniCPM, arXiv 2404.06395, section 4 (warm-up, stable, decay).
    """
    if not 0 <= cooldown <= 1:
        raise ValueError(f"cooldown={cooldown} must be a share of the run, between 0 and 1")
    rising = (step + 1) / warmup if warmup else 1.0
    falling = (total - step) / (cooldown * total) if cooldown else 1.0
    return max(0.0, min(1.0, rising, falling))
