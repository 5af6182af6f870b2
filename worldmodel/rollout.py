"""Rollouts: blocks chained to any horizon, each anchored on the end of the one before.

Time and memory a block are constant. A block is advanced by whole chunks, or one action at a time:
then the actions still to come are absent, the block keeps its anchor and its noise until it is
full, and the frames of a full block do not depend on how its actions came in. Every row has its own
seed and its own place in its block, so rows can be restarted and forked one by one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from worldmodel import counter_noise
from worldmodel.queries import BlockNoise, imagine_block, remember
from worldmodel.transformer import LayerCache
from worldmodel.uwm import ANCHOR_FRAMES, UWM, Cache

Generators = torch.Generator | Sequence[torch.Generator]


@dataclass
class RolloutState:
    """Where the rows of a rollout stand: all that is needed to go on from here, more than once.

    Attributes:
        seed: of a row's noise.
        block: how many blocks a row has finished.
        filled: how many frames of its current block have been shown.
        anchor: the two frames before the current block.
        noise: the current block's.
        actions: the current block's so far; the rest is meaningless.
        action_mask: which of them are known.
        chunk: actions that every step takes.
        past: keys and values of the last `history_blocks` blocks, newest last; None for a network
            that looks no further back than its anchor.
    """

    seed: Int64[Tensor, " batch"]
    block: Int64[Tensor, " batch"]
    filled: Int64[Tensor, " batch"]
    anchor: Float[Tensor, "batch 2 views channels height width"]
    noise: BlockNoise
    actions: Float[Tensor, "batch frames action_dim"]
    action_mask: Bool[Tensor, "batch frames"]
    chunk: int
    past: Cache | None = None

    def take(self, rows: Int64[Tensor, " chosen"]) -> "RolloutState":
        """The state of some rows, any of them more than once: a copy."""
        return self._map(lambda own: own[rows])

    def put(self, rows: Int64[Tensor, " chosen"], other: "RolloutState") -> "RolloutState":
        """This state with some rows replaced, in the order of `other`'s rows."""

        def put(own: Tensor, new: Tensor) -> Tensor:
            return own.index_copy(0, rows, new.to(own.dtype))

        return self._map(put, other)

    def choose(self, mask: Bool[Tensor, " batch"], other: "RolloutState") -> "RolloutState":
        """This state where the mask is False, the other where it is True."""
        return self._map(lambda own, new: _where(mask, new, own), other)

    def _map(self, function: Callable[..., Tensor], *others: "RolloutState") -> "RolloutState":
        """Apply a function to every tensor, together with the same tensors of others."""
        states = (self, *others)

        def apply(name: str) -> Tensor:
            return function(*(getattr(state, name) for state in states))

        past = None
        if self.past is not None:
            pasts = [state.past for state in states if state.past is not None]
            past = [
                LayerCache(
                    function(*(layer.keys for layer in layers)),
                    function(*(layer.values for layer in layers)),
                )
                for layers in zip(*pasts, strict=True)
            ]
        return RolloutState(
            seed=apply("seed"),
            block=apply("block"),
            filled=apply("filled"),
            anchor=apply("anchor"),
            noise=BlockNoise(
                function(*(state.noise.latents for state in states)),
                function(*(state.noise.actions for state in states)),
            ),
            actions=apply("actions"),
            action_mask=apply("action_mask"),
            chunk=self.chunk,
            past=past,
        )


class Advance(NamedTuple):
    """What one step imagined.

    Attributes:
        frames: as many as the chunk has actions.
        features: what the network thought of the whole block (`Prediction`).
        place: the frames' places in their block.
        state: where the rollout stands now.
    """

    frames: Float[Tensor, "batch chunk views channels height width"]
    features: Float[Tensor, "batch tokens width"]
    place: Int64[Tensor, "batch chunk"]
    state: RolloutState


def anchor_of(
    frames: Float[Tensor, "batch frames views channels height width"],
) -> Float[Tensor, "batch 2 views channels height width"]:
    """The last two frames; a single one is taken to have stood still."""
    if frames.shape[1] < ANCHOR_FRAMES:
        return frames[:, -1:].expand(-1, ANCHOR_FRAMES, -1, -1, -1, -1)
    return frames[:, -ANCHOR_FRAMES:]


def draw_seeds(generator: Generators, batch: int) -> Int64[Tensor, " batch"]:
    """A seed for every row, from one generator or from one a row.

    Raises:
        ValueError: several generators, but not one for each row.
    """
    if isinstance(generator, torch.Generator):
        return torch.randint(2**62, (batch,), generator=generator, device=generator.device)
    if len(generator) != batch:
        raise ValueError(f"{len(generator)} generators for a batch of {batch}")
    return torch.cat([draw_seeds(own, 1) for own in generator])


