"""Steps per second of world-model training, and the share of a step spent outside of the maths.

    python benchmarks/training.py [--steps 200] [lightning options]

Trains with `configs/uwm.yaml` in a temporary folder and prints one JSON line: `steps_per_s`,
`batch_size`, `outside_share` (time outside of forward, backward and optimiser, over the whole),
`parameters`.
"""

import argparse
import json
import tempfile
import time

import lightning as L
import torch

from video.cli import CommandLine, quieten
from video.memory import keep_freed_memory
from worldmodel.training import WorldModelTraining

FIT = ("fit", "-c", "configs/uwm.yaml", "--trainer.callbacks", "null")


class Stopwatch(L.Callback):
    """Wall time from the end of the warm-up to the end, and how much of it was maths."""

    def __init__(self, warmup: int):
        self.warmup = warmup
        self.inside = 0.0
        self.entered = self.begun = self.ended = 0.0
        self.steps = 0

    def on_train_batch_start(self, trainer: L.Trainer, pl_module, batch, batch_idx: int) -> None:
        """Begin to count once the warm-up is over."""
        if batch_idx == self.warmup:
            self.begun = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module, outputs, batch, batch_idx) -> None:
        """Count a step."""
        if batch_idx >= self.warmup:
            self.steps += 1
            self.ended = time.perf_counter()


def timed_optimizer_step(stopwatch: Stopwatch):
    """Wrap the module's optimiser step, whose closure runs forward and backward."""
    original = WorldModelTraining.optimizer_step

    def step(self, *args, **kwargs):
        before = time.perf_counter()
        original(self, *args, **kwargs)
        if stopwatch.begun:
            stopwatch.inside += time.perf_counter() - before

    return step


def main() -> None:
    """Train, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--warmup", type=int, default=20)
    arguments, options = parser.parse_known_args()
    keep_freed_memory()
    torch.set_flush_denormal(True)
    quieten()
    stopwatch = Stopwatch(arguments.warmup)
    WorldModelTraining.optimizer_step = timed_optimizer_step(stopwatch)  # pyright: ignore
    with tempfile.TemporaryDirectory() as folder:
        command = CommandLineForTiming(
            [
                *(*FIT, *options),
                *("--trainer.max_steps", str(arguments.steps)),
                *("--trainer.default_root_dir", folder),
            ],
            stopwatch,
        )
    wall = stopwatch.ended - stopwatch.begun
    print(
        json.dumps(
            {
                "steps_per_s": round(stopwatch.steps / wall, 2),
                "batch_size": command.datamodule.batch_size,
                "outside_share": round(1 - stopwatch.inside / wall, 3),
                "parameters": sum(p.numel() for p in command.model.parameters()),
                "threads": torch.get_num_threads(),
            }
        )
    )


class CommandLineForTiming(CommandLine):
    """The `lightning` command with one more callback."""

    def __init__(self, args: list[str], stopwatch: Stopwatch):
        self.stopwatch = stopwatch
        super().__init__(args)

    def before_fit(self) -> None:
        """Add the stopwatch."""
        self.trainer.callbacks.insert(0, self.stopwatch)


if __name__ == "__main__":
    main()
