"""Datasets on disk to batches in training, for Lightning: opens, checks, splits and mixes them.

What a clip is stands in `clips.py`, which clips make a batch in `batches.py`.
"""

import logging
import os
from dataclasses import dataclass, replace
from typing import Literal

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader

from video.autoencoder import FrameAutoencoder
from video.batches import ClipBatches
from video.clips import ClipDataset, ClipPart, Clips, count_rows, labelled_rows
from video.episodes import EpisodeDataset, open_dataset
from video.errors import DatasetError
from video.latents import StoredLatents, encode_dataset, find_latents, measure_statistics
from video.resizing import resize_frames
from video.statistics import Normalizer
from video.video_folder import CAMERA

log = logging.getLogger(__name__)


@dataclass
class ClipSource:
    """One dataset of a mixture.

    Attributes:
        path: a LeRobot dataset, or a folder of videos.
        weight: its share of every batch, relative to the other datasets' weights.
        split: name of the split to train on.
        test_split: name of the split never trained on; a dataset without it is only trained on.
        action_free: take it for bare video: no actions, state, rewards or success are read.
        labels: the share of its training episodes, chosen by the seed, that keep their actions,
            state, rewards and success; the others are bare video.
        cameras: its names of the views, in the order of `ClipDataModule`'s `cameras`; None if it
            names them as they are named there.
        latents: folder to which its latents were or shall be encoded, None for its own.
    """

    path: str
    weight: float = 1.0
    split: str = "train"
    test_split: str = "test"
    action_free: bool = False
    labels: float = 1.0
    cameras: list[str] | None = None
    latents: str | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 0 <= self.labels <= 1:
            raise ValueError(f"labels is a share of the episodes, 0 to 1, got {self.labels}")
        if self.weight < 0:
            raise ValueError(f"weight must not be negative, got {self.weight}")


