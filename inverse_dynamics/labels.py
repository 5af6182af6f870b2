"""The labels of one episode: what was recorded, and what a model reads where nothing was.

Reads one video at a time, in pieces of a fixed size: a sum of many numbers may come out differently
where more rows are computed together, so labels of several videos at once would depend on which.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from inverse_dynamics.calibration import calibrated_spread
from inverse_dynamics.estimate import decided
from inverse_dynamics.scores import doubt
from video.action_model import ActionModel, Estimate, StateModel
from video.episodes import EpisodeDataset, action_sources
from video.lerobot_format import READ, RECORDED, UNKNOWN
from video.relabel import ActionColumns
from video.resizing import resize_frames

FRAMES_TOGETHER = 64
"""Frames of a video that the encoder sees at once."""


def recorded_steps(
    dataset: EpisodeDataset, hidden: Sequence[int] | np.ndarray = ()
) -> Bool[np.ndarray, " rows"]:
    """Rows whose action was recorded and may be kept.

    Args:
        dataset: with or without actions; those that a model has read count as unknown.
        hidden: episodes whose actions must not be used.
    """
    recorded = action_sources(dataset) == RECORDED
    for episode in hidden:
        first = dataset.starts[episode]
        recorded[first : first + dataset.lengths[episode]] = False
    return recorded


def keep_recorded(
    dataset: EpisodeDataset, episode: int, recorded: Bool[np.ndarray, " rows"], size: int
) -> ActionColumns:
    """The labels of an episode before anything was read.

    Args:
        dataset: where the episode lies.
        episode: its number.
        recorded: rows whose action is kept.
        size: dimensions of an action.
    """
    first, length = dataset.starts[episode], int(dataset.lengths[episode])
    rows = slice(first, first + length)
    known = recorded[rows]
    actions = np.zeros((length, size), np.float32)
    if known.any():
        actions[known] = dataset.columns["actions"][rows][known]
    source = np.where(known, RECORDED, UNKNOWN).astype(np.int8)
    return ActionColumns(actions, known, np.zeros_like(actions), source)


def read_missing(
    labels: ActionColumns,
    model: ActionModel,
    frames: Mapping[str, UInt8[np.ndarray, "frames H W 3"]],
    cameras: Sequence[str],
    threshold: float,
    with_state: bool = False,
) -> ActionColumns:
    """Fill in what a model reads off the frames, where it is sure enough.

    What is read lies in the range of the actions that the model was trained on, and a binary
    dimension is one or the other (see `estimate.decided`). The last frame's action leads out of the
    video, and stays as it is.

    Args:
        labels: of the episode, so far.
        model: reads; calibrated.
        frames: by camera.
        cameras: the model's, in its order.
        threshold: largest doubt (see `scores.doubt`) of a step that is labelled.
        with_state: whether the model, a `StateModel`, tells the robot's state in all frames, too.
    """
    views = [resize_frames(frames[camera], model.frame_size) for camera in cameras]
    inputs = _encode(model, torch.from_numpy(np.stack(views, axis=1)))
    mean, spread = (part[0].float().cpu() for part in model.read(inputs[None]))
    estimate = Estimate(mean, spread)
    assert model.calibration is not None
    sure = doubt(estimate, model.calibration, model.kinds) <= threshold
    read = np.append(sure.numpy(), False) & ~labels.action_mask
    normalizer = model.action_normalizer
    widened = calibrated_spread(estimate, model.calibration, model.kinds)
    mean, widened = decided(Estimate(mean, widened), model.kinds)
    actions = normalizer.denormalize(mean.clamp(-1, 1)).numpy()
    spreads = normalizer.denormalize_spread(widened).numpy()
    return ActionColumns(
        actions=np.where(read[:, None], _with_last(actions), labels.actions),
        action_mask=labels.action_mask | read,
        action_spread=np.where(read[:, None], _with_last(spreads), labels.action_spread),
        action_source=np.where(read, np.int8(READ), labels.action_source),
        state=_states(model, inputs) if with_state else None,
    )


def _states(
    model: ActionModel, inputs: Float[Tensor, "frames views channels h w"]
) -> Float[np.ndarray, "frames state_dim"]:
    assert isinstance(model, StateModel)
    return model.states(inputs[None])[0].float().cpu().numpy()


def _encode(
    model: ActionModel, frames: UInt8[Tensor, "frames views 3 height width"]
) -> Float[Tensor, "frames views channels h w"]:
    """In pieces, so that a long video fits into memory."""
    return torch.cat([model.encode(piece) for piece in frames.split(FRAMES_TOGETHER)])


def _with_last(steps: Float[np.ndarray, "steps size"]) -> Float[np.ndarray, "frames size"]:
    """A row for each frame; the last frame's is zero."""
    return np.pad(steps, ((0, 1), (0, 0)))
