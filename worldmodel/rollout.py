"""Rollouts: blocks chained to any horizon, each anchored on the end of the one before.

Time and memory a block are constant. A block is advanced by whole chunks, or one action at a time:
then the actions still to come are absent, the block keeps its anchor and its noise until it is
full, and the frames of a full block do not depend on how its actions came in.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldmodel.queries import BlockNoise, draw_noise, forward_dynamics, remember
from worldmodel.transformer import LayerCache
from worldmodel.uwm import ANCHOR_FRAMES, UWM, Cache

Generators = torch.Generator | Sequence[torch.Generator]


@dataclass
class RolloutState:
    """Where a rollout stands: enough to go on from here, more than once.

    Attributes:
        anchor: the two frames before the current block.
        noise: the current block's noise.
        actions: the current block's actions so far; the rest is meaningless.
        action_mask: which of them are known.
        filled: how many frames of the current block have been shown.
        past: keys and values of up to `history_blocks` finished blocks.
    """

    anchor: Float[Tensor, "batch 2 views channels height width"]
    noise: BlockNoise
    actions: Float[Tensor, "batch frames action_dim"]
    action_mask: Bool[Tensor, "batch frames"]
    filled: int = 0
    past: Cache | None = None


def anchor_of(
    frames: Float[Tensor, "batch frames views channels height width"],
) -> Float[Tensor, "batch 2 views channels height width"]:
    """The last two frames; a single one is taken to have stood still."""
    if frames.shape[1] < ANCHOR_FRAMES:
        return frames[:, -1:].expand(-1, ANCHOR_FRAMES, -1, -1, -1, -1)
    return frames[:, -ANCHOR_FRAMES:]


def start(
    network: UWM,
    context: Float[Tensor, "batch frames views channels height width"],
    generator: Generators,
) -> RolloutState:
    """Begin a rollout behind the context frames, at least one."""
    anchor = anchor_of(context)
    return RolloutState(anchor, *_fresh(network, anchor, generator))


def advance(
    network: UWM,
    state: RolloutState,
    actions: Float[Tensor, "batch chunk action_dim"],
    action_mask: Bool[Tensor, "batch chunk"],
    generator: Generators,
    steps: int = 1,
) -> tuple[Float[Tensor, "batch chunk views channels height width"], RolloutState]:
    """Take a chunk of actions and imagine as many frames.

    Args:
        network: the world model's network.
        state: where the rollout stands; it is not changed.
        actions: normalised actions; those whose mask is False do not matter.
        action_mask: which actions are known.
        generator: draws the next block's noise when this one is full.
        steps: sampler steps.

    Raises:
        ValueError: a chunk that does not fit into what is left of the block.
    """
    chunk, size = actions.shape[1], network.block_frames
    first, last = state.filled, state.filled + chunk
    if chunk < 1 or last > size:
        raise ValueError(f"{chunk} actions do not fit: {first} of the block's {size} are taken")
    row = torch.arange(size, device=actions.device)
    block_actions, block_mask = state.actions.clone(), state.action_mask.clone()
    block_actions[:, first:last], block_mask[:, first:last] = actions, action_mask
    block_mask = block_mask & (row < last)
    latents = forward_dynamics(
        network, state.anchor, block_actions, block_mask, state.noise, steps, state.past
    )
    if last < size:
        following = RolloutState(
            state.anchor, state.noise, block_actions, block_mask, last, state.past
        )
        return latents[:, first:last], following

    past = None
    if network.history_blocks:
        newest = remember(
            network, state.anchor, latents, block_actions, block_mask, state.noise, state.past
        )
        past = _slide(network, state.past, newest)
    anchor = anchor_of(latents)
    following = RolloutState(anchor, *_fresh(network, anchor, generator), past=past)
    return latents[:, first:last], following


def rollout(
    network: UWM,
    context: Float[Tensor, "batch context views channels height width"],
    actions: Float[Tensor, "batch given action_dim"] | None,
    horizon: int,
    generator: Generators,
    action_mask: Bool[Tensor, "batch given"] | None = None,
    steps: int = 1,
    chunk: int | None = None,
) -> Float[Tensor, "batch horizon views channels height width"]:
    """Imagine `horizon` frames behind the context.

    Args:
        network: the world model's network.
        context: at least one known frame.
        actions: normalised; `actions[:, 0]` leads from the last context frame to the first imagined
            one. None generates video without actions.
        horizon: frames to imagine.
        generator: one for the batch, or one a row.
        action_mask: which actions are known; None: all.
        steps: sampler steps a block.
        chunk: actions taken at once, a divisor of the block; None: the whole block.

    Raises:
        ValueError: fewer actions than the horizon, or a chunk that does not divide the block.
    """
    size = network.block_frames
    chunk = chunk or size
    if size % chunk:
        raise ValueError(f"chunk={chunk} does not divide the model's block of {size} frames")
    if actions is None:
        actions = context.new_zeros(len(context), horizon, network.action_dim)
        action_mask = torch.zeros(actions.shape[:2], dtype=torch.bool, device=context.device)
    if actions.shape[1] < horizon:
        raise ValueError(f"{actions.shape[1]} actions for a horizon of {horizon}")
    if action_mask is None:
        action_mask = torch.ones(actions.shape[:2], dtype=torch.bool, device=context.device)
    missing = -horizon % chunk
    actions = torch.nn.functional.pad(actions[:, :horizon], (0, 0, 0, missing))
    action_mask = torch.nn.functional.pad(action_mask[:, :horizon], (0, missing))

    state, frames = start(network, context, generator), []
    for begin in range(0, horizon, chunk):
        part = slice(begin, begin + chunk)
        imagined, state = advance(
            network, state, actions[:, part], action_mask[:, part], generator, steps
        )
        frames.append(imagined)
    return torch.cat(frames, dim=1)[:, :horizon]


def _fresh(
    network: UWM, anchor: Tensor, generator: Generators
) -> tuple[BlockNoise, Tensor, Tensor]:
    """Noise and empty actions for a new block."""
    noise = draw_noise(network, anchor, generator)
    known = torch.zeros(noise.actions.shape[:2], dtype=torch.bool, device=anchor.device)
    return noise, torch.zeros_like(noise.actions), known


def _slide(network: UWM, past: Cache | None, newest: Cache) -> Cache:
    """Append a block to the window; the oldest leaves it when it is full."""
    if past is None:
        return newest
    keep = newest[0].keys.shape[2] * network.history_blocks
    return [LayerCache.append(old, new, keep) for old, new in zip(past, newest, strict=True)]
