"""Where a rollout stands, as a value, and how it starts.

How it goes on from there is the business of `rollout.py`; `rows.py` forks and restarts its rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from worldmodel import counter_noise
from worldmodel.queries import BlockNoise
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
        anchor: the two frames before the current block, the first one in front of them for a
            network that sees it.
        noise: the current block's.
        actions: the current block's so far; the rest is meaningless.
        action_mask: which of them are known.
        chunk: actions that every step takes.
        robot: the robot vector before the current block (`kinematics.py`), NaN where unknown.
        past: keys and values of the last `history_blocks` blocks, newest last; None for a network
            that looks no further back than its anchor.
    """

    seed: Int64[Tensor, " batch"]
    block: Int64[Tensor, " batch"]
    filled: Int64[Tensor, " batch"]
    anchor: Float[Tensor, "batch anchor views channels height width"]
    noise: BlockNoise
    actions: Float[Tensor, "batch frames action_dim"]
    action_mask: Bool[Tensor, "batch frames"]
    chunk: int
    robot: Float[Tensor, "batch robot"]
    past: Cache | None = None


def anchor_of(
    frames: Float[Tensor, "batch frames views channels height width"],
) -> Float[Tensor, "batch 2 views channels height width"]:
    """The last two frames; a single one is taken to have stood still."""
    if frames.shape[1] < ANCHOR_FRAMES:
        return frames[:, -1:].expand(-1, ANCHOR_FRAMES, -1, -1, -1, -1)
    return frames[:, -ANCHOR_FRAMES:]


def first_anchor(
    network: UWM, context: Float[Tensor, "batch frames views channels height width"]
) -> Float[Tensor, "batch anchor views channels height width"]:
    """The anchor behind the frames with which an episode begins, as the network wants it."""
    anchor = anchor_of(context)
    return torch.cat((context[:, :1], anchor), dim=1) if network.first_frame else anchor


def next_anchor(
    anchor: Float[Tensor, "batch anchor views channels height width"],
    frames: Float[Tensor, "batch frames views channels height width"],
) -> Float[Tensor, "batch anchor views channels height width"]:
    """The anchor behind a block of frames: the episode's first frame stays, if it is there."""
    return torch.cat((anchor[:, :-ANCHOR_FRAMES], anchor_of(frames)), dim=1)


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
    state: Float[Tensor, "batch state_dim"] | None = None,
) -> RolloutState:
    """Begin a rollout behind the context frames, at least one.

    Args:
        network: the world model's network.
        context: known frames, the first of which a network that sees it keeps.
        seed: of each row's noise.
        chunk: actions that every step will take; None: a whole block.
        state: the robot's, normalised, in the last context frame, where it is taken to rest; NaN
            where unknown; None: unknown.

    Raises:
        ValueError: a chunk that does not divide the block.
    """
    size, batch = network.block_frames, len(context)
    chunk = chunk or size
    if size % chunk:
        raise ValueError(f"chunk={chunk} does not divide the model's block of {size} frames")
    anchor, seed = first_anchor(network, context), seed.to(context.device)
    none = torch.zeros(batch, dtype=torch.long, device=context.device)
    if state is None or not network.state_dim:
        state = anchor.new_full((batch, network.state_dim), torch.nan)
    return RolloutState(
        seed=seed,
        block=none,
        filled=none,
        anchor=anchor,
        noise=block_noise(network, anchor, seed, none),
        actions=anchor.new_zeros(batch, size, network.action_dim),
        action_mask=torch.zeros(batch, size, dtype=torch.bool, device=context.device),
        chunk=chunk,
        robot=network.robot_at_rest(state.to(anchor)),
        past=_empty_past(network, anchor) if network.history_blocks else None,
    )


def block_noise(network: UWM, anchor: Tensor, seed: Tensor, block: Tensor) -> BlockNoise:
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


def past_mask(network: UWM, state: RolloutState) -> Bool[Tensor, "batch tokens"] | None:
    """Which tokens of its past each row has already lived through, newest last."""
    if state.past is None:
        return None
    tokens = state.past[0].keys.shape[2]
    age = torch.arange(tokens, 0, -1, device=state.block.device)
    each = tokens // network.history_blocks
    return age <= each * state.block[:, None]


def _empty_past(network: UWM, anchor: Tensor) -> Cache:
    """Room for the memory of a row that has none yet."""
    _, _, views, _, height, width = anchor.shape
    tokens = views * (height // network.patch) * (width // network.patch) + network.block_frames
    shape = (len(anchor), network.heads, network.history_blocks * tokens, network.head_width)
    room = torch.zeros(shape, dtype=network.dtype, device=anchor.device)
    return [LayerCache(room, room) for _ in network.transformer.layers]
