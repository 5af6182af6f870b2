"""Held-out episodes imagined from their first frame and judged by the heads, with what was true."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from worldmodel.heads import FrameOutputs, MemberOutputs
from worldmodel.held_out import HeldOut, open_split
from worldmodel.rollout import advance
from worldmodel.rollout_state import draw_seeds, start
from worldmodel.world_model import WorldModel

FRAMES = 65
"""Frames of an episode that are looked at, at most, the first included."""


@dataclass
class TrueLabels:
    """What was recorded of frames 1 to T of E episodes; zero where the mask is False.

    Attributes:
        reward: of the step that led to each frame.
        success: of that step.
        state: the robot's, in the data's units.
        reward_mask: where the reward is known.
        success_mask: where success is known.
        state_mask: where the state is known.
    """

    reward: Float[Tensor, "episodes frames"]
    success: Bool[Tensor, "episodes frames"]
    state: Float[Tensor, "episodes frames state_dim"]
    reward_mask: Bool[Tensor, "episodes frames"]
    success_mask: Bool[Tensor, "episodes frames"]
    state_mask: Bool[Tensor, "episodes frames"]


@dataclass
class Replay:
    """What the world model made of the recorded actions, and what its heads say of it.

    Attributes:
        outputs: for each episode and imagined frame.
        state: the robot's in it, normalised: foretold, or else what the heads read off the frame.
        error: true root-mean-square error of each frame's latents.
        known: frames that were recorded, behind nothing but known actions.
    """

    outputs: FrameOutputs
    state: Float[Tensor, "episodes frames state_dim"]
    error: Float[Tensor, "episodes frames"]
    known: Bool[Tensor, "episodes frames"]


def read_labels(model: WorldModel, path: Path | str, split: str, held_out: HeldOut) -> TrueLabels:
    """The labels of held-out episodes, as far as they were recorded."""
    dataset, _, _ = open_split(model, path, split)
    horizon = held_out.actions.shape[1]
    frames = torch.arange(1, horizon + 1)
    there = frames < held_out.lengths[:, None]
    starts = torch.from_numpy(np.asarray(dataset.starts)[held_out.episodes])
    rows = starts[:, None] + torch.minimum(frames, held_out.lengths[:, None] - 1)

    def column(name: str, offset: int) -> tuple[Shaped[Tensor, "..."], Bool[Tensor, "..."]]:
        if name not in dataset.columns:
            size = (0,) if name == "state" else ()
            return torch.zeros(*rows.shape, *size), torch.zeros_like(there)
        values = torch.from_numpy(dataset.columns[name][(rows - offset).clamp(min=0).numpy()])
        known = there.view(*there.shape, *(1,) * (values.ndim - 2))
        return torch.where(known, values, torch.zeros_like(values)), there

    reward, reward_mask = column("reward", 1)
    success, success_mask = column("success", 1)
    state, state_mask = column("state", 0)
    return TrueLabels(
        reward.float(), success.bool(), state.float(), reward_mask, success_mask, state_mask
    )


@torch.inference_mode()
def replay(
    model: WorldModel, held_out: HeldOut, chunk: int | None = None, steps: int = 1, seed: int = 0
) -> Replay:
    """Imagine every episode from its first frame with its actions, and judge every frame.

    Args:
        model: a world model with heads.
        held_out: the episodes.
        chunk: actions taken at once; None: a whole block.
        steps: sampler steps.
        seed: of the noise.
    """
    network, heads = model.network, model.heads
    assert heads is not None, "this world model has no heads"
    latents, (episodes, horizon) = held_out.latents, held_out.actions.shape[:2]
    generator = torch.Generator(latents.device).manual_seed(seed)
    seeds = draw_seeds(generator, episodes)
    state = start(network, latents[:, :1], seeds, chunk, held_out.state)
    missing = -horizon % state.chunk
    actions = torch.nn.functional.pad(held_out.actions, (0, 0, 0, missing))
    mask = torch.nn.functional.pad(held_out.action_mask, (0, missing))
    views, _, height, width = latents.shape[2:]
    grid = (views, height // network.patch, width // network.patch)
    frames, judged, foretold = [], [], []
    for begin in range(0, horizon, state.chunk):
        part = slice(begin, begin + state.chunk)
        step = advance(network, state, actions[:, part], mask[:, part], steps)
        judged.append(heads.judge(step.features, grid, step.frames, step.place))
        frames.append(step.frames)
        foretold.append(step.robot)
        state = step.state
    difference = torch.cat(frames, dim=1)[:, :horizon] - latents[:, 1:]
    members = MemberOutputs(
        *(torch.cat(parts, dim=2)[:, :, :horizon] for parts in zip(*judged, strict=True))
    )
    outputs = FrameOutputs(*(value.cpu() for value in heads.summarize(members)))
    robot = torch.cat(foretold, dim=1)[:, :horizon].cpu()
    return Replay(
        outputs=outputs,
        state=robot if network.state_dim else outputs.state,
        error=difference.square().mean((2, 3, 4, 5)).sqrt().cpu(),
        known=held_out.action_mask.cumprod(1).bool().cpu(),
    )
