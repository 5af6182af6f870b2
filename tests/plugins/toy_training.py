"""A model and data so small that whole training runs can be tested; named by `class_path`."""

import os
import signal
from collections.abc import Iterator

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from video.errors import DatasetError


class ToyModel(L.LightningModule):
    """A linear map with momentum, whose loss tells the whole history of the run.

    Args:
        width: inputs.
        interrupt_at: press Ctrl-C in this step.
        terminate_at: receive SIGTERM in this step.
        fail_at: raise in this step.
        kill_while_saving: be killed halfway through writing the checkpoint of this step.

    Raises:
        ValueError: width below 1.
    """

    def __init__(
        self,
        width: int = 3,
        interrupt_at: int = -1,
        terminate_at: int = -1,
        fail_at: int = -1,
        kill_while_saving: int = -1,
    ):
        if width < 1:
            raise ValueError(f"width={width}, but a model has at least one input.")
        super().__init__()
        self.layer = torch.nn.Linear(width, 1)
        self.signals = {interrupt_at: signal.SIGINT, terminate_at: signal.SIGTERM}
        self.fail_at = fail_at
        self.kill_while_saving = kill_while_saving

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        step = self.global_step
        if step >= 0 and step in self.signals:
            signal.raise_signal(self.signals[step])
        if step == self.fail_at:
            raise DatasetError("data/toy/file-003.mp4 is truncated.")
        loss = self.layer(batch).square().mean() + torch.rand(())
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    def on_train_batch_start(self, batch: Tensor, index: int) -> None:
        torch.manual_seed(self.global_step)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        if checkpoint["global_step"] == self.kill_while_saving:
            checkpoint["trap"] = Trap()


class Trap:
    """Kills the process when it is pickled."""

    def __reduce__(self):
        os.kill(os.getpid(), signal.SIGKILL)


class ToyData(L.LightningDataModule):
    """Random batches that follow from the step alone.

    Args:
        width: numbers in a sample.
        workers: processes that make them.
        interrupt_workers_at: Ctrl-C reaches a worker, too, while it makes this step's batch.
    """

    def __init__(self, width: int = 3, workers: int = 0, interrupt_workers_at: int = -1):
        super().__init__()
        self.width = width
        self.workers = workers
        self.interrupt_workers_at = interrupt_workers_at

    def train_dataloader(self) -> DataLoader:
        trainer = self.trainer
        assert trainer is not None
        batches = Batches(trainer.global_step, trainer.max_steps)
        samples = Samples(self.width, 4 * self.interrupt_workers_at)
        return DataLoader(samples, batch_sampler=batches, num_workers=self.workers)


class Samples(torch.utils.data.Dataset):
    def __init__(self, width: int, interrupt_at: int):
        self.width = width
        self.interrupt_at = interrupt_at

    def __getitem__(self, index: int) -> Tensor:
        if index == self.interrupt_at:
            signal.raise_signal(signal.SIGINT)
        return torch.randn(self.width, generator=torch.Generator().manual_seed(index))


class Batches(Sampler):
    def __init__(self, first: int, last: int):
        self.first, self.last = first, last

    def __len__(self) -> int:
        return self.last

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first, self.last):
            yield [4 * step + n for n in range(4)]
