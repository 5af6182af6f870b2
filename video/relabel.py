"""A copy of a LeRobotDataset v3.0 with other actions, and with the robot's state if that is new.

Video files are copied as they are, and so is every other column; whatever else wants new pictures
goes through `writer.py`.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from video.episodes import EpisodeDataset
from video.errors import DatasetError
from video.feature_statistics import Statistics, column_statistics, merge_statistics
from video.lerobot import LeRobotDataset
from video.lerobot_format import COLUMNS, INFO_PATH, STATS_PATH
from video.lerobot_metadata import read_info
from video.safe_files import write_json, write_parquet


@dataclass(frozen=True)
class ActionColumns:
    """The actions of an episode of T frames, and what is known of them; fields as in `Episode`.

    So is `state`, the robot's, where it is to take the place of a recorded one; None keeps that.
    """

    actions: np.ndarray
    action_mask: np.ndarray
    action_spread: np.ndarray
    action_source: np.ndarray
    state: np.ndarray | None = None


def can_be_copied(dataset: EpisodeDataset) -> bool:
    """Whether `copy_with_actions` takes it."""
    is_native = isinstance(dataset, LeRobotDataset)
    return is_native and read_info(dataset.path).version.startswith("v3.")


def copy_with_actions(
    dataset: LeRobotDataset,
    out: Path,
    labels: dict[int, ActionColumns],
    notes: dict[int, dict],
) -> None:
    """Write the copy, `meta/info.json` last, so that an interrupted call can be made again.

    Args:
        dataset: what is copied.
        out: the new dataset's folder.
        labels: by episode; one without labels, which cannot be read, has no actions, and a state
            of zeros if none was recorded and others get one.
        notes: by episode, what is added to its notes.

    Raises:
        DatasetError: a file cannot be read or written.
    """
    numbers = dataset.numbers.tolist()
    by_number = {numbers[episode]: columns for episode, columns in labels.items()}
    more_notes = {numbers[episode]: added for episode, added in notes.items()}
    try:
        for folder in ("videos", "data", "meta"):
            shutil.rmtree(out / folder, ignore_errors=True)
        if (dataset.path / "videos").is_dir():
            shutil.copytree(dataset.path / "videos", out / "videos")
        ignored = shutil.ignore_patterns("info.json", "stats.json", "episodes")
        shutil.copytree(dataset.path / "meta", out / "meta", ignore=ignored)
    except OSError as error:
        raise DatasetError(f"{dataset.path} could not be copied to {out}: {error}.") from error
    statistics: dict[int, dict[str, Statistics]] = {}
    for file in sorted((dataset.path / "data").rglob("*.parquet")):
        table, measured = _with_actions(_read(file), by_number)
        write_parquet(out / file.relative_to(dataset.path), table)
        statistics |= measured
    for file in sorted((dataset.path / "meta" / "episodes").rglob("*.parquet")):
        table = _with_notes(_read(file), more_notes, statistics)
        write_parquet(out / file.relative_to(dataset.path), table)
    _write_statistics(dataset.path, out, list(statistics.values()))
    info = json.loads((dataset.path / INFO_PATH).read_text())
    for name, values in _new_columns(labels).items():
        column = COLUMNS[name]
        shape = [values.shape[1]] if column.is_vector else [1]
        described = {"dtype": column.dtype, "shape": shape, "names": None}
        info["features"][column.feature] = info["features"].get(column.feature, described)
    write_json(out / INFO_PATH, info)


def _with_actions(
    table: pa.Table, labels: dict[int, ActionColumns]
) -> tuple[pa.Table, dict[int, dict[str, Statistics]]]:
    """A data file with new columns, and the columns' statistics by episode."""
    episode_of_row = table["episode_index"].to_numpy()
    columns: dict[str, np.ndarray] = {
        name: np.zeros((len(table), *values.shape[1:]), COLUMNS[name].dtype)
        for name, values in _new_columns(labels).items()
    }
    if "state" in columns and COLUMNS["state"].feature in table.column_names:
        recorded = table[COLUMNS["state"].feature].combine_chunks()
        columns["state"] = np.array(recorded.to_pylist(), np.float32).reshape(len(table), -1)
    statistics = {}
    for episode in np.unique(episode_of_row).tolist():
        rows = np.flatnonzero(episode_of_row == episode)
        if episode in labels:
            for name, values in vars(labels[episode]).items():
                if values is not None:
                    columns[name][rows] = values
        statistics[episode] = {
            COLUMNS[name].feature: column_statistics(values[rows])
            for name, values in columns.items()
        }
    for name, values in columns.items():
        flat = pa.array(values.reshape(-1))
        is_list = values.ndim == 2 and values.shape[1] > 1
        stored = pa.FixedSizeListArray.from_arrays(flat, values.shape[1]) if is_list else flat
        table = _set(table, COLUMNS[name].feature, stored)
    return table.replace_schema_metadata(None), statistics


def _new_columns(labels: dict[int, ActionColumns]) -> dict[str, np.ndarray]:
    """An example of each column that is written, by its name."""
    found = (vars(columns).items() for columns in labels.values())
    return {name: values for each in found for name, values in each if values is not None}


def _with_notes(
    table: pa.Table, notes: dict[int, dict], statistics: dict[int, dict[str, Statistics]]
) -> pa.Table:
    """A file of `meta/episodes` with more notes, and new statistics of the action columns."""
    episodes = table["episode_index"].to_pylist()
    for name in dict.fromkeys(name for each in notes.values() for name in each):
        table = _set(table, name, pa.array([notes.get(e, {}).get(name) for e in episodes]))
    for feature, measured in next(iter(statistics.values())).items():
        for name in measured:
            values = [
                statistics[e][feature][name].tolist() if e in statistics else None for e in episodes
            ]
            table = _set(table, f"stats/{feature}/{name}", pa.array(values))
    return table.replace_schema_metadata(None)


def _write_statistics(source: Path, out: Path, parts: list[dict[str, Statistics]]) -> None:
    stored = source / STATS_PATH
    merged = json.loads(stored.read_text()) if stored.is_file() else {}
    for feature in parts[0]:
        values = merge_statistics([part[feature] for part in parts])
        merged[feature] = {name: value.tolist() for name, value in values.items()}
    write_json(out / STATS_PATH, merged)


def _set(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    """The table with a column replaced or added."""
    if name in table.column_names:
        return table.set_column(table.column_names.index(name), name, values)
    return table.append_column(name, values)


def _read(file: Path) -> pa.Table:
    try:
        return pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{file} is damaged ({error}). Replace it, then label again.") from None
