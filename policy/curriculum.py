"""Which tasks a policy practises: more of those that it fails at.

What succeeds already has little to teach, and RL that goes on with it finds what is wrong with the
world model. Stored contexts, their tasks, and how likely each is to begin an episode are the
environment's business (`ImaginedVectorEnv`); how likely they should be is decided here.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from policy.rollout import Episodes


class Curriculum(nn.Module):
    """Begins episodes of a task the more often, the more of them fail.

    The weight of a task is its rate of failure, estimated over the latest rollouts, and 1 before
    anything is known of it. What is estimated is part of a checkpoint, so a resumed run goes on as
    it would have.

    Args:
        least: no weight falls below, so that what succeeds is not forgotten.
        memory: share of the old estimate in the new one; 0: the latest rollout alone.

    Raises:
        ValueError: numbers that are no shares.

    Attributes:
        tasks: names, in the order of `success`.
        success: rate of success of each task as far as it is known, else NaN.
    """

    success: Tensor

    def __init__(self, least: float = 0.1, memory: float = 0.5):
        super().__init__()
        if not 0 < least <= 1:
            raise ValueError(f"least={least} must lie in (0, 1]")
        if not 0 <= memory < 1:
            raise ValueError(f"memory={memory} must lie in [0, 1)")
        self.least, self.memory = least, memory
        self.tasks: list[str] = []
        self.register_buffer("success", torch.zeros(0))
        self._task_of_context = np.zeros(0, np.int64)

    def begin(self, context_tasks: Sequence[str]) -> None:
        """Learn of which task every stored context of the environment is."""
        self.tasks = sorted(set(context_tasks))
        self._task_of_context = np.array([self.tasks.index(task) for task in context_tasks])
        self.success = torch.full((len(self.tasks),), torch.nan)

    def context_weights(self) -> Float[np.ndarray, " contexts"]:
        """How likely each stored context is to begin an episode; they sum to 1."""
        need = (1 - self.success.cpu().double()).nan_to_num(1.0).clamp(min=self.least).numpy()
        contexts = np.bincount(self._task_of_context)
        return (need / need.sum() / contexts)[self._task_of_context]

    def learn(self, episodes: Episodes) -> dict[str, float]:
        """Take in what became of some episodes; what lacks a stored context says nothing.

        Returns:
            The rate of success of every task that anything is known of, and as `success` their
            mean: the rate over episodes would fall as the hard ones become more.
        """
        context, won = np.array(episodes.contexts, int), np.array(episodes.successes, bool)
        task = np.where(context >= 0, self._task_of_context[context], -1)
        for number in range(len(self.tasks)):
            if (task == number).any():
                rate = float(won[task == number].mean())
                old = float(self.success[number])
                self.success[number] = rate if np.isnan(old) else rate + self.memory * (old - rate)
        known = {
            task: float(rate)
            for task, rate in zip(self.tasks, self.success, strict=True)
            if not rate.isnan()
        }
        if not known:
            return {}
        mean = float(np.mean(list(known.values())))
        return {f"success_{task}": rate for task, rate in known.items()} | {"success": mean}
