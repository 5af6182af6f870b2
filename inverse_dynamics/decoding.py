"""Whole episodes, decoded in processes of their own while the network reads earlier ones.

Nothing here needs torch, so that such a process starts quickly.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from video.episodes import EpisodeDataset


@dataclass(frozen=True)
class DecodeEpisode:
    """Decodes an episode, given by its number; can be sent to another process.

    Attributes:
        dataset: where it lies.
        cameras: what to decode of it.
    """

    dataset: EpisodeDataset
    cameras: tuple[str, ...]

    def __call__(self, episode: int) -> dict[str, UInt8[np.ndarray, "frames H W 3"]]:
        """All frames, by camera.

        Raises:
            DatasetError: a damaged file.
        """
        index = np.arange(self.dataset.lengths[episode])
        return {camera: self.dataset.read_frames(episode, index, camera) for camera in self.cameras}
