"""One Meta-World task as a gymnasium environment: what is seen, done, and repeated exactly.

It adds to Meta-World what learning from pixels needs: a close camera, an action repeat, a random
object position that follows `reset(seed=...)`, a first frame that shows it, and a state that can be
kept and restored. Tasks are registered in `__init__.py`; policies are in `metaworld_policies.py`.
"""

import atexit
import sys
import weakref
from collections.abc import Sequence
from importlib import import_module
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium.error import DependencyNotInstalled

from video.simulators.drawing import without_display

INSTALLATION = (
    "Meta-World needs `pip install -e '.[sim]'` and, for rendering without a display, the Debian "
    "packages libegl1 and libgl1 (MUJOCO_GL=egl, the default here), or libosmesa6 "
    "(MUJOCO_GL=osmesa). MUJOCO_GL is read when mujoco is first imported."
)
without_display()
try:
    # not by import statements: neither package says what types it has
    mujoco: Any = import_module("mujoco")
    ENV_CLS_MAP = import_module("metaworld.env_dict").ENV_CLS_MAP
    ENV_POLICY_MAP = import_module("metaworld.policies").ENV_POLICY_MAP
except (ImportError, AttributeError, OSError) as error:  # PyOpenGL without libEGL: AttributeError
    raise DependencyNotInstalled(f"{INSTALLATION} ({type(error).__name__}: {error})") from error

SIMULATOR_FPS = 80
HAND_AND_GRIPPER = 4
FULL_OBSERVATION = 39
MULTISAMPLES = 4
"""Of OpenGL's own, where frames are drawn at their own size."""
LARGEST_FACTOR = 16
"""Sums of its square of samples fit into 16 bits."""
SEEDS = 2**31


