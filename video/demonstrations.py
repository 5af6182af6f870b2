"""Which episodes of a dataset serve as demonstrations: those of some tasks, policies, successes."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int64

from video.episodes import EpisodeDataset
from video.errors import DatasetError

Notes = Mapping[str, str | int | float | Sequence[str | int | float]]
"""By the name of a note, the value that an episode must have, or several to choose from."""


def select_episodes(
    dataset: EpisodeDataset,
    episodes: Int64[np.ndarray, " used"],
    tasks: Sequence[str] | None = None,
    successful: bool | None = None,
    notes: Notes | None = None,
) -> Int64[np.ndarray, " selected"]:
    """Those of some episodes that are as wanted.

    Args:
        dataset: whose episodes.
        episodes: to select from.
        tasks: of these tasks; None: of all.
        successful: True: with a success at any time; False: without; None: either.
        notes: with these values in the dataset's notes on them.

    Raises:
        DatasetError: none is as wanted, or the dataset does not tell.
    """
    if successful is not None and "success" not in dataset.columns:
        raise DatasetError(
            f"{dataset.path} does not say which episodes were successful. Leave 'successful' out."
        )
    selected = [
        episode
        for episode in episodes
        if (tasks is None or dataset.tasks[episode] in tasks)
        and (successful is None or _succeeds(dataset, episode) == successful)
        and all(_matches(dataset, episode, name, value) for name, value in (notes or {}).items())
    ]
    if not selected and len(episodes):
        wanted = {"tasks": tasks, "successful": successful, "notes": notes}
        asked = {name: value for name, value in wanted.items() if value is not None}
        known = {
            name: sorted({str(dataset.notes[episode].get(name)) for episode in episodes})
            for name in (notes or {})
        }
        raise DatasetError(
            f"{dataset.path}: none of {len(episodes)} episodes has {asked}. Its tasks are "
            f"{sorted(set(dataset.tasks))}" + (f", its notes {known}." if known else ".")
        )
    return np.array(selected, np.int64)


def draw_of_each_task(
    dataset: EpisodeDataset, episodes: Int64[np.ndarray, " selected"], count: int, seed: int
) -> Int64[np.ndarray, " drawn"]:
    """So many episodes of every task, drawn by the seed; more include fewer.

    Raises:
        DatasetError: a task has fewer.
    """
    drawn = []
    generator = np.random.default_rng(seed)
    for task in sorted({dataset.tasks[episode] for episode in episodes}):
        of_task = [episode for episode in episodes if dataset.tasks[episode] == task]
        if len(of_task) < count:
            raise DatasetError(
                f"{dataset.path}: {count} episodes of each task are asked for, {task!r} has "
                f"{len(of_task)} that fit. Lower 'episodes', or ask for less else."
            )
        drawn += list(generator.permutation(of_task)[:count])
    return np.sort(np.array(drawn, np.int64))


def _succeeds(dataset: EpisodeDataset, episode: int) -> bool:
    first = dataset.starts[episode]
    return bool(dataset.columns["success"][first : first + dataset.lengths[episode]].any())


def _matches(
    dataset: EpisodeDataset,
    episode: int,
    name: str,
    wanted: str | int | float | Sequence[str | int | float],
) -> bool:
    values = [wanted] if isinstance(wanted, str | int | float) else wanted
    return dataset.notes[episode].get(name) in values
