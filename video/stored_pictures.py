"""The pictures of whole datasets, there before training begins: latents on disk, frames in memory.

Where there are none, `clips.py` decodes the video files as clips are asked for.
"""

import logging
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from video.autoencoder import FrameAutoencoder
from video.clip_sources import OpenSource
from video.clips import count_rows
from video.errors import DatasetError
from video.latents import StoredLatents, find_latents
from video.resizing import resize_frames

log = logging.getLogger(__name__)


def all_stored_latents(
    sources: Sequence[OpenSource],
    autoencoder: FrameAutoencoder,
    size: tuple[int, int],
    required: bool = False,
) -> list[list[StoredLatents]] | None:
    """Stored latents of every source by view, or None where any source lacks some.

    Args:
        sources: whose latents.
        autoencoder: that made them.
        size: height and width of the frames that they were made of.
        required: their lack is an error.

    Raises:
        DatasetError: some are missing that are required.
    """
    found = [
        find_latents(opened.dataset, autoencoder, size, opened.cameras, opened.source.latents)
        for opened in sources
    ]
    missing = [
        str(opened.dataset.path)
        for opened, latents in zip(sources, found, strict=True)
        if latents is None
    ]
    if not missing:
        return [latents for latents in found if latents is not None]
    if required:
        raise DatasetError(
            f"no latents of data.autoencoder at {size[0]}x{size[1]} (of its fingerprint, "
            f"{autoencoder.fingerprint}) are stored for {', '.join(missing)}. Run 'python -m video "
            "encode', or set data.encode_first, or data.latents to 'auto'."
        )
    if len(missing) < len(found):
        log.warning("not encoded yet, so latents are made as batches arrive: %s", missing)
    return None


def all_frames(opened: OpenSource, size: tuple[int, int]) -> list[UInt8[np.ndarray, "N 3 H W"]]:
    """All frames of a source by view, decoded and resized."""
    dataset = opened.dataset
    views = []
    for camera in opened.cameras:
        frames = np.zeros((count_rows(dataset), 3, *size), np.uint8)
        for episode, (start, length) in enumerate(
            zip(dataset.starts, dataset.lengths, strict=True)
        ):
            decoded = dataset.read_frames(episode, np.arange(length), camera)
            frames[start : start + length] = resize_frames(decoded, size)
        views.append(frames)
    return views
