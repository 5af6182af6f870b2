"""Policies for Meta-World: its scripted experts, as fallible as a recording needs, and play."""

import warnings
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np

from video.simulators.metaworld_env import MetaWorldEnv, expert_of
from video.simulators.policies import RecordingPolicy

OBJECT = slice(4, 7)
"""Where `environment_state` holds the position of the object to handle."""
WORKSPACE = np.array([[-0.3, 0.45, 0.06], [0.3, 0.85, 0.35]])
HOLD_STILL = np.zeros(3)


@dataclass
class Expert(RecordingPolicy):
    """Meta-World's scripted expert of the task, with the faults that make near misses.

    Args:
        noise: standard deviation of the noise added to every action, whose range is [-1, 1].
        correlation: share of the noise that stays from one step to the next; 0 is white noise,
            near 1 drifts away from the expert's path.
        aim_offset: standard deviation, in metres, of how far beside the object it aims. The offset
            stays the same for an episode.
        gives_up_by: it stops moving after a random number of steps, at most this many; None goes on
            to the end.
    """

    noise: float = 0.0
    correlation: float = 0.0
    aim_offset: float = 0.0
    gives_up_by: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.correlation < 1:
            raise ValueError(f"correlation must be in [0, 1), got {self.correlation}.")

    def reset(self, env: gymnasium.Env, seed: int) -> None:
        """Take the expert of `env`'s task, and draw the episode's faults."""
        self._expert = expert_of(_task(env))
        self._rng = np.random.default_rng(seed)
        self._offset = self._rng.normal(0, self.aim_offset, 3)
        self._deviation = self._rng.normal(0, self.noise, 4)
        self._steps_left = np.inf
        if self.gives_up_by is not None:
            self._steps_left = self._rng.integers(self.gives_up_by + 1)

    def __call__(self, observation: dict[str, np.ndarray], info: dict[str, Any]) -> np.ndarray:
        """The expert's action at where it believes the object to be, plus noise."""
        believed = observation["environment_state"].astype(np.float64)
        believed[OBJECT] += self._offset
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that actions are clipped
            action = np.clip(self._expert.get_action(believed), -1, 1)
        if self._steps_left <= 0:
            action[:3] = HOLD_STILL
        self._steps_left -= 1
        fresh = self._rng.normal(0, self.noise, 4)
        # keeps the standard deviation at `noise` for every correlation
        action = np.clip(action + self._deviation, -1, 1)
        self._deviation = (
            self.correlation * self._deviation + np.sqrt(1 - self.correlation**2) * fresh
        )
        return action.astype(np.float32)


@dataclass
class Play(RecordingPolicy):
    """Wanders between random places with a random gripper, often close to the object.

    Args:
        object_share: share of the places that lie around the object instead of anywhere.
        object_spread: standard deviation of their distance to it, in metres.
        speed: largest action on its way, up to 1.
        longest: steps after which it gives a place up for another.
    """

    object_share: float = 0.6
    object_spread: float = 0.07
    speed: float = 1.0
    longest: int = 8
    _rng: np.random.Generator = field(init=False, repr=False)

    def reset(self, env: gymnasium.Env, seed: int) -> None:
        """Start an episode."""
        _task(env)
        self._rng = np.random.default_rng(seed)
        self._steps_left = 0

    def __call__(self, observation: dict[str, np.ndarray], info: dict[str, Any]) -> np.ndarray:
        """Move on towards the present place, or choose the next one."""
        hand = observation["agent_pos"][:3]
        if self._steps_left == 0 or np.linalg.norm(self._place - hand) < 0.02:
            self._choose_place(observation["environment_state"][OBJECT])
        self._steps_left -= 1
        movement = np.clip(10 * (self._place - hand), -self.speed, self.speed)
        return np.append(movement, self._gripper).astype(np.float32)

    def _choose_place(self, object_position: np.ndarray) -> None:
        if self._rng.random() < self.object_share:
            self._place = self._rng.normal(object_position, self.object_spread)
        else:
            self._place = self._rng.uniform(*WORKSPACE)
        self._gripper = self._rng.uniform(-1, 1)
        self._steps_left = int(self._rng.integers(3, self.longest + 1))


def _task(env: gymnasium.Env) -> str:
    if not isinstance(env.unwrapped, MetaWorldEnv):
        raise ValueError(f"This policy acts in metaworld/<task> only, not in {env.unwrapped}.")
    return env.unwrapped.task
