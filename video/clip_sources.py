"""Where training takes its clips from: several datasets, opened so that they go together.

Which of their episodes are used for what is decided in `splits.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from video.confidence import SPREAD_SCALE
from video.episodes import EpisodeDataset, open_dataset
from video.errors import DatasetError
from video.video_folder import CAMERA


@dataclass
class ClipSource:
    """One dataset of a mixture.

    Attributes:
        path: a LeRobot dataset, or a folder of videos.
        weight: its share of every batch, relative to the other datasets' weights.
        split: name of the split to train on; None if it is never trained on.
        validation_split: name of the split that runs are validated on while they train; a dataset
            without it is only trained on.
        test_split: name of the split that is used for neither, but kept for the final report.
        action_free: take it for bare video: no actions, state, rewards or success are read.
        labels: the share of its training episodes, chosen by the seed, that keep their actions,
            state, rewards and success; the others are bare video.
        drop_unlabelled: leave those others out instead.
        tasks: use episodes of these tasks only, to train and to validate on.
        successful: use only those with a success (True), or without (False).
        notes: use only those with these values in the dataset's notes on them, such as
            `{policy: Expert()}`, or with one of several.
        episodes: train on so many of them in every task, chosen by the seed.
        spread_scale: how fast actions lose weight that a model read off the video: by half where
            their normalised spread is as large, see `confidence.py`.
        embodiment: name of its robot, where datasets of different action spaces are mixed: those
            of a name share one; empty where all do.
        cameras: its names of the views, in the order of `ClipDataModule`'s `cameras`; None if it
            names them as they are named there.
        latents: folder to which its latents were or shall be encoded, None for its own.
    """

    path: str
    weight: float = 1.0
    split: str | None = "train"
    validation_split: str = "validation"
    test_split: str = "test"
    action_free: bool = False
    labels: float = 1.0
    drop_unlabelled: bool = False
    tasks: list[str] | None = None
    successful: bool | None = None
    notes: dict[str, str | int | float | list[str | int | float]] | None = None
    episodes: int | None = None
    spread_scale: float = SPREAD_SCALE
    embodiment: str = ""
    cameras: list[str] | None = None
    latents: str | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 0 <= self.labels <= 1:
            raise ValueError(f"labels is a share of the episodes, 0 to 1, got {self.labels}")
        if self.episodes is not None and self.episodes < 1:
            raise ValueError(f"episodes must be at least 1, or null for all, got {self.episodes}")
        if self.weight < 0:
            raise ValueError(f"weight must not be negative, got {self.weight}")
        if not self.spread_scale > 0:
            raise ValueError(f"spread_scale must be positive, got {self.spread_scale}")


@dataclass(frozen=True)
class OpenSource:
    """A source with its dataset open.

    Attributes:
        source: what was asked for.
        dataset: what lies there.
        cameras: the dataset's own names of the clips' views, in their order.
    """

    source: ClipSource
    dataset: EpisodeDataset
    cameras: tuple[str, ...]


@dataclass(frozen=True)
class Mixture:
    """Open sources of one frame rate and the same views.

    Attributes:
        sources: all of them, in the order they were named in.
        fps: frames per second.
        cameras: the views of a clip.
    """

    sources: list[OpenSource]
    fps: float
    cameras: tuple[str, ...]

    @property
    def trained_on(self) -> list[OpenSource]:
        """The sources with a split to train on, at least one."""
        return [opened for opened in self.sources if opened.source.split is not None]


def open_sources(
    sources: Sequence[ClipSource], cameras: Sequence[str] | None = None, fps: float | None = None
) -> Mixture:
    """Open the datasets of a mixture.

    Args:
        sources: what to open.
        cameras: the views of a clip; None for all cameras of the first dataset that is trained on.
        fps: frames per second; None for those of that dataset.

    Raises:
        DatasetError: none is trained on, or one cannot be opened, lacks a view, or has another
            frame rate.
    """
    trained_on = [source for source in sources if source.split is not None]
    if not trained_on:
        raise DatasetError(
            f"none of {', '.join(source.path for source in sources)} is trained on: each says "
            "'split: null'. Name a dataset to train on under data.datasets."
        )
    first = open_dataset(trained_on[0].path, fps)
    datasets = [
        first if source is trained_on[0] else open_dataset(source.path, fps or first.fps)
        for source in sources
    ]
    views = tuple(cameras or trained_on[0].cameras or first.cameras)
    opened = [
        OpenSource(source, dataset, _own_names(source, dataset, views))
        for source, dataset in zip(sources, datasets, strict=True)
    ]
    return Mixture(opened, first.fps, views)


def _own_names(
    source: ClipSource, dataset: EpisodeDataset, views: tuple[str, ...]
) -> tuple[str, ...]:
    """A dataset's own names of the clips' views."""
    names = tuple(source.cameras or views)
    if dataset.cameras == (CAMERA,) and len(views) == 1:
        names = (CAMERA,)  # bare video files do not name their view
    missing = [name for name in names if name not in dataset.cameras]
    if missing or len(names) != len(views):
        raise DatasetError(
            f"{dataset.path} has the cameras {list(dataset.cameras)}; clips of {list(views)} need "
            f"{list(names)} of it. Choose views by data.cameras, or name this dataset's by "
            "'cameras' beside its path, one for each view."
        )
    return names
