import logging
import pickle
from pathlib import Path

import lightning as L
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from tiny_autoencoders import tiny_autoencoder
from torch import Tensor

from video.clip_sources import open_sources
from video.clips import ClipDataset, Clips
from video.datamodule import ClipDataModule, ClipSource
from video.episodes import Episode, open_dataset
from video.errors import DatasetError
from video.splits import keep_labels, training_part, validation_part
from video.writer import DatasetWriter


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("autoencoder")
    tiny_autoencoder().save_pretrained(folder)
    return str(folder)


def opened(*sources: ClipSource | Path, **options) -> ClipDataModule:
    listed = [s if isinstance(s, ClipSource) else ClipSource(str(s)) for s in sources]
    data = ClipDataModule(listed, **({"clip_frames": 5, "batch_size": 8} | options))
    data.prepare_data()
    data.setup()
    return data


def first_batches(data: ClipDataModule, count: int = 3) -> list[Clips]:
    return [
        data.on_after_batch_transfer(batch, 0)
        for batch, _ in zip(data.train_dataloader(), range(count), strict=False)
    ]


def assert_same(first: list[Clips], second: list[Clips], tolerance: float = 0.0) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            torch.testing.assert_close(one[name], other[name], atol=tolerance, rtol=0, msg=name)


def write_dataset(
    path: Path,
    action_size: int,
    camera: str = "top",
    length: int = 12,
    splits: tuple[str, ...] = ("train", "train", "validation", "test"),
) -> Path:
    writer = DatasetWriter(path, 10.0)
    for number, split in enumerate(splits):
        frames = np.full((length, 32, 32, 3), 40 * number, np.uint8)
        actions = np.full((length, action_size), number, np.float32)
        actions[-1] = 1000  # leads out of the episode
        writer.add(number, Episode({camera: frames}, actions, state=actions), split)
    return writer.finalize()


def test_what_a_model_needs_to_know(tiny_dataset, tiny_videos, autoencoder):
    data = opened(tiny_dataset, tiny_videos, autoencoder=autoencoder, latents="never")
    assert (data.action_dim, data.state_dim, data.fps) == (2, 2, 10.0)
    assert data.task_names == ["left", "right"]
    assert data.cameras == ("top",)
    assert data.frame_size == (32, 32)
    assert data.latent_shape == (4, 8, 8)
    (batch,) = first_batches(data, 1)
    assert batch["latents"].shape == (8, 5, 1, 4, 8, 8)
    assert "frames" not in batch


def test_labelled_and_bare_video_in_one_batch(tiny_dataset, tiny_videos):
    data = opened(ClipSource(str(tiny_dataset), weight=1.0), ClipSource(str(tiny_videos), 3.0))
    batches = first_batches(data, 20)
    bare = torch.cat([batch["episode"] for batch in batches]) >= 3
    assert 0.6 < bare.float().mean() < 0.9
    labelled = torch.cat([batch["action_mask"][:, -1] for batch in batches])
    assert torch.equal(labelled, ~bare)
    assert batches[0]["frames"].shape == (8, 5, 1, 3, 32, 32)
    assert "numbered" not in data.train_clips.episode_name(0)
    assert data.train_clips.episode_name(3) == f"{tiny_videos}, episode 0"


def test_statistics_are_those_of_labelled_training_data(tmp_path):
    data = opened(write_dataset(tmp_path / "data", action_size=2))
    assert data.action_normalizer is not None
    # held-out actions are 2 and 3, an action that leads out of its episode is 1000
    np.testing.assert_array_equal(data.action_normalizer.low, [0, 0])
    np.testing.assert_array_equal(data.action_normalizer.high, [1, 1])
    held_out = next(iter(data.val_dataloader()))
    assert held_out["actions"][held_out["action_mask"]].unique().tolist() == [3.0]


