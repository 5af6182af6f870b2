"""Where the labelled episodes of a dataset wait until all of them are there.

Two ways to make the same thing: a copy of a native dataset keeps its video files as they are; bare
video, and datasets of older versions, are encoded anew.
"""

from dataclasses import fields
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from video.episodes import Episode, EpisodeDataset
from video.lerobot import LeRobotDataset
from video.lerobot_format import COLUMNS, STAGING_PATH
from video.relabel import ActionColumns, copy_with_actions
from video.resizing import resize_frames
from video.safe_files import write_safely
from video.video_folder import CAMERA
from video.writer import DatasetWriter

FIELDS = tuple(field.name for field in fields(ActionColumns))

Frames = dict[str, UInt8[np.ndarray, "frames H W 3"]]


class LabelledCopy:
    """Labels that become a copy of a LeRobotDataset v3.0.

    Args:
        source: what is labelled.
        out: the new dataset's folder.
    """

    def __init__(self, source: EpisodeDataset, out: Path) -> None:
        assert isinstance(source, LeRobotDataset)
        self.source = source
        self.out = out
        self.staging = out / STAGING_PATH

    @property
    def finished(self) -> set[int]:
        """Episodes that are safe on disk."""
        files = self.staging.glob("labels_*.npz")
        return {int(file.stem.removeprefix("labels_")) for file in files}

    def cameras_needed(self, cameras: tuple[str, ...]) -> tuple[str, ...]:
        """Those that the model looks at."""
        return cameras

    def add(self, episode: int, frames: Frames, labels: ActionColumns, labelled_by: str) -> None:
        """Put an episode's labels on disk; its frames are copied at the end."""
        path = self.staging / f"labels_{episode:06d}.npz"

        def write(temporary: Path) -> None:
            known = {name: values for name, values in vars(labels).items() if values is not None}
            with temporary.open("wb") as file:
                np.savez(file, labelled_by=np.array(labelled_by), **known)

        write_safely(path, write)

    def finalize(self) -> None:
        """Make the dataset.

        Raises:
            DatasetError: a file cannot be read or written.
        """
        labels, notes = {}, {}
        for episode in range(len(self.source.lengths)):
            path = self.staging / f"labels_{episode:06d}.npz"
            if not path.exists():  # could not be decoded
                continue
            with np.load(path) as stored:
                columns = {name: stored[name] for name in FIELDS if name in stored}
                labels[episode] = ActionColumns(**columns)
                notes[episode] = _notes(labels[episode], str(stored["labelled_by"]))
        copy_with_actions(self.source, self.out, labels, notes)


class LabelledVideos:
    """Labels and frames that become a new dataset, encoded once more.

    Args:
        source: what is labelled.
        out: the new dataset's folder.
        camera: name of the view of bare video files.
        crf: x264's constant rate factor.
    """

    def __init__(self, source: EpisodeDataset, out: Path, camera: str, crf: int) -> None:
        self.source = source
        self.camera = camera
        self.writer = DatasetWriter(out, source.fps, crf=crf)
        self.splits = {
            int(episode): name for name, episodes in source.splits.items() for episode in episodes
        }

    @property
    def finished(self) -> set[int]:
        """Episodes that are safe on disk."""
        return self.writer.finished

    def cameras_needed(self, cameras: tuple[str, ...]) -> tuple[str, ...]:
        """All of them."""
        return self.source.cameras

    def add(self, episode: int, frames: Frames, labels: ActionColumns, labelled_by: str) -> None:
        """Put an episode on disk; frames that differ in size from most others are resized."""
        source = self.source
        first = source.starts[episode]
        rows = slice(first, first + source.lengths[episode])
        own = {name: values for name, values in vars(labels).items() if values is not None}
        others = {
            name: source.columns[name][rows]
            for name in COLUMNS
            if name in source.columns and name not in (*own, *FIELDS[:-1])
        }
        pictures = {
            self.camera if camera == CAMERA else camera: _of_size(shown, source.frame_shape(camera))
            for camera, shown in frames.items()
        }
        content = Episode(
            frames=pictures,
            task=source.tasks[episode],
            notes=source.notes[episode] | _notes(labels, labelled_by),
            **own,
            **others,
        )
        self.writer.add(episode, content, self.splits.get(episode, "train"))

    def finalize(self) -> None:
        """Make the dataset."""
        self.writer.finalize()


def _notes(labels: ActionColumns, labelled_by: str) -> dict[str, str | int | float]:
    """Which model an episode's labels are from, and its robot's state."""
    notes: dict[str, str | int | float] = {"labelled_by": labelled_by}
    return notes if labels.state is None else notes | {"state_read_by": labelled_by}


def _of_size(
    frames: UInt8[np.ndarray, "frames H W 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "frames h w 3"]:
    if frames.shape[1:3] == size:
        return frames
    return np.ascontiguousarray(resize_frames(frames, size).transpose(0, 2, 3, 1))
