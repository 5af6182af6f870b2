"""Read Diffusion Policy's zarr replay buffers (zarr format 2, as a folder or a .zip file).

All episodes lie one behind the other in the arrays of `data/`; `meta/episode_ends` says where each
ends. Row t of `action` is what was commanded at the picture of row t.
"""

from pathlib import Path
from typing import Any

import numpy as np

from video.episodes import Episode
from video.errors import DatasetError
from video.sources import Source, SourceEpisode, to_uint8

ACTIONS = ("action", "actions")
STATES = ("state", "states")


def open_zarr(path: Path) -> Source:
    """List the episodes of a replay buffer.

    Every array of pictures becomes a camera. The state is `data/state` where it exists, else all
    `data/robot*` and `data/agent*` vectors side by side.

    Raises:
        DatasetError: zarr is not installed, or the file is damaged or of another kind.
    """
    root = _open_root(path)
    try:
        ends = np.asarray(root["meta/episode_ends"], np.int64)
        rows = {name: len(array) for name, array in root["data"].arrays()}
    except ValueError as error:
        raise DatasetError(f"{path} cannot be read: {error}.") from None
    short = {name: count for name, count in rows.items() if not len(ends) or count < ends[-1]}
    if short:
        raise DatasetError(
            f"{path}: meta/episode_ends goes to row {ends.max(initial=0)}, but data has {short}."
        )
    starts = np.concatenate([[0], ends[:-1]])
    task = path.name.removesuffix(".zip").removesuffix(".zarr")
    episodes = [
        SourceEpisode(
            f"{path}, episode {number}",
            "train",
            lambda start=int(start), end=int(end): _load(root["data"], start, end, task),
        )
        for number, (start, end) in enumerate(zip(starts, ends, strict=True))
    ]
    return Source(None, episodes)


def _load(data: Any, start: int, end: int, task: str) -> Episode:
    arrays = dict(data.arrays())
    try:
        frames = {
            name: to_uint8(array[start:end], name)
            for name, array in arrays.items()
            if array.ndim == 4 and 3 in (array.shape[1], array.shape[3])
        }
        actions = [arrays[name] for name in ACTIONS if name in arrays]
        states = [arrays[name] for name in STATES if name in arrays]
        if not states:
            felt = [name for name in arrays if name.startswith(("robot", "agent"))]
            states = [arrays[name] for name in felt if arrays[name].ndim == 2]
        return Episode(
            frames=frames,
            actions=_rows(actions[:1], start, end),
            state=_rows(states, start, end),
            task=task,
            notes={"source": f"{start}:{end}"},
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise DatasetError(f"damaged: {error}.") from None


def _rows(arrays: list, start: int, end: int) -> np.ndarray | None:
    """Rows of the arrays, side by side."""
    if not arrays:
        return None
    values = [np.asarray(array[start:end], np.float32) for array in arrays]
    return np.concatenate([value.reshape(len(value), -1) for value in values], axis=1)


def _open_root(path: Path) -> Any:
    try:
        import zarr
    except ImportError as error:
        raise DatasetError("zarr files need zarr: pip install 'worldmodel[convert]'.") from error
    try:
        store = zarr.ZipStore(str(path), mode="r") if path.is_file() else zarr.DirectoryStore(path)
        within = next((key for key in store.keys() if key.endswith(_ENDS)), "")  # noqa: SIM118
        root = zarr.open_group(store, path=within.removesuffix(_ENDS), mode="r")
    except Exception as error:  # zarr raises errors of many kinds for a damaged store
        raise DatasetError(f"{path} is not a zarr store that can be read: {error}.") from error
    if not within or "data" not in root:
        raise DatasetError(
            f"{path} has no 'data' and 'meta/episode_ends': not a Diffusion Policy replay buffer."
        )
    return root


_ENDS = "meta/episode_ends/.zarray"
