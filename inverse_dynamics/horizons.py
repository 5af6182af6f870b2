"""Figures by horizon: how well actions are read soon after an episode's first frame, and later.

Of imagined video this tells how the imagination drifts away from its actions. Of recorded video it
is the control: actions late in an episode may be harder to read in the truth, too.
"""

from collections.abc import Sequence

from inverse_dynamics.held_out import Reading

FIRST_BIN = 4
"""Steps of the first bin; the next ones are 4, 8, 16, ... steps long."""


def horizon_bins(steps: int) -> list[tuple[int, int]]:
    """First and last step of every bin, counted from 1: (1, 4), (5, 8), (9, 16), (17, 32), ...

    Args:
        steps: of the longest episode; the last bin ends there.
    """
    bins, first, last = [], 1, FIRST_BIN
    while first <= steps:
        bins.append((first, min(last, steps)))
        first, last = last + 1, 2 * last
    return bins


def split_by_horizon(readings: Sequence[Reading]) -> dict[str, list[Reading]]:
    """Parts of the readings by the name of their bin, such as "9-16", where there are known steps.

    Args:
        readings: of whole episodes, from their first frame on.
    """
    parts = {}
    for first, last in horizon_bins(max(len(reading.mask) for reading in readings)):
        here = [reading.part(first - 1, last - 1) for reading in readings]
        if any(part.mask.any() for part in here):
            parts[f"{first}-{last}"] = here
    return parts
