"""One token of each frame: where the things are that its feature maps look for, and what they are.

Actions are small differences between frames, so what counts is where something is, to a fraction of
a pixel: convolutions run fast in low precision, all that follows them in full.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

GLANCE = 4
"""Rows and columns of the glance at the whole picture."""

REFINEMENTS = 2


class PictureEncoder(nn.Module):
    """One token of each frame, all views together.

    The picture is folded, `patch` x `patch` pixels into the channels of one place. Every feature
    map finds a soft centre, finer than a place, how strongly it was found, and what a few other
    maps say there; to that comes a coarse glance at the whole. What places in the picture mean in
    space is not linear: small networks refine the token that is made of them.

    Args:
        frame_shape: views, channels, height and width of a frame.
        width: channels of the token.
        channels: feature maps.
        dropout: of the glance at the whole.
        patch: pixels that are folded into one place, each way; 1 for latents.

    Raises:
        ValueError: a picture that does not divide into patches.
    """

    def __init__(
        self,
        frame_shape: Sequence[int],
        width: int,
        channels: int,
        dropout: float,
        patch: int = 1,
    ):
        super().__init__()
        views, inputs, rows, columns = frame_shape
        if rows % patch or columns % patch:
            raise ValueError(f"pictures of {rows}x{columns} do not divide into patch={patch}")
        self.patch = patch
        values = max(1, channels // 4)
        self.features = nn.Sequential(
            nn.Conv2d(inputs * patch**2, channels, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.SiLU(),
        )
        self.maps = nn.Conv2d(channels, channels, 1)
        self.values = nn.Conv2d(channels, values, 1)
        self.embed_found = nn.Linear(views * channels * (3 + values), width)
        self.embed_whole = nn.Linear(views * channels * GLANCE**2, width)
        self.dropout = nn.Dropout(dropout)
        self.refinements = nn.ModuleList(
            nn.Sequential(
                nn.RMSNorm(width),
                nn.Linear(width, 2 * width),
                nn.SiLU(),
                nn.Linear(2 * width, width),
            )
            for _ in range(REFINEMENTS)
        )

    def forward(
        self, frames: Float[Tensor, "batch views channels height width"]
    ) -> Float[Tensor, "batch token"]:
        """What the maps find, and the picture as it is."""
        folded = F.pixel_unshuffle(frames.flatten(0, 1), self.patch)
        features = self.features(folded.contiguous(memory_format=torch.channels_last))
        with torch.autocast(frames.device.type, enabled=False):
            features = features.to(self.maps.weight.dtype)
            found = self.find(features).unflatten(0, frames.shape[:2]).flatten(1)
            whole = F.adaptive_avg_pool2d(features, GLANCE)
            whole = whole.unflatten(0, frames.shape[:2]).flatten(1)
            token = self.embed_found(found) + self.embed_whole(self.dropout(whole))
            for refine in self.refinements:
                token = token + refine(token)
            return token

    def find(
        self, features: Float[Tensor, "pictures channels rows columns"]
    ) -> Float[Tensor, "pictures found"]:
        """Soft centre, strength and surroundings of what each map looks for."""
        maps = self.maps(features)
        attention = maps.flatten(2).softmax(dim=-1)
        centers = attention @ centers_of(*maps.shape[2:], like=attention)
        strengths = maps.flatten(2).logsumexp(dim=-1, keepdim=True) - math.log(attention.shape[-1])
        values = attention @ self.values(features).flatten(2).mT
        return torch.cat((centers, strengths, values), dim=-1).flatten(1)


def centers_of(rows: int, columns: int, like: Tensor) -> Float[Tensor, "places 2"]:
    """Row and column of every place of a picture, from -1 to 1."""
    down, across = (
        torch.linspace(-1, 1, count, dtype=like.dtype, device=like.device)
        for count in (rows, columns)
    )
    return torch.cartesian_prod(down, across)
