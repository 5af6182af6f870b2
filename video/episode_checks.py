"""What a recorded episode must be so that it can be written, and read back as it was."""

import re

import numpy as np

from video.episodes import Episode
from video.errors import DatasetError
from video.lerobot_format import COLUMNS, READ, RECORDED, RESERVED_NOTES, UNKNOWN

Signature = dict[str, dict]
"""What the episodes of a dataset have in common: sizes of "cameras" and of "columns"."""


def check_episode(episode: Episode, place: str) -> None:
    """Refuse an episode whose parts disagree.

    Args:
        episode: what was recorded.
        place: where it is going, for the error text.

    Raises:
        DatasetError: no camera or no frame, a wrong type or shape, values that are not finite, or
            notes that no column can hold.
    """
    if not episode.frames:
        raise DatasetError(f"{place} has no camera.")
    length = episode_length(episode)
    for camera, frames in episode.frames.items():
        _check_frames(camera, frames, length, place)
    for name, column in COLUMNS.items():
        array = getattr(episode, name)
        if array is not None:
            _check_column(name, array, column.is_vector, length, place)
    known = known_actions(episode)
    if known is not None and episode.actions is None:
        raise DatasetError(f"{place} has an action_mask but no actions.")
    _check_sources(episode, known, place)
    for name in ("actions", "action_spread", "state", "environment_state", "reward"):
        array = getattr(episode, name)
        if array is None:
            continue
        if name in ("actions", "action_spread") and known is not None:
            array = array[known]
        if not np.isfinite(array).all():
            raise DatasetError(
                f"{place}: {name} holds NaN or infinity. Mark unknown actions in action_mask."
            )
    for key, value in episode.notes.items():
        if "/" in key or key in RESERVED_NOTES:
            raise DatasetError(f"{place}: {key!r} cannot be the name of a note.")
        if not isinstance(value, str | int | float | np.integer | np.floating | np.bool_):
            raise DatasetError(f"{place}: note {key!r} is {value!r}, not text or a number.")


def episode_length(episode: Episode) -> int:
    """Frames of the episode's first camera."""
    return len(next(iter(episode.frames.values())))


def known_actions(episode: Episode) -> np.ndarray | None:
    """Its action mask, bool `(T,)`; None where every action is known."""
    mask = episode.action_mask
    return None if mask is None or mask.all() else mask


def episode_signature(episode: Episode) -> Signature:
    """Sizes of an episode's cameras and columns."""
    cameras = {camera: list(frames.shape[1:3]) for camera, frames in episode.frames.items()}
    arrays = {name: getattr(episode, name) for name in COLUMNS if name != "action_mask"}
    columns = {
        name: array.shape[1] if array.ndim == 2 else 1
        for name, array in arrays.items()
        if array is not None
    }
    if known_actions(episode) is not None:
        columns["action_mask"] = 1
    return {"cameras": cameras, "columns": columns}


def check_same_signature(found: Signature, expected: Signature, place: str) -> None:
    """Refuse an episode that differs from the others in size.

    Its actions may be missing, or where they come from, nothing else.

    Raises:
        DatasetError: other cameras, frame sizes, columns or column sizes.
    """
    if found["cameras"] != expected["cameras"]:
        raise DatasetError(
            f"{place} has cameras of height, width {found['cameras']}, the episodes before have "
            f"{expected['cameras']}."
        )
    optional = {"action_mask", "action_spread", "action_source"}
    if "actions" not in found["columns"] or "actions" not in expected["columns"]:
        optional.add("actions")
    sizes, before = (
        {name: size for name, size in each["columns"].items() if name not in optional}
        for each in (found, expected)
    )
    if sizes != before:
        raise DatasetError(
            f"{place} has columns of sizes {sizes}, the episodes before have {before}. "
            "Record episodes that differ into datasets of their own."
        )


def _check_sources(episode: Episode, known: np.ndarray | None, place: str) -> None:
    """Spread and source of the actions must go with the actions and their mask."""
    actions, spread, source = episode.actions, episode.action_spread, episode.action_source
    if (spread is None) != (source is None):
        raise DatasetError(f"{place} has only one of action_spread and action_source.")
    if spread is None or source is None:
        return
    if actions is None or spread.shape != actions.shape:
        shape = None if actions is None else actions.shape
        raise DatasetError(f"{place}: action_spread is {spread.shape}, the actions are {shape}.")
    expected = np.ones(len(source), bool) if known is None else known
    if (
        not np.isin(source, (UNKNOWN, RECORDED, READ)).all()
        or ((source != UNKNOWN) != expected).any()
    ):
        raise DatasetError(
            f"{place}: action_source must be {RECORDED} (recorded) or {READ} (read) where an "
            f"action is known, and {UNKNOWN} where action_mask is False."
        )
    if (spread[expected] < 0).any():
        raise DatasetError(f"{place}: action_spread is negative.")


def _check_frames(camera: str, frames: np.ndarray, length: int, place: str) -> None:
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
            f"{place}: camera {camera!r} has {len(frames)} frames, the first camera {length}."
        )


def _check_column(name: str, array: np.ndarray, is_vector: bool, length: int, place: str) -> None:
    if array.ndim != 1 + is_vector or len(array) != length or 0 in array.shape:
        shape = "(T, D)" if is_vector else "(T,)"
        raise DatasetError(
            f"{place}: {name} has shape {array.shape}, not {shape} with T = {length} frames."
        )
    if name in ("action_mask", "success") and array.dtype != bool:
        raise DatasetError(f"{place}: {name} is {array.dtype}, not bool.")
