"""The `lightning` console script: `lightning fit -c configs/uwm.yaml`.

LightningCLI over OmegaConf-parsed YAML, with what every run of this project wants and no YAML
should have to repeat: a home folder with `config.yaml`, `metrics.csv` and `checkpoints/last.ckpt`,
a progress bar, and short errors. It knows no model: the YAML's `class_path` names one.
"""

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from jsonargparse import set_parsing_settings
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf.errors import OmegaConfBaseException

from video.checkpoints import EndOfTraining, LastCheckpoint
from video.errors import DatasetError
from video.front_door import ShortErrors, explained
from video.memory import keep_freed_memory
from video.precision import precision_for
from video.progress import MetricsFile, TrainingBar
from video.run_folder import one_training_at_a_time

# Harmless for what this project does, and nothing a user could act on: regular expressions that the
# beginnings of the texts match.
HARMLESS_WARNINGS = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning's own call into torch
    r"The '.*_dataloader' does not have many workers",  # the worker count is the YAML's choice
    r"Found \d+ module\(s\) in eval mode at the start of training",  # the frozen autoencoder
    r"You're resuming from a checkpoint that ended before the epoch ended",  # batches follow steps
    r"Checkpoint directory .* exists and is not empty",  # last.ckpt is meant to be overwritten
    r"The number of training batches .* is smaller than the logging interval",  # short trial runs
)
UNWANTED_LINES = ("💡 Tip:", "GPU available", "TPU available", "HPU available", "Seed set to")


class CommandLine(LightningCLI):
    """LightningCLI with this project's run folder, checkpoints, metrics file and progress bar."""

    def __init__(self, args: Sequence[str] | None = None):
        self.words = list(sys.argv[1:] if args is None else args)
        set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
        mode = {"parser_mode": "omegaconf+"}
        super().__init__(
            subclass_mode_model=True,
            subclass_mode_data=True,
            parser_class=CommandLineParser,
            parser_kwargs={**mode, **dict.fromkeys(self.subcommands(), mode)},
            save_config_callback=SaveConfigOnceTraining,
            save_config_kwargs={"overwrite": True},
            seed_everything_default=0,
            trainer_defaults={
                "default_root_dir": "runs/unnamed",
                "enable_model_summary": False,
                "use_distributed_sampler": False,  # batches.py gives every process its share
            },
            auto_configure_optimizers=False,
            args=self.words,
        )

    def subcommands(self) -> dict[str, set[str]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Lightning's subcommands, or the one that is asked for: each takes 0.08 s to prepare."""
        every = LightningCLI.subcommands()
        return {name: every[name] for name in self.words[:1] if name in every} or every

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of `LastCheckpoint` as `--checkpoint.*`."""
        parser.add_class_arguments(LastCheckpoint, "checkpoint")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, without LightningCLI's warning about being called from Python."""
        self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """Do nothing: the configuration, not the checkpoint, says what is trained."""

    def instantiate_classes(self) -> None:
        """Build model, data and trainer; a value they refuse is an error in the configuration."""
        with explained(ValueError, MisconfigurationException):
            super().instantiate_classes()

    def _run_subcommand(self, subcommand: str) -> None:
        try:
            with self._own_folder() if subcommand == "fit" else nullcontext():
                super()._run_subcommand(subcommand)
        except RuntimeError as error:
            if "Error(s) in loading state_dict" not in str(error):
                raise
            mismatches = "\n".join(str(error).splitlines()[1:4])
            raise DatasetError(
                f"The checkpoint does not fit this configuration's model:\n{mismatches}\n"
                "Leave --ckpt_path out to start anew, or pass the config.yaml that lies in the "
                "checkpoint's run folder."
            ) from error

    def _own_folder(self) -> AbstractContextManager[None]:
        """Keeps others out of the run's folder, if it writes there."""
        trainer = self._get(self.config, "trainer")
        if trainer["fast_dev_run"] or trainer["barebones"] or rank_zero_only.rank != 0:
            return nullcontext()
        return one_training_at_a_time(Path(trainer["default_root_dir"]))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer, with checkpoints, metrics file and progress bar unless given."""
        config = self._get(self.config_init, "trainer")
        precision = precision_for(config["accelerator"], config["precision"])
        if precision != config["precision"]:
            kwargs["precision"] = precision
            print(f"{config['precision']} is slow on this processor: training in {precision}")
        folder = Path(config["default_root_dir"])
        callbacks = []
        if config["enable_checkpointing"] is not False and not config["barebones"]:
            checkpoint = self._get(self.config_init, "checkpoint")
            checkpoint.dirpath = checkpoint.dirpath or str(folder / "checkpoints")
            callbacks.append(checkpoint)
        given = config["callbacks"] or []
        given = given if isinstance(given, list) else [given]
        given = [*(EndOfTraining(one.dirpath) for one in callbacks), *given]
        shows_bar = config["enable_progress_bar"] is not False and not config["barebones"]
        if shows_bar and not any(isinstance(callback, ProgressBar) for callback in given):
            callbacks.append(TrainingBar())
        if config["logger"] in (None, True) and not config["barebones"]:
            resumes = self._get(self.config_init, "ckpt_path") is not None
            kwargs["logger"] = MetricsFile(folder, resume=resumes)
        return self._instantiate_trainer({**config, "callbacks": given, **kwargs}, callbacks)


class SaveConfigOnceTraining(SaveConfigCallback):
    """Writes config.yaml once training starts: a refused checkpoint leaves the old one there."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Nothing yet."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it."""
        super().setup(trainer, pl_module, "fit")


class CommandLineParser(ShortErrors, LightningArgumentParser):
    """LightningCLI's parser with short errors."""


def main(args: Sequence[str] | None = None) -> None:
    """Run `lightning SUBCOMMAND -c FILE ...`.

    Args:
        args: the words after `lightning`; those of this process by default.

    Raises:
        SystemExit: with code 1 after a readable message where data, configuration or checkpoint
            cannot be used, 2 where the command line cannot be understood, 130 or 1 after Ctrl-C and
            143 after SIGTERM.
    """
    keep_freed_memory()
    torch.set_flush_denormal(True)  # denormal numbers are up to a hundred times slower on a CPU
    torch.set_float32_matmul_precision("high")
    sys.path.append(str(Path.cwd()))  # so that `class_path` finds the user's own files
    quieten()
    try:
        with explained(), explained(OmegaConfBaseException, MisconfigurationException):
            CommandLine(args)
    except SIGTERMException:
        raise SystemExit(143) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def quieten() -> None:
    """Silence the warnings and log lines of Lightning that no user of this project can act on."""
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning's calls into it
    for text in HARMLESS_WARNINGS:
        warnings.filterwarnings("ignore", message=text)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_wanted)
    logging.getLogger("lightning.fabric.utilities.seed").addFilter(_is_wanted)


def _is_wanted(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(UNWANTED_LINES)
