"""A gymnasium vector environment for stable-baselines3, which refuses them as they are.

Its `VecEnv` resets a finished environment within the step that finished it and wants the last
observation in `infos[i]["terminal_observation"]`: gymnasium's same-step autoreset, with one dict an
environment in place of gymnasium's dict of arrays. `VecMonitor`, `VecNormalize` and the other
wrappers of stable-baselines3 go on top.
"""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper

from worldmodel.adapters.autoreset import require_autoreset_mode

try:
    from stable_baselines3.common.vec_env import VecEnv
    from stable_baselines3.common.vec_env.base_vec_env import (
        VecEnvIndices,
        VecEnvObs,
        VecEnvStepReturn,
    )
except ImportError as error:
    raise ImportError(
        "StableBaselinesVecEnv needs stable-baselines3, which is not installed: "
        "pip install -e '.[rl]'"
    ) from error


class StableBaselinesVecEnv(VecEnv):
    """Any gymnasium vector environment with same-step autoreset, as a `VecEnv`.

    There is one environment object behind all indices: its attributes and methods speak for the
    whole batch, and every index gets the same answer.

        envs = gymnasium.make_vec(..., autoreset_mode="same_step")
        model = PPO("MlpPolicy", VecMonitor(StableBaselinesVecEnv(envs)))

    Args:
        env: observations of a Box, a Discrete space or a Dict of them.

    Raises:
        TypeError: no vector environment.
        ValueError: its autoreset mode is another.
    """

    def __init__(self, env: VectorEnv):
        require_autoreset_mode(env, AutoresetMode.SAME_STEP, "stable-baselines3")
        self.env = env
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        self.metadata = env.metadata

    def set_options(self, options: list[dict] | dict | None = None) -> None:
        """Options of the next reset, in gymnasium's form: one dict for the whole batch.

        Raises:
            TypeError: a list of dicts.
        """
        if isinstance(options, list):
            raise TypeError(
                f"set_options got a list of {len(options)} dicts, but a vector environment takes "
                "one dict for the whole batch: pass that."
            )
        self._options = [options or {}] * self.num_envs

    def reset(self) -> VecEnvObs:
        """Start every environment anew, with the seeds and options set before, which are used up.

        Returns:
            Observations, a row an environment; what gymnasium calls info is in `reset_infos`.
        """
        # gymnasium, too, gives environment i the seed + i
        seed, options = self._seeds[0], self._options[0] or None
        observations, infos = self.env.reset(seed=seed, options=options)
        self._reset_seeds()
        self._reset_options()
        self.reset_infos = unpack(infos, self.num_envs)
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Take the step.

        Returns:
            Observations (of the new episode where one began), float32 rewards, done, and an info an
            environment: that of the last step of the old episode where one ended. The new one's is
            in `reset_infos`.
        """
        observations, rewards, terminated, truncated, batch = self.env.step(self._actions)
        done = np.logical_or(terminated, truncated)
        infos = unpack(batch, self.num_envs)
        for i, info in enumerate(infos):
            if done[i]:
                self.reset_infos[i] = info
                infos[i] = _ended(info)
            infos[i]["TimeLimit.truncated"] = bool(truncated[i] and not terminated[i])
        return observations, np.asarray(rewards, np.float32), done, infos

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """A frame an environment, or Nones where it was made without `render_mode="rgb_array"`."""
        if self.render_mode != "rgb_array":
            return [None] * self.num_envs
        frames = self.env.render()
        assert frames is not None
        return [np.asarray(frame) for frame in frames]

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of the outermost wrapper that has it, or of the environment, once an index.

        Raises:
            AttributeError: none of them has it.
        """
        return [getattr(self._owner(attr_name), attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute where it is already, else on the outermost wrapper.

        Raises:
            ValueError: for some of the environments only.
        """
        if set(self._get_indices(indices)) != set(range(self.num_envs)):
            raise ValueError(
                f"set_attr({attr_name!r}, indices={indices}): the {self.num_envs} environments are "
                "one batch and share their attributes. Leave out indices."
            )
        owner = self._owner(attr_name) if self.has_attr(attr_name) else self.env
        setattr(owner, attr_name, value)

    def env_method(
        self, method_name: str, *method_args, indices: VecEnvIndices = None, **method_kwargs
    ) -> list[Any]:
        """Call a method of the environment once; every index gets what it returned.

        Raises:
            AttributeError: neither the environment nor a wrapper has it.
        """
        method = getattr(self._owner(method_name), method_name)
        result = method(*method_args, **method_kwargs)
        return [result for _ in self._get_indices(indices)]

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Whether a wrapper of that class is around the vector environment, once an index."""
        wrapped = any(isinstance(layer, wrapper_class) for layer in self._layers())
        return [wrapped for _ in self._get_indices(indices)]

    def _layers(self) -> list[VectorEnv]:
        """The environment and what it wraps, from the outside in."""
        layers = [self.env]
        while isinstance(layers[-1], VectorWrapper):
            layers.append(layers[-1].env)
        return layers

    def _owner(self, name: str) -> VectorEnv:
        """The outermost layer that has an attribute: gymnasium's wrappers do not pass them on."""
        for layer in self._layers():
            if hasattr(layer, name):
                return layer
        raise AttributeError(f"neither {self.env!r} nor anything inside it has {name!r}")


def unpack(infos: dict[str, Any], num_envs: int) -> list[dict[str, Any]]:
    """Turn gymnasium's info, arrays with a row an environment, into one dict an environment.

    A key is given to the environments that its mask `_key` names; without a mask, to all.
    """
    unpacked = [{} for _ in range(num_envs)]
    for key, values in infos.items():
        if key.startswith("_") and key[1:] in infos:
            continue
        if isinstance(values, dict):
            values = unpack(values, num_envs)
        mask = infos.get(f"_{key}")
        for i, info in enumerate(unpacked):
            if mask is None or mask[i]:
                info[key] = values[i]
    return unpacked


def _ended(info: dict[str, Any]) -> dict[str, Any]:
    """Take out of the info of a new episode's start what belongs to the old one's last step."""
    ended = {**info.pop("final_info", {}), "terminal_observation": info.pop("final_obs")}
    if "episode" in info:  # gymnasium's statistics of the old episode stand beside the new info
        ended["episode"] = info.pop("episode")
    return ended
