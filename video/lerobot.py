"""Read a LeRobotDataset, version 3.0 or 2.x, from a local folder.

Everything but the pictures is loaded when the dataset is opened; frames are decoded when asked for.
Damaged files are named, skipped and counted. Where an episode lies is read by
`lerobot_metadata.py`; the format is written by `writer.py`.
"""

import hashlib
import io
import logging
from collections import defaultdict
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from video.errors import DatasetError
from video.frame_numbers import checked_frames
from video.lerobot_format import COLUMNS
from video.lerobot_metadata import DatasetInfo, EpisodeRow, read_episode_rows, read_info
from video.video_file import outline, read_video, video_header

logger = logging.getLogger(__name__)

RATE_TOLERANCE = 0.01


class LeRobotDataset:
    """A LeRobotDataset on disk, as `episodes.EpisodeDataset` describes it.

    `numbers` are the usable episodes' numbers in the files, int64 `(episodes,)`.

    Example:
        dataset = LeRobotDataset("data/reach")
        frames = dataset.read_frames(0, np.arange(16), dataset.cameras[0])
    """

    def __init__(self, path: Path | str) -> None:
        """Read the metadata and all columns, and check every file from outside.

        Raises:
            DatasetError: no dataset, or no episode of it is usable.
        """
        self.path = Path(path)
        info = read_info(self.path)
        rows, self.damaged = read_episode_rows(info)
        total = len(rows)
        contents: dict[int, dict[str, np.ndarray]] = {}
        first_rows: dict[int, int] = {}
        rows = self._load_data(info, rows, contents, first_rows)
        rows = self._check_videos(info, rows)
        if not rows:
            raise DatasetError("\n".join([f"{path}: no usable episode left.", *self.damaged]))
        if self.damaged:
            logger.warning(
                "%s: %d of %d episodes skipped:\n%s",
                *(path, total - len(rows), total, "\n".join(self.damaged)),
            )
        self.fps = info.fps
        self.cameras = tuple(info.cameras)
        self.lengths = np.array([row.length for row in rows], dtype=np.int64)
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)[:-1]]).astype(np.int64)
        self.tasks = [row.task for row in rows]
        self.notes = [row.notes for row in rows]
        self.numbers = np.array([row.index for row in rows], dtype=np.int64)
        self.splits = _splits(info, self.numbers)
        self.columns = {
            name: np.concatenate([contents[row.index][name] for row in rows])
            for name in contents[rows[0].index]
        }
        self._features = info.cameras
        self._shapes = {camera: info.frame_shape(key) for camera, key in info.cameras.items()}
        self._video_features = set(info.video_features)
        self._videos = [
            {key: (file, round(second * info.fps)) for key, (file, second) in row.videos.items()}
            for row in rows
        ]
        self._pictures = [(row.data_file, first_rows[row.index]) for row in rows]
        self.fingerprint = self._fingerprint()

    def frame_shape(self, camera: str) -> tuple[int, int]:
        """Height and width of a camera's frames, in pixels."""
        self._check_camera(camera)
        return self._shapes[camera]

    def read_frames(self, episode: int, indices: np.ndarray, camera: str) -> np.ndarray:
        """Decode frames of one episode: uint8 `(len(indices), H, W, 3)`, in the order asked for.

        Raises:
            IndexError: a frame before the episode's first or after its last.
            DatasetError: no such camera, or the file is damaged there; the text names it.
        """
        self._check_camera(camera)
        name = f"{self.path}, episode {episode}"
        indices = checked_frames(indices, int(self.lengths[episode]), name)
        feature = self._features[camera]
        if feature in self._video_features:
            file, first = self._videos[episode][feature]
            frames = read_video(file, first + indices)
        else:
            file, first = self._pictures[episode]
            frames = _read_pictures(file, feature, first + indices)
        if frames.shape[1:3] != self._shapes[camera]:
            raise DatasetError(
                f"{file} has frames of {frames.shape[1]} x {frames.shape[2]} pixels, "
                f"meta/info.json says {self._shapes[camera]} for camera {camera!r}."
            )
        return frames

    def _check_camera(self, camera: str) -> None:
        if camera not in self._features:
            raise DatasetError(
                f"{self.path} has no camera {camera!r}; it has {', '.join(self.cameras)}."
            )

    def _load_data(
        self,
        info: DatasetInfo,
        rows: list[EpisodeRow],
        contents: dict[int, dict[str, np.ndarray]],
        first_rows: dict[int, int],
    ) -> list[EpisodeRow]:
        """Fill `contents` and `first_rows` by episode index; returns the rows that are usable."""
        usable = []
        for file, group in _grouped(rows, lambda row: row.data_file):
            try:
                episode_of_row, columns = _read_data_file(info, file)
            except DatasetError as error:
                self.damaged.append(f"{error} Skipped: {_named(group)}.")
                continue
            order = np.argsort(episode_of_row, kind="stable")
            indices = [row.index for row in group]
            firsts, ends = (
                np.searchsorted(episode_of_row[order], indices, side=side)
                for side in ("left", "right")
            )
            short, found = [], []
            for row, first, end in zip(group, firsts, ends, strict=True):
                if end - first != row.length:
                    short.append(row)
                    found.append(int(end - first))
                    continue
                places = order[first:end]
                contents[row.index] = {name: array[places] for name, array in columns.items()}
                first_rows[row.index] = int(places[0])
                usable.append(row)
            if short:
                self.damaged.append(
                    f"{file} has {_listed(found)} rows, meta/episodes says "
                    f"{_listed([row.length for row in short])}. Skipped: {_named(short)}."
                )
        return sorted(usable, key=lambda row: row.index)

    def _check_videos(self, info: DatasetInfo, rows: list[EpisodeRow]) -> list[EpisodeRow]:
        for feature in info.video_features:
            for file, group in _grouped(rows, lambda row, key=feature: row.videos[key][0]):
                dropped, reason = _unusable(info, feature, file, group)
                if dropped:
                    self.damaged.append(f"{reason} Skipped: {_named(dropped)}.")
                    lost = {row.index for row in dropped}
                    rows = [row for row in rows if row.index not in lost]
        return rows

    def _fingerprint(self) -> str:
        digest = hashlib.blake2b(digest_size=8)
        digest.update(repr((self.fps, self.cameras, self.lengths.tolist())).encode())
        for name, array in self.columns.items():
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(array).data)
        places = [place for videos in self._videos for place in videos.values()]
        if set(self._features.values()) - self._video_features:
            places += self._pictures
        for file, first in places:
            digest.update(f"{file.relative_to(self.path)} {first}".encode())
        for file in dict.fromkeys(file for file, _ in places):
            digest.update(outline(file))
        return digest.hexdigest()


