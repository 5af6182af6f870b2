"""Record a LeRobotDataset v3.0: every episode is safe on disk as soon as it is added.

An episode is first staged in a folder of its own under `.staging`, so that a killed recording loses
no finished episode and several processes can record at once. `finalize` then packs the staged
episodes by `packing.py`. What an episode holds is said in `episodes.py`.
"""

import json
import os
import shutil
from pathlib import Path
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from video.episode_checks import (
    check_episode,
    check_same_signature,
    episode_length,
    episode_signature,
    known_actions,
)
from video.episodes import Episode
from video.errors import DatasetError
from video.feature_statistics import frame_statistics
from video.lerobot_format import (
    COLUMNS,
    EPISODES_PATH,
    INFO_PATH,
    RECORDING_ID,
    STAGING_PATH,
    chunk_and_file,
)
from video.packing import StagedEpisode, pack_episodes
from video.safe_files import write_json
from video.video_file import write_video


class DatasetWriter:
    """Records episodes into a dataset, which can be read once `finalize` has returned.

    Opening a folder whose recording was interrupted goes on with it. Opening a finished dataset is
    possible too: everything is `finished` there, and nothing can be added.

    Example:
        writer = DatasetWriter("data/reach", fps=20)
        for episode_id in range(100):
            if episode_id not in writer.finished:
                writer.add(episode_id, record_one(episode_id))
        writer.finalize()
    """

    def __init__(
        self,
        path: Path | str,
        fps: float,
        *,
        robot_type: str = "unknown",
        crf: int = 20,
        full_color: bool = False,
    ) -> None:
        """Open a new or an unfinished recording.

        Args:
            path: the dataset's folder; made where it is missing.
            fps: frames per second.
            robot_type: free text, kept in `meta/info.json`.
            crf: x264's constant rate factor, smaller is better and larger on disk.
            full_color: keep the colour of every pixel; see `video_file.write_video`.

        Raises:
            DatasetError: the folder holds something else, or a recording at another frame rate or
                with the other `full_color`.
        """
        if not fps > 0:
            raise DatasetError(f"{path}: fps must be positive, got {fps}.")
        self.path = Path(path)
        self.fps = float(fps)
        self.robot_type = robot_type
        self.crf = crf
        self.full_color = full_color
        self._staging = self.path / STAGING_PATH
        if not self._is_finalized():
            self._open_staging()

    @property
    def finished(self) -> set[int]:
        """Ids of the episodes that are safe on disk, whichever process added them."""
        if self._is_finalized():
            return _packed_ids(self.path)
        return {int(folder.name.removeprefix("episode_")) for folder in self._staged_folders()}

    def add(self, episode_id: int, episode: Episode, split: str = "train") -> None:
        """Put one episode on disk. It is durable when this returns.

        Several processes may add different episodes at the same time.

        Args:
            episode_id: the caller's number for it; the order within a split follows it.
            episode: the recording; unknown actions are stored as zeros with a False mask.
            split: "train", "test" or any other name.

        Raises:
            DatasetError: the arrays disagree with each other or with the episodes before, the id
                was recorded already, the dataset is finished, or the disk is full. Episodes added
                before are untouched.
        """
        place = f"{self.path}, episode {episode_id}"
        if self._is_finalized():
            raise DatasetError(
                f"{place}: the dataset is finished, nothing can be added. "
                "Record into another folder, or delete this one first."
            )
        check_episode(episode, place)
        target = self._staging / f"episode_{episode_id:06d}"
        if target.exists():
            raise DatasetError(f"{place} was recorded already.")
        first = next(iter(self._staged_folders()), None)
        if first is not None:
            known = _read_staged(first).signature
            check_same_signature(episode_signature(episode), known, place)
        folder = self._staging / f"unfinished_{episode_id}_{os.getpid()}_{uuid4().hex}"
        try:
            folder.mkdir()
            for camera, frames in episode.frames.items():
                write_video(folder / f"{camera}.mp4", frames, self.fps, self.crf, self.full_color)
            for name, array in _arrays(episode).items():
                np.save(folder / f"{name}.npy", array)
            description = {"id": episode_id, "split": split, **_description(episode)}
            (folder / "episode.json").write_text(json.dumps(description))
            folder.rename(target)
        except OSError as error:
            raise DatasetError(
                f"{place} could not be written: {error}. The episodes before are safe."
            ) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def finalize(self) -> Path:
        """Pack the staged episodes into a dataset, train split first, and return its folder.

        Metadata is written last, so an interrupted call can simply be made again.

        Raises:
            DatasetError: nothing was recorded, episodes differ in cameras or sizes, or the disk is
                full. The staged episodes stay as they are.
        """
        if not self._is_finalized():
            episodes = [_read_staged(folder) for folder in self._staged_folders()]
            if not episodes:
                raise DatasetError(f"{self.path}: no episode was recorded.")
            episodes.sort(key=lambda episode: (episode.split != "train", episode.split, episode.id))
            for episode in episodes[1:]:
                place = f"{self.path}, episode {episode.id}"
                check_same_signature(episode.signature, episodes[0].signature, place)
            for leftover in ("data", "videos", "meta"):
                shutil.rmtree(self.path / leftover, ignore_errors=True)
            pack_episodes(self.path, self.fps, self.robot_type, self.full_color, episodes)
        shutil.rmtree(self._staging, ignore_errors=True)
        return self.path

    def _is_finalized(self) -> bool:
        return (self.path / INFO_PATH).exists()

    def _staged_folders(self) -> list[Path]:
        return sorted(self._staging.glob("episode_*"))

    def _open_staging(self) -> None:
        described = self._staging / "recording.json"
        if described.exists():
            earlier = json.loads(described.read_text())
            fps = earlier["fps"]
            if earlier["full_color"] != self.full_color:
                raise DatasetError(
                    f"{self.path} holds an unfinished recording with full_color="
                    f"{earlier['full_color']}. Go on like that, or delete {self._staging}."
                )
            if fps != self.fps:
                raise DatasetError(
                    f"{self.path} holds an unfinished recording at {fps:g} fps, this one has "
                    f"{self.fps:g}. Go on at {fps:g} fps, or delete {self._staging}."
                )
            return
        if self.path.exists() and set(os.listdir(self.path)) - {STAGING_PATH}:
            raise DatasetError(
                f"{self.path} is not empty and holds no recording. Choose another folder."
            )
        write_json(described, {"fps": self.fps, "full_color": self.full_color})


