"""A tiny environment to record from: its picture's brightness is a number that actions change.

Importing this file registers `counting/Counting-v0`; gymnasium imports it by itself for the id
`counting:counting/Counting-v0`, in worker processes too.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import numpy as np
from gymnasium import spaces

from video.simulators.policies import RecordingPolicy

ENV = "counting:counting/Counting-v0"


class Counting(gymnasium.Env):
    """Starts at a number between 20 and 100 and adds 10 times the action; 150 is a success."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        render_mode: str | None = None,
        discrete: bool = False,
        ends: int | None = None,
        fails_at: int | None = None,
        dies_at: int | None = None,
        seconds: float = 0.0,
        log: str | None = None,
        fps: int = 10,
        size: int = 16,
    ) -> None:
        self.render_mode = render_mode
        self.ends, self.fails_at, self.dies_at = ends, fails_at, dies_at
        self.seconds, self.log, self.size = seconds, log, size
        self.metadata = self.metadata | {"render_fps": fps}
        self.observation_space = spaces.Box(0, 255, (1,), np.float32)
        self.action_space = spaces.Discrete(3) if discrete else spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if self.log is not None:
            with Path(self.log).open("a") as file:
                file.write(f"{seed}\n")
        if seed == self.fails_at:
            raise ZeroDivisionError("the simulation exploded")
        if seed == self.dies_at:
            os._exit(7)
        self.number = self.np_random.uniform(20, 100)
        self.steps = 0
        return self._observation(), {"success": False}

    def step(self, action):
        time.sleep(self.seconds)
        self.number = float(np.clip(self.number + 10 * np.sum(action), 0, 255))
        self.steps += 1
        info = {"success": self.number >= 150}
        return self._observation(), self.number, self.steps == self.ends, False, info

    def render(self):
        return np.full((self.size, self.size, 3), round(self.number), np.uint8)

    def _observation(self) -> np.ndarray:
        return np.array([self.number], np.float32)


@dataclass
class Climb(RecordingPolicy):
    """A policy that always asks for the same, allowed or not."""

    by: float = 1.0
    patience: int = 3

    def reset(self, env: gymnasium.Env, seed: int) -> None:
        self.seed = seed

    def __call__(self, observation, info) -> np.ndarray:
        return np.array([self.by])


gymnasium.register("counting/Counting-v0", entry_point=Counting)
