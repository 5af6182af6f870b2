"""Minimum, maximum, mean, deviation and count of a feature, by episode and over episodes.

The form is that of LeRobotDataset's `meta/stats.json`. Normalising actions for training is the
business of `statistics.py`, which reads the data itself.
"""

import numpy as np

Statistics = dict[str, np.ndarray]

FRAMES_SAMPLED = 100


def column_statistics(values: np.ndarray) -> Statistics:
    """Statistics over time of `(T,)` or `(T, D)` values, each of shape `(1,)` or `(D,)`."""
    rows = values.reshape(len(values), -1).astype(np.float64)
    return _statistics(rows, axis=0)


def frame_statistics(frames: np.ndarray) -> Statistics:
    """Statistics by colour of uint8 `(T, H, W, 3)` frames scaled to [0, 1], each `(3, 1, 1)`.

    At most 100 frames, evenly spread, are looked at; `count` is their number.
    """
    chosen = np.unique(np.linspace(0, len(frames) - 1, FRAMES_SAMPLED).astype(int))
    pixels = frames[chosen].reshape(-1, 3) / 255.0
    statistics = _statistics(pixels, axis=0)
    shaped = {name: value.reshape(3, 1, 1) for name, value in statistics.items() if name != "count"}
    return {**shaped, "count": np.array([len(chosen)])}


def merge_statistics(parts: list[Statistics]) -> Statistics:
    """Statistics over several episodes from those of each, weighted by `count`.

    The variance of all is the mean of `std_i ** 2 + (mean_i - mean) ** 2`.
    """
    counts = np.array([part["count"][0] for part in parts])
    weights = counts / counts.sum()
    means = np.stack([part["mean"] for part in parts])
    deviations = np.stack([part["std"] for part in parts])
    mean = np.tensordot(weights, means, axes=1)
    variance = np.tensordot(weights, deviations**2 + (means - mean) ** 2, axes=1)
    return {
        "min": np.min([part["min"] for part in parts], axis=0),
        "max": np.max([part["max"] for part in parts], axis=0),
        "mean": mean,
        "std": np.sqrt(variance),
        "count": np.array([counts.sum()]),
    }


def _statistics(rows: np.ndarray, axis: int) -> Statistics:
    return {
        "min": rows.min(axis),
        "max": rows.max(axis),
        "mean": rows.mean(axis),
        "std": rows.std(axis),
        "count": np.array([rows.shape[axis]]),
    }