def start(
    network: UWM,
    context: Float[Tensor, "batch frames views channels height width"],
    seed: Int64[Tensor, " batch"],
    chunk: int | None = None,
) -> RolloutState:
    """Begin a rollout behind the context frames, at least one.

    Args:
        network: the world model's network.
        context: known frames.
        seed: of each row's noise.
        chunk: actions that every step will take; None: a whole block.

    Raises:
        ValueError: a chunk that does not divide the block.
    """
    size, batch = network.block_frames, len(context)
    chunk = chunk or size
    if size % chunk:
        raise ValueError(f"chunk={chunk} does not divide the model's block of {size} frames")
    anchor, seed = anchor_of(context), seed.to(context.device)
    none = torch.zeros(batch, dtype=torch.long, device=context.device)
    return RolloutState(
        seed=seed,
        block=none,
        filled=none,
        anchor=anchor,
        noise=_noise(network, anchor, seed, none),
        actions=anchor.new_zeros(batch, size, network.action_dim),
        action_mask=torch.zeros(batch, size, dtype=torch.bool, device=context.device),
        chunk=chunk,
        past=_empty_past(network, anchor) if network.history_blocks else None,
    )


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
    past_mask = _past_mask(network, state)
    block = imagine_block(
        network, state.anchor, actions, action_mask, state.noise, steps, state.past, past_mask
    )
    following = replace(
        state, actions=actions, action_mask=action_mask, filled=state.filled + chunk
    )
    full = following.filled >= size
    if full.device.type != "cpu" or full.any():  # on a GPU, asking costs more than computing
        finished = _next_block(network, following, block.latents, past_mask)
        following = following.choose(full, finished) if chunk < size else finished
    frames = block.latents
    if chunk < size:
        row = torch.arange(len(frames), device=frames.device)[:, None]
        frames = frames[row, place]
    return Advance(frames, block.features, place, following)


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
        generator: one for the batch, or one a row; draws each row's seed.
        action_mask: which actions are known; None: all.
        steps: sampler steps a block.
        chunk: actions taken at once, a divisor of the block; None: the whole block.

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
    state, frames = start(network, context, draw_seeds(generator, len(context)), chunk), []
    missing = -horizon % state.chunk
    actions = torch.nn.functional.pad(actions[:, :horizon], (0, 0, 0, missing))
    action_mask = torch.nn.functional.pad(action_mask[:, :horizon], (0, missing))
    for begin in range(0, horizon, state.chunk):
        part = slice(begin, begin + state.chunk)
        step = advance(network, state, actions[:, part], action_mask[:, part], steps)
        frames.append(step.frames)
        state = step.state
    return torch.cat(frames, dim=1)[:, :horizon]


def _next_block(
    network: UWM, state: RolloutState, latents: Tensor, past_mask: Tensor | None
) -> RolloutState:
    """The state behind a block that is full in every row."""
    anchor, block = anchor_of(latents), state.block + 1
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
            past_mask,
        )
        keep = past[0].keys.shape[2]
        past = [old.append(new, keep) for old, new in zip(past, newest, strict=True)]
    return replace(
        state,
        block=block,
        filled=torch.zeros_like(state.filled),
        anchor=anchor,
        noise=_noise(network, anchor, state.seed, block),
        action_mask=torch.zeros_like(state.action_mask),
        past=past,
    )


def _noise(network: UWM, anchor: Tensor, seed: Tensor, block: Tensor) -> BlockNoise:
    """Every row's noise for one of its blocks."""
    frames, frame = network.block_frames, anchor.shape[2:]
    latents = frames * frame.numel()
    draw = counter_noise.normal(seed, block, latents + frames * network.action_dim)
    latent_noise, action_noise = draw.to(anchor.dtype).split(
        (latents, frames * network.action_dim), dim=1
    )
    return BlockNoise(
        latent_noise.unflatten(1, (frames, *frame)),
        action_noise.unflatten(1, (frames, network.action_dim)),
    )


def _empty_past(network: UWM, anchor: Tensor) -> Cache:
    """Room for the memory of a row that has none yet."""
    _, _, views, _, height, width = anchor.shape
    tokens = views * (height // network.patch) * (width // network.patch) + network.block_frames
    layers = network.transformer.layers
    heads = network.config.heads
    room = anchor.new_zeros(len(anchor), heads, network.history_blocks * tokens, network.head_width)
    return [LayerCache(room, room) for _ in layers]


def _past_mask(network: UWM, state: RolloutState) -> Tensor | None:
    """Which tokens of its past each row has already lived through, newest last."""
    if state.past is None:
        return None
    tokens = state.past[0].keys.shape[2]
    age = torch.arange(tokens, 0, -1, device=state.block.device)
    each = tokens // network.history_blocks
    return age <= each * state.block[:, None]


def _where(mask: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """`torch.where` over rows."""
    return torch.where(mask.view(-1, *(1,) * (no.ndim - 1)), yes, no)