class ClipDataModule(L.LightningDataModule):
    """Clips of one or several datasets, as batches that depend on nothing but seed and step.

    A batch is a dict (see `ClipDataset.__getitem__`). With an autoencoder it holds `latents`: the
    stored ones where every dataset has them, else made on the training device as the batch arrives.
    Without one it holds `frames`.

    Example:
        >>> data = ClipDataModule([ClipSource("video/datasets/metaworld")], clip_frames=8)
        >>> data.setup()
        >>> batch = next(iter(data.train_dataloader()))

    Args:
        datasets: what to train on.
        clip_frames: frames T of a clip.
        batch_size: clips in a global batch: all processes together, before gradient accumulation.
        autoencoder: folder of a `FrameAutoencoder`, or None for pixels.
        stride: dataset frames from one clip frame to the next.
        pad_start: clip frames by which a clip may begin before its episode.
        size: height and width of the frames; None keeps those of the first dataset.
        cameras: views of a clip; None for all cameras of the first dataset.
        fps: frames per second; None for those of the first dataset.
        latents: use stored ones where there are ('auto'), 'never', or 'require' them.
        encode_first: encode what is not encoded yet before training.
        in_memory: decode all frames once into memory, for small datasets trained on in pixels.
        use_bfloat16: run the autoencoder in bfloat16.
        num_workers: processes that load clips; None chooses 0 for stored latents or frames in
            memory, which are faster without, and up to 4 for video files.
        val_clips: clips of the test splits in a validation, the same ones every time.
        seed: of the batches and of the choice of labels.

    Attributes:
        action_dim: size A of an action of a clip, 0 if there are none.
        state_dim: size S of the robot's state, 0 if there is none.
        action_normalizer: measured on the labelled training data; None if there are no actions.
        state_normalizer: likewise.
        task_names: what `task` of a batch counts.
        frame_size: height and width of the frames.
        latent_shape: channels, height and width of the latents, None without an autoencoder.
        train_clips: the training clips.
        test_clips: clips of the test splits, None if no dataset has one.
    """

    def __init__(
        self,
        datasets: list[ClipSource],
        clip_frames: int,
        batch_size: int = 32,
        autoencoder: str | None = None,
        stride: int = 1,
        pad_start: int = 1,
        size: tuple[int, int] | None = None,
        cameras: list[str] | None = None,
        fps: float | None = None,
        latents: Literal["auto", "never", "require"] = "auto",
        encode_first: bool = False,
        in_memory: bool = False,
        use_bfloat16: bool = False,
        num_workers: int | None = None,
        val_clips: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not datasets:
            raise DatasetError("data.datasets is empty: name at least one dataset's path")
        if encode_first and (autoencoder is None or latents == "never"):
            raise ValueError("encode_first needs an autoencoder and latents other than 'never'")
        if in_memory and autoencoder is not None:
            raise ValueError("in_memory is for pixels; with an autoencoder use encode_first")
        self.sources = datasets
        self.clip_frames = clip_frames
        self.batch_size = batch_size
        self.autoencoder_folder = autoencoder
        self.stride = stride
        self.pad_start = pad_start
        self.size = size
        self.camera_names = cameras
        self.wanted_fps = fps
        self.latents = latents
        self.encode_first = encode_first
        self.in_memory = in_memory
        self.use_bfloat16 = use_bfloat16
        self.num_workers = num_workers
        self.val_clips = val_clips
        self.seed = seed
        self._datasets: list[EpisodeDataset] = []
        self._is_set_up = False

    def prepare_data(self) -> None:
        """Encode first if asked to; Lightning calls this in one process of a machine only."""
        if not self.encode_first:
            return
        self._open()
        assert self.autoencoder is not None
        self.autoencoder.to("cuda" if torch.cuda.is_available() else "cpu")
        for source, dataset in self._pairs():
            cameras = self._cameras_of(source, dataset)
            encode_dataset(dataset, self.autoencoder, self.frame_size, cameras, source.latents)
        self.autoencoder.to("cpu")

    def setup(self, stage: str | None = None) -> None:
        """Open the datasets and measure the statistics.

        Raises:
            DatasetError: a dataset, split, camera, frame rate, action size or stored latents that
                do not fit what was asked for.
        """
        if self._is_set_up:
            return
        self._open()
        train = [self._part(*pair, training=True) for pair in self._pairs()]
        self.action_normalizer = self._measure(train, "actions")
        self.state_normalizer = self._measure(train, "state")
        self.task_names = sorted({t for d in self._datasets for t in d.tasks if t})
        pictures = self._pictures()
        self.train_clips = self._clips(train, pictures)
        self.action_dim = self.train_clips.action_dim
        self.state_dim = self.train_clips.state_dim
        tested = [
            number
            for number, (source, dataset) in enumerate(self._pairs())
            if len(dataset.splits.get(source.test_split, ()))
        ]
        test = [self._part(*self._pairs()[number], training=False) for number in tested]
        self.test_clips = self._clips(test, [pictures[n] for n in tested]) if tested else None
        if not tested:
            log.warning(
                "no dataset has a split %r: nothing is validated", self.sources[0].test_split
            )
        self._test_weights = [self.sources[number].weight for number in tested]
        self._is_set_up = True

    def train_dataloader(self) -> DataLoader:
        """Endless variety, one epoch: it is as long as the trainer's `max_steps`."""
        trainer = self.trainer
        windows = self.train_clips.windows_per_part
        steps = max(1, sum(windows) // self.batch_size)
        if trainer is not None and trainer.max_steps > 0:
            steps = trainer.max_steps * trainer.accumulate_grad_batches
        batches = ClipBatches(
            windows,
            [source.weight for source in self.sources],
            self.batch_size,
            steps,
            self.seed,
            *self._rank_and_world_size(),
            start=self._next_step,
        )
        return self._loader(self.train_clips, batches)

    def val_dataloader(self) -> DataLoader | list:
        """The same clips of the test splits every time."""
        if self.test_clips is None:
            return []
        batches = ClipBatches(
            self.test_clips.windows_per_part,
            self._test_weights,
            self.batch_size,
            -(-self.val_clips // self.batch_size),
            0,
            *self._rank_and_world_size(),
        )
        return self._loader(self.test_clips, batches)

    def on_after_batch_transfer(self, batch: Clips, dataloader_idx: int) -> Clips:
        """Encode frames on the device where they arrived, as exactly as stored latents are."""
        if self.autoencoder is None or "frames" not in batch:
            return batch
        frames = batch.pop("frames")
        latents = self.autoencoder.to(frames.device).encode(frames)
        return batch | {"latents": latents.half().float()}

    def _pairs(self) -> list[tuple[ClipSource, EpisodeDataset]]:
        return list(zip(self.sources, self._datasets, strict=True))

    def _open(self) -> None:
        """Datasets, frame size and autoencoder; once."""
        if self._datasets:
            return
        fps = self.wanted_fps
        for source in self.sources:
            self._datasets.append(open_dataset(source.path, fps))
            fps = fps or self._datasets[0].fps
        first = self._datasets[0]
        self.fps = first.fps
        self.cameras = tuple(self.camera_names or self.sources[0].cameras or first.cameras)
        self.frame_size = self.size or first.frame_shape(self._cameras_of(*self._pairs()[0])[0])
        self.autoencoder: FrameAutoencoder | None = None
        self.latent_shape: tuple[int, int, int] | None = None
        if self.autoencoder_folder is not None:
            self.autoencoder = FrameAutoencoder.from_pretrained(
                self.autoencoder_folder, self.use_bfloat16
            )
            self.latent_shape = self.autoencoder.latent_shape(*self.frame_size)
            if self.autoencoder.mean is None:
                measure_statistics(
                    self.autoencoder,
                    first,
                    _episodes(self.sources[0], first, training=True),
                    self.frame_size,
                    self._cameras_of(*self._pairs()[0])[0],
                )

    def _cameras_of(self, source: ClipSource, dataset: EpisodeDataset) -> tuple[str, ...]:
        """A dataset's own names of the clips' views."""
        names = tuple(source.cameras or self.cameras)
        if dataset.cameras == (CAMERA,) and len(self.cameras) == 1:
            names = (CAMERA,)  # bare video files do not name their view
        missing = [name for name in names if name not in dataset.cameras]
        if missing or len(names) != len(self.cameras):
            raise DatasetError(
                f"{dataset.path} has the cameras {list(dataset.cameras)}; clips of "
                f"{list(self.cameras)} need {list(names)} of it. Choose views by data.cameras, or "
                "name this dataset's by 'cameras' beside its path, one for each view."
            )
        return names

    def _part(self, source: ClipSource, dataset: EpisodeDataset, training: bool) -> ClipPart:
        """The episodes of a split, and which of them may show their labels."""
        episodes = _episodes(source, dataset, training)
        labelled = np.zeros(len(dataset.lengths), bool)
        if not source.action_free:
            kept = len(episodes)
            if training and source.labels < 1:
                kept = int(np.ceil(source.labels * len(episodes)))
            shuffled = np.random.default_rng(self.seed).permutation(episodes)
            labelled[shuffled[:kept]] = True
        return ClipPart(dataset, episodes, labelled, self._cameras_of(source, dataset))

    def _measure(self, parts: list[ClipPart], column: str) -> Normalizer | None:
        """Range of actions or state over the labelled training data of all datasets."""
        tables: list[np.ndarray] = []
        sizes: dict[str, int] = {}
        for part in parts:
            known = labelled_rows(part, column)
            if column == "actions":
                # the action of an episode's last frame leads out of it, and is often padding
                known[part.dataset.starts + part.dataset.lengths - 1] = False
            if known.any():
                tables.append(part.dataset.columns[column][known])
                sizes[str(part.dataset.path)] = tables[-1].shape[1]
        if not tables:
            return None
        if len(set(sizes.values())) > 1:
            listed = ", ".join(f"{path}: {size}" for path, size in sizes.items())
            raise DatasetError(
                f"the datasets' {column} differ in size ({listed}), so one model cannot use them "
                "together. Set 'action_free: true' beside the path of those to use as bare video."
            )
        return Normalizer.fit(np.concatenate(tables))

    def _pictures(self) -> list[list[np.ndarray] | list[StoredLatents] | None]:
        """For every dataset its stored latents or all its frames; None where video is decoded."""
        if self.in_memory:
            return [self._all_frames(*pair) for pair in self._pairs()]
        nothing: list = [None] * len(self._datasets)
        if self.autoencoder is None or self.latents == "never":
            return nothing
        found = [
            find_latents(
                dataset,
                self.autoencoder,
                self.frame_size,
                self._cameras_of(source, dataset),
                source.latents,
            )
            for source, dataset in self._pairs()
        ]
        missing = [str(d.path) for d, f in zip(self._datasets, found, strict=True) if f is None]
        if not missing:
            return list(found)
        if self.latents == "require":
            raise DatasetError(
                f"no latents of {self.autoencoder_folder} at {self.frame_size[0]}x"
                f"{self.frame_size[1]} are stored for {', '.join(missing)}. Run 'python -m video "
                "encode', or set data.encode_first, or data.latents to 'auto'."
            )
        if len(missing) < len(found):
            log.warning("not encoded yet, so latents are made as batches arrive: %s", missing)
        return nothing

    def _all_frames(self, source: ClipSource, dataset: EpisodeDataset) -> list[np.ndarray]:
        """Every camera's frames, uint8 `(N, 3, H, W)`."""
        views = []
        for camera in self._cameras_of(source, dataset):
            frames = np.zeros((count_rows(dataset), 3, *self.frame_size), np.uint8)
            for episode, (start, length) in enumerate(
                zip(dataset.starts, dataset.lengths, strict=True)
            ):
                decoded = dataset.read_frames(episode, np.arange(length), camera)
                frames[start : start + length] = resize_frames(decoded, self.frame_size)
            views.append(frames)
        return views

    def _clips(self, parts: list[ClipPart], pictures: list) -> ClipDataset:
        return ClipDataset(
            [replace(part, pictures=p) for part, p in zip(parts, pictures, strict=True)],
            self.clip_frames,
            self.frame_size,
            self.stride,
            self.pad_start,
            self.action_normalizer,
            self.state_normalizer,
            self.task_names,
        )

    def _loader(self, clips: ClipDataset, batches: ClipBatches) -> DataLoader:
        workers = self.num_workers
        if workers is None:
            stored = clips.parts[0].pictures is not None
            workers = 0 if stored else min(4, os.cpu_count() or 1)
        return DataLoader(
            clips,
            batch_size=None,
            sampler=batches,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def _rank_and_world_size(self) -> tuple[int, int]:
        trainer = self.trainer
        return (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)

    def _next_step(self) -> int:
        """The batch to go on with; Lightning restores its step before it iterates."""
        trainer = self.trainer
        return 0 if trainer is None else trainer.global_step * trainer.accumulate_grad_batches


def _episodes(source: ClipSource, dataset: EpisodeDataset, training: bool) -> np.ndarray:
    """Episodes of the training or the test split, never one that is in both."""
    name = source.split if training else source.test_split
    if name not in dataset.splits or not len(dataset.splits[name]):
        raise DatasetError(
            f"{dataset.path} has no episodes in split {name!r}; there are "
            f"{ {split: len(episodes) for split, episodes in dataset.splits.items()} }. "
            "Name one of them as 'split' beside the dataset's path."
        )
    episodes = np.asarray(dataset.splits[name])
    if training and source.test_split != source.split:
        held_out = dataset.splits.get(source.test_split, np.empty(0, np.int64))
        shared = np.intersect1d(episodes, held_out)
        if len(shared):
            raise DatasetError(
                f"{dataset.path}: {len(shared)} episodes are in split {name!r} and in the held-out "
                f"split {source.test_split!r}. Training on them would spoil every evaluation."
            )
    return episodes
