"""Frames of any size to the one that a model works on: centre-crop, then antialiased resize."""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8


def resize_frames(
    frames: UInt8[np.ndarray, "n H W 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "n 3 h w"]:
    """Crop the largest centred piece of the wanted aspect ratio and scale it, channels first.

    Args:
        frames: as decoded.
        size: height and width wanted, in pixels.
    """
    height, width = size
    rows, columns = frames.shape[1:3]
    kept_rows = min(rows, max(1, round(columns * height / width)))
    kept_columns = min(columns, max(1, round(rows * width / height)))
    top, left = (rows - kept_rows) // 2, (columns - kept_columns) // 2
    cropped = frames[:, top : top + kept_rows, left : left + kept_columns].transpose(0, 3, 1, 2)
    if (kept_rows, kept_columns) == size:
        return np.ascontiguousarray(cropped)
    pixels = torch.from_numpy(np.ascontiguousarray(cropped))
    return F.interpolate(pixels, size, mode="bilinear", antialias=True).numpy()
