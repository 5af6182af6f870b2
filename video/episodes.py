"""What an episode is, and what every dataset on disk looks like to the rest of the code.

Reading a particular format is the business of `lerobot.py` and `video_folder.py`; cutting episodes
into training windows is that of `clips.py`.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from video.errors import DatasetError
from video.lerobot import LeRobotDataset
from video.lerobot_format import INFO_PATH, RECORDED, STAGING_PATH, UNKNOWN
from video.video_folder import VideoFolder


@dataclass
class Episode:
    """One recorded episode in memory, T frames long.

    Row t of `actions` takes frame t to frame t + 1 (LeRobot's convention), so the last row leads
    past the last frame. `reward` and `success` of row t are those of the step taken at t.

    Attributes:
        frames: by camera name, uint8 `(T, H, W, 3)`.
        actions: float32 `(T, A)` in the data's own units; None for action-free video.
        action_mask: bool `(T,)`, False where the action is not known; None means all are known.
        action_spread: float32 `(T, A)` in the data's own units, standard deviation of an action
            that a model read off the video; 0 where it was recorded.
        action_source: int8 `(T,)`, `UNKNOWN`, `RECORDED` or `READ` of `lerobot_format.py`; None
            means that all known actions were recorded.
        state: float32 `(T, S)`, what the robot feels (proprioception).
        environment_state: float32 `(T, E)`, the simulator's truth.
        reward: float32 `(T,)`.
        success: bool `(T,)`.
        task: the task's name or instruction.
        notes: further columns of `meta/episodes`, such as the policy that acted and its seed.
    """

    frames: dict[str, np.ndarray]
    actions: np.ndarray | None = None
    action_mask: np.ndarray | None = None
    action_spread: np.ndarray | None = None
    action_source: np.ndarray | None = None
    state: np.ndarray | None = None
    environment_state: np.ndarray | None = None
    reward: np.ndarray | None = None
    success: np.ndarray | None = None
    task: str = ""
    notes: dict[str, str | int | float] = field(default_factory=dict)


@runtime_checkable
class EpisodeDataset(Protocol):
    """A dataset on disk. Everything but the pictures is in memory; it can be pickled.

    Attributes:
        path: where it lies.
        fps: frames per second.
        cameras: short camera names.
        lengths: int64 `(episodes,)`, frames per usable episode.
        starts: int64 `(episodes,)`, row of an episode's first frame in `columns`.
        tasks: one name per episode, "" where unknown.
        splits: split name to episode indices.
        damaged: one line for every file or episode that was skipped, naming it.
        columns: over all frames `N`, those that exist of "actions" `(N, A)`, "action_mask" `(N,)`,
            "action_spread" `(N, A)`, "action_source" `(N,)`, "state" `(N, S)`,
            "environment_state" `(N, E)`, "reward" `(N,)`, "success" `(N,)`; as in `Episode`.
        notes: per episode, the further columns of its metadata.
        fingerprint: a short hash that changes when the data does.
    """

    path: Path
    fps: float
    cameras: tuple[str, ...]
    lengths: np.ndarray
    starts: np.ndarray
    tasks: list[str]
    splits: dict[str, np.ndarray]
    damaged: list[str]
    columns: dict[str, np.ndarray]
    notes: list[dict]
    fingerprint: str

    def frame_shape(self, camera: str) -> tuple[int, int]:
        """Height and width of a camera's frames, in pixels."""
        ...

    def read_frames(self, episode: int, indices: np.ndarray, camera: str) -> np.ndarray:
        """Decode frames of one episode: uint8 `(len(indices), H, W, 3)`, in the order asked for."""
        ...


def open_dataset(path: Path | str, fps: float | None = None) -> EpisodeDataset:
    """Open a LeRobotDataset, or a folder of video files as a dataset without actions.

    Args:
        path: the folder.
        fps: the frame rate to read at; None takes the dataset's own. Video files are resampled to
            it; a LeRobotDataset must have it, since its actions belong to single frames.

    Raises:
        DatasetError: the folder is missing or empty, nothing in it is usable, or a LeRobotDataset
            has another frame rate.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder.")
    if (folder / STAGING_PATH).exists() and not (folder / INFO_PATH).exists():
        raise DatasetError(
            f"{folder} holds an unfinished recording. Run the command that records it again."
        )
    if not (folder / "meta").is_dir():
        return VideoFolder(folder, fps)
    dataset = LeRobotDataset(folder)
    if fps is not None and fps != dataset.fps:
        raise DatasetError(
            f"{folder} has {dataset.fps:g} fps, {fps:g} fps are asked for; actions cannot be "
            f"resampled. Set fps to {dataset.fps:g}, or use its video files alone as a dataset."
        )
    return dataset


def action_sources(dataset: EpisodeDataset) -> np.ndarray:
    """Where the action of every row comes from: int8 `(N,)`, as `Episode.action_source`."""
    rows = int((dataset.starts + dataset.lengths).max())
    if "action_source" in dataset.columns:
        return dataset.columns["action_source"]
    if "actions" not in dataset.columns:
        return np.full(rows, UNKNOWN, np.int8)
    known = dataset.columns.get("action_mask", np.ones(rows, bool))
    return np.where(known, RECORDED, UNKNOWN).astype(np.int8)