class MetaWorldEnv(gymnasium.Env):
    """A Meta-World task with random object positions.

    Observations follow the LeRobot environments: `agent_pos` is the hand's position in metres and
    the gripper's opening in [0, 1]; `environment_state` is Meta-World's whole observation (hand,
    gripper and objects now, the same one simulator step before, goal), float32. Actions are the
    hand's movement, 1 = one centimetre a simulator step, and the gripper's effort, in [-1, 1].
    The reward is Meta-World's shaped reward summed over the repeated steps; `info["success"]` says
    whether the task is solved after the last of them (it can be undone again). An episode never
    ends by itself.

    Example:
        >>> import gymnasium, video.simulators
        >>> env = gymnasium.make(
        ...     "metaworld/drawer-open-v3", render_mode="rgb_array"
        ... )  # doctest: +SKIP
        >>> observation, info = env.reset(seed=3)  # doctest: +SKIP
        >>> env.render().shape  # doctest: +SKIP
        (64, 64, 3)
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": SIMULATOR_FPS // 4}  # noqa: RUF012

    def __init__(
        self,
        task: str,
        render_mode: str | None = None,
        action_repeat: int = 4,
        size: int = 64,
        camera: str = "corner2",
        camera_position: Sequence[float] | None = (0.75, 0.075, 0.7),
        supersampling: int = 4,
    ) -> None:
        """Build the simulator.

        Args:
            task: Meta-World's name, such as "drawer-open-v3".
            render_mode: "rgb_array", or None to simulate only.
            action_repeat: simulator steps (80 a second) that one action lasts.
            size: height and width of the rendered frames, in pixels.
            camera: Meta-World's name for it: "corner", "corner2", "corner3", "corner4", "topview",
                "behindGripper" or "gripperPOV". A camera that hangs upside down is turned upright.
            camera_position: metres; None leaves the camera where Meta-World has it. The default is
                the closer place that pixel work on Meta-World has settled on for "corner2".
            supersampling: frames are drawn so many times larger, each way, and averaged: of 4x4
                samples edges tell where things are to a fraction of a pixel. 1 leaves it to
                OpenGL's multisampling of four. Without a GPU, 4 is faster than that up to some 100
                pixels, 2 at any size.

        Raises:
            ValueError: an unknown task or camera, an action repeat below 1, or a supersampling
                that is not 1 to 16.
        """
        if task not in ENV_CLS_MAP:
            raise ValueError(f"Meta-World has no task {task!r}, only {', '.join(ENV_CLS_MAP)}.")
        if action_repeat < 1:
            raise ValueError(f"action_repeat must be at least 1, got {action_repeat}.")
        if not 1 <= supersampling <= LARGEST_FACTOR:
            raise ValueError(f"supersampling must be 1 to {LARGEST_FACTOR}, got {supersampling}.")
        self.task = task
        self.render_mode = render_mode
        self.action_repeat = action_repeat
        self.size = size
        self.supersampling = supersampling
        self.metadata = self.metadata | {"render_fps": SIMULATOR_FPS / action_repeat}
        self._simulator = _make_simulator(task)
        self._camera = self._place_camera(camera, camera_position)
        self._renderer: Any = None
        self._seed = 0
        self._actions: list[np.ndarray] = []
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (4,), np.float32)
        self.observation_space = gymnasium.spaces.Dict(
            {
                "agent_pos": _unbounded(HAND_AND_GRIPPER),
                "environment_state": _unbounded(FULL_OBSERVATION),
            }
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Put hand and objects to the positions that belong to `seed`.

        Args:
            seed: the same seed gives the same episode, whatever happened before; None draws one.
            options: not used.

        Returns:
            The observation, and an info with `success` False and the `seed`.
        """
        super().reset(seed=seed)
        if seed is None:
            seed = int(self.np_random.integers(SEEDS))
        self._seed = seed
        self._actions = []
        simulator = self._simulator
        simulator.seed(seed)
        # Meta-World places objects twice in a reset, and computes parts of its reward from the
        # first place. Drawing once makes both the same, as Meta-World's own benchmarks do.
        simulator._freeze_rand_vec = False
        simulator.reset_model()
        simulator._freeze_rand_vec = True
        simulator.reset()
        # Its reset moves bodies without bringing what depends on them up to date: a frame taken
        # now would show the objects where they were before.
        mujoco.mj_forward(simulator.model, simulator.data)
        simulator._prev_obs = simulator._get_curr_obs_combined_no_goal()
        return _observation(simulator._get_obs()), {"success": False, "seed": seed}

    def step(
        self, action: np.ndarray
    ) -> tuple[dict[str, np.ndarray], SupportsFloat, bool, bool, dict[str, Any]]:
        """Apply one action `action_repeat` times.

        Args:
            action: `(4,)`; clipped to [-1, 1].

        Raises:
            ValueError: an action of another shape, or one that is not finite.
        """
        action = np.asarray(action, dtype=np.float32)
        if action.shape != (4,) or not np.isfinite(action).all():
            raise ValueError(f"{self.task} takes 4 finite numbers as an action, got {action}.")
        action = np.clip(action, -1.0, 1.0)
        self._actions.append(action)
        total = 0.0
        for _ in range(self.action_repeat):
            values, reward, _, _, info = self._simulator.step(action)
            total += float(reward)
        return _observation(values), total, False, False, info | {"success": bool(info["success"])}

    def render(self) -> np.ndarray:
        """What the camera sees: uint8 `(size, size, 3)`.

        Raises:
            RuntimeError: made without `render_mode="rgb_array"`.
            DependencyNotInstalled: the machine lacks the libraries to render.
        """
        if self.render_mode != "rgb_array":
            raise RuntimeError(f"Make metaworld/{self.task} with render_mode='rgb_array' first.")
        if self._renderer is None:
            self._renderer = self._make_renderer()
        sites = mujoco.MjvOption()
        sites.sitegroup[:] = 0  # goal markers: not part of the world, and misplaced after a reset
        self._renderer.update_scene(self._simulator.data, self._camera, sites)
        # Shadows are off; the reflections change no pixel here and cost a fifth of the time.
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self._renderer.scene.flags[flag] = 0
        frame = _averaged(self._renderer.render(), self.supersampling)
        camera_up = self._simulator.data.cam_xmat[self._camera].reshape(3, 3)[:, 1]
        return np.ascontiguousarray(frame[::-1, ::-1] if camera_up[2] < 0 else frame)

    def get_state(self) -> dict[str, Any]:
        """The episode so far as seed and actions, which is all that determines it."""
        return {"seed": self._seed, "actions": np.array(self._actions).reshape(-1, 4)}

    def set_state(self, state: dict[str, Any]) -> dict[str, np.ndarray]:
        """Go back to a state by simulating again up to it, about a millisecond an action.

        Args:
            state: from `get_state` of an environment of the same task and action repeat.

        Returns:
            The observation there.
        """
        observation, _ = self.reset(seed=state["seed"])
        for action in state["actions"]:
            observation, *_ = self.step(action)
        return observation

    def close(self) -> None:
        """Free the renderer."""
        if self._renderer is not None:
            self._close_renderer()
            self._renderer = None

    def _place_camera(self, name: str, position: Sequence[float] | None) -> int:
        model = self._simulator.model
        names = [model.camera(i).name for i in range(model.ncam)]
        if name not in names:
            raise ValueError(f"{self.task} has no camera {name!r}, only {', '.join(names)}.")
        if position is not None:
            model.cam_pos[names.index(name)] = position
        return names.index(name)

    def _make_renderer(self) -> Any:
        visual = self._simulator.model.vis
        drawn = self.size * self.supersampling
        visual.global_.offwidth = visual.global_.offheight = drawn
        visual.quality.offsamples = MULTISAMPLES if self.supersampling == 1 else 0
        visual.quality.shadowsize = 0
        try:
            renderer = mujoco.Renderer(self._simulator.model, drawn, drawn)
        except Exception as error:  # each OpenGL library has its own kinds
            raise DependencyNotInstalled(f"{INSTALLATION} ({error})") from error
        # Left to the interpreter's own clean-up, it comes after that of the OpenGL libraries; so
        # does a finalizer's, where somebody made the first one before these were imported.
        self._close_renderer = weakref.finalize(self, renderer.close)
        atexit.register(self._close_renderer)
        return renderer


