"""Whole episodes of a policy in any vector environment, one for every seed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from jaxtyping import UInt8

from policy.model import as_actions, steps_of
from policy.rollout import told


class Acting(Protocol):
    """Whoever acts: a saved `Policy`, or anything with this method."""

    def act(self, observations: Any, steps: int | None = None) -> np.ndarray:
        """The next actions `(E, steps, A)`, in the environment's units."""
        ...


@dataclass
class Start:
    """Where an episode began, so that another environment can begin there.

    Attributes:
        frame: what its camera saw, uint8 `(H, W, 3)`.
        state: the robot's, in the data's units; None where it is not observed.
    """

    frame: UInt8[np.ndarray, "H W 3"]
    state: np.ndarray | None


@dataclass
class PlayedEpisode:
    """What became of an episode.

    Attributes:
        seed: of the environment.
        task: its name, "" where the environment tells none.
        success: whether any step was one.
        steps: actions taken.
        total: sum of the rewards.
        frames: the first frame and that behind every step; none where nothing is rendered.
    """

    seed: int
    task: str = ""
    success: bool = False
    steps: int = 0
    total: float = 0.0
    frames: list[np.ndarray] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Everything but the frames."""
        return {
            "seed": self.seed,
            "task": self.task,
            "success": self.success,
            "steps": self.steps,
            "return": self.total,
        }


@dataclass
class Played:
    """Episodes, and where they began.

    Attributes:
        episodes: one for every seed.
        starts: the same; empty where nothing is rendered.
    """

    episodes: list[PlayedEpisode]
    starts: list[Start]


def play(
    policy: Acting,
    env: VectorEnv,
    seeds: Sequence[int],
    starts: Sequence[Start] | None = None,
    tasks: Sequence[str] | None = None,
) -> Played:
    """Play one episode for every seed.

    Args:
        policy: who acts.
        env: where; made with `render_mode="rgb_array"` it shows the episodes.
        seeds: an episode for each.
        starts: begin there; for environments whose `reset` takes the options "context" and "state".
        tasks: their names, where the environment does not tell.

    Raises:
        ValueError: starts without a state for an environment that shows it.
    """
    played = Played([], [])
    for first in range(0, len(seeds), env.num_envs):
        chosen = [first + i for i in range(env.num_envs)]
        inside = [min(n, len(seeds) - 1) for n in chosen]  # the last batch repeats the last seed
        options = None if starts is None else _options([starts[n] for n in inside])
        batch = _batch(policy, env, [seeds[n] for n in inside], options)
        count = sum(n < len(seeds) for n in chosen)
        played.episodes += batch.episodes[:count]
        played.starts += batch.starts[:count]
    for episode, task in zip(played.episodes, tasks or (), strict=False):
        episode.task = task
    return played


def _batch(
    policy: Acting, env: VectorEnv, seeds: Sequence[int], options: dict[str, Any] | None
) -> Played:
    """The first episode of every environment."""
    each: Any = list(seeds)  # gymnasium's vector environments take one for each; its types do not
    observations, info = env.reset(seed=each, options=options)
    names = info.get("task", [""] * len(seeds))
    episodes = [PlayedEpisode(s, str(name)) for s, name in zip(seeds, names, strict=True)]
    frames = _frames(env)
    state = observations.get("state") if isinstance(observations, dict) else None
    starts = [
        Start(frame, None if state is None else state[i].copy()) for i, frame in enumerate(frames)
    ]
    going = np.ones(len(seeds), bool)
    steps = steps_of(env)
    _film(episodes, frames, going)
    while going.any():
        actions = as_actions(policy.act(observations, steps=steps), env)
        observations, reward, terminated, truncated, info = env.step(actions)
        over = terminated | truncated
        success = told(info, "success", len(seeds)) > 0
        elapsed = told(info, "elapsed_steps", len(seeds)).astype(int)  # 0 where it is not told
        for i in np.flatnonzero(going).tolist():
            episode = episodes[i]
            episode.total += float(reward[i])
            episode.success |= bool(success[i])
            episode.steps = int(elapsed[i]) or episode.steps + steps
        at_once = (
            _autoreset_mode(env) == AutoresetMode.SAME_STEP
        )  # its frame is of the next episode
        shown = going & ~over if at_once else going
        _film(episodes, _frames(env), shown)
        going &= ~over
        if _autoreset_mode(env) == AutoresetMode.DISABLED and going.any() and over.any():
            observations, _ = env.reset(options={"reset_mask": over})
    return Played(episodes, starts)


def _frames(env: VectorEnv) -> list[np.ndarray]:
    """What the environments show; nothing where they show nothing."""
    return [np.asarray(frame) for frame in env.render() or ()]


def _film(
    episodes: Sequence[PlayedEpisode], frames: Sequence[np.ndarray], shown: np.ndarray
) -> None:
    for episode, frame, is_shown in zip(episodes, frames, shown, strict=False):
        if is_shown:
            episode.frames.append(frame)


def _autoreset_mode(env: VectorEnv) -> AutoresetMode | None:
    return env.metadata.get("autoreset_mode")


def _options(starts: Sequence[Start]) -> dict[str, Any]:
    """Options of a reset that begins there."""
    options: dict[str, Any] = {"context": [start.frame for start in starts]}
    states = [start.state for start in starts if start.state is not None]
    if states:
        options["state"] = np.stack(states)
    return options
