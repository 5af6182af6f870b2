"""Held-out episodes as a world model sees them: encoded, with normalised actions."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from video.episodes import EpisodeDataset, open_dataset
from video.errors import DatasetError
from video.resizing import resize_frames
from worldmodel.world_model import WorldModel


@dataclass
class HeldOut:
    """The beginnings of E episodes, T frames each; a shorter one is padded with its last frame.

    Frames, latents, actions and their mask lie on the world model's device.

    Attributes:
        frames: as recorded, at the model's frame size.
        latents: the same, encoded.
        actions: normalised; zeros where unknown.
        action_mask: False where unknown and behind the end of an episode.
        state: the robot's in the first frame, normalised for the model; NaN where unknown.
        lengths: frames of each episode that are no padding.
        tasks: task of each episode.
        episodes: number of each episode in its dataset.
    """

    frames: UInt8[Tensor, "episodes frames views 3 height width"]
    latents: Float[Tensor, "episodes frames views channels h w"]
    actions: Float[Tensor, "episodes actions action_dim"]
    action_mask: Bool[Tensor, "episodes actions"]
    state: Float[Tensor, "episodes state_dim"]
    lengths: Int[Tensor, " episodes"]
    tasks: list[str]
    episodes: list[int]

    def has_frame(self, index: int) -> Bool[Tensor, " episodes"]:
        """Which episodes have a frame of this index."""
        return self.lengths > index

    def subset(self, rows: list[int]) -> "HeldOut":
        """Some of the episodes."""
        return HeldOut(
            self.frames[rows],
            self.latents[rows],
            self.actions[rows],
            self.action_mask[rows],
            self.state[rows],
            self.lengths[rows],
            [self.tasks[row] for row in rows],
            [self.episodes[row] for row in rows],
        )

    def swapped(self) -> Int[Tensor, " episodes"]:
        """For each episode another one, of the same task where there is one."""
        other = torch.zeros(len(self.tasks), dtype=torch.long)
        for task in set(self.tasks):
            members = [i for i, name in enumerate(self.tasks) if name == task]
            if len(members) == 1:
                members = list(range(len(self.tasks)))
                other[self.tasks.index(task)] = (self.tasks.index(task) + 1) % len(members)
                continue
            other[members] = torch.tensor(members[1:] + members[:1])
        return other


def open_split(
    model: WorldModel, path: Path | str, split: str
) -> tuple[EpisodeDataset, np.ndarray, tuple[str, ...]]:
    """Open a dataset for a model: its episodes of a split, and its cameras in the model's order.

    Raises:
        DatasetError: another frame rate, missing cameras, an action size that does not fit, or no
            such split.
    """
    dataset = open_dataset(path, None)
    if dataset.fps != model.fps:
        dataset = open_dataset(path, model.fps)
    cameras = model.cameras if len(dataset.cameras) > 1 else dataset.cameras
    if len(cameras) != len(model.cameras) or not set(cameras) <= set(dataset.cameras):
        raise DatasetError(
            f"{path} has the cameras {list(dataset.cameras)}, the model wants {list(model.cameras)}"
        )
    if "actions" in dataset.columns and model.action_normalizer is not None:
        size = dataset.columns["actions"].shape[1]
        if size != model.action_normalizer.dim:
            raise DatasetError(
                f"{path} has actions of size {size}, the model was trained with "
                f"{model.action_normalizer.dim}. Use a model that was trained on such data."
            )
    if split not in dataset.splits or len(dataset.splits[split]) == 0:
        counts = {name: len(episodes) for name, episodes in dataset.splits.items()}
        raise DatasetError(
            f"{path} has no episodes in split {split!r}; there are {counts}. Pass --split."
        )
    return dataset, dataset.splits[split], cameras


def read_held_out(
    model: WorldModel, path: Path | str, split: str, frames: int, episodes: int | None = None
) -> HeldOut:
    """Read and encode the first frames of a split's episodes.

    Args:
        model: brings frame rate, cameras, sizes and statistics.
        path: a dataset.
        split: one of its splits.
        frames: frames T of each episode.
        episodes: how many, spread evenly over the split; None: all.

    Raises:
        DatasetError: data that this model cannot be tried on, as in `open_split`.
    """
    dataset, chosen, cameras = open_split(model, path, split)
    if episodes is not None and episodes < len(chosen):
        chosen = chosen[np.linspace(0, len(chosen) - 1, episodes).round().astype(int)]
    pictures, actions, masks = [], [], []
    lengths = np.minimum(dataset.lengths[chosen], frames)
    for episode, length in zip(chosen, lengths, strict=True):
        index = np.minimum(np.arange(frames), length - 1)
        views = [dataset.read_frames(int(episode), index, camera) for camera in cameras]
        views = [resize_frames(view, model.frame_size) for view in views]
        pictures.append(torch.from_numpy(np.stack(views, axis=1)))
        known, values = _actions(model, dataset, int(episode), frames - 1)
        actions.append(values)
        masks.append(known & (torch.arange(frames - 1) < length - 1))
    device = model.network.device
    all_frames = torch.stack(pictures).to(device)
    return HeldOut(
        frames=all_frames,
        latents=torch.stack([model.encode(clip).float() for clip in all_frames]),
        actions=torch.stack(actions).to(device),
        action_mask=torch.stack(masks).to(device),
        state=_first_states(model, dataset, chosen).to(device),
        lengths=torch.from_numpy(lengths),
        tasks=[dataset.tasks[episode] for episode in chosen],
        episodes=[int(episode) for episode in chosen],
    )


def _first_states(
    model: WorldModel, dataset: EpisodeDataset, episodes: np.ndarray
) -> Float[Tensor, "episodes state_dim"]:
    """The robot's state in each episode's first frame, as far as it was recorded."""
    recorded = dataset.columns.get("state", np.zeros((int(dataset.lengths.sum()), 0), np.float32))
    first = torch.from_numpy(recorded[dataset.starts[episodes]])
    return model.normal_state(first, torch.ones(len(first), dtype=torch.bool))


def _actions(
    model: WorldModel, dataset: EpisodeDataset, episode: int, count: int
) -> tuple[Tensor, Tensor]:
    """Mask `(count,)` and normalised actions `(count, A)` of an episode's beginning."""
    size = model.network.action_dim
    mask, values = torch.zeros(count, dtype=torch.bool), torch.zeros(count, size)
    if "actions" not in dataset.columns or model.action_normalizer is None:
        return mask, values
    start = int(dataset.starts[episode])
    rows = slice(start, start + min(count, int(dataset.lengths[episode]) - 1))
    given = model.action_normalizer.normalize(torch.from_numpy(dataset.columns["actions"][rows]))
    known = torch.ones(len(given), dtype=torch.bool)
    if "action_mask" in dataset.columns:
        known = torch.from_numpy(dataset.columns["action_mask"][rows].astype(bool))
    known = known & given.isfinite().all(dim=1)
    mask[: len(given)] = known
    values[: len(given)] = torch.where(known[:, None], given, 0.0)
    return mask, values
