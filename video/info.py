"""What is in a dataset, for a person at a terminal: `python -m video info DATASET`."""

from pathlib import Path

import numpy as np

from video.episodes import EpisodeDataset, action_sources, open_dataset
from video.lerobot_format import READ, RECORDED, UNKNOWN


def info(dataset: Path) -> dict:
    """Say what is in a dataset, and what of it is damaged.

    Args:
        dataset: folder of a LeRobotDataset or of video files.

    Returns:
        What was printed, as `describe` returns it.
    """
    description = describe(open_dataset(dataset))
    print(_as_text(description))
    return description


def describe(dataset: EpisodeDataset) -> dict:
    """Contents of a dataset as plain values that JSON can hold.

    Returns:
        `path`, `fps`, `episodes`, `frames`, `shortest`, `longest` (frames of an episode),
        `cameras` (name to [height, width]), `columns` (name to dimensions), `actions` (steps from
        frame to frame whose action was "recorded", was "read" off the video, or is "unknown"),
        `labelled` (share of those whose action is known), `success_rate` (share of episodes that
        succeed at some step, None where success was not recorded), `splits` (name to episodes),
        `tasks` (name to episodes and success rate) and `damaged`.
    """
    actions = _count_sources(dataset)
    succeeded = _succeeded(dataset)
    names = np.array(dataset.tasks)
    return {
        "path": str(dataset.path),
        "fps": dataset.fps,
        "episodes": len(dataset.lengths),
        "frames": int(dataset.lengths.sum()),
        "shortest": int(dataset.lengths.min()),
        "longest": int(dataset.lengths.max()),
        "cameras": {camera: list(dataset.frame_shape(camera)) for camera in dataset.cameras},
        "columns": {
            name: array.shape[1] if array.ndim == 2 else 1
            for name, array in dataset.columns.items()
        },
        "actions": actions,
        "labelled": 1 - actions["unknown"] / max(1, sum(actions.values())),
        "success_rate": _mean(succeeded),
        "splits": {name: len(episodes) for name, episodes in dataset.splits.items()},
        "tasks": {
            task: {
                "episodes": int((names == task).sum()),
                "success_rate": _mean(None if succeeded is None else succeeded[names == task]),
            }
            for task in dict.fromkeys(dataset.tasks)
        },
        "damaged": list(dataset.damaged),
    }


def _count_sources(dataset: EpisodeDataset) -> dict[str, int]:
    """Steps by where their action comes from; that of a last frame leads nowhere."""
    spans = zip(dataset.starts, dataset.lengths, strict=True)
    rows = np.concatenate([start + np.arange(length - 1) for start, length in spans])
    sources = action_sources(dataset)[rows]
    names = {"recorded": RECORDED, "read": READ, "unknown": UNKNOWN}
    return {name: int((sources == source).sum()) for name, source in names.items()}


def _succeeded(dataset: EpisodeDataset) -> np.ndarray | None:
    """Bool `(episodes,)`: does the episode succeed at any step?"""
    success = dataset.columns.get("success")
    if success is None:
        return None
    ends = dataset.starts + dataset.lengths
    spans = zip(dataset.starts, ends, strict=True)
    return np.array([success[start:end].any() for start, end in spans])


def _mean(values: np.ndarray | None) -> float | None:
    return None if values is None or not len(values) else float(values.mean())


def _as_text(description: dict) -> str:
    lengths = [description["shortest"], description["longest"]]
    span = f"{lengths[0]}" if lengths[0] == lengths[1] else f"{lengths[0]} to {lengths[1]}"
    seconds = description["frames"] / description["fps"]
    cameras = description["cameras"].items()
    columns = description["columns"].items()
    splits = description["splits"].items()
    facts = {
        "episodes": f"{description['episodes']} of {span} frames",
        "frames": f"{description['frames']} at {description['fps']:g} fps, {_duration(seconds)}",
        "cameras": ", ".join(f"{name} {height}x{width}" for name, (height, width) in cameras),
        "columns": ", ".join(f"{name} ({size})" for name, size in columns) or "none",
        "actions": ", ".join(f"{name} {count}" for name, count in description["actions"].items()),
        "labelled": f"{_percent(description['labelled'])} of the steps have a known action",
        "success": _percent(description["success_rate"]),
        "splits": ", ".join(f"{name} {count}" for name, count in splits),
    }
    lines = [description["path"], *(f"  {name:<9} {text}" for name, text in facts.items())]
    lines += ["", *_task_table(description["tasks"])]
    damaged = description["damaged"]
    lines += ["", f"  damaged: {len(damaged) or 'none'}", *(f"    {line}" for line in damaged)]
    return "\n".join(lines)


def _task_table(tasks: dict[str, dict]) -> list[str]:
    names = {task: task or "(no name)" for task in tasks}
    width = max(len("task"), *(len(name) for name in names.values()))
    lines = [f"  {'task':<{width}}  episodes  success"]
    for task, counts in tasks.items():
        success = _percent(counts["success_rate"])
        lines.append(f"  {names[task]:<{width}}  {counts['episodes']:>8}  {success:>7}")
    return lines


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{100 * share:.1f} %"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
