"""Shifted copies of a dataset, for few episodes that many steps learn from.

A network that sees the same few episodes again and again learns them by heart, and nothing of what
actions do any more. A picture that is a little shifted is of the same robot, seen by a camera that
points elsewhere: the actions are as true as before. Networks that read frames can shift them in
training (`optimization.shift` of inverse dynamics); those that read stored latents cannot, so here
the pictures are shifted once, before they are encoded.
"""

import sys
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from video.dataset_recipe import RECIPE, check_recipe
from video.episodes import Episode, EpisodeDataset, open_dataset
from video.errors import DatasetError
from video.lerobot_format import COLUMNS
from video.safe_files import write_json
from video.splits import keep_labels
from video.writer import DatasetWriter


def shift(
    dataset: Path,
    out: Path,
    copies: int = 8,
    reach: int = 4,
    labels: float = 1.0,
    split: str = "train",
    seed: int = 0,
    crf: int = 12,
) -> Path:
    """Write every episode several times, its pictures shifted by some pixels each time.

    The first copy stays where it is. All frames of a copy are shifted alike, each camera on its
    own; what is missing at the edges is repeated. All else is copied, and the new dataset has the
    one split. An interrupted command goes on where it stopped when it is given again.

    Args:
        dataset: whatever the project can read.
        out: folder of the new, native dataset.
        copies: of each episode, the one that is not shifted included.
        reach: pixels by which a copy is shifted at most, up, down, left or right.
        labels: share of the split's episodes to take: those that keep their actions in a training
            with `labels` and `data.seed` of the same values.
        split: of the dataset.
        seed: of the shifts, and of the episodes to take.
        crf: x264's constant rate factor, smaller is better and larger on disk.

    Returns:
        The new dataset's folder.

    Raises:
        DatasetError: options out of their range, a split that is not there, a dataset of which no
            episode can be read, or a folder that holds something else.
    """
    if copies < 2 or reach < 1 or not 0 < labels <= 1:
        raise DatasetError(
            f"--copies {copies} --reach {reach} --labels {labels:g}: need two copies or more, a "
            "pixel or more, and a share above 0 and at most 1."
        )
    opened = open_dataset(dataset)
    if not len(opened.splits.get(split, ())):
        names = ", ".join(opened.splits) or "none"
        raise DatasetError(f"{dataset} has no split {split!r}, but {names}. Pass --split.")
    recipe = {"dataset": opened.fingerprint, "copies": copies, "reach": reach, "labels": labels}
    recipe |= {"split": split, "seed": seed, "crf": crf}
    check_recipe(out, recipe)
    writer = DatasetWriter(out, opened.fps, crf=crf, full_color=True)
    write_json(out / RECIPE, recipe)
    finished, skipped = writer.finished, []
    episodes = sorted(keep_labels(np.asarray(opened.splits[split]), labels, seed).tolist())
    for place, episode in enumerate(tqdm(episodes, desc="Shifting", unit=" episodes")):
        numbers = range(copies * place, copies * (place + 1))
        if finished.issuperset(numbers):
            continue
        try:
            original = whole_episode(opened, episode)
        except DatasetError as error:
            skipped.append(f"episode {episode}: {error}")
            continue
        for number in numbers:
            if number not in finished:
                copy = number - numbers.start
                writer.add(
                    number, shifted(original, reach if copy else 0, (seed, episode, copy)), split
                )
    if len(skipped) == len(episodes):
        raise DatasetError("\n".join([f"{dataset}: no episode can be read.", *skipped]))
    folder = writer.finalize()
    read = len(episodes) - len(skipped)
    print(f"{folder}: {copies} copies of {read} episodes, shifted by up to {reach} pixels.")
    for line in skipped:
        print(f"  skipped {line}", file=sys.stderr)
    return folder


def whole_episode(dataset: EpisodeDataset, episode: int) -> Episode:
    """All that is recorded of an episode, in memory.

    Raises:
        DatasetError: its video cannot be decoded.
    """
    first, length = int(dataset.starts[episode]), int(dataset.lengths[episode])
    index = np.arange(length)
    return Episode(
        frames={camera: dataset.read_frames(episode, index, camera) for camera in dataset.cameras},
        task=dataset.tasks[episode],
        notes=dict(dataset.notes[episode]),
        **{
            name: dataset.columns[name][first : first + length]
            for name in COLUMNS
            if name in dataset.columns
        },
    )


def shifted(episode: Episode, reach: int, seed: tuple[int, ...]) -> Episode:
    """The same with every camera's pictures shifted by up to so many pixels each way.

    Args:
        episode: any.
        reach: 0 leaves them where they are.
        seed: of the shifts; where and how far is noted as `shift_CAMERA`, down and right.
    """
    generator = np.random.default_rng(seed)
    offsets = {camera: generator.integers(-reach, reach + 1, 2) for camera in episode.frames}
    notes = {f"shift_{camera}": f"{down},{right}" for camera, (down, right) in offsets.items()}
    frames = {camera: moved(shown, *offsets[camera]) for camera, shown in episode.frames.items()}
    return Episode(**{**vars(episode), "frames": frames, "notes": episode.notes | notes})


def moved(
    frames: UInt8[np.ndarray, "frames height width 3"], down: int, right: int
) -> UInt8[np.ndarray, "frames height width 3"]:
    """Pictures moved by some pixels; the edge that they leave is repeated."""
    height, width = frames.shape[1:3]
    rows = np.clip(np.arange(height) - down, 0, height - 1)
    columns = np.clip(np.arange(width) - right, 0, width - 1)
    return np.ascontiguousarray(frames[:, rows][:, :, columns])
