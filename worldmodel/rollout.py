"""Rollouts: blocks chained to any horizon, each anchored on the end of the one before.

Time and memory a block are constant. A block is advanced by whole chunks, or one action at a time:
then the actions still to come are absent, the block keeps its anchor and its noise until it is
full, and the frames of a full block do not depend on how its actions came in. Every row has its own
seed and its own place in its block, so rows can be restarted and forked one by one.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from worldmodel.queries import imagine_block, joint, remember
from worldmodel.rollout_state import (
    Generators,
    RolloutState,
    block_noise,
    draw_seeds,
    next_anchor,
    past_mask,
    start,
)
from worldmodel.rows import choose
from worldmodel.uwm import UWM


class Advance(NamedTuple):
    """What one step imagined.

    Attributes:
        frames: as many as the chunk has actions.
        features: what the network thought of the whole block (`Prediction`).
        place: the frames' places in their block.
        robot: the robot's state in them, normalised; NaN where unknown.
        state: where the rollout stands now.
    """

    frames: Float[Tensor, "batch chunk views channels height width"]
    features: Float[Tensor, "batch tokens width"]
    place: Int64[Tensor, "batch chunk"]
    robot: Float[Tensor, "batch chunk state_dim"]
    state: RolloutState


def advance(
    network: UWM,
    state: RolloutState,
    actions: Float[Tensor, "batch chunk action_dim"],
    action_mask: Bool[Tensor, "batch chunk"] | None = None,
    steps: int = 1,
) -> Advance:
    """Take a chunk of actions and imagine as many frames.

    On a GPU nothing here waits for the host.

    Args:
        network: the world model's network.
        state: where the rollout stands; it is not changed.
        actions: normalised actions; those whose mask is False do not matter.
        action_mask: which actions are known; None: all.
        steps: sampler steps.

    Raises:
        ValueError: a chunk of another length than the rollout was started for.
    """
    chunk, size = actions.shape[1], network.block_frames
    if chunk != state.chunk:
        raise ValueError(f"{chunk} actions; this rollout was started for chunk={state.chunk}")
    if action_mask is None:
        action_mask = torch.ones(actions.shape[:2], dtype=torch.bool, device=actions.device)
    place = state.filled[:, None] + torch.arange(chunk, device=actions.device)
    actions = actions.to(state.actions.dtype)
    if chunk < size:
        wide = place[..., None].expand(-1, -1, actions.shape[2])
        actions = state.actions.scatter(1, wide, actions)
        action_mask = state.action_mask.scatter(1, place, action_mask)
    seen = past_mask(network, state)
    block = imagine_block(
        network,
        state.anchor,
        actions,
        action_mask,
        state.noise,
        steps,
        state.past,
        seen,
        state.robot,
    )
    following = replace(
        state, actions=actions, action_mask=action_mask, filled=state.filled + chunk
    )
    full = following.filled >= size
    if full.device.type != "cpu" or full.any():  # on a GPU, asking costs more than computing
        finished = _next_block(network, following, block.latents, seen, block.states)
        following = choose(full, finished, following) if chunk < size else finished
    frames, robot = block.latents, block.states[:, 1:]
    if chunk < size:
        row = torch.arange(len(frames), device=frames.device)[:, None]
        frames, robot = frames[row, place], robot[row, place]
    return Advance(frames, block.features, place, robot, following)


def rollout(
    network: UWM,
    context: Float[Tensor, "batch context views channels height width"],
    actions: Float[Tensor, "batch given action_dim"] | None,
    horizon: int,
    generator: Generators,
    action_mask: Bool[Tensor, "batch given"] | None = None,
    steps: int = 1,
    chunk: int | None = None,
    state: Float[Tensor, "batch state_dim"] | None = None,
) -> Float[Tensor, "batch horizon views channels height width"]:
    """Imagine `horizon` frames behind the context.

    Args:
        network: the world model's network.
        context: at least one known frame.
        actions: normalised; `actions[:, 0]` leads from the last context frame to the first imagined
            one. None generates video without actions.
        horizon: frames to imagine.
        generator: one for the batch, or one a row; draws each row's seed.
        action_mask: which actions are known; None: all.
        steps: sampler steps a block.
        chunk: actions taken at once, a divisor of the block; None: the whole block.
        state: the robot's, normalised, in the last context frame; None: unknown.

    Raises:
        ValueError: fewer actions than the horizon, or a chunk that does not divide the block.
    """
    if actions is None:
        actions = context.new_zeros(len(context), horizon, network.action_dim)
        action_mask = torch.zeros(actions.shape[:2], dtype=torch.bool, device=context.device)
    if actions.shape[1] < horizon:
        raise ValueError(f"{actions.shape[1]} actions for a horizon of {horizon}")
    if action_mask is None:
        action_mask = torch.ones(actions.shape[:2], dtype=torch.bool, device=context.device)
    seeds, frames = draw_seeds(generator, len(context)), []
    now = start(network, context, seeds, chunk, state)
    missing = -horizon % now.chunk
    actions = torch.nn.functional.pad(actions[:, :horizon], (0, 0, 0, missing))
    action_mask = torch.nn.functional.pad(action_mask[:, :horizon], (0, missing))
    for begin in range(0, horizon, now.chunk):
        part = slice(begin, begin + now.chunk)
        step = advance(network, now, actions[:, part], action_mask[:, part], steps)
        frames.append(step.frames)
        now = step.state
    return torch.cat(frames, dim=1)[:, :horizon]


def joint_rollout(
    network: UWM,
    context: Float[Tensor, "batch context views channels height width"],
    horizon: int,
    generator: Generators,
    steps: int = 1,
) -> Float[Tensor, "batch horizon views channels height width"]:
    """Imagine `horizon` frames behind the context, together with actions that lead to them.

    Args:
        network: the world model's network.
        context: at least one known frame.
        horizon: frames to imagine.
        generator: one for the batch, or one a row; draws each row's seed.
        steps: sampler steps a block.
    """
    state, frames = start(network, context, draw_seeds(generator, len(context))), []
    for _ in range(0, horizon, network.block_frames):
        seen = past_mask(network, state)
        latents, actions = joint(network, state.anchor, state.noise, steps, state.past, seen)
        known = torch.ones_like(state.action_mask)
        taken = replace(state, actions=actions.clamp(-1, 1), action_mask=known)
        states = network.predict_states(None, actions, known)
        state = _next_block(network, taken, latents, seen, states)
        frames.append(latents)
    return torch.cat(frames, dim=1)[:, :horizon]


def _next_block(
    network: UWM, state: RolloutState, latents: Tensor, seen: Tensor | None, states: Tensor
) -> RolloutState:
    """The state behind a block that is full in every row."""
    anchor, block = next_anchor(state.anchor, latents), state.block + 1
    past = state.past
    if past is not None:
        newest = remember(
            network,
            state.anchor,
            latents,
            state.actions,
            state.action_mask,
            state.noise,
            past,
            seen,
            state.robot,
        )
        keep = past[0].keys.shape[2]
        past = [old.append(new, keep) for old, new in zip(past, newest, strict=True)]
    return replace(
        state,
        block=block,
        filled=torch.zeros_like(state.filled),
        anchor=anchor,
        noise=block_noise(network, anchor, state.seed, block),
        action_mask=torch.zeros_like(state.action_mask),
        robot=network.next_robot(state.robot, states, state.actions, state.action_mask),
        past=past,
    )
