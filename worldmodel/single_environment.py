"""The imagined environment with N = 1, as a plain `gymnasium.Env`."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode

from worldmodel.environment import EnvironmentState, ImaginedVectorEnv


class ImaginedEnv(gymnasium.Env):
    """One imagined episode at a time: an `ImaginedVectorEnv` of one.

    Example:
        >>> env = gymnasium.make("worldmodel/Imagined-v0", checkpoint="runs/uwm/model")
        >>> observation, info = env.reset(seed=0)

    Args:
        checkpoint: a saved world model's folder, or the model.
        render_mode: None or "rgb_array".
        options: those of `ImaginedVectorEnv`, but for `num_envs` and `autoreset_mode`.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, checkpoint: Any, render_mode: str | None = None, **options: Any):
        for name in {"num_envs", "autoreset_mode"} & set(options):
            raise TypeError(f"{name} is an option of the vector environment: use make_vec")
        self.vector = ImaginedVectorEnv(
            checkpoint,
            num_envs=1,
            autoreset_mode=AutoresetMode.DISABLED,
            render_mode=render_mode,
            **options,
        )
        self.metadata = {**self.metadata, "render_fps": self.vector.metadata["render_fps"]}
        self.render_mode = render_mode
        self.action_space = self.vector.single_action_space
        self.observation_space = self.vector.single_observation_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode; see `ImaginedVectorEnv.reset`."""
        super().reset(seed=seed)
        observations, info = self.vector.reset(seed=seed, options=options)
        return _first(observations), _figures(info)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take an action `(A,)`, or a chunk of them `(chunk, A)`; see `ImaginedVectorEnv.step`."""
        observations, reward, terminated, truncated, info = self.vector.step(
            np.asarray(action)[None]
        )
        return (
            _first(observations),
            float(reward[0]),
            bool(terminated[0]),
            bool(truncated[0]),
            _figures(info),
        )

    def render(self) -> np.ndarray | None:
        """The latest frame, uint8 `(H, W, 3)`."""
        frames = self.vector.render()
        return None if frames is None else frames[0]

    def close(self) -> None:
        """Nothing to close but the vector environment."""
        self.vector.close()

    def get_state(self) -> EnvironmentState:
        """A copy of where the episode stands."""
        return self.vector.get_state()

    def set_state(self, state: EnvironmentState) -> None:
        """Go on from where an episode stood, exactly."""
        self.vector.set_state(state)


def _first(observations: Any) -> Any:
    """The only environment's observation."""
    if isinstance(observations, dict):
        return {name: values[0] for name, values in observations.items()}
    return observations[0]


def _figures(info: dict[str, Any]) -> dict[str, Any]:
    """The only environment's figures, those that are true of it, plain numbers without masks.

    Of NumPy's bool gymnasium would make an array of objects when it puts environments together.
    """
    return {
        name: value[0].item()
        for name, value in info.items()
        if not name.startswith("_") and info[f"_{name}"][0]
    }
