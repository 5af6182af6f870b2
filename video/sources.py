"""What an importer offers: the episodes of a foreign recording, each loaded when it is its turn."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from video.episodes import Episode
from video.errors import DatasetError


@dataclass(frozen=True)
class SourceEpisode:
    """One episode that has not been loaded yet.

    Attributes:
        name: file and place in it, for messages.
        split: the split it belongs to.
        load: reads it; raises `DatasetError` where it is damaged.
    """

    name: str
    split: str
    load: Callable[[], Episode]


@dataclass(frozen=True)
class Source:
    """A foreign recording.

    Attributes:
        fps: frames per second; None where the file does not say.
        episodes: in their order in the file.
    """

    fps: float | None
    episodes: list[SourceEpisode]


def to_uint8(frames: np.ndarray, name: str) -> np.ndarray:
    """Frames of any common layout as uint8 `(T, H, W, 3)`.

    Floats that go beyond 1 are taken to be in [0, 255], others in [0, 1].

    Raises:
        DatasetError: no such layout.
    """
    if frames.ndim != 4:
        raise DatasetError(f"{name} has shape {frames.shape}, not that of pictures.")
    if frames.shape[3] != 3 and frames.shape[1] == 3:
        frames = frames.transpose(0, 2, 3, 1)
    if frames.shape[3] != 3:
        raise DatasetError(f"{name} has shape {frames.shape}, not 3 colours.")
    if frames.dtype == np.uint8:
        return np.ascontiguousarray(frames)
    scale = 1.0 if frames.max() > 1 else 255.0
    return np.clip(np.rint(frames * scale), 0, 255).astype(np.uint8)


def sparse_success(reward: np.ndarray | None) -> np.ndarray | None:
    """Success by a reward that is 1 where the task is solved and 0 elsewhere; else None."""
    if reward is None or not np.isin(reward, (0, 1)).all():
        return None
    return reward > 0
