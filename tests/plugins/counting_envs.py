"""Environments that say exactly where they are, in gymnasium's own vector environment."""

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv


class CountingEnv(gymnasium.Env):
    """Observes (its number, episode, step); the reward is the step, too.

    Episodes of environment i last `i + 2` steps; even numbers terminate, odd ones are truncated,
    and from action 1 (or above 0.5) on every one terminates.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 7}  # noqa: RUF012

    def __init__(self, number: int, as_dict: bool = False, discrete: bool = True):
        counters = Box(0, np.inf, (3,), np.float32)
        self.observation_space = (
            Dict(counters=counters, picture=Box(0, 255, (2, 2, 3), np.uint8))
            if as_dict
            else counters
        )
        self.action_space = Discrete(2) if discrete else Box(-1, 1, (2,), np.float32)
        self.render_mode = "rgb_array"
        self.number, self.as_dict = number, as_dict
        self.episode, self.time = -1, 0
        self.options = None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.options = options
        self.episode, self.time = self.episode + 1, 0
        return self._observation(), {"seed": -1 if seed is None else seed, "episode_start": True}

    def step(self, action):
        self.time += 1
        over = self.time == self.number + 2
        terminated = over and (self.number % 2 == 0 or np.max(action) > 0.5)
        # success is said of even times only, so that gymnasium's mask matters
        info = {"uncertainty": self.time / 10}
        info |= {"success": bool(terminated)} if self.time % 2 == 0 else {}
        return self._observation(), float(self.time), bool(terminated), over, info

    def render(self):
        return np.full((4, 6, 3), 10 * self.number + self.time, np.uint8)

    def _observation(self):
        counters = np.array([self.number, self.episode, self.time], np.float32)
        if not self.as_dict:
            return counters
        return {"counters": counters, "picture": np.full((2, 2, 3), self.time, np.uint8)}


def counting_envs(mode: AutoresetMode, num_envs: int = 3, copy: bool = True, **options):
    """`CountingEnv`s in a batch; `copy=False` writes into the observations given before."""
    makers = [lambda i=i: CountingEnv(i, **options) for i in range(num_envs)]
    return SyncVectorEnv(makers, copy=copy, autoreset_mode=mode)
