"""What a training run shows while it runs, and the table of numbers it leaves behind."""

import csv
import sys
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm, convert_inf
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_info


class TrainingBar(TQDMProgressBar):
    """Steps done, time left, steps/s and the losses logged with `prog_bar=True`.

    Args:
        refresh_rate: steps between two updates; by default every step in a terminal and every 100
            where the output goes to a file.
    """

    def __init__(self, refresh_rate: int | None = None):
        if refresh_rate is None:
            refresh_rate = 1 if sys.stdout.isatty() else 100
        super().__init__(refresh_rate)

    @property
    def total_train_batches(self) -> int | float:
        """Batches from the run's first step to its last, wherever it was resumed."""
        trainer = self.trainer
        last = trainer.max_steps * trainer.accumulate_grad_batches
        return min(trainer.num_training_batches, last if last > 0 else float("inf"))

    def init_train_tqdm(self) -> Tqdm:
        """The bar, in steps/s; a resumed run counts on from its step, at its true speed."""
        done = self.trainer.fit_loop.batch_idx + 1
        return Tqdm(
            desc="Training",
            total=convert_inf(self.total_train_batches),
            initial=done,
            unit=" steps",
            position=2 * self.process_position,
            disable=self.is_disabled,
            leave=True,
            dynamic_ncols=True,
            file=sys.stdout,
            smoothing=0,
            bar_format=self.BAR_FORMAT,
        )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what is trained where, and show the bar."""
        count = {True: 0, False: 0}
        for parameter in pl_module.parameters():
            count[parameter.requires_grad] += parameter.numel()
        rank_zero_info(
            f"Training {count[True] / 1e6:.2f} M parameters ({count[False] / 1e6:.2f} M frozen) "
            f"on {pl_module.device}; everything is written to {trainer.default_root_dir}"
        )
        super().on_train_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        """Begin a new count with every epoch after the first."""
        if trainer.current_epoch > 0 and trainer.fit_loop.batch_idx < 0:
            self.train_progress_bar.reset(total=convert_inf(self.total_train_batches))


class MetricsFile(CSVLogger):
    """Logged numbers as `FOLDER/metrics.csv`, replaced by a new run and continued by a resumed one.

    Args:
        folder: the run's home, such as `runs/uwm`.
        resume: keep the rows that an earlier run wrote before the first step logged now.
    """

    def __init__(self, folder: Path | str, resume: bool = False):
        folder = Path(folder)
        super().__init__(folder.parent, folder.name, version="", flush_logs_every_n_steps=1)
        self._resume = resume

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        """The writer of the file, on the first process."""
        if not isinstance(self._experiment, _Rows):
            self._experiment = _Rows(self.log_dir, self._resume)
        return self._experiment


class _Rows(ExperimentWriter):
    def __init__(self, folder: str, resume: bool):
        self._earlier: list[dict[str, Any]] | None = None
        self._resume = resume
        super().__init__(folder)

    def _check_log_dir_exists(self) -> None:
        """Remember the rows of the run that is resumed; Lightning's own version deletes them."""
        path = Path(self.metrics_file_path)
        if self._resume and path.exists():
            with path.open(newline="") as file:
                self._earlier = list(csv.DictReader(file))
        else:
            path.unlink(missing_ok=True)

    def save(self) -> None:
        """Append the new rows, after those of the run that is being resumed."""
        if self.metrics and self._earlier is not None:
            first = min(row["step"] for row in self.metrics)
            self.metrics[:0] = [row for row in self._earlier if int(row["step"]) < first]
            self._earlier = None
            Path(self.metrics_file_path).unlink()
        super().save()
