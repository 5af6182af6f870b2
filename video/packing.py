"""Pack staged episodes into the files of a finished LeRobotDataset v3.0.

Which episodes there are, and that none is lost before, is the business of `writer.py`.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from video.episode_checks import Signature
from video.errors import DatasetError
from video.feature_statistics import (
    Statistics,
    column_statistics,
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
    RECORDED,
    RECORDING_ID,
    STATS_PATH,
    TASKS_PATH,
    UNKNOWN,
    VIDEO_PATH,
    chunk_and_file,
)
from video.safe_files import write_json, write_parquet, write_safely
from video.video_file import concatenate_videos, pixel_format

EPISODES_PER_FILE = 50
MEGABYTES_PER_FILE = 200


@dataclass
class StagedEpisode:
    """An episode in a folder of its own: an npy file for every column, an mp4 for every camera."""

    folder: Path
    id: int
    split: str
    task: str
    length: int
    notes: dict
    signature: Signature
    frame_statistics: dict[str, dict]

    @property
    def bytes(self) -> int:
        """Size of its videos."""
        return sum(file.stat().st_size for file in self.folder.glob("*.mp4"))


def pack_episodes(
    path: Path, fps: float, robot_type: str, full_color: bool, episodes: list[StagedEpisode]
) -> None:
    """Write the files of a dataset, `meta/info.json` last.

    Args:
        path: the dataset's folder.
        fps: frames per second.
        robot_type: free text.
        full_color: what the videos were written with.
        episodes: in their final order, those of a split together.

    Raises:
        DatasetError: a file could not be written, or the notes of the episodes do not fit into one
            column.
    """
    _Packing(path, fps, robot_type, full_color, episodes).write()


class _Packing:
    def __init__(
        self,
        path: Path,
        fps: float,
        robot_type: str,
        full_color: bool,
        episodes: list[StagedEpisode],
    ) -> None:
        self.path = path
        self.fps = fps
        self.robot_type = robot_type
        self.episodes = episodes
        self.tasks = list(dict.fromkeys(episode.task for episode in episodes))
        self.cameras = episodes[0].signature["cameras"]
        self.features = _features(episodes, fps, full_color)
        self.rows: list[dict] = []
        self.statistics: list[dict[str, Statistics]] = []

    def write(self) -> None:
        for number, shard in enumerate(_shards(self.episodes)):
            self._write_shard(number, shard)
        write_parquet(self.path / EPISODES_PATH.format(**chunk_and_file(0)), self._episode_table())
        write_parquet(self.path / TASKS_PATH, _task_table(self.tasks))
        merged = {
            feature: merge_statistics([each[feature] for each in self.statistics])
            for feature in self.statistics[0]
        }
        lists = {
            feature: {name: value.tolist() for name, value in statistics.items()}
            for feature, statistics in merged.items()
        }
        write_json(self.path / STATS_PATH, lists)
        write_json(self.path / INFO_PATH, self._info())

    def _write_shard(self, number: int, shard: list[StagedEpisode]) -> None:
        place = chunk_and_file(number)
        tables = []
        first_frame = 0
        for episode in shard:
            columns = self._columns(episode)
            tables.append(pa.table({name: _to_arrow(value) for name, value in columns.items()}))
            self._add_row(episode, columns, place, first_frame)
            first_frame += episode.length
        write_parquet(self.path / DATA_PATH.format(**place), pa.concat_tables(tables))
        for camera in self.cameras:
            parts = [episode.folder / f"{camera}.mp4" for episode in shard]
            file = self.path / VIDEO_PATH.format(video_key=CAMERA_PREFIX + camera, **place)
            write_safely(file, lambda path, parts=parts: concatenate_videos(parts, path))

    def _columns(self, episode: StagedEpisode) -> dict[str, np.ndarray]:
        """All columns of the data file, by feature name; unknown actions are zeros."""
        length = episode.length
        stored = {file.stem: np.load(file) for file in episode.folder.glob("*.npy")}
        if "action" in self.features and "actions" not in stored:
            stored["actions"] = np.zeros((length, self.features["action"]["shape"][0]))
            stored["action_mask"] = np.zeros(length, bool)
        if "action_mask" in self.features:
            stored.setdefault("action_mask", np.ones(length, bool))
        if "action_source" in self.features:
            known = stored.get("action_mask", np.ones(length, bool))
            stored.setdefault("action_spread", np.zeros_like(stored["actions"]))
            stored.setdefault("action_source", np.where(known, RECORDED, UNKNOWN))
        columns = {
            column.feature: stored[name] for name, column in COLUMNS.items() if name in stored
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
        episode: StagedEpisode,
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
        frame_statistics = {
            CAMERA_PREFIX + camera: {name: np.array(value) for name, value in stored.items()}
            for camera, stored in episode.frame_statistics.items()
        }
        self.statistics.append(
            {name: column_statistics(value) for name, value in columns.items()} | frame_statistics
        )

    def _episode_table(self) -> pa.Table:
        names = dict.fromkeys(name for row in self.rows for name in row)
        columns = {name: [row.get(name) for row in self.rows] for name in names}
        for feature in self.statistics[0]:
            for name in self.statistics[0][feature]:
                # single precision: the digits beyond it are noise, and half the size of the file
                columns[f"stats/{feature}/{name}"] = [
                    each[feature][name].tolist()
                    if name == "count"
                    else each[feature][name].astype(np.float32).astype(float).tolist()
                    for each in self.statistics
                ]
        arrays = {}
        for name, values in columns.items():
            try:
                arrays[name] = pa.array(values)
            except pa.ArrowException as error:
                raise DatasetError(
                    f"{self.path}: the values of note {name!r} do not fit into one column "
                    f"({error}). Give it one type in all episodes."
                ) from None
        return pa.table(arrays)

    def _info(self) -> dict:
        splits: dict[str, str] = {}
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
            "fps": _whole(self.fps),
            "splits": splits,
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH,
            "features": self.features,
        }


def _features(episodes: list[StagedEpisode], fps: float, full_color: bool) -> dict[str, dict]:
    """The schema in `meta/info.json`."""
    features = {
        CAMERA_PREFIX + camera: {
            "dtype": "video",
            "shape": [height, width, 3],
            "names": ["height", "width", "channels"],
            "info": {
                "video.height": height,
                "video.width": width,
                "video.codec": "h264",
                "video.pix_fmt": pixel_format(height, width, full_color),
                "video.is_depth_map": False,
                "video.fps": _whole(fps),
                "video.channels": 3,
                "has_audio": False,
            },
        }
        for camera, (height, width) in episodes[0].signature["cameras"].items()
    }
    columns = [episode.signature["columns"] for episode in episodes]
    sizes = {name: size for each in columns for name, size in each.items()}
    if "actions" in sizes and any("actions" not in each for each in columns):
        sizes["action_mask"] = 1
    for name, column in COLUMNS.items():
        if name in sizes:
            features[column.feature] = _feature(column.dtype, sizes[name])
    features["next.done"] = _feature("bool", 1)
    return features | {name: _feature(dtype, 1) for name, dtype in INDEX_COLUMNS.items()}


def _feature(dtype: str, size: int) -> dict:
    return {"dtype": dtype, "shape": [size], "names": None}


def _shards(episodes: list[StagedEpisode]) -> Iterable[list[StagedEpisode]]:
    """Small files: one that is damaged costs few episodes."""
    shard: list[StagedEpisode] = []
    size = 0
    for episode in episodes:
        full = len(shard) == EPISODES_PER_FILE or size + episode.bytes > MEGABYTES_PER_FILE * 2**20
        if shard and full:
            yield shard
            shard, size = [], 0
        shard.append(episode)
        size += episode.bytes
    yield shard


def _task_table(tasks: list[str]) -> pa.Table:
    """Task names as pandas stores them in its index, which is how lerobot looks them up."""
    kinds = {"task_index": ("int64", "int64"), "task": ("unicode", "object")}
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [
            {
                "name": name,
                "field_name": name,
                "pandas_type": kind,
                "numpy_type": numpy_kind,
                "metadata": None,
            }
            for name, (kind, numpy_kind) in kinds.items()
        ],
        "pandas_version": "2.0.0",
    }
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": tasks})
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def _to_arrow(values: np.ndarray) -> pa.Array:
    """Scalars for `(T,)` and `(T, 1)` values, as lerobot stores them, else lists of fixed size."""
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    if values.ndim == 1 or values.shape[1] == 1:
        return flat
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _whole(fps: float) -> float | int:
    return int(fps) if fps.is_integer() else fps
