"""Episodes that a model was not trained on: what it reads off them, beside what was recorded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from video.action_model import ActionModel, Estimate, StateModel
from video.episodes import EpisodeDataset, open_dataset
from video.errors import DatasetError
from video.lerobot_format import READ
from video.resizing import resize_frames
from video.video_folder import CAMERA


@dataclass
class Reading:
    """What was read off one episode of T frames, and what is known of it; actions normalised.

    Attributes:
        episode: its number in the dataset.
        task: its task's name.
        estimate: `(T-1, A)` what was read.
        actions: what was recorded; zero where unknown.
        mask: where it is known.
        state_error: `(frames, S)` how far the robot's state that the model tells is from what was
            recorded, in the data's units, in frames where it was; None: one of them is missing.
    """

    episode: int
    task: str
    estimate: Estimate
    actions: Float[Tensor, "steps size"]
    mask: Bool[Tensor, " steps"]
    state_error: Float[Tensor, "frames state_dim"] | None = None

    def part(self, first: int, last: int) -> "Reading":
        """Its steps from one to another, both counted from 0 and both included; without states."""
        here = slice(first, last + 1)
        estimate = Estimate(self.estimate.mean[here], self.estimate.spread[here])
        return Reading(self.episode, self.task, estimate, self.actions[here], self.mask[here])


@dataclass
class Steps:
    """The steps of several readings whose actions are known, in a row."""

    estimate: Estimate
    actions: Float[Tensor, "steps size"]


def read_split(
    model: ActionModel, path: Path | str, split: str, episodes: int | None = None
) -> list[Reading]:
    """Read the actions off a split's episodes.

    Args:
        model: reads.
        path: a dataset with actions; those that a model has read off it count as unknown.
        split: one of its splits.
        episodes: how many, spread evenly over the split; None: all.

    Raises:
        DatasetError: as `open_for`, or no such split, or no action known in it.
    """
    dataset, cameras = open_for(model, path)
    if not len(dataset.splits.get(split, ())):
        counts = {name: len(rows) for name, rows in dataset.splits.items()}
        raise DatasetError(
            f"{path} has no episodes in split {split!r}; there are {counts}. Pass --split."
        )
    chosen = dataset.splits[split]
    chosen = chosen[dataset.lengths[chosen] > 1]
    if episodes is not None and episodes < len(chosen):
        chosen = chosen[np.linspace(0, len(chosen) - 1, episodes).round().astype(int)]
    readings = []
    for episode in chosen:
        actions, mask = _actions(model, dataset, int(episode))
        inputs = read_inputs(model, dataset, int(episode), cameras)
        mean, spread = model.read(inputs[None])
        estimate = Estimate(mean[0].cpu(), spread[0].cpu())
        task = dataset.tasks[episode]
        error = _state_error(model, dataset, int(episode), inputs)
        readings.append(Reading(int(episode), task, estimate, actions, mask, error))
    if not any(reading.mask.any() for reading in readings):
        raise DatasetError(
            f"{path} has no recorded actions in split {split!r}, so there is nothing to compare "
            "what is read with. Give a dataset with recorded actions; to put actions on this one, "
            "use `python -m inverse_dynamics label`."
        )
    return readings


def open_for(model: ActionModel, path: Path | str) -> tuple[EpisodeDataset, tuple[str, ...]]:
    """Open a dataset that a model can read, and its cameras in the model's order.

    Raises:
        DatasetError: another frame rate, missing cameras, frames that are smaller than the model's
            or actions of another size.
    """
    dataset = open_dataset(path, None)
    if dataset.fps != model.fps:
        dataset = open_dataset(path, model.fps)  # resamples bare video, refuses recorded actions
    cameras = model.cameras
    if dataset.cameras == (CAMERA,) and len(cameras) == 1:
        cameras = (CAMERA,)  # bare video files do not name their view
    if not set(cameras) <= set(dataset.cameras):
        raise DatasetError(
            f"{path} has the cameras {list(dataset.cameras)}, the model was trained on "
            f"{list(model.cameras)}. Use a model that was trained on such views."
        )
    for camera in cameras:
        height, width = dataset.frame_shape(camera)
        if height < model.frame_size[0] or width < model.frame_size[1]:
            raise DatasetError(
                f"{path} has frames of {height}x{width} ({camera}), the model was trained on "
                f"{model.frame_size[0]}x{model.frame_size[1]}. What it reads off enlarged frames "
                "is not worth much: record larger ones, or train with data.size."
            )
    if "actions" in dataset.columns:
        size = dataset.columns["actions"].shape[1]
        if size != model.action_normalizer.dim:
            raise DatasetError(
                f"{path} has actions of size {size}, the model was trained with "
                f"{model.action_normalizer.dim}. Use a model that was trained on such data."
            )
    return dataset, cameras


def read_inputs(
    model: ActionModel, dataset: EpisodeDataset, episode: int, cameras: Sequence[str]
) -> Float[Tensor, "frames views channels h w"]:
    """What the model reads actions off, of all frames of an episode."""
    index = np.arange(dataset.lengths[episode])
    views = [
        resize_frames(dataset.read_frames(episode, index, camera), model.frame_size)
        for camera in cameras
    ]
    return model.encode(torch.from_numpy(np.stack(views, axis=1)))


def known_steps(readings: Sequence[Reading]) -> Steps:
    """Those of all readings."""
    masks = [reading.mask for reading in readings]

    def chosen(parts: Sequence[Tensor]) -> Tensor:
        return torch.cat([part[mask] for part, mask in zip(parts, masks, strict=True)])

    mean = chosen([reading.estimate.mean for reading in readings])
    spread = chosen([reading.estimate.spread for reading in readings])
    return Steps(Estimate(mean, spread), chosen([reading.actions for reading in readings]))


def _state_error(
    model: ActionModel, dataset: EpisodeDataset, episode: int, inputs: Tensor
) -> Tensor | None:
    """Absolute errors of the state in the frames in which it was recorded."""
    if not isinstance(model, StateModel) or not model.state_dim:
        return None
    if "state" not in dataset.columns or "state_read_by" in dataset.notes[episode]:
        return None
    start = int(dataset.starts[episode])
    rows = slice(start, start + int(dataset.lengths[episode]))
    states = torch.from_numpy(np.array(dataset.columns["state"][rows], np.float32))
    if states.shape[1] != model.state_dim:
        return None
    error = (model.states(inputs[None])[0].cpu() - states).abs()
    return error[error.isfinite().all(1)]


def _actions(model: ActionModel, dataset: EpisodeDataset, episode: int) -> tuple[Tensor, Tensor]:
    """Normalised actions `(T-1, A)` of an episode, and where they are known."""
    count = int(dataset.lengths[episode]) - 1
    mask = torch.ones(count, dtype=torch.bool)
    if "actions" not in dataset.columns:
        return torch.zeros(count, model.action_normalizer.dim), ~mask
    start = int(dataset.starts[episode])
    rows = slice(start, start + count)
    actions = torch.from_numpy(np.array(dataset.columns["actions"][rows], np.float32))
    if "action_mask" in dataset.columns:
        mask = torch.from_numpy(dataset.columns["action_mask"][rows].astype(bool))
    if "action_source" in dataset.columns:
        mask &= torch.from_numpy(dataset.columns["action_source"][rows] != READ)
    actions = model.action_normalizer.normalize(actions)
    return actions.masked_fill(~mask[:, None], 0.0), mask
