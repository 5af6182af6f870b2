"""Actions and robot state to [-1, 1] and back. Latents have statistics of their own."""

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from video.errors import DatasetError

Values = TypeVar("Values", np.ndarray, Tensor)


@dataclass(frozen=True, eq=False)
class Normalizer:
    """The smallest and largest value of every dimension, mapped to -1 and 1.

    normalize(x) = 2 (x - low) / (high - low) - 1.  A constant dimension maps to 0, and back to its
    constant. Nothing is clipped: a held-out value may lie a little outside [-1, 1].

    Attributes:
        low: float32 `(D,)`, in the data's own units.
        high: float32 `(D,)`.
    """

    low: np.ndarray
    high: np.ndarray

    def __post_init__(self) -> None:
        """Check the two arrays.

        Raises:
            ValueError: arrays of different or more than one dimension, not finite, or low > high.
        """
        low = np.asarray(self.low, np.float32)
        high = np.asarray(self.high, np.float32)
        if low.ndim != 1 or low.shape != high.shape:
            raise ValueError(f"low and high must be (D,), got {low.shape} and {high.shape}")
        if not (np.isfinite(low).all() and np.isfinite(high).all() and (low <= high).all()):
            raise ValueError(f"low must be finite and <= high, got {low} and {high}")
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)

    @classmethod
    def fit(cls, values: np.ndarray) -> "Normalizer":
        """Measure `(N, D)` values.

        Raises:
            DatasetError: no rows, or a value that is not finite, naming its row and dimension.
        """
        if len(values) == 0:
            raise DatasetError("cannot measure the range of an empty table of shape (0, D)")
        if not np.isfinite(values).all():
            row, dimension = np.argwhere(~np.isfinite(values))[0]
            raise DatasetError(
                f"row {row}, dimension {dimension} is {values[row, dimension]}. Mask that step "
                "(action_mask) or repair the recording."
            )
        return cls(values.min(0), values.max(0))

    @property
    def dim(self) -> int:
        """Number of dimensions D."""
        return len(self.low)

    def normalize(self, values: Values) -> Values:
        """From the data's units `(..., D)` to [-1, 1]."""
        center, half = self._center, self._half
        half = np.where(half > 0, half, np.float32(1))
        return (values - _like(center, values)) / _like(half, values)

    def denormalize(self, values: Values) -> Values:
        """From [-1, 1] `(..., D)` back to the data's units."""
        return values * _like(self._half, values) + _like(self._center, values)

    def normalize_spread(self, spread: Values) -> Values:
        """Standard deviations `(..., D)` from the data's units to those of normalised values."""
        half = self._half
        return spread / _like(np.where(half > 0, half, np.float32(1)), spread)

    def denormalize_spread(self, spread: Values) -> Values:
        """Standard deviations `(..., D)` back to the data's units."""
        return spread * _like(self._half, spread)

    def to_json(self) -> dict[str, list[float]]:
        """Plain lists, exact for float32."""
        return {"low": self.low.tolist(), "high": self.high.tolist()}

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> "Normalizer":
        """The inverse of `to_json`."""
        return cls(np.array(saved["low"], np.float32), np.array(saved["high"], np.float32))

    @property
    def _center(self) -> np.ndarray:
        return self.low + self._half

    @property
    def _half(self) -> np.ndarray:
        return (self.high - self.low) / 2


def _like(array: np.ndarray, values: Values) -> Values:
    """The array as whatever `values` is: NumPy, or a tensor on its device."""
    if isinstance(values, np.ndarray):
        return array
    return torch.as_tensor(array, device=values.device, dtype=values.dtype)


def renormalized(values: Tensor, own: Normalizer | None, its: Normalizer | None) -> Tensor:
    """Values `(..., D)`, or several steps' in a row, as another normaliser would have them.

    Args:
        values: normalised by `own`.
        own: None: they stay as they are.
        its: likewise.
    """
    if own is None or its is None or own is its:
        return values
    single = values.unflatten(-1, (-1, own.dim))
    return its.normalize(own.denormalize(single)).flatten(-2)