def test_a_share_of_the_labels(tiny_dataset):
    half = opened(ClipSource(str(tiny_dataset), labels=0.5), seed=1)
    labelled = {e for b in first_batches(half, 20) for e in b["episode"][b["action_mask"][:, -1]]}
    assert len({int(episode) for episode in labelled}) == 2  # of 3, rounded up
    again = opened(ClipSource(str(tiny_dataset), labels=0.5), seed=1)
    assert_same(first_batches(half), first_batches(again))
    none = opened(ClipSource(str(tiny_dataset), labels=0.0))
    assert none.action_dim == 0
    assert not first_batches(none, 1)[0]["action_mask"].any()
    bare = opened(ClipSource(str(tiny_dataset), action_free=True))
    assert bare.action_normalizer is None
    for name in ("action_mask", "state_mask", "reward_mask", "success_mask"):
        assert not first_batches(bare, 1)[0][name].any()


def test_episodes_without_labels_can_be_left_out(tiny_dataset):
    shared = ClipSource(str(tiny_dataset), labels=0.5)
    dropped = ClipSource(str(tiny_dataset), labels=0.5, drop_unlabelled=True)
    kept, used = (opened(source, seed=1).train_clips.parts[0] for source in (shared, dropped))
    np.testing.assert_array_equal(used.episodes, np.flatnonzero(kept.labelled))
    assert len(used.episodes) == 2
    np.testing.assert_array_equal(used.labelled, kept.labelled)
    with pytest.raises(DatasetError, match=r"'labels: 0.0' keeps no label"):
        opened(ClipSource(str(tiny_dataset), labels=0.0, drop_unlabelled=True))


def test_a_larger_share_of_the_labels_keeps_those_of_a_smaller_one():
    episodes = np.arange(100, 200)
    few, many = keep_labels(episodes, 0.1, seed=3), keep_labels(episodes, 0.5, seed=3)
    assert (len(few), len(many)) == (10, 50)
    assert set(few) < set(many)
    assert set(few) != set(keep_labels(episodes, 0.1, seed=4))
    assert len(keep_labels(episodes, 0.001, seed=0)) == 1


def test_stored_latents_give_the_batches_of_encoding_on_the_fly(
    tiny_dataset, tiny_videos, autoencoder, tmp_path
):
    def sources() -> list[ClipSource]:
        return [
            ClipSource(str(path), latents=str(tmp_path / path.name))
            for path in (tiny_dataset, tiny_videos)
        ]

    fly = opened(*sources(), autoencoder=autoencoder, num_workers=0)
    stored = opened(*sources(), autoencoder=autoencoder, encode_first=True, latents="require")
    assert stored.train_dataloader().num_workers == 0
    assert "frames" in next(iter(fly.train_dataloader()))
    assert "latents" in next(iter(stored.train_dataloader()))
    assert_same(first_batches(fly), first_batches(stored), tolerance=1e-3)


