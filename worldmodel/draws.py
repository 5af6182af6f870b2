"""Random draws for the rows of a batch that do not depend on how many processes share it."""

import torch
from jaxtyping import Float
from torch import Tensor

from video.seeds import mixed_seed


def step_generator(seed: int, *counters: int) -> torch.Generator:
    """The random numbers of one training step, from a run's seed and the step's number."""
    return torch.Generator().manual_seed(mixed_seed(seed, *counters))


class RowDraws:
    """Draws numbers for a global batch and hands out one process's rows of them.

    Args:
        generator: every call advances it by the global batch's numbers.
        rows: rows of this process.
        first: index of its first row in the global batch.
        total: rows of the global batch; 0 means that these are all.
        device: where the numbers go.

    Raises:
        ValueError: rows outside of the global batch.
    """

    def __init__(
        self,
        generator: torch.Generator,
        rows: int,
        first: int = 0,
        total: int = 0,
        device: torch.device | str = "cpu",
    ):
        self.generator = generator
        self.total = total or rows
        if first + rows > self.total:
            raise ValueError(f"rows {first} to {first + rows - 1} of a batch of {self.total}")
        self.mine = slice(first, first + rows)
        self.device = device

    def normal(self, *shape: int) -> Float[Tensor, "..."]:
        """Standard normal numbers `(rows, *shape)`."""
        draw = torch.randn(
            self.total, *shape, generator=self.generator, device=self.generator.device
        )
        return draw[self.mine].to(self.device)

    def uniform(self, *shape: int) -> Float[Tensor, "..."]:
        """Uniform numbers in [0, 1), `(rows, *shape)`."""
        draw = torch.rand(
            self.total, *shape, generator=self.generator, device=self.generator.device
        )
        return draw[self.mine].to(self.device)
