"""Which clips make up which batch: a pure function of seed and step.

So a run that was killed goes on with the batch that was next, two processes see together what one
process sees alone, and neither depends on the number of workers.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64
from torch.utils.data import DistributedSampler


class ClipBatches(DistributedSampler):
    """Yields the window numbers of a batch, for `DataLoader(clips, sampler=self, batch_size=None)`.

    Every element of a batch picks a dataset by weight, then one of its windows uniformly; the
    generator of step s is seeded with (seed, s). Rank r of R takes the r-th of R equal pieces. This
    is a `DistributedSampler` so that Lightning sees that the sharding is done, and adds none.

    Example:
        >>> batches = ClipBatches([100, 20], [3.0, 1.0], batch_size=8, steps=1000, seed=0)
        >>> next(iter(batches))  # 8 windows; about 2 of them in 100..119, the second dataset's

    Args:
        counts: windows per dataset; the windows are numbered through.
        weights: relative share of every dataset in the batches.
        batch_size: clips in a global batch, all processes together.
        steps: batches an epoch. Steps go on counting in later epochs.
        seed: of all batches.
        rank: this process.
        world_size: number of processes.
        start: called when iteration begins, gives the step to begin with; None begins with 0.

    Raises:
        ValueError: sizes that cannot be, or a batch that does not split evenly over the processes.
    """

    def __init__(
        self,
        counts: Sequence[int],
        weights: Sequence[float],
        batch_size: int,
        steps: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        start: Callable[[], int] | None = None,
    ) -> None:
        if len(counts) != len(weights) or min(counts) < 1:
            raise ValueError(f"every dataset needs a window and a weight: {counts}, {weights}")
        if min(weights) < 0 or sum(weights) <= 0:
            raise ValueError(f"weights must not be negative nor all zero, got {list(weights)}")
        if steps < 1 or batch_size < 1:
            raise ValueError(f"steps and batch_size must be positive, got {steps}, {batch_size}")
        if batch_size % world_size != 0:
            raise ValueError(
                f"batch_size {batch_size} is the global batch and does not split evenly over "
                f"{world_size} processes. Set data.batch_size to a multiple of {world_size}."
            )
        numbered: Any = range(sum(counts))
        super().__init__(numbered, num_replicas=world_size, rank=rank, seed=seed)
        self.counts = np.asarray(counts, np.int64)
        self.first = np.cumsum(self.counts) - self.counts
        self.share = np.asarray(weights, np.float64) / sum(weights)
        self.batch_size = batch_size
        self.steps = steps
        self.start = start

    def global_batch(self, step: int) -> Int64[np.ndarray, " batch"]:
        """All window numbers of a step, in the order of the ranks."""
        generator = np.random.default_rng((self.seed, step))
        dataset = generator.choice(len(self.counts), self.batch_size, p=self.share)
        return self.first[dataset] + generator.integers(self.counts[dataset])

    def __iter__(self) -> Iterator[Int64[np.ndarray, " rank_batch"]]:
        """This process's piece of every batch, up to the end of the epoch."""
        share = self.batch_size // self.num_replicas
        mine = slice(self.rank * share, (self.rank + 1) * share)
        start = self.start() if self.start is not None else 0
        end = (start // self.steps + 1) * self.steps
        for step in range(start, end):
            yield self.global_batch(step)[mine]

    def __len__(self) -> int:
        """Batches in a whole epoch, also where iteration starts later in it."""
        return self.steps
