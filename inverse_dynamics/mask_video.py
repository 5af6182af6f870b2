"""`python -m inverse_dynamics mask`: what a learned mask shows, as video to look at."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch.nn.functional import interpolate

from inverse_dynamics.held_out import open_for
from inverse_dynamics.model import InverseDynamicsModel
from video.errors import DatasetError
from video.resizing import resize_frames
from video.video_file import write_video

HIDDEN = 0.2
"""Brightness of what is hidden."""

ENLARGED = 4
"""So that small frames can be looked at."""


def mask(
    model: Path, data: Path, out: Path, split: str = "test", episodes: int = 4, device: str = "cpu"
) -> list[Path]:
    """Write videos of what a learned mask shows: the frames, and beside them with the rest dark.

    Args:
        model: folder of an inverse dynamics model that was trained with sizes.masked.
        data: dataset or folder of videos.
        out: folder for the videos, EPISODE-CAMERA.mp4.
        split: which episodes.
        episodes: how many, spread evenly over the split.
        device: where to compute.

    Returns:
        The videos' paths.

    Raises:
        DatasetError: a model without a mask, a dataset that it cannot read, or no such split.
    """
    loaded = InverseDynamicsModel.from_pretrained(model, device)
    if loaded.network.mask is None:
        raise DatasetError(
            f"{model} has no mask. Train one with `lightning fit -c configs/idm.yaml -c "
            "configs/idm/mask.yaml`."
        )
    dataset, cameras = open_for(loaded, data)
    if not len(dataset.splits.get(split, ())):
        raise DatasetError(
            f"{data} has no episodes in split {split!r}; there are {sorted(dataset.splits)}. "
            "Pass --split."
        )
    chosen = dataset.splits[split]
    if episodes < len(chosen):
        chosen = chosen[np.linspace(0, len(chosen) - 1, episodes).round().astype(int)]
    written = []
    for episode in chosen.tolist():
        index = np.arange(int(dataset.lengths[episode]))
        for view, camera in enumerate(cameras):
            frames = resize_frames(dataset.read_frames(episode, index, camera), loaded.frame_size)
            path = Path(out) / f"{episode:04d}-{loaded.cameras[view]}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            pictures = masked_beside(loaded, frames)
            write_video(path, pictures, loaded.fps)
            print(f"wrote {path}")
            written.append(path)
    return written


@torch.inference_mode()
def masked_beside(
    model: InverseDynamicsModel, frames: UInt8[np.ndarray, "T 3 height width"]
) -> UInt8[np.ndarray, "T rows columns 3"]:
    """Frames of one view, and to their right the same with what the mask hides dark."""
    assert model.network.mask is not None
    encoded = model.encode(torch.from_numpy(frames))[:, None]
    _, shown = model.network.mask(encoded)
    visible = interpolate(shown.round().cpu(), size=frames.shape[2:])  # T 1 height width
    seen = torch.from_numpy(frames)
    dark = (seen * (HIDDEN + (1 - HIDDEN) * visible)).round().to(torch.uint8)
    pictures = interpolate(torch.cat((seen, dark), dim=3), scale_factor=ENLARGED)
    return pictures.permute(0, 2, 3, 1).numpy()
