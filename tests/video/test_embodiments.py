"""Datasets of different action spaces in one mixture."""

import numpy as np
import pytest
from tiny_datasets import moving_square

from video.clip_sources import ClipSource
from video.datamodule import ClipDataModule
from video.embodiments import part_of, side_by_side
from video.errors import DatasetError
from video.statistics import Normalizer
from video.writer import DatasetWriter


@pytest.fixture
def wide_dataset(tmp_path):
    """Squares whose actions have three dimensions, five times as large, and whose state has one."""
    writer = DatasetWriter(tmp_path / "wide", 10.0, crf=10)
    for seed in range(3):
        episode = moving_square(seed, 14)
        episode.actions = 5 * np.concatenate([episode.actions, episode.actions[:, :1]], axis=1)
        episode.state = episode.state[:, :1]
        writer.add(seed, episode, "train" if seed < 2 else "test")
    return writer.finalize()


def mixed(*sources: ClipSource) -> ClipDataModule:
    data = ClipDataModule(list(sources), 6, 16, pad_start=0, in_memory=True)
    data.setup()
    return data


def source(path, **options) -> ClipSource:
    return ClipSource(str(path), validation_split="test", **options)


def test_spaces_lie_side_by_side():
    two = Normalizer(np.array([0, 0]), np.array([1, 2]))
    one = Normalizer(np.array([-1]), np.array([3]))
    embodiments, actions, state = side_by_side(["a", "b", "c"], [two, None, one], [None] * 3)
    assert [own.actions for own in embodiments] == [slice(0, 2), slice(2, 2), slice(2, 3)]
    assert state is None
    assert actions is not None
    assert actions.high.tolist() == [1, 2, 3]
    assert part_of(actions, embodiments[2].actions).low.tolist() == [-1]


def test_every_clip_has_its_actions_in_their_place(tiny_dataset, wide_dataset):
    data = mixed(source(tiny_dataset, embodiment="narrow"), source(wide_dataset, embodiment="wide"))
    assert data.action_dim == 5
    assert data.state_dim == 3
    batch = next(iter(data.train_dataloader()))
    wide = batch["embodiment"] == 1
    assert 0 < wide.sum() < 16
    assert not batch["actions"][wide][..., :2].any()
    assert not batch["actions"][~wide][..., 2:].any()
    assert batch["actions"][wide][..., 2:].abs().amax() <= 1
    assert batch["actions"][wide][..., 2].equal(batch["actions"][wide][..., 4])
    assert not batch["state"][wide][..., :2].any()
    assert not batch["state"][~wide][..., 2:].any()
    held_out = next(iter(data.val_dataloader()))
    assert set(held_out["embodiment"].tolist()) == {0, 1}


def test_without_names_all_are_of_the_same(tiny_dataset):
    data = mixed(source(tiny_dataset), source(tiny_dataset, weight=2))
    assert data.action_dim == 2
    assert not next(iter(data.train_dataloader()))["embodiment"].any()


def test_what_does_not_fit_is_explained(tiny_dataset, wide_dataset):
    with pytest.raises(DatasetError, match="Name the 'embodiment' of each"):
        mixed(source(tiny_dataset), source(wide_dataset))
    with pytest.raises(DatasetError, match="has the embodiment 'wide', but those trained on"):
        mixed(
            source(tiny_dataset, embodiment="narrow"),
            source(wide_dataset, embodiment="wide", split=None),
        )


def test_labels_that_were_not_trained_on_are_left_out(tiny_dataset, wide_dataset, tmp_path):
    data = mixed(
        source(tiny_dataset, embodiment="narrow"),
        source(wide_dataset, embodiment="wide", labels=0.0),
    )
    assert data.action_dim == 2
    batch = next(iter(data.val_dataloader()))
    assert not batch["action_mask"][batch["embodiment"] == 1].any()
    assert batch["action_mask"][batch["embodiment"] == 0].all()
