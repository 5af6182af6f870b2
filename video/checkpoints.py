"""When and how the state of a training run is saved, so that it can always be resumed.

One file, `last.ckpt`, is written every so many optimiser steps, at the end, and when the run is
told to stop; always between two steps, always whole. What a trained model looks like on disk is not
this file's business: see `save_pretrained` of the models.
"""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info

from video.errors import DatasetError


class LastCheckpoint(ModelCheckpoint):
    """Keeps `last.ckpt` up to date; Ctrl-C finishes the step, saves and stops.

    Being a ModelCheckpoint it is what `--ckpt_path last` looks for. A second Ctrl-C stops at once.
    An error in training leaves the last good checkpoint as it is.

    Args:
        every_n_steps: optimiser steps between two saves.
        folder: where `last.ckpt` lies; by default `checkpoints` in the trainer's default_root_dir.

    Raises:
        ValueError: every_n_steps below 1.
    """

    def __init__(self, every_n_steps: int = 500, folder: str | None = None):
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps is {every_n_steps}; it must be at least 1.")
        super().__init__(
            dirpath=folder,
            filename="last",
            every_n_train_steps=every_n_steps,
            enable_version_counter=False,
        )
        self._stop_asked = False
        self._inside_training = False
        self._handler_before: Any = None
        self._process = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Prepare the folder, and listen for Ctrl-C before the data loader's workers are born."""
        if self.dirpath is None:
            self.dirpath = str(Path(trainer.default_root_dir) / "checkpoints")
        super().setup(trainer, pl_module, stage)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeFileCheckpointIO()
        if stage == "fit" and threading.current_thread() is threading.main_thread():
            self._process = os.getpid()
            self._handler_before = signal.signal(signal.SIGINT, self._on_ctrl_c)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give Ctrl-C back."""
        if self._handler_before is not None:
            signal.signal(signal.SIGINT, self._handler_before)
            self._handler_before = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on Ctrl-C waits for the end of the step."""
        super().on_train_start(trainer, pl_module)
        self._inside_training = True

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save where it is due, and stop where that was asked for."""
        if trainer.fit_loop._should_accumulate():  # gradients gathered so far would be lost
            return
        reduce_any = trainer.strategy.reduce_boolean_decision
        interrupted = reduce_any(self._stop_asked, all=False)
        terminated = reduce_any(trainer.received_sigterm, all=False)
        step = trainer.global_step
        due = (
            step % self._every_n_train_steps == 0
            or step == trainer.max_steps
            or trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
            or trainer.should_stop
        )
        if (due or interrupted or terminated) and not self._should_skip_saving_checkpoint(trainer):
            self.best_model_path = self.format_checkpoint_name({})
            self._save_checkpoint(trainer, self.best_model_path)
        if interrupted:
            rank_zero_info(
                f"\nStopped after step {step}. {self.best_model_path} is saved; "
                "add --ckpt_path last to the same command to go on."
            )
            raise KeyboardInterrupt

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing is left to save; what follows may be stopped at once."""
        self._inside_training = False

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing: the last step was saved when it ended."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing: saving follows the steps, not the validation."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing to remember: there is one file, and it is where it is."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to restore."""

    def _on_ctrl_c(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a data loader's worker: it is needed until the step is finished
        if self._stop_asked or not self._inside_training:
            raise KeyboardInterrupt
        self._stop_asked = True


class EndOfTraining(Callback):
    """Ends a run that was stopped behind its last step, before its model was written.

    When such a run is resumed, Lightning skips the training and `on_train_end` with it; but that
    is where modules write what they have learned. A file says that this is still to be done. To
    stand before all callbacks that look at what was written.

    Args:
        folder: where the file lies, beside the checkpoint.
    """

    def __init__(self, folder: str):
        self._unfinished = Path(folder) / "unfinished"
        self._trained = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """There is something left to train, so Lightning sees to the end."""
        self._trained = True
        if trainer.is_global_zero and not getattr(trainer, "fast_dev_run", False):
            self._unfinished.parent.mkdir(parents=True, exist_ok=True)
            self._unfinished.touch()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make up for what was skipped, where the module was for its training."""
        if not self._trained and self._unfinished.exists():
            pl_module.to(trainer.strategy.root_device)
            pl_module.on_train_end()
            pl_module.cpu()
        if trainer.is_global_zero:
            self._unfinished.unlink(missing_ok=True)


class WholeFileCheckpointIO(TorchCheckpointIO):
    """Checkpoints that are never half written: a file beside the old one, then one atomic rename.

    Lightning 2.6 writes to the system's temporary folder and *moves* the file, which across file
    systems is a copy that a kill can cut short.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write the checkpoint whole, or not at all.

        Args:
            checkpoint: what Lightning gathered.
            path: the file to replace.
            storage_options: for remote file systems, refused here.

        Raises:
            DatasetError: the file cannot be written, as on a full disk; the old one is untouched.
        """
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        part = path.with_name(f".{path.name}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except (OSError, RuntimeError) as error:
            part.unlink(missing_ok=True)
            raise DatasetError(
                f"{path} could not be written ({error}). What was there before is unchanged; "
                "make room and go on with --ckpt_path last."
            ) from error

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable | None = lambda storage, location: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a checkpoint.

        Args:
            path: the file.
            map_location: where its tensors go; the CPU by default.
            weights_only: passed to `torch.load`.

        Raises:
            DatasetError: the file is missing or is no checkpoint.
        """
        try:
            return super().load_checkpoint(path, map_location, weights_only)
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DatasetError(
                f"{path} is no checkpoint that can be resumed from: {reason}\n"
                "Name another with --ckpt_path, or leave --ckpt_path out to start anew."
            ) from error
