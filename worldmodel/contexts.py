"""Start contexts: the real frames that imagined episodes begin with, and what is known of them.

A saved world model carries a few of them; a dataset offers one an episode.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from video.episodes import EpisodeDataset
from video.errors import DatasetError
from video.resizing import resize_frames


@dataclass
class Contexts:
    """First frames of N episodes.

    Attributes:
        frames: as the model sees them.
        state: the robot's, in the data's units; zero where unknown. S = 0 if there is none at all.
        state_mask: where it is known.
        tasks: task of each, "" where unknown.
    """

    frames: UInt8[Tensor, "contexts views 3 height width"]
    state: Float[Tensor, "contexts state_dim"]
    state_mask: Bool[Tensor, " contexts"]
    tasks: list[str]

    def __len__(self) -> int:
        return len(self.tasks)

    def select(self, tasks: Sequence[str] | None, with_state: bool = False) -> "Contexts":
        """Those of some tasks (None: of all), and if asked for only those with a known state.

        Raises:
            DatasetError: none is left.
        """
        rows = [
            row
            for row, task in enumerate(self.tasks)
            if (tasks is None or task in tasks) and (self.state_mask[row] or not with_state)
        ]
        if not rows:
            known = " with a known robot state" if with_state else ""
            raise DatasetError(
                f"no start context{known} of the tasks {tasks}; there are {sorted(set(self.tasks))}"
                f", and {int(self.state_mask.sum())} of {len(self)} contexts have a state. Choose "
                "other tasks, or pass `contexts`, a dataset to start from."
            )
        return Contexts(
            self.frames[rows],
            self.state[rows],
            self.state_mask[rows],
            [self.tasks[row] for row in rows],
        )

    def save(self, path: Path) -> None:
        """Write a safetensors file."""
        tensors = {"frames": self.frames, "state": self.state, "state_mask": self.state_mask}
        save_file(
            {name: tensor.contiguous() for name, tensor in tensors.items()},
            path,
            metadata={"tasks": json.dumps(self.tasks)},
        )

    @classmethod
    def load(cls, path: Path) -> "Contexts":
        """The inverse of `save`.

        Raises:
            DatasetError: the file was written by an older version, without tasks and states.
        """
        with safe_open(path, "pt") as file:
            tasks = (file.metadata() or {}).get("tasks")
            if tasks is None:
                raise DatasetError(
                    f"{path} was written by an older version of this package and lacks tasks and "
                    "states. Train the model again, or delete the file and start imagined "
                    "episodes from a dataset."
                )
            return cls(
                frames=file.get_tensor("frames"),
                state=file.get_tensor("state"),
                state_mask=file.get_tensor("state_mask"),
                tasks=json.loads(tasks),
            )


def first_frames(
    episodes: Sequence[tuple[EpisodeDataset, int, Sequence[str], bool]],
    frame_size: tuple[int, int],
    state_dim: int,
) -> Contexts:
    """Read the first frame of each episode.

    Args:
        episodes: dataset, number of the episode there, its cameras in the order of the views, and
            whether its state may be used.
        frame_size: height and width to bring the frames to.
        state_dim: dimensions S of the robot's state.
    """
    frames, tasks = [], []
    state, known = np.zeros((len(episodes), state_dim), np.float32), np.zeros(len(episodes), bool)
    for row, (dataset, episode, cameras, has_state) in enumerate(episodes):
        views = [dataset.read_frames(episode, np.zeros(1, int), camera) for camera in cameras]
        frames.append(np.concatenate([resize_frames(view, frame_size) for view in views]))
        tasks.append(dataset.tasks[episode])
        if has_state and state_dim and "state" in dataset.columns:
            state[row] = dataset.columns["state"][dataset.starts[episode]]
            known[row] = True
    return Contexts(
        torch.from_numpy(np.stack(frames)), torch.from_numpy(state), torch.from_numpy(known), tasks
    )
