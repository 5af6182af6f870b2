"""Write a LeRobotDataset v3.0: every episode is safe on disk as soon as it is added.

An episode is first staged in a folder of its own under `.staging`, so that a killed recording loses
no finished episode and several processes can record at once. `finalize` then packs the staged
episodes into the shards of the format. What an episode holds is said in `episodes.py`.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from video.episodes import Episode
from video.errors import DatasetError
from video.feature_statistics import (
    Statistics,
    column_statistics,
    frame_statistics,
    merge_statistics,
)
from video.lerobot_format import (
    CAMERA_PREFIX,
    CODEBASE_VERSION,
    COLUMNS,
    DATA_PATH,
    EPISODES_PATH,
    FILES_PER_CHUNK,
    INDEX_COLUMNS,
    INFO_PATH,
    STATS_PATH,
    TASKS_PATH,
    VIDEO_PATH,
    chunk_and_file,
)
from video.video_file import concatenate_videos, write_video

EPISODES_PER_FILE = 50
MEGABYTES_PER_FILE = 200
STAGING = ".staging"
RECORDING_ID = "recording_id"


class DatasetWriter:
    """Records episodes into a dataset, which can be read once `finalize` has returned.

    Opening a folder whose recording was interrupted goes on with it.

    Example:
        writer = DatasetWriter("data/reach", fps=20)
        for episode_id in range(100):
            if episode_id not in writer.finished:
                writer.add(episode_id, record_one(episode_id))
        writer.finalize()
    """

    def __init__(
        self, path: Path | str, fps: float, *, robot_type: str = "unknown", crf: int = 20
    ) -> None:
        """Open a new or an unfinished recording.

        Args:
            path: the dataset's folder; made where it is missing.
            fps: frames per second.
            robot_type: free text, kept in `meta/info.json`.
            crf: x264's constant rate factor, smaller is better and larger on disk.

        Raises:
            DatasetError: the folder holds something else, or a recording at another frame rate.
        """
        self.path = Path(path)
        self.fps = float(fps)
        self.robot_type = robot_type
        self.crf = crf
        self._staging = self.path / STAGING
        if not self._is_finalized():
            self._open_staging()

    @property
    def finished(self) -> set[int]:
        """Ids of the episodes that are safe on disk, whichever process added them."""
        if self._is_finalized():
            table = _read_episode_table(self.path, RECORDING_ID)
            return set(table[RECORDING_ID].to_pylist())
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
        if self._is_finalized():
            raise DatasetError(
                f"{self.path} is a finished dataset; nothing can be added to it. "
                "Record into another folder, or delete this one first."
            )
        place = f"{self.path}, episode {episode_id}"
        _check_episode(episode, place)
        target = self._staging / f"episode_{episode_id:06d}"
        if target.exists():
            raise DatasetError(f"{place} was recorded already.")
        signature = _signature(episode)
        first = next(iter(self._staged_folders()), None)
        if first is not None:
            _check_same_signature(signature, _read_json(first / "episode.json")["signature"], place)
        arrays = {name: getattr(episode, name) for name in COLUMNS}
        if episode.actions is not None and episode.action_mask is not None:
            arrays["actions"] = np.where(episode.action_mask[:, None], episode.actions, 0)
        description = {
            "id": episode_id,
            "split": split,
            "task": episode.task,
            "length": _length(episode),
            "notes": {key: _plain(value) for key, value in episode.notes.items()},
            "signature": signature,
            "frame_statistics": {
                camera: _as_lists(frame_statistics(frames))
                for camera, frames in episode.frames.items()
            },
        }
        folder = self._staging / f"unfinished_{episode_id}_{os.getpid()}_{uuid4().hex}"
        try:
            folder.mkdir()
            for camera, frames in episode.frames.items():
                write_video(folder / f"{camera}.mp4", frames, self.fps, self.crf)
            np.savez(
                folder / "columns.npz",
                **{name: value for name, value in arrays.items() if value is not None},
            )
            (folder / "episode.json").write_text(json.dumps(description))
            folder.rename(target)
        except OSError as error:
            raise DatasetError(f"{target} could not be written: {error}.") from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def finalize(self) -> Path:
        """Pack the staged episodes into a dataset, train split first, and return its folder.

        Meta data is written last, so an interrupted call can simply be made again.

        Raises:
            DatasetError: nothing was recorded, episodes differ in cameras or sizes, or the disk is
                full. The staged episodes stay as they are.
        """
        if not self._is_finalized():
            episodes = [_read_staged(folder) for folder in self._staged_folders()]
            if not episodes:
                raise DatasetError(f"{self.path} has no recorded episodes to finalize.")
            episodes.sort(key=lambda episode: (episode.split != "train", episode.split, episode.id))
            for episode in episodes[1:]:
                place = f"{self.path}, episode {episode.id}"
                _check_same_signature(episode.signature, episodes[0].signature, place)
            try:
                for name in ("data", "videos", "meta"):
                    shutil.rmtree(self.path / name, ignore_errors=True)
                _Packing(self.path, self.fps, self.robot_type, episodes).write()
            except OSError as error:
                raise DatasetError(f"{self.path} could not be finalized: {error}.") from error
        shutil.rmtree(self._staging, ignore_errors=True)
        return self.path

    def _is_finalized(self) -> bool:
        return (self.path / INFO_PATH).exists()

    def _staged_folders(self) -> list[Path]:
        return sorted(self._staging.glob("episode_*"))

    def _open_staging(self) -> None:
        described = self._staging / "recording.json"
        if described.exists():
            fps = _read_json(described)["fps"]
            if fps != self.fps:
                raise DatasetError(
                    f"{self.path} holds an unfinished recording at {fps} fps, this one has "
                    f"{self.fps}. Go on at {fps} fps, or delete {self._staging}."
                )
            return
        if self.path.exists() and set(os.listdir(self.path)) - {STAGING}:
            raise DatasetError(
                f"{self.path} is not empty and holds no recording. Choose another folder."
            )
        try:
            self._staging.mkdir(parents=True, exist_ok=True)
            _write_safely(described, lambda path: path.write_text(json.dumps({"fps": self.fps})))
        except OSError as error:
            raise DatasetError(f"{described} could not be written: {error}.") from error


@dataclass
class _Staged:
    folder: Path
    id: int
    split: str
    task: str
    length: int
    notes: dict
    signature: dict
    frame_statistics: dict[str, dict]

    @property
    def bytes(self) -> int:
        return sum(file.stat().st_size for file in self.folder.glob("*.mp4"))


class _Packing:
    """Turns staged episodes into the files of a finished dataset."""

    def __init__(self, path: Path, fps: float, robot_type: str, episodes: list[_Staged]) -> None:
        self.path = path
        self.fps = fps
        self.robot_type = robot_type
        self.episodes = episodes
        self.tasks = list(dict.fromkeys(episode.task for episode in episodes))
        self.cameras = episodes[0].signature["cameras"]
        self.features = self._features()
        self.rows: list[dict] = []
        self.statistics: list[dict[str, Statistics]] = []

    def write(self) -> None:
        """Write shards, then meta data, `info.json` last."""
        for number, shard in enumerate(_shards(self.episodes)):
            self._write_shard(number, shard)
        _write_parquet(self.path / EPISODES_PATH.format(**chunk_and_file(0)), self._meta_table())
        _write_parquet(self.path / TASKS_PATH, _task_table(self.tasks))
        merged = {
            feature: _as_lists(merge_statistics([each[feature] for each in self.statistics]))
            for feature in self.statistics[0]
        }
        _write_json(self.path / STATS_PATH, merged)
        _write_json(self.path / INFO_PATH, self._info())

    def _write_shard(self, number: int, shard: list[_Staged]) -> None:
        place = chunk_and_file(number)
        tables = []
        first_frame = 0
        for episode in shard:
            columns = self._columns(episode)
            tables.append(pa.table({name: _to_arrow(value) for name, value in columns.items()}))
            self._add_row(episode, columns, place, first_frame)
            first_frame += episode.length
        _write_parquet(self.path / DATA_PATH.format(**place), *tables)
        for camera in self.cameras:
            feature = CAMERA_PREFIX + camera
            parts = [episode.folder / f"{camera}.mp4" for episode in shard]
            _write_safely(
                self.path / VIDEO_PATH.format(video_key=feature, **place),
                lambda path, parts=parts: concatenate_videos(parts, path),
            )

    def _columns(self, episode: _Staged) -> dict[str, np.ndarray]:
        """All columns of the data file, by feature name."""
        length = episode.length
        with np.load(episode.folder / "columns.npz") as file:
            stored = {name: file[name] for name in file.files}
        if "action" in self.features and "actions" not in stored:
            dimensions = self.features["action"]["shape"][0]
            stored["actions"] = np.zeros((length, dimensions), np.float32)
            stored["action_mask"] = np.zeros(length, bool)
        if "action_mask" in self.features:
            stored.setdefault("action_mask", np.ones(length, bool))
        columns = {
            column.feature: stored[name].astype(column.dtype)
            for name, column in COLUMNS.items()
            if name in stored
        }
        start = self.rows[-1]["dataset_to_index"] if self.rows else 0
        columns["next.done"] = np.arange(length) == length - 1
        columns["timestamp"] = np.arange(length) / self.fps
        columns["frame_index"] = np.arange(length)
        columns["episode_index"] = np.full(length, len(self.rows))
        columns["index"] = start + np.arange(length)
        columns["task_index"] = np.full(length, self.tasks.index(episode.task))
        return {name: value.astype(self.features[name]["dtype"]) for name, value in columns.items()}

    def _add_row(
        self,
        episode: _Staged,
        columns: dict[str, np.ndarray],
        place: dict[str, int],
        first_frame: int,
    ) -> None:
        start = int(columns["index"][0])
        row = {
            "episode_index": len(self.rows),
            "tasks": [episode.task],
            "length": episode.length,
            "data/chunk_index": place["chunk_index"],
            "data/file_index": place["file_index"],
            "dataset_from_index": start,
            "dataset_to_index": start + episode.length,
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
            RECORDING_ID: episode.id,
        }
        for camera in self.cameras:
            video = f"videos/{CAMERA_PREFIX}{camera}"
            row[f"{video}/chunk_index"] = place["chunk_index"]
            row[f"{video}/file_index"] = place["file_index"]
            row[f"{video}/from_timestamp"] = first_frame / self.fps
            row[f"{video}/to_timestamp"] = (first_frame + episode.length) / self.fps
        self.rows.append(row | episode.notes)
        statistics = {name: column_statistics(value) for name, value in columns.items()}
        for camera, stored in episode.frame_statistics.items():
            arrays = {name: np.array(value) for name, value in stored.items()}
            statistics[CAMERA_PREFIX + camera] = arrays
        self.statistics.append(statistics)

    def _meta_table(self) -> pa.Table:
        names = dict.fromkeys(name for row in self.rows for name in row)
        columns = {name: [row.get(name) for row in self.rows] for name in names}
        for feature in self.statistics[0]:
            for name in self.statistics[0][feature]:
                columns[f"stats/{feature}/{name}"] = [
                    each[feature][name].tolist() for each in self.statistics
                ]
        return pa.table(columns)

    def _features(self) -> dict[str, dict]:
        features = {}
        for camera, (height, width) in self.cameras.items():
            odd = height % 2 or width % 2
            features[CAMERA_PREFIX + camera] = {
                "dtype": "video",
                "shape": [height, width, 3],
                "names": ["height", "width", "channels"],
                "info": {
                    "video.height": height,
                    "video.width": width,
                    "video.codec": "h264",
                    "video.pix_fmt": "yuv444p" if odd else "yuv420p",
                    "video.is_depth_map": False,
                    "video.fps": _number(self.fps),
                    "video.channels": 3,
                    "has_audio": False,
                },
            }
        signatures = [episode.signature for episode in self.episodes]
        sizes = {name: size for each in signatures for name, size in each["columns"].items()}
        if "actions" in sizes and any("actions" not in each["columns"] for each in signatures):
            sizes["action_mask"] = 1
        for name, column in COLUMNS.items():
            if name in sizes:
                features[column.feature] = _feature(column.dtype, sizes[name])
        features["next.done"] = _feature("bool", 1)
        return features | {name: _feature(dtype, 1) for name, dtype in INDEX_COLUMNS.items()}

    def _info(self) -> dict:
        splits = {}
        for index, episode in enumerate(self.episodes):
            first = splits.get(episode.split, f"{index}:").split(":")[0]
            splits[episode.split] = f"{first}:{index + 1}"
        return {
            "codebase_version": CODEBASE_VERSION,
            "robot_type": self.robot_type,
            "total_episodes": len(self.episodes),
            "total_frames": self.rows[-1]["dataset_to_index"],
            "total_tasks": len(self.tasks),
            "chunks_size": FILES_PER_CHUNK,
            "data_files_size_in_mb": MEGABYTES_PER_FILE,
            "video_files_size_in_mb": MEGABYTES_PER_FILE,
            "fps": _number(self.fps),
            "splits": splits,
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH,
            "features": self.features,
        }


def _check_episode(episode: Episode, place: str) -> None:
    """Refuse what could not be read back, naming the array."""
    if not episode.frames:
        raise DatasetError(f"{place} has no camera.")
    length = _length(episode)
    for camera, frames in episode.frames.items():
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", camera):
            raise DatasetError(
                f"{place}: camera name {camera!r}; use letters, digits, '_', '-' and '.'."
            )
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
            raise DatasetError(
                f"{place}: frames of camera {camera!r} are {frames.dtype} {frames.shape}, "
                "not uint8 (T, H, W, 3)."
            )
        if len(frames) != length or not length:
            raise DatasetError(
                f"{place}: camera {camera!r} has {len(frames)} frames, the first has {length}."
            )
    for name, column in COLUMNS.items():
        array = getattr(episode, name)
        if array is None:
            continue
        shape = "(T, D)" if column.is_vector else "(T,)"
        if array.ndim != 1 + column.is_vector or len(array) != length:
            raise DatasetError(
                f"{place}: {name} has shape {array.shape}, not {shape} with T = {length} frames."
            )
        known = array[episode.action_mask] if name == "actions" and _has_mask(episode) else array
        if not np.isfinite(known).all():
            raise DatasetError(
                f"{place}: {name} holds NaN or infinity. Mark unknown actions in action_mask."
            )
    if episode.actions is None and episode.action_mask is not None:
        raise DatasetError(f"{place} has an action_mask but no actions.")
    for key, value in episode.notes.items():
        if "/" in key or key in ("episode_index", "tasks", "length", RECORDING_ID):
            raise DatasetError(f"{place}: {key!r} cannot be the name of a note.")
        if not isinstance(_plain(value), str | int | float):
            raise DatasetError(f"{place}: note {key!r} is {value!r}, not text or a number.")


def _has_mask(episode: Episode) -> bool:
    return episode.action_mask is not None and episode.action_mask.dtype == bool


def _length(episode: Episode) -> int:
    return len(next(iter(episode.frames.values())))


def _signature(episode: Episode) -> dict:
    """What all episodes of a dataset must have in common."""
    arrays = {name: getattr(episode, name) for name in COLUMNS}
    return {
        "cameras": {camera: list(frames.shape[1:3]) for camera, frames in episode.frames.items()},
        "columns": {
            name: array.shape[1] if array.ndim == 2 else 1
            for name, array in arrays.items()
            if array is not None
        },
    }


def _check_same_signature(found: dict, expected: dict, place: str) -> None:
    """Actions may be missing from some episodes, everything else must be alike."""
    if found["cameras"] != expected["cameras"]:
        raise DatasetError(
            f"{place} has cameras (height, width) {found['cameras']}, "
            f"the episodes before have {expected['cameras']}."
        )
    sizes, before = dict(found["columns"]), dict(expected["columns"])
    for columns in (sizes, before):
        columns.pop("action_mask", None)
    if "actions" not in sizes or "actions" not in before:
        sizes.pop("actions", None)
        before.pop("actions", None)
    if sizes != before:
        raise DatasetError(
            f"{place} has arrays of sizes {sizes}, the episodes before have {before}. "
            "Record episodes that differ into datasets of their own."
        )


def _shards(episodes: list[_Staged]) -> Iterable[list[_Staged]]:
    """Small files: one that is damaged costs few episodes."""
    shard: list[_Staged] = []
    size = 0
    for episode in episodes:
        full = len(shard) == EPISODES_PER_FILE or size + episode.bytes > MEGABYTES_PER_FILE * 2**20
        if shard and full:
            yield shard
            shard, size = [], 0
        shard.append(episode)
        size += episode.bytes
    yield shard


def _read_staged(folder: Path) -> _Staged:
    try:
        return _Staged(folder, **_read_json(folder / "episode.json"))
    except (OSError, ValueError, TypeError) as error:
        raise DatasetError(
            f"{folder} is a damaged staged episode ({error}). Delete it and record it again."
        ) from error


def _read_episode_table(path: Path, *columns: str) -> pa.Table:
    file = path / EPISODES_PATH.format(**chunk_and_file(0))
    try:
        return pq.read_table(file, columns=list(columns))
    except (OSError, pa.ArrowInvalid) as error:
        raise DatasetError(
            f"{file} cannot tell which episodes were recorded ({error}). "
            "The dataset was not recorded here, or is damaged."
        ) from error


def _task_table(tasks: list[str]) -> pa.Table:
    """Task names as pandas stores them in its index, which is how lerobot looks them up."""
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [
            {
                "name": name,
                "field_name": name,
                "pandas_type": kind,
                "numpy_type": numpy,
                "metadata": None,
            }
            for name, kind, numpy in (
                ("task_index", "int64", "int64"),
                ("task", "unicode", "object"),
            )
        ],
        "pandas_version": "2.0.0",
    }
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": tasks})
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def _feature(dtype: str, size: int) -> dict:
    return {"dtype": dtype, "shape": [size], "names": None}


def _to_arrow(values: np.ndarray) -> pa.Array:
    """Scalars for `(T,)` and `(T, 1)` values, as lerobot stores them, else lists of fixed size."""
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    if values.ndim == 1 or values.shape[1] == 1:
        return flat
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _write_parquet(path: Path, *tables: pa.Table) -> None:
    """One row group for each table."""

    def write(temporary: Path) -> None:
        with pq.ParquetWriter(temporary, tables[0].schema, compression="zstd") as file:
            for table in tables:
                file.write_table(table)

    _write_safely(path, write)


def _write_json(path: Path, content: dict) -> None:
    _write_safely(path, lambda temporary: temporary.write_text(json.dumps(content, indent=2)))


def _write_safely(path: Path, write: Callable[[Path], object]) -> None:
    """A killed process leaves either the whole file or none under its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"unfinished_{os.getpid()}_{path.name}")
    try:
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise DatasetError(f"{path} could not be written: {error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def _read_json(path: Path) -> dict:
    return json.loads(path.read_text())


def _as_lists(statistics: Statistics) -> dict[str, list]:
    return {name: value.tolist() for name, value in statistics.items()}


def _plain(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else value


def _number(fps: float) -> float | int:
    return int(fps) if fps.is_integer() else fps