def expert_of(task: str) -> Any:
    """Meta-World's scripted policy for a task: `get_action(whole observation)`."""
    return ENV_POLICY_MAP[task]()


def _make_simulator(task: str) -> Any:
    """Meta-World's environment with what its benchmarks set from outside."""
    simulator = ENV_CLS_MAP[task]()
    simulator.max_path_length = sys.maxsize  # truncation is gymnasium's business
    simulator.seeded_rand_vec = True
    simulator._set_task_called = True
    simulator._partially_observable = False  # the goal is part of the observation
    del simulator.sawyer_observation_space  # cached without the goal
    return simulator


def _averaged(frame: np.ndarray, factor: int) -> np.ndarray:
    """The mean of every `factor` x `factor` pixels, rounded: uint8 `(H, W, 3)`."""
    rows, columns = (length // factor for length in frame.shape[:2])
    upright = _sums(frame.reshape(rows, factor, -1))
    sums = _sums(upright.reshape(rows * columns, factor, 3))
    return ((sums + factor**2 // 2) // factor**2).astype(np.uint8).reshape(rows, columns, 3)


def _sums(parts: np.ndarray) -> np.ndarray:
    """Over the middle dimension, slice by slice, which is ten times as fast as by one call."""
    sums = parts[:, 0].astype(np.uint16)
    for i in range(1, parts.shape[1]):
        sums += parts[:, i]
    return sums


def _observation(values: np.ndarray) -> dict[str, np.ndarray]:
    values = values.astype(np.float32)
    return {"agent_pos": values[:HAND_AND_GRIPPER].copy(), "environment_state": values}


def _unbounded(size: int) -> gymnasium.spaces.Box:
    return gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)