def test_missing_latents(tiny_dataset, tiny_videos, autoencoder, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    encoded = ClipSource(str(tiny_dataset), latents=str(tmp_path / "a"))
    opened(encoded, autoencoder=autoencoder, encode_first=True)
    bare = ClipSource(str(tiny_videos), latents=str(tmp_path / "b"))
    with pytest.raises(DatasetError, match=rf"stored for {tiny_videos}\. Run 'python -m video enc"):
        opened(encoded, bare, autoencoder=autoencoder, latents="require")
    caplog.clear()
    batch = first_batches(opened(encoded, bare, autoencoder=autoencoder), 1)[0]
    assert "latents" in batch
    assert "not encoded yet" in caplog.text
    assert str(tiny_videos) in caplog.text


def test_autoencoder_without_statistics_is_measured(tiny_dataset, tmp_path):
    folder = tmp_path / "autoencoder"
    tiny_autoencoder().save_pretrained(folder)
    (folder / "latents.json").write_text('{"pixel_fold": 4}')
    first, second = (
        opened(tiny_dataset, autoencoder=str(folder), latents="never").autoencoder for _ in "ab"
    )
    assert first is not None
    assert second is not None
    assert first.mean is not None
    assert first.fingerprint == second.fingerprint


def test_workers_and_memory_change_nothing(tiny_dataset, tiny_videos):
    alone = first_batches(opened(tiny_dataset, tiny_videos, num_workers=0))
    assert_same(first_batches(opened(tiny_dataset, tiny_videos, num_workers=2)), alone)
    assert_same(first_batches(opened(tiny_dataset, tiny_videos, in_memory=True)), alone)
    assert not torch.equal(
        first_batches(opened(tiny_dataset, tiny_videos, seed=1), 1)[0]["start"], alone[0]["start"]
    )


def test_validation_is_the_same_every_time_and_held_out(tmp_path, tiny_videos):
    dataset = write_dataset(tmp_path / "data", 2)
    data = opened(dataset, tiny_videos, clips_per_validation=20, num_workers=0)
    loader = data.val_dataloader()
    assert len(loader) == 3  # whole batches of 8
    batches = list(loader)
    held_out = int(open_dataset(dataset).splits["validation"][0])
    assert used_episodes(data.validation_clips) == [f"{dataset}, episode {held_out}"]
    assert {int(episode) for batch in batches for episode in batch["episode"]} == {0}
    again = opened(dataset, seed=5, clips_per_validation=20, num_workers=0)
    assert_same(batches, list(again.val_dataloader()))


def used_episodes(clips: ClipDataset | None) -> list[str]:
    assert clips is not None
    return [clips.episode_name(n) for n in range(sum(len(p.episodes) for p in clips.parts))]


def test_the_test_split_is_used_for_nothing(tmp_path):
    dataset = write_dataset(tmp_path / "data", 2)
    data = opened(dataset)
    used = used_episodes(data.train_clips) + used_episodes(data.validation_clips)
    (test,) = open_dataset(dataset).splits["test"]
    assert used == [f"{dataset}, episode {number}" for number in range(4) if number != test]


@pytest.mark.parametrize("config", ["uwm", "autoencoder"])
def test_the_default_datasets_test_split_is_used_for_nothing(config, monkeypatch):
    root = Path(__file__).parents[2]
    data = yaml.safe_load((root / "configs" / f"{config}.yaml").read_text())["data"]["init_args"]
    monkeypatch.chdir(root)
    sources = open_sources([ClipSource(**source) for source in data["datasets"]]).sources
    default = sources[0]
    used = [training_part(source, 0) for source in sources if source.source.split is not None]
    validated = [part for part in map(validation_part, sources) if part is not None]
    assert [part.dataset.path.name for part in validated] == ["metaworld_validation"]
    assert len(default.dataset.splits["test"]) == 72
    assert not set(default.dataset.splits["test"]) & set(used[0].episodes)


def test_without_a_validation_split_nothing_is_validated(tiny_dataset, tiny_videos, caplog):
    for dataset in (tiny_dataset, tiny_videos):
        data = opened(dataset)
        assert data.validation_clips is None
        assert data.val_dataloader() == []
        assert "no dataset has a split to validate on ('validation')" in caplog.text
        caplog.clear()


@pytest.mark.parametrize("first", [True, False])
def test_a_dataset_that_is_only_validated_on(tmp_path, tiny_dataset, autoencoder, first):
    path = write_dataset(tmp_path / "held_out", 2, splits=("validation", "validation"))
    held_out = ClipSource(str(path), split=None, weight=7.0)
    train = ClipSource(str(tiny_dataset), latents=str(tmp_path / "latents"))
    sources = [held_out, train] if first else [train, held_out]
    data = opened(*sources, autoencoder=autoencoder, encode_first=True, latents="require")
    alone = opened(train, autoencoder=autoencoder, latents="require")
    assert_same(first_batches(data), first_batches(alone))
    assert data.action_normalizer is not None
    assert alone.action_normalizer is not None
    np.testing.assert_array_equal(data.action_normalizer.low, alone.action_normalizer.low)
    assert data.task_names == alone.task_names == ["left", "right"]
    assert used_episodes(data.validation_clips) == [f"{path}, episode {n}" for n in (0, 1)]
    batch = next(iter(data.val_dataloader()))
    assert batch["latents"].shape == (8, 5, 1, 4, 8, 8)
    assert batch["action_mask"].any()


def test_what_cannot_be_validated_on_is_refused(tmp_path, tiny_dataset):
    other = str(write_dataset(tmp_path / "other", 3, splits=("validation", "train")))
    with pytest.raises(DatasetError, match=r"squares: 2, .*other: 3.*action_free: true"):
        opened(tiny_dataset, ClipSource(other, split=None))
    opened(tiny_dataset, ClipSource(other, split=None, action_free=True))
    with pytest.raises(DatasetError, match=r"no episodes in split 'validation'.*'split: null'"):
        opened(other, ClipSource(str(tiny_dataset), split=None))
    with pytest.raises(DatasetError, match="other is trained on"):
        opened(ClipSource(other, split=None))


def test_what_is_not_finite_is_unknown(tmp_path, caplog):
    path = write_dataset(tmp_path / "data", 2)
    table = next((path / "data").rglob("*.parquet"))
    content = pq.read_table(table)
    values = content["action"].to_pylist()
    values[1][0] = float("nan")
    place = content.column_names.index("action")
    changed = pa.array(values, type=content["action"].type)
    pq.write_table(content.set_column(place, content.field(place), changed), table)
    data = opened(path)
    assert "1 of" in caplog.text
    assert "not finite and count as unknown" in caplog.text
    clips = data.train_clips
    assert np.isfinite(clips._columns["actions"]).all()
    assert not clips._known["actions"][1]


def test_size_is_cropped_and_resized(tiny_dataset):
    data = opened(tiny_dataset, size=(8, 16))
    assert next(iter(data.train_dataloader()))["frames"].shape == (8, 5, 1, 3, 8, 16)


def test_views_can_be_renamed(tmp_path):
    first = write_dataset(tmp_path / "first", 2, camera="top")
    second = write_dataset(tmp_path / "second", 2, camera="front")
    with pytest.raises(DatasetError, match=r"second has the cameras \['front'\].*\['top'\]"):
        opened(first, second)
    data = opened(first, ClipSource(str(second), cameras=["front"]))
    assert data.cameras == ("top",)
    with pytest.raises(DatasetError, match=r"need \['wrist'\] of it"):
        opened(first, cameras=["wrist"])


def test_actions_of_different_size_need_action_free(tmp_path):
    first = write_dataset(tmp_path / "first", 2)
    second = write_dataset(tmp_path / "second", 3)
    with pytest.raises(DatasetError, match=r"first: 2, .*second: 3.*action_free: true"):
        opened(first, second)
    assert opened(first, ClipSource(str(second), action_free=True)).action_dim == 2


def test_what_cannot_be_is_refused(tiny_dataset, tmp_path, autoencoder):
    with pytest.raises(
        DatasetError, match=r"no episodes in split 'training'; there are \{ ?'train"
    ):
        opened(ClipSource(str(tiny_dataset), split="training"))
    with pytest.raises(DatasetError, match="a clip of 99 frames"):
        opened(tiny_dataset, clip_frames=99)
    with pytest.raises(DatasetError, match="10 fps"):
        opened(tiny_dataset, fps=15)
    with pytest.raises(DatasetError, match=r"data\.datasets is empty"):
        opened()
    with pytest.raises(ValueError, match="0 to 1, got 7"):
        ClipSource("x", labels=7)
    with pytest.raises(ValueError, match="encode_first needs"):
        opened(tiny_dataset, encode_first=True)
    with pytest.raises(ValueError, match="in_memory is for pixels"):
        opened(tiny_dataset, in_memory=True, autoencoder=autoencoder)


@pytest.mark.parametrize(
    ("split", "held_out"),
    [("train", "test"), ("train", "validation"), ("validation", "test")],
)
def test_splits_that_overlap_are_refused(tmp_path, split, held_out):
    (source,) = open_sources([ClipSource(str(write_dataset(tmp_path / "data", 2)))]).sources
    source.dataset.splits[split] = np.array([0, *source.dataset.splits[held_out]])
    with pytest.raises(
        DatasetError, match=f"1 episodes are in split '{split}' and in the held-out.*'{held_out}'"
    ):
        training_part(source, 0) if split == "train" else validation_part(source)


def test_clips_survive_pickling(tiny_dataset, autoencoder, tmp_path):
    source = ClipSource(str(tiny_dataset), latents=str(tmp_path))
    clips = opened(source, autoencoder=autoencoder, encode_first=True).train_clips
    copy = pickle.loads(pickle.dumps(clips))
    assert_same([copy[[0, 9]]], [clips[[0, 9]]])


class Recorder(L.LightningModule):
    """Notes which clips it is given, and trains something with them."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, ...]] = []

    def training_step(self, batch: Clips, batch_idx: int) -> Tensor:
        self.seen.append(tuple((batch["episode"] * 1000 + batch["start"]).tolist()))
        return (self.weight - 1) ** 2

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Validated(Recorder):
    """Counts its validation batches as well."""

    validations = 0

    def validation_step(self, batch: Clips, batch_idx: int) -> None:
        self.validations += 1


def trained(
    dataset: Path, folder: Path, steps: int, resume: str | None = None, **options
) -> list[tuple[int, ...]]:
    recorder = Recorder()
    trainer = L.Trainer(
        max_steps=steps,
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        **options,
    )
    trainer.fit(recorder, opened(dataset, num_workers=0), ckpt_path=resume)
    trainer.save_checkpoint(folder / "last.ckpt")
    return recorder.seen


@pytest.mark.filterwarnings("ignore:.*isinstance.treespec:FutureWarning")
@pytest.mark.filterwarnings("ignore:The '.*dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero")
@pytest.mark.parametrize("labelled", [True, False])
def test_validation_where_there_is_something_held_out(tiny_dataset, tiny_videos, labelled):
    recorder = Validated()
    trainer = L.Trainer(
        max_steps=4,
        val_check_interval=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    source = ClipSource(str(tiny_dataset if labelled else tiny_videos), validation_split="test")
    trainer.fit(recorder, opened(source, clips_per_validation=16, num_workers=0))
    assert len(recorder.seen) == 4
    assert trainer.num_training_batches == 4
    assert recorder.validations == (2 * 2 if labelled else 0)


@pytest.mark.filterwarnings("ignore:.*isinstance.treespec:FutureWarning")
@pytest.mark.filterwarnings("ignore:The '.*dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before")
@pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader`")
@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_resumed_training_sees_the_batches_it_would_have_seen(tiny_dataset, tmp_path, accumulate):
    options = {"accumulate_grad_batches": accumulate}
    whole = trained(tiny_dataset, tmp_path / "whole", 6, **options)
    assert len(whole) == 6 * accumulate
    assert len(set(whole)) == len(whole)
    first = trained(tiny_dataset, tmp_path / "part", 2, **options)
    last = str(tmp_path / "part" / "last.ckpt")
    assert first + trained(tiny_dataset, tmp_path / "part", 6, last, **options) == whole


def test_an_episode_that_cannot_be_decoded_is_left_out(tmp_path, autoencoder, caplog, monkeypatch):
    path = write_dataset(tmp_path / "data", 2)
    dataset_class = type(open_dataset(path))
    read_frames = dataset_class.read_frames

    def damaged(self, episode, indices, camera):
        if episode == 1:
            raise DatasetError("file-000.mp4 is damaged")
        return read_frames(self, episode, indices, camera)

    monkeypatch.setattr(dataset_class, "read_frames", damaged)
    for _ in range(2):  # encoding, and with what is stored then
        data = opened(path, autoencoder=autoencoder, encode_first=True)
        (part,) = data.train_clips.parts
        assert part.episodes.tolist() == [0]
        assert len(first_batches(data, 1)) == 1
    assert caplog.text.count("episode 1 is left out: file-000.mp4 is damaged") == 1
    assert "1 of 2 episodes cannot be decoded" in caplog.text
    monkeypatch.setattr(dataset_class, "read_frames", lambda self, *_: damaged(self, 1, *_[1:]))
    whole = write_dataset(tmp_path / "none", 2)
    with pytest.raises(DatasetError, match="no video of camera 'top' can be decoded"):
        opened(whole, autoencoder=autoencoder, encode_first=True)
