"""Every frame of a block as a picture of its own, in which the heads look for things."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from video.picture_encoder import PictureEncoder

INPUTS = 16
"""Channels of the pictures."""

TOKEN = 128
"""Channels of what is found in one."""


class FramePictures(nn.Module):
    """What is to be seen in each frame of a block, found place by place.

    A token of the world model holds `patch` x `patch` places of all frames of its block. Whether a
    hand touches a button is decided within one. So the tokens are laid out again, a picture for
    every frame and view as fine as the latents, and a picture encoder finds where things are.

    Args:
        width: channels of a token.
        frames: frames k of a block.
        patch: rows and columns of a token's places.
        views: most camera views.
        maps: feature maps that look for something.
        outputs: channels of what is told of a frame.
    """

    def __init__(self, width: int, frames: int, patch: int, views: int, maps: int, outputs: int):
        super().__init__()
        self.frames = frames
        self.patch = patch
        self.unfold = nn.Linear(width, frames * patch**2 * INPUTS)
        self.encoder = PictureEncoder((1, INPUTS, patch, patch), TOKEN, maps, dropout=0.1)
        self.tell = nn.Parameter(torch.randn(views, TOKEN, outputs) / TOKEN**0.5)

    def forward(
        self, video: Float[Tensor, "batch tokens width"], grid: tuple[int, int, int]
    ) -> Float[Tensor, "batch frames outputs"]:
        """What is to be seen in each frame, all views together.

        Args:
            video: the block's video tokens, by view, row and column.
            grid: how many of each.
        """
        views, rows, columns = grid
        pictures = rearrange(
            self.unfold(video),
            "b (v r c) (k i j d) -> (b k v) 1 d (r i) (c j)",
            v=views,
            r=rows,
            c=columns,
            k=self.frames,
            i=self.patch,
            j=self.patch,
        )
        found = rearrange(self.encoder(pictures), "(b k v) d -> b k v d", v=views, k=self.frames)
        return torch.einsum("bkvd,vdo->bko", found, self.tell[:views])
