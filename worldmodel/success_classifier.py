"""Whether a frame shows success, by what is to be seen in it and nothing else.

The block's features say what the world model thought; they are a few tokens for four frames.
Whether a button is down is decided by a place or two of the frame itself, so here small
convolutional networks look at its latents, one frame at a time.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

GLANCE = 4
"""Rows and columns of what is left of a picture before it becomes a token."""

HIDDEN = 128
GROUPS = 8


class SuccessClassifier(nn.Module):
    """An ensemble of classifiers of single frames.

    Args:
        latent_channels: of a frame.
        views: camera views of a frame.
        channels: of a member's feature maps; a multiple of 8.
        members: size of the ensemble.

    Raises:
        ValueError: channels that are no such multiple.
    """

    def __init__(self, latent_channels: int, views: int, channels: int, members: int):
        super().__init__()
        if channels % GROUPS:
            raise ValueError(f"success_channels={channels} is not a multiple of {GROUPS}")
        self.members = nn.ModuleList(
            Member(latent_channels, views, channels) for _ in range(members)
        )

    def forward(
        self, frames: Float[Tensor, "batch frames views channels height width"]
    ) -> Float[Tensor, "members batch frames"]:
        """Log odds that a frame shows success, of each member."""
        pictures = frames.flatten(0, 1).float()
        logits = torch.stack([member(pictures) for member in self.members])
        return logits.unflatten(1, frames.shape[:2])


class Member(nn.Module):
    """One classifier.

    Args:
        latent_channels: of a frame.
        views: camera views of a frame.
        channels: of the feature maps.
    """

    def __init__(self, latent_channels: int, views: int, channels: int):
        super().__init__()
        self.enter = nn.Conv2d(latent_channels, channels, 3, padding=1)
        self.refine = nn.Conv2d(channels, channels, 3, padding=1)
        self.fold = nn.Conv2d(channels, channels, 3, padding=1, stride=2)
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.decide = nn.Sequential(
            nn.Dropout(0.2),
            nn.Linear(views * channels * GLANCE**2, HIDDEN),
            nn.SiLU(),
            nn.Linear(HIDDEN, 1),
        )

    def forward(
        self, pictures: Float[Tensor, "pictures views channels height width"]
    ) -> Float[Tensor, " pictures"]:
        """Log odds of success."""
        maps = F.silu(self.enter(pictures.flatten(0, 1)))
        maps = maps + F.silu(self.refine(maps))
        maps = F.silu(self.norm(self.fold(maps)))
        seen = F.adaptive_avg_pool2d(maps, GLANCE)
        seen = rearrange(seen, "(p v) c h w -> p (v c h w)", v=pictures.shape[1])
        return self.decide(seen)[:, 0]
