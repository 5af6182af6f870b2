"""Which frames of an episode were asked for, and whether there are such."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64


def checked_frames(
    indices: np.ndarray | Sequence[int], length: int, episode: str
) -> Int64[np.ndarray, " frames"]:
    """The frame numbers as int64.

    Args:
        indices: frame numbers, in any order.
        length: frames of the episode.
        episode: what the error calls it.

    Raises:
        IndexError: a frame before the episode's first or after its last.
    """
    numbers = np.asarray(indices, dtype=np.int64)
    if len(numbers) and not (numbers.min() >= 0 and numbers.max() < length):
        raise IndexError(
            f"{episode} has frames 0 to {length - 1}; "
            f"{numbers.min()} to {numbers.max()} were asked for."
        )
    return numbers
