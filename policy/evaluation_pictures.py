"""What a policy did, to look at: some episodes that it solved, and some that it failed."""

from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from policy.episodes import Played, PlayedEpisode
from video.pictures import write_side_by_side, write_strip
from video.safe_files import write_safely
from video.video_file import write_video

SHOWN = 6
"""Episodes of each kind."""

COLUMNS = 8
"""Most frames of an episode in a strip."""


def write_pictures(folder: Path, played: Mapping[str, Played], fps: float) -> list[Path]:
    """Write successes.mp4 and .png, failures.mp4 and .png; of either kind only if there are some.

    What counts is the outcome in the first environment; the same episodes in the other one, if
    there is one, stand beside or below them.

    Args:
        folder: where to.
        played: episodes by the environment's name, the same seeds in each.
        fps: frames per second of the videos.

    Returns:
        What was written; nothing where an environment shows no frames.
    """
    first = next(iter(played.values())).episodes
    written = []
    for kind, wanted in (("successes", True), ("failures", False)):
        chosen = some_of_each_task(first, wanted)
        if not chosen or any(not p.episodes[n].frames for p in played.values() for n in chosen):
            continue
        rows = [
            (f"{first[n].task} {first[n].seed} {name}".strip(), as_video(p.episodes[n].frames))
            for n in chosen
            for name, p in played.items()
        ]
        longest = max(len(frames) for _, frames in rows)
        columns = np.unique(np.linspace(0, longest - 1, min(COLUMNS, longest)).round().astype(int))
        strip, video = folder / f"{kind}.png", folder / f"{kind}.mp4"
        write_strip(strip, rows, columns.tolist())
        _write_video(video, rows, len(played), fps)
        written += [strip, video]
    return written


def some_of_each_task(episodes: Sequence[PlayedEpisode], success: bool) -> list[int]:
    """Numbers of the first episodes with this outcome, the tasks in turns."""
    by_task: dict[str, list[int]] = {}
    for number, episode in enumerate(episodes):
        if episode.success == success:
            by_task.setdefault(episode.task, []).append(number)
    turns = islice(cycle(sorted(by_task)), len(by_task) * SHOWN)
    queues = {task: iter(numbers) for task, numbers in by_task.items()}
    drawn = [next(queues[task], None) for task in turns]
    return [number for number in drawn if number is not None][:SHOWN]


def as_video(frames: Sequence[UInt8[np.ndarray, "H W 3"]]) -> UInt8[Tensor, "T 3 H W"]:
    """Frames as the drawing functions take them."""
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)


def _write_video(
    path: Path, rows: Sequence[tuple[str, Tensor]], environments: int, fps: float
) -> None:
    if environments == 2:
        labels = [label.rpartition(" ")[0] for label, _ in rows[::2]]
        real, imagined = [[frames for _, frames in rows[n::2]] for n in (0, 1)]
        write_side_by_side(path, real, imagined, fps, labels)
        return
    longest = max(len(frames) for _, frames in rows)
    held = [frames[np.minimum(np.arange(longest), len(frames) - 1)] for _, frames in rows]
    row = torch.cat(held, dim=3).permute(0, 2, 3, 1).numpy()  # beside each other
    enlarged = row.repeat(2, axis=1).repeat(2, axis=2)
    write_safely(path, lambda unfinished: write_video(unfinished, enlarged, fps))
