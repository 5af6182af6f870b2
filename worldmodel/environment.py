"""The imagined environment: a frozen world model as a native gymnasium vector environment.

One batch on one device. What a step imagines is in `imagination.py`, what it is worth in
`rewards.py`; here are episodes: how they start, end, are reset, and what of them is told.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from video.action_model import ActionModel
from worldmodel import rows
from worldmodel.imagination import Imagination, ImaginedState, Precision
from worldmodel.observations import Observations, ObservationType
from worldmodel.outcome import outcome_of
from worldmodel.rewards import RewardModel, reward_model
from worldmodel.round_trip import InverseDynamics, Recent, RoundTrip, idm_for
from worldmodel.start_states import ContextSource, StartStates, contexts_of
from worldmodel.step_info import Truths, masked, of_reset, tell, with_final
from worldmodel.world_model import WorldModel

Actions = Float32[np.ndarray, "num_envs ..."]


@dataclass
class EnvironmentState:
    """Where every environment stands: all there is, so that it can be forked exactly.

    Attributes:
        imagined: the imagination's part.
        recent: what the round-trip error needs of the past; None without an IDM.
        seed: of each environment.
        episode: how many episodes each has begun since it was seeded.
        over: whether its episode has ended.
    """

    imagined: ImaginedState
    recent: Recent | None
    seed: Int64[Tensor, " num_envs"]
    episode: Int64[Tensor, " num_envs"]
    over: Bool[Tensor, " num_envs"]


class ImaginedVectorEnv(VectorEnv):
    """N imagined episodes at once.

    Environment i's trajectory depends on its own seed and actions alone, an episode's start also
    on the latest reset's `context_weights`. Actions are in the data's own units and bounds; what
    lies outside is clipped. `info` has for every step

    - `uncertainty`: how far the imagined frame is from the truth, by the world model's own account:
      expected root-mean-square error of its latents (with heads only);
    - `success`, and `elapsed_steps` of the episode;
    - `round_trip_error` (with an `idm`): how far the actions that it reads off the imagined frames
      are from those commanded, root-mean-square, normalised units. It speaks of the latest actions
      that can be judged, those of `idm_delay` frames ago; before there are any, its mask is False;
    - `round_trip_drift`: the root of the sum of those squared errors since the episode's start. Of
      the two it is the better sign of how far the imagined frame is from the truth.

    Example:
        >>> envs = gymnasium.make_vec(
        ...     "worldmodel/Imagined-v0", num_envs=8, checkpoint="runs/uwm/model"
        ... )
        >>> observations, info = envs.reset(seed=0)
        >>> observations, reward, terminated, truncated, info = envs.step(
        ...     envs.action_space.sample()
        ... )

    Args:
        checkpoint: a saved world model's folder, or the model.
        num_envs: N.
        horizon: steps (actions) after which an episode is truncated.
        chunk: actions of one `step`: 1, with action space `(A,)`, or more, with `(chunk, A)` and
            rewards summed; a divisor of the model's block, whose own length is fastest.
        steps: sampler steps.
        obs_type: "latents", or "pixels" (uint8), which have to be decoded.
        state: add the robot's state: observations are then a Dict of `obs_type` and "state".
        reward: "success" (1 for success), "dense" (the data's own reward), or a callable from an
            `ImaginedStep` to a `Verdict`.
        terminate_on_success: end an episode with its first success.
        contexts: where episodes start: a dataset or several, `Contexts`, or None for the model's
            own.
        split: of those datasets.
        tasks: only start in these; None: in all.
        autoreset_mode: "next_step", "same_step" or "disabled", as in gymnasium.
        render_mode: None or "rgb_array".
        idm: an inverse dynamics model: the folder of a saved one (`video/action_model.py`; a world
            model's reads by its own query), a loaded one, or a callable from latents
            `(N, T, V, C, h, w)` to actions `(N, T-1, A)` in the data's units.
        idm_frames: frames T that it is shown; more, if chunk and delay need them.
        idm_delay: frames after an action that are waited for before it is judged.
        dtype: of the network's arithmetic.
        device: where to compute; a model that is passed as such stays where it is.
        compile: compile the network (`torch.compile`).

    Raises:
        DatasetError: a folder that is no world model, no start contexts, a reward that the model's
            heads have not learned, or an idm for other video.
        ValueError: any other argument that does not fit, by name.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(
        self,
        checkpoint: str | Path | WorldModel,
        num_envs: int = 1,
        horizon: int = 64,
        chunk: int = 1,
        steps: int = 1,
        obs_type: ObservationType = "latents",
        state: bool = False,
        reward: str | RewardModel = "success",
        terminate_on_success: bool = True,
        contexts: ContextSource | None = None,
        split: str = "train",
        tasks: Sequence[str] | None = None,
        autoreset_mode: str | AutoresetMode = "next_step",
        render_mode: str | None = None,
        idm: InverseDynamics | ActionModel | str | Path | None = None,
        idm_frames: int = 8,
        idm_delay: int = 2,
        dtype: Precision = "float32",
        device: str = "cpu",
        compile: bool = False,
    ):
        if num_envs < 1 or horizon < 1:
            raise ValueError(f"num_envs={num_envs} and horizon={horizon} must be at least 1")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode={render_mode!r}: there is only 'rgb_array'")
        model = checkpoint
        if not isinstance(model, WorldModel):
            model = WorldModel.from_pretrained(model, device)
        self.model = model
        self.num_envs = num_envs
        self.horizon = horizon
        self.terminate_on_success = terminate_on_success
        self.render_mode = render_mode
        self.autoreset_mode = _autoreset_mode(autoreset_mode)
        self.imagination = Imagination(model, chunk, steps, dtype, compile)
        self.reward = reward_model(reward, model)
        self.round_trip = None
        if idm is not None:
            if idm_delay < 0:
                raise ValueError(f"idm_delay={idm_delay} must not be negative")
            frames = max(idm_frames, chunk + idm_delay + 1)
            self.round_trip = RoundTrip(idm_for(model, idm, device), model, frames, idm_delay)
        self.observations = Observations(model, obs_type, state)
        self.starts = StartStates(
            self.imagination, contexts_of(model, contexts, split, tasks, with_state=state), state
        )
        self.metadata = {
            **self.metadata,
            "autoreset_mode": self.autoreset_mode,
            "render_fps": model.fps / chunk,
            "autoencoder": model.autoencoder.fingerprint,
        }
        normalizer = model.action_normalizer
        assert normalizer is not None  # the imagination has checked it
        shape = (normalizer.dim,) if chunk == 1 else (chunk, normalizer.dim)
        self.low, self.high = normalizer.low, normalizer.high
        self.single_action_space = gymnasium.spaces.Box(
            np.broadcast_to(self.low, shape), np.broadcast_to(self.high, shape), dtype=np.float32
        )
        self.single_observation_space = self.observations.space
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._state: EnvironmentState | None = None

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
                `context` starts from your own frames instead of the stored ones: uint8
                `(H, W, 3)`, `(T, H, W, 3)` or `(T, V, H, W, 3)`, or a list of N of them. Of T
                frames the last two are what comes before, and models that see their episode's
                first frame see the first. With `state=True`, `state` `(S,)` or `(N, S)` goes with
                it. `context_weights` `(contexts,)` says how likely each stored one is to begin an
                episode, now and by autoreset until the next call.

        Returns:
            Observations, and `info` with the number of the stored `context` (-1: your own).

        Raises:
            ValueError: a mask, seeds, context, weights or state that do not fit.
        """
        options = dict(options or {})
        mask = _reset_mask(options.pop("reset_mask", None), self.num_envs)
        if self._state is None and not mask.all():
            raise ResetNeeded("the first reset must be one of all environments, without reset_mask")
        which = np.flatnonzero(mask)
        if isinstance(seed, int | np.integer):
            self._np_random, self._np_random_seed = seeding.np_random(int(seed))
        seeds = self._seeds(seed)
        weighed = self.starts.probabilities
        self.starts.weigh(options.pop("context_weights", None))
        try:
            begun, context = self._begin(which, seeds, options)
        except ValueError:  # a refused reset changes nothing
            self.starts.probabilities = weighed
            raise
        self._put(which, begun)
        return self._observe(), of_reset(context, which, self.num_envs)

    def step(self, actions: Actions) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Take an action, or a chunk of them, in every environment.

        Args:
            actions: `(N, A)`, or `(N, chunk, A)`.

        Returns:
            Observations, rewards float64 `(N,)`, terminated and truncated bool `(N,)`, info. Where
            a chunk ends an episode before its last action, the observation is that of the end.

        Raises:
            ValueError: actions of another shape, or not finite.
            ResetNeeded: before the first reset; or, with autoreset disabled, behind an end.
        """
        state = self._ready()
        shape = (self.num_envs, self.imagination.chunk, len(self.low))
        given = self._checked(actions).reshape(shape)
        step, imagined = self.imagination.step(state.imagined, torch.from_numpy(given))
        with torch.inference_mode():  # a user's reward may have parameters that want gradients
            verdict = self.reward(step)
        ended = outcome_of(step, verdict, self.horizon, self.terminate_on_success)
        recent, round_trip = state.recent, None
        if self.round_trip is not None:
            recent, round_trip = self.round_trip(recent, step, ended.last)
        info, (reward, terminated, truncated) = tell(ended, round_trip)
        was_over = state.over.numpy()
        over = terminated | truncated
        self._state = EnvironmentState(
            ended.shown(imagined), recent, state.seed, state.episode, torch.from_numpy(over)
        )
        if self.autoreset_mode == AutoresetMode.SAME_STEP and over.any():
            info = with_final(info, self._observe(), over) | self._restart(over)
        elif self.autoreset_mode == AutoresetMode.NEXT_STEP and was_over.any():
            info = masked(info, ~was_over) | self._restart(was_over)
            reward, terminated, truncated = (
                np.where(was_over, np.zeros_like(values), values)
                for values in (reward, terminated, truncated)
            )
        return self._observe(), reward, terminated, truncated, info

    @property
    def context_tasks(self) -> list[str]:
        """Task of every stored context, "" where unknown, in the order of `info["context"]`."""
        return self.starts.contexts.tasks

    def render(self) -> tuple[np.ndarray, ...] | None:
        """Every environment's latest frame, uint8 `(H, W, 3)`, cameras beside each other."""
        if self.render_mode is None:
            return None
        return tuple(self.observations.pictures(self._ready(checked=False).imagined.frame))

    def get_state(self, indices: Sequence[int] | None = None) -> EnvironmentState:
        """A copy of where the environments stand, or some of them, any more than once."""
        chosen = self._chosen(indices)
        return rows.take(self._ready(checked=False), torch.from_numpy(chosen))

    def set_state(self, state: EnvironmentState, indices: Sequence[int] | None = None) -> None:
        """Put environments where others stood, in this or another env of the same settings.

        With the same actions they go on exactly as those, into the same next episodes, too.
        `env.set_state(env.get_state([3] * N))` forks environment 3 into all; a reset with seeds
        makes what comes after differ.

        Raises:
            ValueError: another number of rows than of environments to set, one environment twice,
                or a state from an env of other settings.
        """
        chosen = self._chosen(indices)
        if len(state.seed) != len(set(chosen.tolist())):
            raise ValueError(
                f"{len(state.seed)} rows of state for the environments {chosen.tolist()}"
            )
        given, own = state.imagined.frame.shape[1:], self.starts.latents.shape[2:]
        if given != own:
            raise ValueError(
                f"this state has frames {tuple(given)}, but those of this world model are "
                f"{tuple(own)} (views, channels, height, width)"
            )
        given, own = state.imagined.rollout.chunk, self.imagination.chunk
        if given != own or (state.recent is None) != (self.round_trip is None):
            raise ValueError(
                f"this state is of an env with chunk={given} and "
                f"{'no' if state.recent is None else 'an'} idm, but this one has chunk={own} and "
                f"{'no' if self.round_trip is None else 'an'} idm. Make both alike."
            )
        different = self._differences(state)
        if different:
            raise ValueError(
                f"this state is of an env of other settings: {'; '.join(different)}. Make both "
                "alike, of the same world model."
            )
        if self._state is None and len(chosen) != self.num_envs:
            raise ResetNeeded("call reset before setting the state of some environments")
        self._put(chosen, rows.take(state, torch.arange(len(chosen))))

    def _differences(self, state: EnvironmentState) -> list[str]:
        """Shapes of a state that are not those of this env's own."""
        one = torch.zeros(1, dtype=torch.long)
        own = self.imagination.start(self.starts.latents[:1], one, self.starts.robot[:1])
        pairs = [(rows.shapes(state.imagined), rows.shapes(own))]
        if self._state is not None:
            pairs.append((rows.shapes(state.recent), rows.shapes(self._state.recent)))
        return [
            f"{name} is {given.get(name)} there and {expected.get(name)} here"
            for given, expected in pairs
            for name in sorted({*given, *expected})
            if given.get(name) != expected.get(name)
        ]

    def observe(self) -> Any:
        """The present observations, such as after `set_state`."""
        self._ready(checked=False)
        return self._observe()

    def _chosen(self, indices: Sequence[int] | None) -> Int64[np.ndarray, " chosen"]:
        """The numbers of some environments; None: of all."""
        every = np.arange(self.num_envs)
        return every if indices is None else every[np.asarray(indices)]

    def _observe(self) -> Any:
        assert self._state is not None
        return self.observations(self._state.imagined)

    def _ready(self, checked: bool = True) -> EnvironmentState:
        """The state, or why there is none to go on from."""
        if self._state is None:
            raise ResetNeeded("call reset before anything else")
        over = self._state.over
        if checked and self.autoreset_mode == AutoresetMode.DISABLED and over.any():
            raise ResetNeeded(
                f"the episodes of environments {over.nonzero()[:, 0].tolist()} are over. Reset "
                "them with options={'reset_mask': ...}, or choose another autoreset_mode."
            )
        return self._state

    def _checked(self, actions: Any) -> np.ndarray:
        """Actions within the bounds."""
        actions = np.asarray(actions, np.float32)
        if actions.shape != self.action_space.shape:
            raise ValueError(f"actions are {actions.shape}, expected {self.action_space.shape}")
        finite = np.isfinite(actions).reshape(self.num_envs, -1).all(1)
        if not finite.all():
            raise ValueError(
                f"the actions of environments {np.flatnonzero(~finite).tolist()} are not finite"
            )
        return np.clip(actions, self.low, self.high)

    def _seeds(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        if isinstance(seed, int | np.integer):
            return [int(seed) + i for i in range(self.num_envs)]
        seeds: list[int | None] = [None] * self.num_envs if seed is None else list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(f"{len(seeds)} seeds for num_envs={self.num_envs}")
        return seeds

    def _begin(
        self, which: np.ndarray, seeds: list[int | None], options: dict[str, Any]
    ) -> tuple[EnvironmentState, np.ndarray]:
        """Fresh episodes for some environments, and the numbers of their contexts."""
        new = [seeds[i] for i in which]
        seed, episode = self._next_episodes(which, new)
        imagined, context = self.starts.begin(seed, episode, options, which, self.num_envs)
        recent = self.round_trip.begin(imagined.frame) if self.round_trip is not None else None
        over = torch.zeros(len(which), dtype=torch.bool)
        return EnvironmentState(imagined, recent, seed, episode, over), context

    def _next_episodes(
        self, which: np.ndarray, new: Sequence[int | None]
    ) -> tuple[Int64[Tensor, " chosen"], Int64[Tensor, " chosen"]]:
        """Seeds and episode numbers: a new seed begins at episode 0."""
        seed, episode = [], []
        for i, value in zip(which, new, strict=True):
            if value is None and self._state is not None:
                seed.append(int(self._state.seed[i]))
                episode.append(int(self._state.episode[i]) + 1)
            else:
                drawn = int(self.np_random.integers(2**31)) if value is None else value
                seed.append(drawn)
                episode.append(0)
        return torch.tensor(seed), torch.tensor(episode)

    def _put(self, which: np.ndarray, new: EnvironmentState) -> None:
        """Replace some environments' state."""
        if len(which) == self.num_envs and (which == np.arange(self.num_envs)).all():
            self._state = new
        else:
            self._state = rows.put(self._state, torch.from_numpy(which), new)

    def _restart(self, mask: Truths) -> dict[str, Any]:
        """Begin the next episode of some environments; the info of their resets."""
        which = np.flatnonzero(mask)
        begun, context = self._begin(which, [None] * self.num_envs, {})
        self._put(which, begun)
        return of_reset(context, which, self.num_envs)


def _autoreset_mode(mode: str | AutoresetMode) -> AutoresetMode:
    if isinstance(mode, AutoresetMode):
        return mode
    names = {member.name.lower(): member for member in AutoresetMode}
    spelled = names | {member.value: member for member in AutoresetMode}  # gymnasium's spelling
    if mode not in spelled:
        raise ValueError(f"autoreset_mode={mode!r}: use one of {sorted(names)}")
    return spelled[mode]


def _reset_mask(mask: Any, num_envs: int) -> Truths:
    if mask is None:
        return np.ones(num_envs, bool)
    mask = np.asarray(mask)
    if mask.shape != (num_envs,) or mask.dtype != np.bool_ or not mask.any():
        raise ValueError(
            f"reset_mask must be bool ({num_envs},) with at least one True, got {mask.dtype} "
            f"{mask.shape}: {mask}"
        )
    return mask.copy()
