"""A simulator for tests: a square to be pushed to the right edge, as gymnasium environments.

`toy_simulators:toy/Left-v0` and `toy/Right-v0` differ in the side it starts at; `toy/Buttons-v0` is
steered by a choice of buttons.
"""

import gymnasium
import numpy as np
from gymnasium.envs.registration import register, registry

SIZE, SQUARE, STEP = 32, 8, 4.0
ROOM = SIZE - SQUARE


class PushedSquare(gymnasium.Env):
    """An action in units of four pixels, bounded as the tiny world model's are; success is x = 24.

    The robot's state is (x, y, steps) / 24, the reward x.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, side: str = "left", render_mode: str | None = None):
        self.render_mode = render_mode
        self.first = 0.0 if side == "left" else 12.0
        low, high = np.array([-2, 0], np.float32), np.array([2, 1], np.float32)
        self.action_space = gymnasium.spaces.Box(low, high)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.rendered = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = np.array([self.first, 0]) + self.np_random.integers(0, 8, 2)
        self.time = 0
        return self._observation(), {}

    def step(self, action):
        if not self.action_space.contains(action):
            raise ValueError(f"{action} is out of bounds")
        self.time += 1
        self.place = np.clip(self.place + STEP * action, 0, ROOM)
        success = bool(self.place[0] == ROOM)
        return self._observation(), float(self.place[0]), False, False, {"success": success}

    def render(self):
        self.rendered += 1
        frame = np.full((SIZE, SIZE, 3), 90, np.uint8)
        x, y = self.place.round().astype(int)
        frame[y : y + SQUARE, x : x + SQUARE] = 230
        return frame

    def _observation(self):
        return np.array([*self.place, self.time], np.float32) / ROOM


class Buttons(PushedSquare):
    """The same with actions that are no Box."""

    def __init__(self, render_mode: str | None = None):
        super().__init__(render_mode=render_mode)
        self.action_space = gymnasium.spaces.Discrete(4)


for side in ("Left", "Right"):
    if f"toy/{side}-v0" not in registry:
        register(f"toy/{side}-v0", PushedSquare, kwargs={"side": side.lower()})
if "toy/Buttons-v0" not in registry:
    register("toy/Buttons-v0", Buttons)
