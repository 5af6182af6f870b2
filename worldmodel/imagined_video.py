"""Imagined video that begins at recorded frames: to look at, or as a dataset to label and train on.

A dataset may hold many dreams of every first frame. What is dreamt there is not chosen or sorted
out here.
"""

import hashlib
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from einops import rearrange
from jaxtyping import UInt8
from torch import Tensor

from video.action_model import fingerprint_of
from video.dataset_recipe import RECIPE, check_recipe
from video.episodes import Episode
from video.errors import DatasetError
from video.safe_files import write_json
from video.writer import DatasetWriter
from worldmodel.draws import step_generator
from worldmodel.held_out import HeldOut
from worldmodel.rollout import joint_rollout, rollout
from worldmodel.world_model import WorldModel

Query = Literal["forward_dynamics", "video_generation", "joint"]

GENERATIVE_STEPS = 8
"""Sampler steps without actions, where one would give the mean of all that may happen."""

AT_ONCE = 32
"""Episodes that are imagined side by side."""


@torch.inference_mode()
def imagined_frames(
    model: WorldModel,
    held_out: HeldOut,
    query: Query,
    horizon: int,
    steps: int | None = None,
    seed: int = 0,
    dream: int = 0,
) -> UInt8[Tensor, "episodes horizon views 3 height width"]:
    """Decoded rollouts of one query from every episode's first frame.

    An episode's frames depend on its number, the seed and the dream's number, not on the others.

    Args:
        model: imagines.
        held_out: the episodes.
        query: with the recorded actions (forward_dynamics), without any (video_generation), or
            together with actions of its own (joint), which are not kept.
        horizon: frames to imagine.
        steps: sampler steps; 1 with recorded actions and 8 without by default.
        seed: of the noise.
        dream: another number is another future.

    Raises:
        DatasetError: forward dynamics over data without actions.
    """
    with_actions = query == "forward_dynamics"
    if with_actions and not held_out.action_mask.any():
        raise DatasetError(
            "these episodes have no actions, so forward dynamics has nothing to go by. "
            "Use --query video_generation."
        )
    steps = steps or (1 if with_actions else GENERATIVE_STEPS)
    context = held_out.latents[:, :1]
    generators = [step_generator(seed, episode, dream) for episode in held_out.episodes]
    if query == "joint":
        latents = joint_rollout(model.network, context, horizon, generators, steps)
    else:
        latents = rollout(
            model.network,
            context,
            held_out.actions if with_actions else None,
            horizon,
            generators,
            action_mask=held_out.action_mask if with_actions else None,
            steps=steps,
            state=held_out.state,
        )
    return model.decode(latents)


def write_dataset(
    model: WorldModel,
    held_out: HeldOut,
    query: Query,
    horizon: int,
    steps: int | None,
    seed: int,
    dreams: int,
    path: Path,
) -> Path:
    """Write imagined episodes as a native dataset, with the actions that they were given, if any.

    A run that was stopped goes on where it was, and ends in the same dataset.

    Args:
        model: imagines.
        held_out: the episodes whose first frames are the starts.
        query: without recorded actions the dataset is action-free.
        horizon: frames to imagine.
        steps: sampler steps; as `imagined_frames`.
        seed: of the noise.
        dreams: episodes from each start.
        path: the dataset's folder.

    Raises:
        DatasetError: as `imagined_frames`, or the folder was made with other options.
    """
    recipe = {
        "model": fingerprint_of(model.network, {"autoencoder": model.autoencoder.fingerprint}),
        "starts": _fingerprint(held_out),
        **{"query": query, "horizon": horizon, "steps": steps, "seed": seed},
    }
    check_recipe(path, recipe)
    writer = DatasetWriter(path, model.fps)
    write_json(path / RECIPE, recipe)
    for dream in range(dreams):
        first = dream * len(held_out.tasks)
        finished = writer.finished
        rows = [row for row in range(len(held_out.tasks)) if first + row not in finished]
        for begin in range(0, len(rows), AT_ONCE):
            part = rows[begin : begin + AT_ONCE]
            chosen = held_out.subset(part)
            imagined = imagined_frames(model, chosen, query, horizon, steps, seed, dream)
            clips = torch.cat((chosen.frames[:, :1], imagined), dim=1)
            for place, (row, clip) in enumerate(zip(part, clips, strict=True)):
                episode = _episode(model, chosen, place, query, clip)
                episode.notes |= {"dream": dream, "seed": seed}
                writer.add(first + row, episode)
    return writer.finalize()


def _fingerprint(held_out: HeldOut) -> str:
    """Of the frames that imagined episodes begin with, and of the actions given to them."""
    digest = hashlib.sha256()
    for part in (held_out.frames[:, 0], held_out.actions, held_out.action_mask):
        digest.update(part.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _episode(
    model: WorldModel,
    held_out: HeldOut,
    row: int,
    query: Query,
    clip: UInt8[Tensor, "frames views 3 height width"],
) -> Episode:
    """An imagined clip as an episode: its start's task, and the actions that it was given."""
    frames = {
        camera: rearrange(clip[:, view], "t c h w -> t h w c").contiguous().cpu().numpy()
        for view, camera in enumerate(model.cameras)
    }
    actions: np.ndarray | None = None
    mask: np.ndarray | None = None
    if query == "forward_dynamics" and model.action_normalizer is not None:
        given = len(clip) - 1
        padded = torch.nn.functional.pad(held_out.actions[row, :given].cpu(), (0, 0, 0, 1))
        actions = model.action_normalizer.denormalize(padded).numpy()
        known = held_out.action_mask[row, :given].cpu()
        mask = torch.nn.functional.pad(known, (0, 1)).numpy()
    return Episode(
        frames,
        actions=actions,
        action_mask=mask,
        task=held_out.tasks[row],
        notes={"imagined_by": query, "source_episode": held_out.episodes[row]},
    )
