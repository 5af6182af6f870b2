"""Imagined environments of tiny world models, and what happens in them."""

import functools
from typing import Any, NamedTuple

import numpy as np
import torch
from tiny_world_models import tiny_world_model

from worldmodel.environment import ImaginedVectorEnv
from worldmodel.imagination import ImaginedStep
from worldmodel.rewards import Verdict
from worldmodel.world_model import WorldModel


class Moment(NamedTuple):
    """What one step returned."""

    observations: Any
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    info: dict[str, Any]

    @property
    def over(self) -> np.ndarray:
        return self.terminated | self.truncated


@functools.cache
def shared_model(**options: Any) -> WorldModel:
    """A tiny world model that no test may change."""
    return tiny_world_model(**options)


def imagined(
    num_envs: int = 3, model: WorldModel | None = None, **options: Any
) -> ImaginedVectorEnv:
    """An environment that goes on for long, unless the options say otherwise."""
    options = {"reward": never, "horizon": 1000, **options}
    return ImaginedVectorEnv(model or shared_model(), num_envs, **options)


def commands(env: Any, steps: int, seed: int = 0) -> np.ndarray:
    """Random actions `(steps, N, A)` or `(steps, N, chunk, A)`."""
    env.action_space.seed(seed)
    return np.stack([env.action_space.sample() for _ in range(steps)])


def play(env: Any, actions: np.ndarray) -> list[Moment]:
    """Take actions, one after the other."""
    return [Moment(*env.step(action)) for action in actions]


def never(step: ImaginedStep) -> Verdict:
    """Reward 1 for the first frame of an episode, 2 for the second and so on; never a success."""
    reward = step.elapsed[:, None] + torch.arange(1, step.frames.shape[1] + 1)
    return Verdict(reward.float(), torch.zeros_like(reward, dtype=torch.bool))


def success_at(*frames: int):
    """The same, but row i succeeds in its episode's frame number `frames[i]`; 0: never."""

    def judge(step: ImaginedStep) -> Verdict:
        reward = never(step).reward
        return Verdict(reward, reward == torch.tensor(frames)[:, None])

    return judge
