"""Whole episodes of a policy in any vector environment, one for every seed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from jaxtyping import Bool, Int64, UInt8

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
    """Play one episode for every seed: of N environments, number i plays seeds i, i + N, ...

    Those that are reset by hand (`autoreset_mode` "disabled") go on with their next seed at once;
    others wait for each other.

    Args:
        policy: who acts.
        env: where; made with `render_mode="rgb_array"` it shows the episodes.
        seeds: an episode for each.
        starts: begin there; for environments whose `reset` takes the options "context" and "state".
        tasks: their names, where the environment does not tell.

    Raises:
        ValueError: starts without a state for an environment that shows it.
    """
    if len(seeds) == 0:
        return Played([], [])
    turns, steps, mode = Turns(env, seeds, starts), steps_of(env), _autoreset_mode(env)
    observations = turns.begin(np.ones(env.num_envs, bool))
    while turns.left:
        actions = as_actions(policy.act(observations, steps=steps), env)
        observations, reward, terminated, truncated, info = env.step(actions)
        over = terminated | truncated
        success = told(info, "success", env.num_envs) > 0
        elapsed = told(info, "elapsed_steps", env.num_envs).astype(int)  # 0 where it is not told
        for i, episode in turns.going():
            episode.total += float(reward[i])
            episode.success |= bool(success[i])
            episode.steps = int(elapsed[i]) or episode.steps + steps
        # reset in the same step, an environment shows the next episode's first frame at an end
        turns.film(~over if mode == AutoresetMode.SAME_STEP else np.ones_like(over))
        turns.end(over)
        by_hand = mode == AutoresetMode.DISABLED
        free = over if by_hand else np.full_like(over, not turns.playing.any())
        if turns.left and free.any():
            observations = turns.begin(free)
    played = turns.played()
    for episode, task in zip(played.episodes, tasks or (), strict=False):
        episode.task = task
    return played


class Turns:
    """The episodes of N environments: in turn t, environment i plays number t * N + i.

    Args:
        env: the environments.
        seeds: of the episodes.
        given: where they begin, if the seeds do not say it.

    Attributes:
        episodes: those that have begun, by their number.
        starts: where they began; nothing where nothing is rendered.
        turn: of each environment.
        playing: whether what it plays counts.
        left: how many episodes are not over.
    """

    def __init__(self, env: VectorEnv, seeds: Sequence[int], given: Sequence[Start] | None) -> None:
        self.env, self.seeds, self.given = env, seeds, given
        self.episodes: dict[int, PlayedEpisode] = {}
        self.starts: dict[int, Start] = {}
        self.turn = np.full(env.num_envs, -1)
        self.playing = np.zeros(env.num_envs, bool)
        self.left = len(seeds)

    @property
    def number(self) -> Int64[np.ndarray, " envs"]:
        """Of each environment's episode."""
        return self.turn * self.env.num_envs + np.arange(self.env.num_envs)

    def going(self) -> Iterator[tuple[int, PlayedEpisode]]:
        """The environments whose episode counts, and these."""
        for i in np.flatnonzero(self.playing).tolist():
            yield i, self.episodes[int(self.number[i])]

    def begin(self, which: Bool[np.ndarray, " envs"]) -> Any:
        """Begin the next turn of some environments; all observations.

        Where no episode is left, an environment plays one again, and it does not count.
        """
        self.turn[which] += 1
        self.playing = np.where(which, self.number < len(self.seeds), self.playing)
        self.turn = np.minimum(self.turn, (len(self.seeds) - 1) // self.env.num_envs)
        numbers = np.minimum(self.number, len(self.seeds) - 1)
        each: Any = [self.seeds[n] for n in numbers]  # gymnasium's types know no list
        options = {} if self.given is None else _options([self.given[n] for n in numbers])
        if not which.all():
            options["reset_mask"] = which
        observations, info = self.env.reset(seed=each, options=options or None)
        frames, names = _frames(self.env), info.get("task", [""] * self.env.num_envs)
        state = observations.get("state") if isinstance(observations, dict) else None
        for i in np.flatnonzero(which & self.playing).tolist():
            number = int(numbers[i])
            self.episodes[number] = PlayedEpisode(each[i], str(names[i]), frames=frames[i : i + 1])
            if frames:
                robot = None if state is None else state[i].copy()
                self.starts[number] = Start(frames[i], robot)
        return observations

    def film(self, shown: Bool[np.ndarray, " envs"]) -> None:
        """Keep what environments show, if it is of the episodes that count."""
        frames = _frames(self.env)
        for i, episode in self.going():
            if shown[i]:
                episode.frames += frames[i : i + 1]

    def end(self, over: Bool[np.ndarray, " envs"]) -> None:
        """The episodes of some environments are over."""
        self.left -= int((self.playing & over).sum())
        self.playing &= ~over

    def played(self) -> Played:
        """All that have begun, in the order of the seeds."""
        numbers = sorted(self.episodes)
        starts = [self.starts[number] for number in numbers if number in self.starts]
        return Played([self.episodes[number] for number in numbers], starts)


def _frames(env: VectorEnv) -> list[np.ndarray]:
    """What the environments show; nothing where they show nothing."""
    return [np.asarray(frame) for frame in env.render() or ()]


def _autoreset_mode(env: VectorEnv) -> AutoresetMode | None:
    return env.metadata.get("autoreset_mode")


def _options(starts: Sequence[Start]) -> dict[str, Any]:
    """Options of a reset that begins there."""
    options: dict[str, Any] = {"context": [start.frame for start in starts]}
    states = [start.state for start in starts if start.state is not None]
    if states:
        options["state"] = np.stack(states)
    return options
