"""A gymnasium vector environment for TorchRL, whose collectors reset finished environments.

TorchRL wants to see the last observation of an episode in `("next", ...)` and then asks for a
partial reset itself, so the environment must not reset on its own: gymnasium's disabled autoreset,
with `reset(options={"reset_mask": ...})`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import Space, spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from video.simulators.drawing import without_display
from worldmodel.adapters.autoreset import require_autoreset_mode

without_display()  # torchrl imports mujoco
try:
    from tensordict import TensorDict, TensorDictBase
    from torchrl.data import Bounded, Categorical, Composite, TensorSpec, Unbounded
    from torchrl.envs import EnvBase
except ImportError as error:
    raise ImportError(
        "TorchRLEnv needs torchrl, which is not installed: pip install -e '.[rl]'"
    ) from error


class TorchRLEnv(EnvBase):
    """Any gymnasium vector environment with disabled autoreset, as an `EnvBase` of batch size (N,).

    Observations are under "observation", those of a Dict space under its own keys. What `info_keys`
    names becomes an observation, too, float32 `(N, 1)`, and zero where info has none of it (after a
    reset, say).

        envs = gymnasium.make_vec(..., autoreset_mode="disabled")
        collector = Collector(TorchRLEnv(envs), policy, frames_per_batch=1024)

    Args:
        env: Box, Discrete and Dict spaces.
        info_keys: entries of info with a number or truth value an environment.
        device: where the tensors are put.

    Raises:
        TypeError: no vector environment, or a space of another kind.
        ValueError: its autoreset mode is another, or an info key is an observation's name; in
            `step`, an info entry that is not one number an environment.
    """

    def __init__(
        self,
        env: VectorEnv,
        info_keys: Sequence[str] = (),
        device: torch.device | str = "cpu",
    ):
        require_autoreset_mode(env, AutoresetMode.DISABLED, "TorchRL")
        super().__init__(device=torch.device(device), batch_size=(env.num_envs,))
        self.env = env
        self.info_keys = tuple(info_keys)
        self.is_closed = False
        self._next_seed: int | None = None
        self._make_specs()

    def _make_specs(self) -> None:
        batch, device = self.batch_size, self.device
        column = torch.Size((*batch, 1))
        observation = spec_of(self.env.single_observation_space, batch, device)
        if not isinstance(observation, Composite):
            observation = Composite(observation=observation, shape=batch, device=device)
        for key in self.info_keys:
            if key in observation:
                raise ValueError(
                    f"info_keys has {key!r}, but an observation is called that already. Leave it "
                    "out, or rename the observation."
                )
            observation[key] = Unbounded(column, device=device)
        action_space = self.env.single_action_space
        action = spec_of(action_space, batch, device)
        if isinstance(action, Composite):
            raise TypeError(
                f"TorchRLEnv takes actions of a Box or Discrete space, not of {action_space}. Put "
                "a gymnasium.vector.VectorActionWrapper around that flattens them."
            )
        flag = Categorical(2, shape=column, dtype=torch.bool, device=device)
        flags = {name: flag.clone() for name in ("done", "terminated", "truncated")}
        self.observation_spec = observation
        self.action_spec = action
        self.reward_spec = Unbounded(column, device=device)
        self.done_spec = Composite(flags, shape=batch, device=device)

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Close the environment."""
        super().close(raise_if_closed=raise_if_closed)
        self.env.close()

    def _set_seed(self, seed: int | None) -> None:
        """Seed the next reset: environment i gets `seed + i`."""
        self._next_seed = seed

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs) -> TensorDictBase:
        options = None
        asked = None if tensordict is None else tensordict.get("_reset", None)
        if asked is not None and not asked.all():
            if not asked.any():  # which gymnasium refuses; TorchRL takes no row of what it gets
                return self.full_observation_spec.zero().update(self.full_done_spec.zero())
            options = {"reset_mask": asked.reshape(self.batch_size).cpu().numpy()}
        observations, infos = self.env.reset(seed=self._next_seed, options=options)
        self._next_seed = None
        never = np.zeros(self.batch_size, bool)
        return self._tensordict(observations, infos, never, never)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        actions = tensordict.get("action").detach().cpu().numpy()
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        result = self._tensordict(observations, infos, terminated, truncated)
        return result.set("reward", self._column(rewards, torch.float32))

    def _tensordict(
        self, observations: Any, infos: dict[str, Any], terminated: Any, truncated: Any
    ) -> TensorDict:
        """What both a reset and a step give, without the reward."""
        if not isinstance(self.env.single_observation_space, spaces.Dict):
            observations = {"observation": observations}
        values = _tensors(observations, self.device)
        for key in self.info_keys:
            values[key] = self._info(key, infos)
        values["terminated"] = self._column(terminated, torch.bool)
        values["truncated"] = self._column(truncated, torch.bool)
        values["done"] = values["terminated"] | values["truncated"]
        return TensorDict(values, batch_size=self.batch_size, device=self.device)

    def _info(self, key: str, infos: dict[str, Any]) -> Tensor:
        if key not in infos:
            return torch.zeros(*self.batch_size, 1, device=self.device)
        if np.shape(infos[key]) != self.batch_size:
            raise ValueError(
                f"info[{key!r}] has the shape {tuple(np.shape(infos[key]))}, but info_keys takes "
                f"one number an environment: {tuple(self.batch_size)}. Leave it out."
            )
        values = self._column(infos[key], torch.float32)
        if f"_{key}" in infos:
            values[~self._column(infos[f"_{key}"], torch.bool)] = 0
        return values

    def _column(self, values: Any, dtype: torch.dtype) -> Tensor:
        return torch.as_tensor(values, device=self.device).to(dtype, copy=True)[:, None]


def spec_of(space: Space, batch: torch.Size, device: torch.device | None) -> TensorSpec:
    """TorchRL's word for a batch of values of a gymnasium space.

    A Box with an infinite side becomes `Unbounded`.

    Raises:
        TypeError: no Box, Discrete or Dict space.
        ValueError: a Discrete space that does not start at 0.
    """
    if isinstance(space, spaces.Dict):
        parts = {key: spec_of(part, batch, device) for key, part in space.spaces.items()}
        return Composite(parts, shape=batch, device=device)
    if isinstance(space, spaces.Discrete):
        if space.start != 0:
            raise ValueError(f"{space} starts at {space.start}; TorchRL counts from 0. Shift it.")
        dtype = torch.as_tensor(np.zeros((), space.dtype)).dtype
        return Categorical(int(space.n), shape=batch, dtype=dtype, device=device)
    if isinstance(space, spaces.Box):
        low, high = torch.as_tensor(space.low), torch.as_tensor(space.high)
        shape = torch.Size((*batch, *space.shape))
        if space.is_bounded():
            return Bounded(
                low.expand(shape), high.expand(shape), shape=shape, dtype=low.dtype, device=device
            )
        return Unbounded(shape, dtype=low.dtype, device=device)
    raise TypeError(f"TorchRLEnv knows Box, Discrete and Dict spaces, not {space}.")


def _tensors(values: dict[str, Any], device: torch.device | None) -> dict[str, Any]:
    """Copies, for an environment may write into the arrays it gave."""
    return {
        key: _tensors(value, device)
        if isinstance(value, dict)
        else torch.as_tensor(value, device=device).clone()
        for key, value in values.items()
    }
