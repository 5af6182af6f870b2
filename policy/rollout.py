"""Collecting rollouts: a stochastic actor plays in any vector environment.

The collector takes steps and writes down what happened; it computes no values and trains nothing.
Where environments begin their next episodes by themselves, both of gymnasium's ways are read
right: what an episode's last step reached is its true last observation, and a step that only resets
is not `valid`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from jaxtyping import Bool, Float
from torch import Tensor

from policy.actors.actor import StochasticActor
from policy.actors.draws import draw
from policy.observations import Observation, Shapes, as_observation, shapes_of
from video.statistics import Normalizer


@dataclass
class Rollout:
    """L steps of E environments.

    Attributes:
        observations: what each step started from.
        reached: what it led to, before any reset.
        drawn: what the actor drew from its distribution.
        rewards: of each step.
        terminated: whether the episode ended there for good.
        truncated: whether it ran into the environment's time limit there.
        ends: whether what comes after belongs to another episode, truncation included.
        age: steps that the episode was old before this one.
        valid: False for steps that only reset, and behind an early truncation.
        uncertainty: the environment's `info["uncertainty"]`; zeros where it tells none.
        episodes: those that ended.
    """

    observations: dict[str, Tensor]
    reached: dict[str, Tensor]
    drawn: Float[Tensor, "L E chunk action_dim"]
    rewards: Float[Tensor, "L E"]
    terminated: Bool[Tensor, "L E"]
    truncated: Bool[Tensor, "L E"]
    ends: Bool[Tensor, "L E"]
    age: Float[Tensor, "L E"]
    valid: Bool[Tensor, "L E"]
    uncertainty: Float[Tensor, "L E"]
    episodes: "Episodes"


@dataclass
class Episodes:
    """What became of the episodes that ended in a rollout.

    Attributes:
        returns: sum of rewards.
        lengths: steps.
        successes: whether one of the steps was a success; False where the environment tells none.
        contexts: the stored context that each began from, by the `info["context"]` of its reset; -1
            where the environment tells none.
    """

    returns: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    successes: list[bool] = field(default_factory=list)
    contexts: list[int] = field(default_factory=list)

    def add(
        self,
        returns: np.ndarray,
        lengths: np.ndarray,
        successes: np.ndarray,
        contexts: np.ndarray,
    ) -> None:
        """Episodes that have just ended."""
        self.returns += returns.tolist()
        self.lengths += lengths.tolist()
        self.successes += successes.tolist()
        self.contexts += contexts.tolist()

    def figures(self) -> dict[str, float]:
        """Means; nothing where no episode ended."""
        if not self.returns:
            return {}
        return {
            "return": float(np.mean(self.returns)),
            "success": float(np.mean(self.successes)),
            "episode_steps": float(np.mean(self.lengths)),
        }


class Collector:
    """Plays in a vector environment, going on where the last rollout ended.

    Args:
        envs: any vector environment that resets by itself, in the same step or in the next.
        actor: plays.
        normalizer: actions in [-1, 1] to the environment's units; None: by the bounds of its Box,
            or nothing to do for a Discrete space.
        shapes: by key, the shape of what the actor needs to see; None: all that is shown, under the
            environment's own keys.
        uncertainty_limit: early truncation: what follows a step with more `info["uncertainty"]`
            than this has no part in the rollout; that step ends the episode without terminating.
        device: where the actor is.

    Raises:
        ValueError: an environment that has to be reset by hand, or with actions of another kind.
    """

    def __init__(
        self,
        envs: VectorEnv,
        actor: StochasticActor,
        normalizer: Normalizer | None = None,
        shapes: Shapes | None = None,
        uncertainty_limit: float | None = None,
        device: torch.device | str = "cpu",
    ):
        self.mode = AutoresetMode(envs.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
        if self.mode == AutoresetMode.DISABLED:
            raise ValueError(
                "these environments have to be reset by hand (autoreset_mode disabled); make them "
                "with autoreset_mode 'same_step' or 'next_step'"
            )
        self.envs, self.actor, self.device = envs, actor, device
        self.shapes = shapes or shapes_of(envs.single_observation_space)
        self.commands = Commands(envs, normalizer)
        self.uncertainty_limit = uncertainty_limit
        self._observation: Observation | None = None

    @property
    def playing(self) -> bool:
        """Whether episodes have begun."""
        return self._observation is not None

    def restart(self, seed: int, options: dict[str, Any] | None = None) -> None:
        """Begin new episodes everywhere.

        Args:
            seed: of the environments.
            options: of their reset.
        """
        given, info = self.envs.reset(seed=seed, options=options)
        number = self.envs.num_envs
        self._observation = self._seen(given)
        self._resets, self._cut = np.zeros(number, bool), np.zeros(number, bool)
        self._return, self._steps = np.zeros(number), np.zeros(number, np.int64)
        self._success, self._first = np.zeros(number, bool), np.ones(number, bool)
        self._context = np.full(number, -1)
        self._begun(info)

    @torch.no_grad()
    def collect(self, steps: int, generator: torch.Generator, only_first: bool = False) -> Rollout:
        """Take steps.

        Args:
            steps: L.
            generator: of the actor's draws.
            only_first: report only on the first episode of each environment since `restart`. Of
                those that a rollout's end cuts off the failures would be missing.
        """
        assert self._observation is not None, "call restart first"
        columns: dict[str, list[Tensor]] = {}
        observations: list[Observation] = []
        reached: list[Observation] = []
        episodes = Episodes()
        for _ in range(steps):
            seen = self._observation
            drawn = draw(self.actor.distribution(seen), generator)
            actions = self.actor.decode(seen, drawn)
            given, reward, terminated, truncated, info = self.envs.step(self.commands(actions))
            resets, over = self._resets, terminated | truncated
            valid = ~resets & ~self._cut
            age = self._steps.astype(np.float32)
            uncertainty = told(info, "uncertainty", len(over))
            unsure = valid & self._too_uncertain(uncertainty)
            self._count(episodes, reward, told(info, "success", len(over)) > 0, over, only_first)
            self._begun(info)
            self._cut = (self._cut | unsure) & ~over
            self._resets = over & (self.mode == AutoresetMode.NEXT_STEP)
            self._observation = self._seen(given)
            observations.append(seen)
            reached.append(self._last(self._observation, info, over))
            step = {
                "rewards": np.asarray(reward, np.float32),
                "terminated": terminated & valid,
                "truncated": truncated & ~terminated & valid,
                "age": age,
                "ends": over | unsure,
                "valid": valid,
                "uncertainty": uncertainty.astype(np.float32),
            }
            for name, values in step.items():
                columns.setdefault(name, []).append(torch.as_tensor(values, device=self.device))
            columns.setdefault("drawn", []).append(drawn)
        stacked = {name: torch.stack(values) for name, values in columns.items()}
        return Rollout(_stack(observations), _stack(reached), **stacked, episodes=episodes)

    def _seen(self, given: Any) -> Observation:
        """A copy: some environments write all their observations to the same place."""
        observation = as_observation(given, self.shapes, self.device)
        return {key: values.clone() for key, values in observation.items()}

    def _too_uncertain(self, uncertainty: np.ndarray) -> np.ndarray:
        if self.uncertainty_limit is None:
            return np.zeros(len(uncertainty), bool)
        return uncertainty > self.uncertainty_limit

    def _count(
        self,
        episodes: Episodes,
        reward: np.ndarray,
        success: np.ndarray,
        over: np.ndarray,
        only_first: bool,
    ) -> None:
        """Add to what the running episodes are worth, and hand on those that are over."""
        goes_on = ~self._resets
        self._return += np.where(goes_on, reward, 0)
        self._steps += goes_on
        self._success |= success & goes_on
        told_of = over & (self._first if only_first else True)
        columns = self._return, self._steps, self._success, self._context
        episodes.add(*(column[told_of] for column in columns))
        self._return[over], self._steps[over], self._success[over] = 0, 0, False
        self._first &= ~over

    def _begun(self, info: dict[str, Any]) -> None:
        """Take down which stored contexts new episodes began from, where that is told."""
        if "context" in info:
            begun = info.get("_context", np.ones(len(self._context), bool))
            self._context[begun] = info["context"][begun]

    def _last(
        self, observation: Observation, info: dict[str, Any], over: np.ndarray
    ) -> Observation:
        """What a step led to: the last observation of an episode, not the first of the next."""
        which = np.flatnonzero(over)
        if self.mode == AutoresetMode.NEXT_STEP or len(which) == 0:
            return observation
        finals = [info["final_obs"][i] for i in which]
        given = (
            {key: np.stack([final[key] for final in finals]) for key in self.shapes}
            if isinstance(finals[0], Mapping)
            else np.stack(finals)
        )
        final = as_observation(given, self.shapes, self.device)
        rows = torch.as_tensor(which, device=self.device)
        return {key: values.index_copy(0, rows, final[key]) for key, values in observation.items()}


class Commands:
    """From a policy's normalised actions to what an environment's `step` takes.

    Args:
        envs: the environment.
        normalizer: of the actions; None: the bounds of the Box are -1 and 1.

    Raises:
        ValueError: a space that is neither a Box nor Discrete, or a Box without bounds and no
            normalizer.
    """

    def __init__(self, envs: VectorEnv, normalizer: Normalizer | None = None):
        self.space = envs.single_action_space
        self.start = 0
        if isinstance(self.space, gymnasium.spaces.Discrete):
            self.start = int(self.space.start)
            return
        if not isinstance(self.space, gymnasium.spaces.Box):
            raise ValueError(f"{self.space} is neither a Box nor Discrete")
        low, high = self.space.low, self.space.high
        size = low.shape[-1]
        self.low, self.high = low.reshape(-1, size), high.reshape(-1, size)
        if normalizer is None:
            if not (np.isfinite(low).all() and np.isfinite(high).all()):
                raise ValueError(
                    f"{self.space} has no bounds, so [-1, 1] means nothing in it. Pass a "
                    "normalizer, or wrap the environment with gymnasium's RescaleAction."
                )
            normalizer = Normalizer(self.low[0], self.high[0])
        self.normalizer = normalizer

    def __call__(self, actions: Float[Tensor, "envs chunk action_dim"]) -> np.ndarray:
        """Actions in the environment's units, within its bounds, in its shape."""
        values = actions.cpu().numpy()
        if isinstance(self.space, gymnasium.spaces.Discrete):
            return values[:, 0, 0].astype(self.space.dtype) + self.start
        assert self.space.shape is not None
        wanted = self.normalizer.denormalize(values).clip(self.low, self.high)
        return wanted.reshape(len(values), *self.space.shape).astype(self.space.dtype)


def told(info: Mapping[str, Any], name: str, num_envs: int) -> Float[np.ndarray, " num_envs"]:
    """What `info` says of the step just taken, that of an ended episode included; zero if nothing.

    Args:
        info: of a vector environment's step, with gymnasium's masks.
        name: of the entry.
        num_envs: rows.
    """
    values = np.zeros(num_envs)
    for part in (info, info.get("final_info", {})):
        if name in part:
            known = part.get(f"_{name}", np.ones(num_envs, bool))
            values = np.where(known, np.asarray(part[name], float), values)
    return values


def _stack(observations: list[Observation]) -> dict[str, Tensor]:
    return {key: torch.stack([seen[key] for seen in observations]) for key in observations[0]}
