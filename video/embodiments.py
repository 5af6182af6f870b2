"""Robots of different bodies in one mixture: where the actions and state of each have their place.

Datasets of the same embodiment share an action space; those that name none are of the same. The
clips of all have these spaces side by side: an action is as wide as all together, and zero outside
its own place.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from video.statistics import Normalizer


@dataclass(frozen=True)
class Embodiment:
    """One of them.

    Attributes:
        name: as `ClipSource.embodiment` says; empty where none is named.
        actions: its dimensions among those of all.
        state: likewise.
    """

    name: str
    actions: slice
    state: slice


def side_by_side(
    names: Sequence[str],
    actions: Sequence[Normalizer | None],
    state: Sequence[Normalizer | None],
) -> tuple[tuple[Embodiment, ...], Normalizer | None, Normalizer | None]:
    """Give every embodiment its place, in the order of the names.

    Args:
        names: of the embodiments.
        actions: the range of each one's actions; None where none is known.
        state: likewise.

    Returns:
        The embodiments, and the range of all actions and of all states; None without any.
    """
    embodiments = tuple(
        Embodiment(*place) for place in zip(names, _places(actions), _places(state), strict=True)
    )
    return embodiments, joined(actions), joined(state)


def part_of(normalizer: Normalizer, place: slice) -> Normalizer:
    """The range of some dimensions only."""
    return Normalizer(normalizer.low[place], normalizer.high[place])


def joined(ranges: Sequence[Normalizer | None]) -> Normalizer | None:
    """The range of all dimensions in a row; None where none is known."""
    known = [own for own in ranges if own is not None]
    if not known:
        return None
    return Normalizer(
        np.concatenate([own.low for own in known]), np.concatenate([own.high for own in known])
    )


def _places(ranges: Sequence[Normalizer | None]) -> list[slice]:
    """One after the other."""
    sizes = [0 if own is None else own.dim for own in ranges]
    ends = np.cumsum(sizes).tolist()
    return [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
