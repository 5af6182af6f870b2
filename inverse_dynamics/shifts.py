"""Shifted pictures: what a movement looks like is then learned wherever it is."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def shifted(
    frames: Float[Tensor, "batch frames views channels h w"], most: int
) -> Float[Tensor, "batch frames views channels h w"]:
    """Every clip moved within the picture, all its frames alike; what is missing is repeated.

    Args:
        frames: of the clips.
        most: places, up, down, left or right; each clip's own are drawn from PyTorch's generator.

    Source: Kostrikov et al. (DrQ), arXiv 2004.13649, for single pictures.
    """
    if most == 0:
        return frames
    height, width = frames.shape[-2:]
    padded = F.pad(frames.flatten(1, 3), (most,) * 4, mode="replicate")
    offsets = torch.randint(2 * most + 1, (len(frames), 2)).tolist()
    moved = [
        clip[:, down : down + height, right : right + width]
        for clip, (down, right) in zip(padded, offsets, strict=True)
    ]
    return torch.stack(moved).view_as(frames)
