"""Keep a policy every few iterations of its refinement, to look back at how it came about."""

import shutil
from pathlib import Path
from typing import Any

import lightning as L


class Snapshots(L.Callback):
    """Writes `<default_root_dir>/snapshots/000015/policy` behind 15 iterations, and so on.

    There is always one of the start and one of the end. A new run forgets those of an earlier one
    in the same folder; a resumed run goes on with them, and a trial run leaves none.

    Args:
        every: iterations between two of them.

    Raises:
        ValueError: a number that is not positive.
    """

    def __init__(self, every: int = 15):
        if every < 1:
            raise ValueError(f"every={every} must be at least 1")
        self.every = every

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the policy as it is at the start."""
        if trainer.global_step == 0 and writes(trainer):
            shutil.rmtree(snapshots_of(trainer), ignore_errors=True)
            self._keep(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any
    ) -> None:
        """Keep the policy, if it is time."""
        is_last = trainer.global_step == trainer.max_steps
        if writes(trainer) and (is_last or trainer.global_step % self.every == 0):
            self._keep(trainer, pl_module)

    def _keep(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        policy = module.refined()  # pyright: ignore[reportCallIssue]
        policy.save_pretrained(snapshots_of(trainer) / f"{trainer.global_step:06d}" / "policy")


def snapshots_of(trainer: L.Trainer) -> Path:
    """The folder of a run's snapshots."""
    return Path(trainer.default_root_dir) / "snapshots"


def writes(trainer: L.Trainer) -> bool:
    """Whether this process leaves anything behind."""
    return trainer.is_global_zero and not getattr(trainer, "fast_dev_run", False)
