"""The `meta/` folder of a LeRobotDataset: which episodes there are, and in which files they lie.

Versions 3.0 and 2.x are read into the same rows; what is inside the data and video files is the
business of `lerobot.py`.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from video.errors import DatasetError
from video.lerobot_format import INFO_PATH, RESERVED_NOTES, camera_name


@dataclass(frozen=True)
class EpisodeRow:
    """Where one episode lies.

    Attributes:
        index: its number in the dataset.
        length: frames.
        task: the first of its tasks.
        data_file: the parquet file with its rows.
        videos: by feature, its mp4 file and the second at which it begins in there.
        notes: further columns.
    """

    index: int
    length: int
    task: str
    data_file: Path
    videos: dict[str, tuple[Path, float]]
    notes: dict


@dataclass(frozen=True)
class DatasetInfo:
    """`meta/info.json`, as far as it is needed to read."""

    path: Path
    version: str
    fps: float
    features: dict[str, dict]
    splits: dict[str, str]
    data_path: str
    video_path: str
    chunks_size: int

    @property
    def cameras(self) -> dict[str, str]:
        """Feature by short camera name, depth maps left out."""
        return {
            camera_name(feature): feature
            for feature, description in self.features.items()
            if description["dtype"] in ("video", "image") and not _is_depth(description)
        }

    @property
    def video_features(self) -> list[str]:
        """Cameras that are stored in video files, not as pictures in the parquet files."""
        return [key for key in self.cameras.values() if self.features[key]["dtype"] == "video"]

    def frame_shape(self, feature: str) -> tuple[int, int]:
        """Height and width, whichever axis order the feature is described in."""
        shape, names = self.features[feature]["shape"], self.features[feature].get("names")
        if isinstance(names, list) and {"height", "width"} <= set(names):
            return shape[names.index("height")], shape[names.index("width")]
        height, width = shape[1:] if shape[0] in (1, 3) else shape[:2]
        return height, width


def read_info(path: Path) -> DatasetInfo:
    """Read `meta/info.json`.

    Raises:
        DatasetError: it is missing, damaged, or of a version that is not read.
    """
    file = path / INFO_PATH
    try:
        content = json.loads(file.read_text())
        info = DatasetInfo(
            path=path,
            version=content["codebase_version"],
            fps=float(content["fps"]),
            features=content["features"],
            splits=content.get("splits", {}),
            data_path=content["data_path"],
            video_path=content.get("video_path") or "",
            chunks_size=int(content.get("chunks_size", 1000)),
        )
    except OSError as error:
        raise DatasetError(f"{file} cannot be read: {error.strerror}.") from None
    except KeyError as error:
        raise DatasetError(f"{file} has no entry {error}.") from None
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{file} is damaged: {error}.") from None
    if not info.version.startswith(("v3.", "v2.")):
        raise DatasetError(
            f"{file} says version {info.version}; versions 2.x and 3.x are read. "
            "Convert the dataset with the lerobot package."
        )
    if not info.cameras:
        raise DatasetError(f"{file} lists no camera (a feature of dtype 'video' or 'image').")
    return info


def read_episode_rows(info: DatasetInfo) -> tuple[list[EpisodeRow], list[str]]:
    """All episodes by index, and one line for every damaged file of `meta/`.

    Raises:
        DatasetError: none of the metadata can be read.
    """
    rows, damaged = (
        _read_version_3(info) if info.version.startswith("v3.") else _read_version_2(info)
    )
    if not rows:
        raise DatasetError("\n".join([f"{info.path} has no readable episodes.", *damaged]))
    return sorted(rows, key=lambda row: row.index), damaged


def _read_version_3(info: DatasetInfo) -> tuple[list[EpisodeRow], list[str]]:
    rows, damaged = [], []
    for file in sorted((info.path / "meta" / "episodes").glob("*/*.parquet")):
        try:
            names = [name for name in pq.read_schema(file).names if not name.startswith("stats/")]
            entries = pq.read_table(file, columns=names).to_pylist()
            rows += [_version_3_row(info, entry) for entry in entries]
        except KeyError as error:
            damaged.append(f"{file} lacks the column {error}; its episodes are skipped.")
        except (OSError, pa.ArrowException) as error:
            damaged.append(f"{file} is damaged ({error}); its episodes are skipped.")
    return rows, damaged


def _version_3_row(info: DatasetInfo, entry: dict) -> EpisodeRow:
    videos = {}
    for feature in info.video_features:
        place = f"videos/{feature}/"
        file = info.video_path.format(
            video_key=feature,
            chunk_index=entry[place + "chunk_index"],
            file_index=entry[place + "file_index"],
        )
        videos[feature] = (info.path / file, float(entry[place + "from_timestamp"]))
    data_file = info.data_path.format(
        chunk_index=entry["data/chunk_index"], file_index=entry["data/file_index"]
    )
    notes = {
        key: value
        for key, value in entry.items()
        if "/" not in key and key not in RESERVED_NOTES and value is not None
    }
    return EpisodeRow(
        index=int(entry["episode_index"]),
        length=int(entry["length"]),
        task=_first(entry["tasks"]),
        data_file=info.path / data_file,
        videos=videos,
        notes=notes,
    )


def _read_version_2(info: DatasetInfo) -> tuple[list[EpisodeRow], list[str]]:
    file = info.path / "meta" / "episodes.jsonl"
    rows, damaged = [], []
    try:
        lines = file.read_text().splitlines()
    except OSError as error:
        raise DatasetError(f"{file} cannot be read: {error.strerror}.") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            index = int(entry["episode_index"])
            place = {"episode_chunk": index // info.chunks_size, "episode_index": index}
            videos = {
                feature: (info.path / info.video_path.format(video_key=feature, **place), 0.0)
                for feature in info.video_features
            }
            notes = {key: value for key, value in entry.items() if key not in RESERVED_NOTES}
            data_file = info.path / info.data_path.format(**place)
            task = _first(entry.get("tasks"))
            rows.append(EpisodeRow(index, int(entry["length"]), task, data_file, videos, notes))
        except (KeyError, TypeError, ValueError) as error:
            damaged.append(f"{file}, line {number} is damaged ({error!r}); its episode is skipped.")
    return rows, damaged


def _first(tasks: list[str] | str | None) -> str:
    if isinstance(tasks, str):
        return tasks
    return str(tasks[0]) if tasks else ""


def _is_depth(description: dict) -> bool:
    information = {**description.get("info", {}), **description.get("video_info", {})}
    return bool(information.get("is_depth_map") or information.get("video.is_depth_map"))
