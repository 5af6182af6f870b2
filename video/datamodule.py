"""Datasets on disk to batches in training, for Lightning.

Here the parts are put together: `clip_sources.py` opens the datasets, `splits.py` chooses episodes
and labels, `stored_pictures.py` finds latents, `clips.py` cuts clips and `batches.py` mixes them.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader

from video.autoencoder import FrameAutoencoder
from video.batches import ClipBatches
from video.clip_sources import ClipSource, Mixture, open_sources
from video.clips import ClipDataset, ClipPart, Clips, Pictures
from video.errors import DatasetError
from video.latents import StoredLatents, encode_dataset, measure_statistics
from video.splits import fit_embodiments, training_episodes, training_part, validation_part
from video.stored_pictures import all_frames, all_stored_latents

log = logging.getLogger(__name__)


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
        datasets: what to train and validate on.
        clip_frames: frames T of a clip.
        batch_size: clips in a global batch: all processes together, before gradient accumulation.
        autoencoder: folder of a `FrameAutoencoder`, or None for pixels.
        stride: dataset frames from one clip frame to the next.
        pad_start: clip frames by which a clip may begin before its episode.
        size: height and width of the frames; None keeps those of the first dataset trained on.
        cameras: views of a clip; None for all cameras of the first dataset trained on.
        fps: frames per second; None for those of the first dataset trained on.
        latents: use stored ones where there are ('auto'), 'never', or 'require' them.
        encode_first: encode what is not encoded yet before training.
        in_memory: decode all frames once into memory, for small datasets trained on in pixels.
        use_bfloat16: run the autoencoder in bfloat16.
        num_workers: processes that load clips; None chooses 0 for stored latents or frames in
            memory, which are faster without, and up to 4 for video files.
        clips_per_validation: clips of the validation splits, the same ones every time.
        seed: of the batches and of the choice of labels.

    Attributes:
        action_dim: size A of an action of a clip, 0 if there are none.
        state_dim: size S of the robot's state, 0 if there is none.
        action_normalizer: measured on the labelled training data; None if there are no actions.
        state_normalizer: likewise.
        embodiments: what `embodiment` of a batch counts; a single one unless the sources name them.
        fps: frames per second.
        cameras: names of the clips' views.
        task_names: what `task` of a batch counts.
        frame_size: height and width of the frames.
        latent_shape: channels, height and width of the latents, None without an autoencoder.
        train_clips: the training clips.
        validation_clips: clips of the validation splits, None if no dataset has one.
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
        clips_per_validation: int = 128,
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
        self.clips_per_validation = clips_per_validation
        self.seed = seed
        self._mixture: Mixture | None = None
        self._is_set_up = False

    def prepare_data(self) -> None:
        """Encode first if asked to; Lightning calls this in one process of a machine only."""
        if not self.encode_first:
            return
        mixture = self._open()
        assert self.autoencoder is not None
        self.autoencoder.to("cuda" if torch.cuda.is_available() else "cpu")
        for opened in mixture.sources:
            folder = opened.source.latents
            encode_dataset(
                opened.dataset, self.autoencoder, self.frame_size, opened.cameras, folder
            )
        self.autoencoder.to("cpu")

    def setup(self, stage: str | None = None) -> None:
        """Open the datasets and measure the statistics.

        Raises:
            DatasetError: a dataset, split, camera, frame rate, action size or stored latents that
                do not fit what was asked for.
        """
        if self._is_set_up:
            return
        mixture = self._open()
        numbered = list(enumerate(mixture.sources))
        train = {
            n: training_part(opened, self.seed)
            for n, opened in numbered
            if opened.source.split is not None
        }
        held_out = {n: validation_part(opened) for n, opened in numbered}
        validation = {n: part for n, part in held_out.items() if part is not None}
        parts = list(train.values()), list(validation.values())
        fitted = fit_embodiments(*parts)
        self.embodiments, self.action_normalizer, self.state_normalizer = fitted
        self.task_names = sorted({t for part in parts[0] for t in part.dataset.tasks if t})
        pictures = self._pictures(mixture)
        self.train_clips = self._clips(train, pictures)
        self.action_dim = self.train_clips.action_dim
        self.state_dim = self.train_clips.state_dim
        self._train_weights = [self.sources[n].weight for n in train]
        self.validation_clips = self._clips(validation, pictures) if validation else None
        self._validation_weights = [self.sources[n].weight for n in validation]
        if not validation:
            log.warning(
                "no dataset has a split to validate on (%s): nothing is validated",
                ", ".join(sorted({repr(source.validation_split) for source in self.sources})),
            )
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
            self._train_weights,
            self.batch_size,
            steps,
            self.seed,
            *self._rank_and_world_size(),
            start=self._next_step,
        )
        return self._loader(self.train_clips, batches)

    def state_dataloader(self, steps: int, batch_size: int) -> DataLoader:
        """So many batches of those datasets that know the robot's state, by their weights.

        For networks that learn the state alone, beside a training run: all on one process.
        """
        clips = self.train_clips
        known = zip(self._train_weights, clips.parts_with("state"), strict=True)
        weights = [weight * knows for weight, knows in known]
        batches = ClipBatches(clips.windows_per_part, weights, batch_size, steps, self.seed)
        return self._loader(clips, batches)

    def val_dataloader(self) -> DataLoader | list:
        """The same clips of the validation splits every time."""
        if self.validation_clips is None:
            return []
        batches = ClipBatches(
            self.validation_clips.windows_per_part,
            self._validation_weights,
            self.batch_size,
            -(-self.clips_per_validation // self.batch_size),
            0,
            *self._rank_and_world_size(),
        )
        return self._loader(self.validation_clips, batches)

    def on_after_batch_transfer(self, batch: Clips, dataloader_idx: int) -> Clips:
        """Encode frames on the device where they arrived, as exactly as stored latents are."""
        if self.autoencoder is None:
            return batch
        for name, encoded in (("frames", "latents"), ("first_frames", "first_latents")):
            if name in batch:
                frames = batch.pop(name)
                latents = self.autoencoder.to(frames.device).encode(frames)
                batch[encoded] = latents.half().float()
        return batch

    def show_first_frames(self, shown: bool = True, late_starts: float = 0.0) -> None:
        """Let every clip come with the first frame of its episode; behind `setup`.

        `late_starts` is that of `ClipDataset`, for the training clips.
        """
        for clips, late in ((self.train_clips, late_starts), (self.validation_clips, 0.0)):
            if clips is not None:
                clips.first_frames, clips.late_starts = shown, late

    def show_history(self, steps: int) -> None:
        """Let every clip come with that many steps before it (`ClipDataset`); behind `setup`."""
        for clips in (self.train_clips, self.validation_clips):
            if clips is not None:
                clips.history = steps

    def _open(self) -> Mixture:
        """Datasets, frame size and autoencoder; once."""
        if self._mixture is not None:
            return self._mixture
        mixture = open_sources(self.sources, self.camera_names, self.wanted_fps)
        first = mixture.trained_on[0]
        self.fps, self.cameras = mixture.fps, mixture.cameras
        self.frame_size = self.size or first.dataset.frame_shape(first.cameras[0])
        self.autoencoder: FrameAutoencoder | None = None
        self.latent_shape: tuple[int, int, int] | None = None
        if self.autoencoder_folder is not None:
            self.autoencoder = FrameAutoencoder.from_pretrained(
                self.autoencoder_folder, self.use_bfloat16
            )
            try:
                self.latent_shape = self.autoencoder.latent_shape(*self.frame_size)
            except ValueError as error:
                raise DatasetError(
                    f"{self.autoencoder_folder}: {error} Set data.size to bring frames to one that "
                    "it takes."
                ) from error
            if self.autoencoder.mean is None:
                measure_statistics(
                    self.autoencoder,
                    first.dataset,
                    training_episodes(first),
                    self.frame_size,
                    first.cameras[0],
                )
        self._mixture = mixture
        return mixture

    def _pictures(self, mixture: Mixture) -> Sequence[Sequence[Pictures] | None]:
        """For every source its stored latents or all its frames; None where video is decoded."""
        if self.in_memory:
            return [all_frames(opened, self.frame_size) for opened in mixture.sources]
        if self.autoencoder is not None and self.latents != "never":
            required = self.latents == "require"
            stored = all_stored_latents(
                mixture.sources, self.autoencoder, self.frame_size, required
            )
            if stored is not None:
                return stored
        return [None] * len(mixture.sources)

    def _clips(
        self, parts: dict[int, ClipPart], pictures: Sequence[Sequence[Pictures] | None]
    ) -> ClipDataset:
        """Clips of parts, given by the number of their source."""
        return ClipDataset(
            [_with_pictures(part, pictures[n]) for n, part in parts.items()],
            self.clip_frames,
            self.frame_size,
            self.stride,
            self.pad_start,
            self.action_normalizer,
            self.state_normalizer,
            self.task_names,
            self.embodiments,
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


def _with_pictures(part: ClipPart, pictures: Sequence[Pictures] | None) -> ClipPart:
    """A part with what is stored of it, without the episodes that could not be decoded."""
    stored = [one for one in pictures or () if isinstance(one, StoredLatents)]
    unreadable = [episode for one in stored for episode in one.unreadable]
    if not unreadable:
        return replace(part, pictures=pictures)
    left = part.episodes[~np.isin(part.episodes, unreadable)]
    log.warning(
        "%s: %d of %d episodes cannot be decoded and are left out",
        *(part.dataset.path, len(part.episodes) - len(left), len(part.episodes)),
    )
    return replace(part, pictures=pictures, episodes=left)