def _arrays(episode: Episode) -> dict[str, np.ndarray]:
    """What is stored of an episode beside its frames."""
    arrays = {name: getattr(episode, name) for name in COLUMNS if name != "action_mask"}
    known = known_actions(episode)
    if known is not None:
        for name in ("actions", "action_spread"):
            if arrays[name] is not None:
                arrays[name] = np.where(known[:, None], arrays[name], 0)
        arrays["action_mask"] = known
    return {
        name: array.astype(COLUMNS[name].dtype)
        for name, array in arrays.items()
        if array is not None
    }


def _description(episode: Episode) -> dict:
    return {
        "task": episode.task,
        "length": episode_length(episode),
        "notes": {
            key: value.item() if isinstance(value, np.generic) else value
            for key, value in episode.notes.items()
        },
        "signature": episode_signature(episode),
        "frame_statistics": {
            camera: {name: value.tolist() for name, value in frame_statistics(frames).items()}
            for camera, frames in episode.frames.items()
        },
    }


def _read_staged(folder: Path) -> StagedEpisode:
    try:
        return StagedEpisode(folder, **json.loads((folder / "episode.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise DatasetError(
            f"{folder} is damaged ({error}). Delete it and record the episode again."
        ) from error


def _packed_ids(path: Path) -> set[int]:
    """Recording ids of a finished dataset; episode numbers where it was not recorded here."""
    file = path / EPISODES_PATH.format(**chunk_and_file(0))
    try:
        names = pq.read_schema(file).names
        name = RECORDING_ID if RECORDING_ID in names else "episode_index"
        return set(pq.read_table(file, columns=[name])[name].to_pylist())
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{file} cannot tell which episodes were recorded ({error}).") from None
