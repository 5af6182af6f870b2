"""The real environment: simulators as one gymnasium vector environment, seen as policies see.

It is the counterpart of an imagined environment of the same data: the same observations, actions,
chunks, horizon, ends and autoreset modes, so that a policy cannot tell in which of them it is.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from jaxtyping import UInt8

from policy.simulators import Act, Begin, Moment, Workers
from video.autoencoder import FrameAutoencoder
from video.errors import DatasetError
from video.resizing import resize_frames
from video.seeds import mixed_seed
from video.simulators.recipe import task_name


class RealVectorEnv(VectorEnv):
    """N simulated episodes at once, drawn once a step and encoded in one batch.

    Environment i's episodes depend on its own seed and actions alone, but for the last bit of its
    latents, which depends on how many are encoded at once. Its first episode is that of the
    simulator's `reset(seed=...)` with its seed, in the task that the seed chooses: with three tasks
    seeds 0, 3, 6, ... mean the first. `info` has for every step `success` and `elapsed_steps`, and
    for every reset `task` and `seed`, the simulator's own.

    Example:
        >>> envs = RealVectorEnv(  # doctest: +SKIP
        ...     "metaworld/drawer-open-v3", num_envs=8, autoencoder="video/autoencoders/metaworld"
        ... )
        >>> observations, info = envs.reset(seed=0)  # doctest: +SKIP

    Args:
        env: a gymnasium id, or several, one for each task. What they show must come from
            `render()`; their actions must be a Box of one dimension.
        num_envs: N.
        horizon: steps (actions) after which an episode is truncated.
        chunk: actions of one `step`: 1, with action space `(A,)`, or more, with `(chunk, A)` and
            rewards summed.
        obs_type: "latents" or "pixels" (uint8).
        state: add the robot's state; observations are then a Dict of `obs_type` and "state".
        autoencoder: that makes the latents, or its folder.
        frame_size: height and width that frames are brought to; None leaves them as they are.
        reward: "success" (1 for every step with success) or "dense", the simulator's own.
        terminate_on_success: end an episode with its first success.
        autoreset_mode: "next_step", "same_step" or "disabled", as in gymnasium.
        render_mode: None or "rgb_array".
        workers: processes that simulate; 0: this one.
        env_kwargs: for `gymnasium.make`.
        device: where frames are encoded.

    Raises:
        SimulatorMissing: a simulator that is not installed.
        DatasetError: one that cannot be made, or that does not tell the robot's state.
        ValueError: any other argument that does not fit, by name.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(
        self,
        env: str | Sequence[str],
        num_envs: int = 1,
        horizon: int = 64,
        chunk: int = 1,
        obs_type: Literal["latents", "pixels"] = "latents",
        state: bool = False,
        autoencoder: str | Path | FrameAutoencoder | None = None,
        frame_size: tuple[int, int] | None = None,
        reward: Literal["success", "dense"] = "success",
        terminate_on_success: bool = True,
        autoreset_mode: Literal["next_step", "same_step", "disabled"] = "next_step",
        render_mode: Literal["rgb_array"] | None = None,
        workers: int = 2,
        env_kwargs: dict[str, Any] | None = None,
        device: str = "cpu",
    ):
        if min(num_envs, horizon, chunk) < 1 or workers < 0:
            raise ValueError(
                f"num_envs={num_envs}, horizon={horizon} and chunk={chunk} must be at least 1, "
                f"workers={workers} not negative"
            )
        if obs_type == "latents" and autoencoder is None:
            raise ValueError("obs_type='latents' needs the autoencoder that makes them")
        self.ids = [env] if isinstance(env, str) else list(env)
        self.num_envs, self.horizon, self.chunk = num_envs, horizon, chunk
        self.obs_type, self.with_state = obs_type, state
        self.reward, self.terminate_on_success = reward, terminate_on_success
        self.autoreset_mode = AutoresetMode[autoreset_mode.upper()]
        self.render_mode, self.device = render_mode, device
        self.encoder: FrameAutoencoder | None = None
        if obs_type == "latents" and autoencoder is not None:
            if not isinstance(autoencoder, FrameAutoencoder):
                autoencoder = FrameAutoencoder.from_pretrained(autoencoder)
            self.encoder = autoencoder.to(device)
        self.workers = Workers(min(workers, num_envs), env_kwargs or {})
        every = [self.workers.spaces(name) for name in self.ids]
        actions, first, fps = every[0]
        for name, (own, *_) in zip(self.ids, every, strict=True):
            if not isinstance(own, spaces.Box) or len(own.shape) != 1:
                raise ValueError(f"{name} has actions {own}, not a Box of one dimension")
            if own != actions:
                raise ValueError(
                    f"{name} has actions {own}, {self.ids[0]} has {actions}. Make an environment "
                    "for each."
                )
        assert isinstance(actions, spaces.Box)
        if state and first.state is None:
            raise DatasetError(
                f"{self.ids[0]} does not tell the robot's state (no agent_pos). Use state=False."
            )
        self.frame_size = frame_size or (first.frame.shape[0], first.frame.shape[1])
        shape = actions.shape if chunk == 1 else (chunk, *actions.shape)
        self.single_action_space = spaces.Box(
            np.broadcast_to(actions.low, shape), np.broadcast_to(actions.high, shape), shape
        )
        self.single_observation_space = self._observation_space(first)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.metadata = {
            **self.metadata,
            "autoreset_mode": self.autoreset_mode,
            "render_fps": None if fps is None else fps / chunk,
            "autoencoder": None if self.encoder is None else self.encoder.fingerprint,
        }
        self._seed = np.zeros(num_envs, np.int64)
        self._episode = np.full(num_envs, -1)
        self._elapsed = np.zeros(num_envs, np.int64)
        self._over = np.zeros(num_envs, bool)
        self._moments: list[Moment] = [first] * num_envs

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Start episodes anew.

        Args:
            seed: environment i gets `seed + i`, or its own of a list. None goes on with the
                environment's next episode.
            options: `reset_mask`, bool `(N,)`, resets some and leaves the others as they are.

        Raises:
            ValueError: a mask or seeds that do not fit, or other options.
        """
        options = dict(options or {})
        mask = options.pop("reset_mask", np.ones(self.num_envs, bool))
        if options:
            raise ValueError(f"unknown options {sorted(options)}; there is 'reset_mask'")
        if np.shape(mask) != (self.num_envs,) or np.asarray(mask).dtype != bool or not mask.any():
            raise ValueError(
                f"reset_mask must be bool ({self.num_envs},) with at least one True, got {mask}"
            )
        if (self._episode < 0).any() and not mask.all():
            raise ResetNeeded("the first reset must be one of all environments, without reset_mask")
        if isinstance(seed, int | np.integer):
            self._np_random, self._np_random_seed = seeding.np_random(int(seed))
            seed = [int(seed) + i for i in range(self.num_envs)]
        seeds = [None] * self.num_envs if seed is None else list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(f"{len(seeds)} seeds for num_envs={self.num_envs}")
        info = self._begin(np.flatnonzero(mask), seeds)
        return self._observe(), info

    def step(self, actions: np.ndarray) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Take an action, or a chunk of them, in every environment.

        Args:
            actions: `(N, A)`, or `(N, chunk, A)`; what lies outside the bounds is clipped.

        Returns:
            Observations, rewards float64 `(N,)`, terminated and truncated bool `(N,)`, info. Where
            a chunk ends an episode before its last action, the observation is that of the end.

        Raises:
            ValueError: actions of another shape, or not finite.
            ResetNeeded: before the first reset; or, with autoreset disabled, behind an end.
        """
        if (self._episode < 0).any():
            raise ResetNeeded("call reset before anything else")
        was_over = self._over.copy()
        if self.autoreset_mode == AutoresetMode.DISABLED and was_over.any():
            raise ResetNeeded(
                f"the episodes of environments {np.flatnonzero(was_over).tolist()} are over. Reset "
                "them with options={'reset_mask': ...}, or choose another autoreset_mode."
            )
        chunks = self._checked(actions)
        reward = np.zeros(self.num_envs)
        terminated, truncated = np.zeros((2, self.num_envs), bool)
        info: dict[str, Any] = {}
        going = np.flatnonzero(~was_over)
        orders = [
            (int(i), Act(chunks[i, : self.horizon - self._elapsed[i]], self.terminate_on_success))
            for i in going
        ]
        for (i, _), moment in zip(orders, self.workers(orders), strict=True):
            self._moments[i] = moment
            self._elapsed[i] += len(moment.rewards)
            succeeds = any(moment.successes)
            reward[i] = sum(moment.successes if self.reward == "success" else moment.rewards)
            terminated[i] = moment.terminated or (succeeds and self.terminate_on_success)
            late = self._elapsed[i] >= self.horizon or moment.truncated
            truncated[i] = late and not terminated[i]
        self._over = terminated | truncated
        told = {
            int(i): {
                "success": any(self._moments[i].successes),
                "elapsed_steps": int(self._elapsed[i]),
            }
            for i in going
        }
        if self.autoreset_mode == AutoresetMode.SAME_STEP and self._over.any():
            final, over = self._observe(), np.flatnonzero(self._over)
            for i in over:
                told[int(i)] = {"final_obs": _row(final, int(i)), "final_info": told[int(i)]}
            info |= self._begin(over, [None] * self.num_envs)
            self._over[:] = False
        elif self.autoreset_mode == AutoresetMode.NEXT_STEP and was_over.any():
            info |= self._begin(np.flatnonzero(was_over), [None] * self.num_envs)
        for i, entries in told.items():
            info = self._add_info(info, entries, i)
        return self._observe(), reward, terminated, truncated, info

    def render(self) -> tuple[np.ndarray, ...] | None:
        """Every environment's latest frame, uint8 `(H, W, 3)`."""
        if self.render_mode is None:
            return None
        return tuple(self._frames().transpose(0, 2, 3, 1))

    def close_extras(self, **kwargs: Any) -> None:
        """End the worker processes."""
        self.workers.close()

    def _begin(self, which: np.ndarray, seeds: Sequence[int | None]) -> dict[str, Any]:
        """Begin episodes in some environments; the info of their resets."""
        orders, info = [], {}
        for i in which:
            given = seeds[i]
            if given is None and self._episode[i] >= 0:
                self._episode[i] += 1
            else:
                self._seed[i] = self.np_random.integers(2**31) if given is None else given
                self._episode[i] = 0
            seed, episode = int(self._seed[i]), int(self._episode[i])
            env = self.ids[(seed + episode) % len(self.ids)]
            orders.append((int(i), Begin(env, _simulator_seed(seed, episode))))
        for (i, begin), moment in zip(orders, self.workers(orders), strict=True):
            self._moments[i], self._elapsed[i], self._over[i] = moment, 0, False
            entries = {"task": task_name(begin.env), "seed": begin.seed}
            info = self._add_info(info, entries, i)
        return info

    def _observe(self) -> Any:
        """Observations of all environments."""
        frames = self._frames()
        if self.encoder is None:
            seen = np.ascontiguousarray(frames.transpose(0, 2, 3, 1))
        else:
            pixels = torch.from_numpy(frames)[:, None].to(self.device)
            seen = self.encoder.encode(pixels).half().float().cpu().numpy()
        if not self.with_state:
            return seen
        state = np.stack([np.asarray(m.state, np.float32) for m in self._moments])
        return {self.obs_type: seen, "state": state}

    def _frames(self) -> UInt8[np.ndarray, "envs 3 H W"]:
        return resize_frames(np.stack([m.frame for m in self._moments]), self.frame_size)

    def _observation_space(self, first: Moment) -> spaces.Space:
        if self.encoder is None:
            space = spaces.Box(0, 255, (*self.frame_size, 3), np.uint8)
        else:
            shape = (1, *self.encoder.latent_shape(*self.frame_size))
            space = spaces.Box(-np.inf, np.inf, shape, np.float32)
        if not self.with_state or first.state is None:
            return space
        robot = spaces.Box(-np.inf, np.inf, first.state.shape, np.float32)
        return spaces.Dict({self.obs_type: space, "state": robot})

    def _checked(self, actions: Any) -> np.ndarray:
        """Actions `(N, chunk, A)` within the bounds."""
        actions = np.asarray(actions, np.float32)
        if actions.shape != self.action_space.shape:
            raise ValueError(f"actions are {actions.shape}, expected {self.action_space.shape}")
        finite = np.isfinite(actions).reshape(self.num_envs, -1).all(1)
        if not finite.all():
            raise ValueError(
                f"the actions of environments {np.flatnonzero(~finite).tolist()} are not finite"
            )
        space = self.single_action_space
        assert isinstance(space, spaces.Box)
        clipped = np.clip(actions, space.low, space.high)
        return clipped.reshape(self.num_envs, self.chunk, -1)


def _simulator_seed(seed: int, episode: int) -> int:
    """The environment's own seed for its first episode, others made of it for those behind it."""
    if episode == 0:
        return seed
    return mixed_seed(seed, episode) % 2**31


def _row(observations: Any, index: int) -> Any:
    if isinstance(observations, dict):
        return {key: values[index].copy() for key, values in observations.items()}
    return observations[index].copy()
