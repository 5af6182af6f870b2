"""Read robomimic's and LIBERO's HDF5 files.

Both keep episodes as `data/demo_K` with `actions`, `rewards` and `obs/NAME`, row t being what was
seen before action t. Robomimic calls a camera's pictures NAME_image, LIBERO NAME_rgb; what a
robot feels has several names in each.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from video.episodes import Episode
from video.errors import DatasetError
from video.sources import Source, SourceEpisode, sparse_success, to_uint8

CAMERA = re.compile(r"(?P<name>.+)_(image|rgb)")
ROBOT = re.compile(r"robot\d+_(eef_pos|eef_quat|gripper_qpos)|ee_pos|ee_ori|gripper_states")
SIMULATOR = ("object", "object-state")


def open_hdf5(path: Path) -> Source:
    """List the episodes of a file.

    The split follows `mask/train` and `mask/valid` where robomimic has written them. Success is
    taken from a sparse reward.

    Raises:
        DatasetError: h5py is not installed, or the file is damaged or of another kind.
    """
    h5py = _h5py()
    try:
        with h5py.File(path) as file:
            if "data" not in file:
                raise DatasetError(f"{path} has no group 'data': not a robomimic or LIBERO file.")
            names = sorted(file["data"], key=lambda name: int(re.sub(r"\D", "", name) or 0))
            arguments = _json_attribute(file["data"], "env_args")
            problem = _json_attribute(file["data"], "problem_info")
            held_out = {_text(name) for name in file.get("mask/valid", ())}
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error}.") from None
    if not names:
        raise DatasetError(f"{path} holds no episode.")
    task = problem.get("language_instruction") or arguments.get("env_name") or path.stem
    task = " ".join(task).strip('"') if isinstance(task, list) else str(task).strip('"')
    rate = arguments.get("env_kwargs", {}).get("control_freq")
    episodes = [
        SourceEpisode(
            f"{path}, {name}",
            "valid" if name in held_out else "train",
            lambda name=name: _load(path, name, task),
        )
        for name in names
    ]
    return Source(float(rate) if rate else None, episodes)


def _load(path: Path, name: str, task: str) -> Episode:
    try:
        with _h5py().File(path) as file:
            return _episode(file["data"][name], task)
    except KeyError as error:
        raise DatasetError(f"damaged: {error.args[0]}.") from None
    except OSError as error:
        raise DatasetError(f"damaged: {error}.") from None


def _episode(group: Any, task: str) -> Episode:
    seen = group["obs"]
    matches = {key: CAMERA.fullmatch(key) for key in seen}
    cameras = {
        match["name"]: to_uint8(seen[key][()], key)
        for key, match in matches.items()
        if match and "depth" not in key
    }
    if not cameras:
        raise DatasetError(
            f"no pictures among {', '.join(seen)}. Robomimic's low-dimensional files have none: "
            "render them with its dataset_states_to_obs.py first."
        )
    reward = _column(group["rewards"]) if "rewards" in group else None
    return Episode(
        frames=cameras,
        actions=_rows(group["actions"]),
        state=_joined([seen[key] for key in seen if ROBOT.fullmatch(key)]),
        environment_state=_joined([seen[key] for key in seen if key in SIMULATOR]),
        reward=reward,
        success=sparse_success(reward),
        task=task,
        notes={"source": group.name.rpartition("/")[2]},
    )


def _joined(arrays: list) -> np.ndarray | None:
    return np.concatenate([_rows(array) for array in arrays], axis=1) if arrays else None


def _rows(array: Any) -> np.ndarray:
    values = np.asarray(array[()], np.float32)
    return values.reshape(len(values), -1)


def _column(array: Any) -> np.ndarray:
    return np.asarray(array[()], np.float32).reshape(len(array))


def _json_attribute(group: Any, name: str) -> dict:
    try:
        content = json.loads(_text(group.attrs.get(name, "{}")))
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise DatasetError("HDF5 files need h5py: pip install 'worldmodel[convert]'.") from error
    return h5py
