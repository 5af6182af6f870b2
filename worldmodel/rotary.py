"""Three-dimensional rotary positions: frame, row and column of a token.

Positions are relative, so that neither the picture's size nor the block's place in an episode is
baked into the weights, and a window of cached blocks can slide.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

BASES = (100.0, 100.0, 100.0)
"""Longest wavelength over 2 pi along frame, row and column; grids here are small."""


def rotary_angles(
    positions: Float[Tensor, "*tokens 3"], head_width: int
) -> Float[Tensor, "*tokens half"]:
    """Angle of every pair of channels: position times frequency, a third of the pairs an axis.

    theta_i = p * base^(-i / n) for the n pairs of an axis; the frame axis takes what is left over.

    Raises:
        ValueError: an odd head width or one below 6, which leaves an axis without a pair.

    Source: Su et al., RoFormer, arXiv 2104.09864, eq. 15, applied axis by axis.
    """
    half = head_width // 2
    spatial = half // 3
    if head_width % 2 or spatial == 0:
        raise ValueError(f"head width {head_width}: three axes need an even width of at least 6")
    angles = []
    for axis, pairs in enumerate((half - 2 * spatial, spatial, spatial)):
        exponents = torch.arange(pairs, device=positions.device) / pairs
        angles.append(positions[..., axis, None] * BASES[axis] ** -exponents)
    return torch.cat(angles, dim=-1)


class Rotation(NamedTuple):
    """Cosine and signed sine of every token's angles, laid out for `rotate`."""

    cos: Float[Tensor, "tokens width"]
    sin: Float[Tensor, "tokens width"]

    @classmethod
    def of(cls, angles: Float[Tensor, "tokens half"], dtype: torch.dtype) -> "Rotation":
        """From the angles of channel pairs (i, i + half)."""
        cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
        return cls(torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1))

    def first(self, tokens: int) -> "Rotation":
        """The first tokens' part."""
        return Rotation(self.cos[:tokens], self.sin[:tokens])

    def last(self, tokens: int) -> "Rotation":
        """The last tokens' part."""
        return Rotation(self.cos[-tokens:], self.sin[-tokens:])


def rotate(
    x: Float[Tensor, "*batch tokens width"], rotation: Rotation
) -> Float[Tensor, "*batch tokens width"]:
    """Turn channel pairs (i, i + half) of every token by its angles.

    (a, b) -> (a cos - b sin, b cos + a sin)
    """
    return torch.addcmul(x * rotation.cos, x.roll(x.shape[-1] // 2, dims=-1), rotation.sin)
