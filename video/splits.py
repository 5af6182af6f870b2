"""Which episodes are trained on, which validated on, and which of them show their labels.

The split that is kept for the final report is used for neither; here it is only made sure of that.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int64

from video.clip_sources import OpenSource
from video.clips import ClipPart, labelled_rows
from video.demonstrations import draw_of_each_task, select_episodes
from video.embodiments import Embodiment, side_by_side
from video.errors import DatasetError
from video.statistics import Normalizer


def training_episodes(opened: OpenSource) -> Int64[np.ndarray, " used"]:
    """The episodes that a source is trained on.

    Raises:
        DatasetError: there are none, or some of them are held out.
    """
    source = opened.source
    assert source.split is not None, f"{source.path} is never trained on"
    return _episodes(opened, source.split, (source.validation_split, source.test_split))


def training_part(opened: OpenSource, seed: int) -> ClipPart:
    """What is trained on of a source, its share of labels and its demonstrations by the seed.

    Raises:
        DatasetError: no episodes, some that are held out, none that keeps its labels where the
            others are left out, or none that is as the source wants it.
    """
    source, episodes = opened.source, training_episodes(opened)
    kept = keep_labels(episodes, source.labels, seed)
    if source.drop_unlabelled:
        if not len(kept):
            raise DatasetError(
                f"{opened.dataset.path}: 'labels: {source.labels}' keeps no label, and "
                "'drop_unlabelled: true' leaves out what has none. Nothing is left to train on."
            )
        episodes = np.sort(kept)
    episodes = _wanted(opened, episodes)
    if source.episodes is not None:
        episodes = draw_of_each_task(opened.dataset, episodes, source.episodes, seed)
    return _part(opened, episodes, np.intersect1d(kept, episodes))


def keep_labels(
    episodes: Int64[np.ndarray, " used"], share: float, seed: int
) -> Int64[np.ndarray, " kept"]:
    """The episodes that keep their labels where only a share of them may.

    A larger share keeps those of a smaller one and more.

    Args:
        episodes: to choose from, in the dataset's order.
        share: 0 to 1; the number is rounded up.
        seed: of the choice.
    """
    kept = int(np.ceil(share * len(episodes)))
    return np.random.default_rng(seed).permutation(episodes)[:kept]


def validation_part(opened: OpenSource) -> ClipPart | None:
    """What is validated on of a source, with all labels; None where it is only trained on.

    Raises:
        DatasetError: some episodes are kept for the final report, or a source that is not trained
            on has none.
    """
    source, dataset = opened.source, opened.dataset
    if source.split is not None and not len(dataset.splits.get(source.validation_split, ())):
        return None
    episodes = _wanted(opened, _episodes(opened, source.validation_split, (source.test_split,)))
    return _part(opened, episodes, episodes)


def fit_normalizer(
    training: Sequence[ClipPart], validation: Sequence[ClipPart], column: str
) -> Normalizer | None:
    """Range of actions or state over the labelled training data of all datasets.

    Args:
        training: what to measure.
        validation: what else must be of the same size.
        column: "actions" or "state".

    Raises:
        DatasetError: the datasets' columns differ in size.
    """
    measured = [_known_values(part, column) for part in training]
    tables = [values for values in measured if values is not None]
    if not tables:
        return None
    seen = [*measured, *(_known_values(part, column) for part in validation)]
    sizes = {
        str(part.dataset.path): values.shape[1]
        for part, values in zip([*training, *validation], seen, strict=True)
        if values is not None
    }
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{path}: {size}" for path, size in sizes.items())
        raise DatasetError(
            f"the datasets' {column} differ in size ({listed}), so one model cannot use them "
            "together. Name the 'embodiment' of each beside its path, for a model with a head for "
            "each (inverse dynamics), or set 'action_free: true' beside the path of those to use "
            "as bare video."
        )
    return Normalizer.fit(np.concatenate(tables))


def fit_embodiments(
    training: Sequence[ClipPart], validation: Sequence[ClipPart]
) -> tuple[tuple[Embodiment, ...], Normalizer | None, Normalizer | None]:
    """Every embodiment's place in actions and state, and the ranges of all, as `side_by_side`.

    Args:
        training: what to measure.
        validation: what must fit.

    Raises:
        DatasetError: datasets of one embodiment differ in size, or one is only validated on.
    """
    names = list(dict.fromkeys(part.embodiment for part in training))
    for part in validation:
        if part.embodiment not in names:
            raise DatasetError(
                f"{part.dataset.path} has the embodiment {part.embodiment!r}, but those trained on "
                f"are {names}. Name one of them beside its path."
            )

    def ranges(column: str) -> list[Normalizer | None]:
        return [
            fit_normalizer(
                [part for part in training if part.embodiment == name],
                [part for part in validation if part.embodiment == name],
                column,
            )
            for name in names
        ]

    return side_by_side(names, ranges("actions"), ranges("state"))


def _episodes(
    opened: OpenSource, split: str, held_out: tuple[str, ...]
) -> Int64[np.ndarray, " used"]:
    """Episodes of a split, none of which may be in the held-out splits of other names."""
    dataset = opened.dataset
    if not len(dataset.splits.get(split, ())):
        raise DatasetError(
            f"{dataset.path} has no episodes in split {split!r}; there are "
            f"{ {name: len(episodes) for name, episodes in dataset.splits.items()} }. "
            "Name one of them as 'split' beside the dataset's path, or as 'validation_split' with "
            "'split: null' if it is only validated on."
        )
    episodes = np.asarray(dataset.splits[split], np.int64)
    for other in held_out:
        shared = np.intersect1d(episodes, dataset.splits.get(other, ()))
        if other != split and len(shared):
            raise DatasetError(
                f"{dataset.path}: {len(shared)} episodes are in split {split!r} and in the "
                f"held-out split {other!r}. Using them for both would spoil every evaluation. "
                "Name other splits beside the dataset's path."
            )
    return episodes


def _wanted(
    opened: OpenSource, episodes: Int64[np.ndarray, " used"]
) -> Int64[np.ndarray, " wanted"]:
    """Those of some episodes that the source wants."""
    source = opened.source
    return select_episodes(opened.dataset, episodes, source.tasks, source.successful, source.notes)


def _part(opened: OpenSource, episodes: np.ndarray, shown: np.ndarray) -> ClipPart:
    """Episodes of a source, some of which show their labels."""
    labelled = np.zeros(len(opened.dataset.lengths), bool)
    if not opened.source.action_free:
        labelled[shown] = True
    return ClipPart(
        opened.dataset,
        episodes,
        labelled,
        opened.cameras,
        spread_scale=opened.source.spread_scale,
        embodiment=opened.source.embodiment,
    )


def _known_values(part: ClipPart, column: str) -> Float32[np.ndarray, "known size"] | None:
    """Labelled rows of a column, None where there are none."""
    known = labelled_rows(part, column)
    if column == "actions":
        # the action of an episode's last frame leads out of it, and is often padding
        known[part.dataset.starts + part.dataset.lengths - 1] = False
    return part.dataset.columns[column][known] if known.any() else None
