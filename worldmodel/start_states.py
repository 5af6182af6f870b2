"""How imagined episodes begin: from a stored context that the seed chooses, or the user's own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from video.errors import DatasetError
from video.resizing import resize_frames
from worldmodel.contexts import Contexts, first_frames
from worldmodel.held_out import open_split
from worldmodel.imagination import Imagination, ImaginedState
from worldmodel.uwm import ANCHOR_FRAMES
from worldmodel.world_model import WorldModel

ContextSource = str | Path | Sequence[str | Path] | Contexts
"""One dataset, several, or contexts that were read already."""


class StartStates:
    """Begins episodes; all contexts are encoded once.

    Args:
        imagination: what begins them.
        contexts: to choose from.
        state: whether the robot's state will be observed, and so must be known.
    """

    def __init__(self, imagination: Imagination, contexts: Contexts, state: bool):
        self.imagination = imagination
        self.contexts = contexts
        self.with_state = state
        model = imagination.model
        with torch.inference_mode():
            frames = contexts.frames.to(imagination.device)
            self.latents = model.encode(frames)[:, None].float()
        self.probabilities: Float[np.ndarray, " contexts"] | None = None
        self.robot = torch.zeros(len(contexts), 0)
        if imagination.state_dim:
            self.robot = model.normal_state(contexts.state, contexts.state_mask)

    def weigh(self, weights: Any) -> None:
        """Let some contexts begin more episodes than others, until the next call.

        Args:
            weights: one for each, relative to their sum; None: all alike.

        Raises:
            ValueError: another number of them, none above zero, or one that is negative or endless.
        """
        if weights is None:
            self.probabilities = None
            return
        given = np.asarray(weights, float)
        shape = (len(self.contexts),)
        if given.shape != shape or (given < 0).any() or not 0 < given.sum() < np.inf:
            raise ValueError(
                f"options['context_weights'] is {given.shape}; give one finite number from 0 on "
                f"for each of the {len(self.contexts)} stored contexts, and at least one above 0"
            )
        self.probabilities = given / given.sum()

    def begin(
        self,
        seed: Int64[Tensor, " chosen"],
        episode: Int64[Tensor, " chosen"],
        options: dict[str, Any],
        which: Int64[np.ndarray, " chosen"],
        num_envs: int,
    ) -> tuple[ImaginedState, Int64[np.ndarray, " chosen"]]:
        """Begin an episode in some environments.

        Args:
            seed: of each environment; with the number of the `episode` it decides about everything.
            episode: number of each environment's episode.
            options: what the user passed to `reset`.
            which: numbers of the environments.
            num_envs: how many there are.

        Returns:
            The state, and the number of each one's stored context, -1 for the user's own.

        Raises:
            ValueError: options that are unknown or do not fit.
        """
        unknown = set(options) - {"context", "state"}
        if unknown:
            raise ValueError(
                f"unknown options {sorted(unknown)}; there are 'context', 'context_weights', "
                "'state', 'reset_mask'"
            )
        drawn = [self._draw(int(s), int(e)) for s, e in zip(seed, episode, strict=True)]
        context, noise = np.array(drawn, np.int64).T
        if options.get("context") is None:
            if "state" in options:
                raise ValueError("options has 'state' without 'context': pass both or none")
            chosen = torch.from_numpy(context)
            latents, robot = self.latents[chosen.to(self.latents.device)], self.robot[chosen]
        else:
            latents, robot = self._own(options, which, num_envs)
            context = np.full(len(which), -1)
        return self.imagination.start(latents, torch.from_numpy(noise), robot), context

    def _draw(self, seed: int, episode: int) -> tuple[int, int]:
        """Number of an episode's context, and the seed of its noise."""
        generator = np.random.default_rng([seed, episode])
        context, noise = generator.integers([len(self.contexts), 2**62])
        if self.probabilities is not None:
            context = generator.choice(len(self.contexts), p=self.probabilities)
        return context, noise

    def _own(
        self, options: dict[str, Any], which: np.ndarray, num_envs: int
    ) -> tuple[Tensor, Tensor]:
        """Latents `(chosen, anchor, V, C, h, w)` and robot states of the user's own frames."""
        given = options["context"]
        each = list(given) if isinstance(given, list | tuple) else [given] * num_envs
        if len(each) != num_envs:
            raise ValueError(f"options['context'] has {len(each)} entries for {num_envs} envs")
        model = self.imagination.model
        fit = len(model.cameras), model.frame_size, model.network.first_frame
        frames = [_frames(each[i], *fit) for i in which]
        with torch.inference_mode():
            latents = model.encode(torch.stack(frames).to(self.imagination.device)).float()
        state = options.get("state")
        if state is None:
            if self.with_state:
                raise ValueError(
                    "this env observes the robot's state: pass options={'context': ..., 'state': "
                    "...} with its state in the context's last frame"
                )
            return latents, torch.full((len(which), self.imagination.state_dim), torch.nan)
        values, wanted = np.asarray(state, np.float32), (num_envs, self.robot.shape[1])
        if model.state_normalizer is None or values.shape not in (wanted, wanted[1:]):
            raise ValueError(
                f"options['state'] is {values.shape}, expected {wanted[1:]} or {wanted}. "
                "S = 0: this world model does not know the robot's state, so leave it out."
            )
        values = np.broadcast_to(values, wanted)
        return latents, model.state_normalizer.normalize(torch.from_numpy(values[which].copy()))


def contexts_of(
    model: WorldModel,
    source: ContextSource | None,
    split: str = "train",
    tasks: Sequence[str] | None = None,
    with_state: bool = False,
) -> Contexts:
    """Contexts for imagined episodes: given, of a split of some datasets, or the model's own.

    Raises:
        DatasetError: a dataset that does not fit the model, or no context that is as wanted.
    """
    tasks = [tasks] if isinstance(tasks, str) else tasks
    if source is None:
        if model.contexts is None:
            raise DatasetError("this world model holds no start contexts. Pass contexts=DATASET.")
        source = model.contexts
    if not isinstance(source, Contexts):
        known = []
        for path in [source] if isinstance(source, str | Path) else source:
            dataset, episodes, cameras = open_split(model, path, split)
            known += [(dataset, int(episode), cameras, True) for episode in episodes]
        state_dim = model.state_normalizer.dim if model.state_normalizer else 0
        source = first_frames(known, model.frame_size, state_dim)
    return source.select(tasks, with_state)


def _frames(
    given: Any, views: int, size: tuple[int, int], first: bool
) -> UInt8[Tensor, "anchor views 3 height width"]:
    """The last two frames of a context, a single one twice, at the model's size.

    With `first` the context's first frame stands in front of them.
    """
    frames = given.cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
    if frames.ndim == 3:
        frames = frames[None]
    if frames.ndim == 4:
        frames = frames[:, None]
    if frames.ndim != 5 or frames.dtype != np.uint8 or frames.shape[-1] != 3:
        raise ValueError(
            f"a context is uint8 (H, W, 3), (T, H, W, 3) or (T, V, H, W, 3), got "
            f"{np.asarray(given).dtype} {np.shape(given)}"
        )
    if frames.shape[1] != views or len(frames) == 0:
        raise ValueError(
            f"a context of {len(frames)} frames and {frames.shape[1]} cameras; the world model has "
            f"{views} cameras and needs at least one frame"
        )
    shown = np.concatenate((frames[:1], frames))[-ANCHOR_FRAMES:]
    if first:
        shown = np.concatenate((frames[:1], shown))
    resized = resize_frames(shown.reshape(-1, *shown.shape[2:]), size)
    return torch.from_numpy(resized.reshape(len(shown), views, 3, *size))
