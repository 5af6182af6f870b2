"""What kinds of action dimension there are, and how far apart two values of one are.

A number may be anything; an angle comes round to itself, and -1 and 1 are the same direction in its
normalised units; a binary one, such as a gripper's command, is either low (-1) or high (1).
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from video.errors import DatasetError
from video.statistics import Normalizer

Kind = Literal["number", "angle", "binary"]

KINDS: tuple[Kind, ...] = ("number", "angle", "binary")


def is_kind(kinds: Sequence[str], kind: Kind, like: Tensor) -> Bool[Tensor, " size"]:
    """Which dimensions are of a kind, on the device of `like`."""
    return torch.tensor([own == kind for own in kinds], device=like.device)


def wrap(difference: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The same angle in [-1, 1), in half turns: (d + 1) mod 2 - 1."""
    return torch.remainder(difference + 1, 2) - 1


def signed_error(
    guess: Float[Tensor, "*steps size"], true: Float[Tensor, "*steps size"], kinds: Sequence[str]
) -> Float[Tensor, "*steps size"]:
    """Guess minus truth, for angles the short way round; all normalised."""
    difference = guess - true
    return torch.where(is_kind(kinds, "angle", guess), wrap(difference), difference)


def fit_to_kinds(normalizer: Normalizer, kinds: Sequence[str]) -> Normalizer:
    """The range that a model with these kinds normalises by: a whole turn for angles.

    Args:
        normalizer: as measured on the data; angles in radians.
        kinds: one for each dimension.

    Raises:
        DatasetError: not one kind for each dimension, an unknown kind, or a binary dimension that
            never changes.
    """
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown or len(kinds) != normalizer.dim:
        raise DatasetError(
            f"model.kinds is {list(kinds)}, but the data have {normalizer.dim} action dimensions, "
            f"each of which is one of {', '.join(KINDS)}. Name one for each, or leave kinds out if "
            "all are numbers."
        )
    low, high = normalizer.low.copy(), normalizer.high.copy()
    for dimension, kind in enumerate(kinds):
        if kind == "angle":
            low[dimension], high[dimension] = -np.float32(math.pi), np.float32(math.pi)
        if kind == "binary" and low[dimension] == high[dimension]:
            raise DatasetError(
                f"action dimension {dimension} is binary, but is always {low[dimension]} in the "
                "labelled training data, so nothing can be learned of it. Call it a number."
            )
    return Normalizer(low, high)