def _read_data_file(info: DatasetInfo, file: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Episode index `(rows,)` and our columns of one parquet file.

    Raises:
        DatasetError: it is missing, damaged, lacks a column that `meta/info.json` announces, or
            has one of another size.
    """
    announced = {
        name: column for name, column in COLUMNS.items() if column.feature in info.features
    }
    wanted = ["episode_index", *(column.feature for column in announced.values())]
    if not file.is_file():
        raise DatasetError(f"{file} does not exist.")
    try:
        lacking = set(wanted) - set(pq.read_schema(file).names)
        if lacking:
            raise DatasetError(
                f"{file} lacks the column {', '.join(sorted(lacking))}, "
                "which meta/info.json announces."
            )
        table = pq.read_table(file, columns=wanted)
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{file} is damaged ({error}).") from None
    columns = {}
    for name, column in announced.items():
        try:
            array = _to_numpy(table[column.feature], column.dtype)
        except (ValueError, pa.ArrowException) as error:
            raise DatasetError(f"{file}, column {column.feature}: {error}") from None
        size = int(np.prod(info.features[column.feature]["shape"]))
        if array.shape[1] != size:
            raise DatasetError(
                f"{file}, column {column.feature} has {array.shape[1]} dimensions, "
                f"meta/info.json says {size}."
            )
        columns[name] = array if column.is_vector else array[:, 0]
    return table["episode_index"].to_numpy(), columns


def _to_numpy(column: pa.ChunkedArray, dtype: str) -> np.ndarray:
    """`(rows, D)`; scalars are D = 1."""
    if column.null_count:
        raise ValueError(f"{column.null_count} empty values.")
    values = column.combine_chunks()
    size = 1
    while pa.types.is_nested(values.type):
        fixed = pa.types.is_fixed_size_list(values.type)
        sizes = [values.type.list_size] if fixed else np.unique(values.value_lengths()).tolist()
        if len(sizes) > 1:
            raise ValueError(f"rows of different sizes, {sizes}.")
        size *= sizes[0] if sizes else 1
        values = values.flatten()
    return values.to_numpy(zero_copy_only=False).astype(dtype).reshape(-1, size)


def _unusable(
    info: DatasetInfo, feature: str, file: Path, group: list[EpisodeRow]
) -> tuple[list[EpisodeRow], str]:
    """Episodes that cannot be taken from a video file, and why."""
    try:
        header = video_header(file)
    except DatasetError as error:
        return group, str(error)
    if (header.height, header.width) != info.frame_shape(feature):
        return group, (
            f"{file} has {header.height} x {header.width} pixels, "
            f"meta/info.json says {info.frame_shape(feature)}."
        )
    if abs(header.fps / info.fps - 1) > RATE_TOLERANCE:
        return group, f"{file} has {header.fps:.2f} fps, meta/info.json says {info.fps:g}."
    ends = [round(row.videos[feature][1] * info.fps) + row.length for row in group]
    cut = [row for row, end in zip(group, ends, strict=True) if end > header.frames]
    return cut, f"{file} has {header.frames} frames, meta/episodes needs {max(ends)}."


def _splits(info: DatasetInfo, numbers: np.ndarray) -> dict[str, np.ndarray]:
    """Split name to positions in `numbers`, those of the episodes that are left."""
    splits = {}
    for name, text in info.splits.items():
        try:
            first, end = (int(part) for part in text.split(":"))
        except ValueError:
            raise DatasetError(
                f"{info.path}/meta/info.json: split {name!r} is {text!r}, not 'FIRST:END'."
            ) from None
        splits[name] = np.flatnonzero((numbers >= first) & (numbers < end))
    return splits or {"train": np.arange(len(numbers))}


@lru_cache(maxsize=4)
def _picture_column(file: Path, feature: str, modified: int) -> pa.ChunkedArray:
    return pq.read_table(file, columns=[feature])[feature]


def _read_pictures(file: Path, feature: str, rows: np.ndarray) -> np.ndarray:
    try:
        column = _picture_column(file, feature, file.stat().st_mtime_ns)
        stored = [column[int(row)].as_py()["bytes"] for row in rows]
        return np.stack(
            [np.asarray(Image.open(io.BytesIO(each)).convert("RGB")) for each in stored]
        )
    except (OSError, pa.ArrowException, TypeError, ValueError) as error:
        raise DatasetError(f"{file}, pictures of {feature} are damaged ({error}).") from None


def _grouped(rows: list[EpisodeRow], key) -> list[tuple[Path, list[EpisodeRow]]]:
    groups = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return list(groups.items())


def _named(rows: list[EpisodeRow]) -> str:
    indices = [row.index for row in rows]
    return f"episode {indices[0]}" if len(indices) == 1 else f"episodes {_listed(indices)}"


def _listed(numbers: list[int]) -> str:
    if len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")
