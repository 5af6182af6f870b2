"""Who acts while an episode is recorded: what a policy must do, and one that works anywhere."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import gymnasium


class RecordingPolicy(ABC):
    """Acts in an environment. It must survive pickling before its first `reset`."""

    @abstractmethod
    def reset(self, env: gymnasium.Env, seed: int) -> None:
        """Get ready for an episode of `env`, which has just been reset; all chance is in `seed`."""

    @abstractmethod
    def __call__(self, observation: Any, info: dict[str, Any]) -> Any:
        """Choose the action for an observation."""


@dataclass
class Random(RecordingPolicy):
    """Uniformly random actions, each held for a few steps.

    Args:
        hold: steps an action is kept; more than one reaches further from the start.
    """

    hold: int = 1
    _space: gymnasium.Space | None = field(default=None, init=False, repr=False)
    _action: Any = field(default=None, init=False, repr=False)
    _held: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.hold < 1:
            raise ValueError(f"Random holds an action for at least 1 step, got hold={self.hold}.")

    def reset(self, env: gymnasium.Env, seed: int) -> None:
        """Seed the environment's action space."""
        self._space = env.action_space
        self._space.seed(seed)
        self._held = 0

    def __call__(self, observation: Any, info: dict[str, Any]) -> Any:
        """Draw an action, or keep the last one."""
        assert self._space is not None, "reset comes first"
        if self._held % self.hold == 0:
            self._action = self._space.sample()
        self._held += 1
        return self._action
