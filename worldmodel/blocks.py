"""Cutting clips into blocks: anchors, frames and the actions that lead to them."""

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from worldmodel.uwm import ANCHOR_FRAMES


class Blocks(NamedTuple):
    """N blocks of k frames for each of B rows.

    Attributes:
        anchor: the two frames before each block, its episode's first one in front where it is told.
        latents: its frames.
        actions: those that lead to them.
        action_mask: which of them are known.
        action_weight: how much each of them counts in training: 1 where it was recorded, less where
            it was read off the video, 0 where it is unknown.
        robot: the robot vector before each block (`kinematics.py`), NaN where unknown.
        states: the robot's state in each of its frames, NaN where unknown.
    """

    anchor: Float[Tensor, "batch blocks anchor views channels height width"]
    latents: Float[Tensor, "batch blocks frames views channels height width"]
    actions: Float[Tensor, "batch blocks frames action_dim"]
    action_mask: Bool[Tensor, "batch blocks frames"]
    action_weight: Float[Tensor, "batch blocks frames"]
    robot: Float[Tensor, "batch blocks robot"]
    states: Float[Tensor, "batch blocks frames state_dim"]

    def were_read(self) -> Bool[Tensor, "batch blocks"]:
        """Whether a model read any of a block's actions off its frames."""
        return ((self.action_weight > 0) & (self.action_weight < 1)).any(-1)

    def pick(self, first: Int[Tensor, " batch"], count: int) -> "Blocks":
        """`count` consecutive blocks of each row, from the row's own first one on."""
        row = torch.arange(len(first), device=first.device)[:, None]
        block = first[:, None] + torch.arange(count, device=first.device)
        return Blocks(*(part[row, block] for part in self))


def cut(
    latents: Float[Tensor, "batch clip views channels height width"],
    actions: Float[Tensor, "batch clip_actions action_dim"],
    action_mask: Bool[Tensor, "batch clip_actions"],
    frames: int,
    action_weight: Float[Tensor, "batch clip_actions"] | None = None,
    states: Float[Tensor, "batch clip state_dim"] | None = None,
    first: Float[Tensor, "batch views channels height width"] | None = None,
    past_actions: int = 1,
    set_points: Float[Tensor, "batch clip set_point_dim"] | None = None,
) -> Blocks:
    """Cut clips of 2 + N * k frames into N blocks.

    Frame t of a clip is reached by `actions[:, t - 1]`. Block n holds frames 2 + n k to
    2 + n k + k - 1, the actions that lead to each of them, and the two frames before as its anchor.

    Args:
        latents: clips.
        actions: one fewer than frames.
        action_mask: which actions are known.
        frames: frames k of a block.
        action_weight: how much each action counts; None: 1 where it is known.
        states: the robot's in every frame, NaN where unknown; None: there are none.
        first: the first frame of each clip's episode, for networks that see it.
        past_actions: actions P of the robot vector; those before the clip are unknown.
        set_points: in every frame, for kinematics that keep one; None: there are none.

    Raises:
        ValueError: a clip that is not two frames and a whole number of blocks.
    """
    blocks, rest = divmod(latents.shape[1] - ANCHOR_FRAMES, frames)
    if rest or blocks < 1:
        raise ValueError(
            f"a clip of {latents.shape[1]} frames is not {ANCHOR_FRAMES} + N * {frames} frames"
        )
    if action_weight is None:
        action_weight = action_mask.to(actions.dtype)
    ends = torch.arange(blocks, device=latents.device) * frames
    if states is None:
        states = actions.new_zeros(*latents.shape[:2], 0)
    known = torch.where(action_mask[..., None], actions, torch.nan)
    known = torch.nn.functional.pad(known, (0, 0, past_actions, 0), value=torch.nan)
    past = known[:, ends[:, None] + torch.arange(1, 1 + past_actions, device=ends.device)]
    if set_points is None:
        set_points = states[..., :0]
    told = states[:, ends], states[:, ends + 1], set_points[:, ends + 1].to(states.dtype)
    robot = torch.cat((*told, past.flatten(2)), dim=-1)
    anchor = torch.stack((latents[:, ends], latents[:, ends + 1]), dim=2)
    if first is not None:
        every = first[:, None, None].expand(-1, blocks, -1, -1, -1, -1, -1)
        anchor = torch.cat((every, anchor), dim=2)
    return Blocks(
        anchor=anchor,
        latents=rearrange(latents[:, ANCHOR_FRAMES:], "b (n k) ... -> b n k ...", k=frames),
        actions=rearrange(actions[:, 1:], "b (n k) a -> b n k a", k=frames),
        action_mask=rearrange(action_mask[:, 1:], "b (n k) -> b n k", k=frames),
        action_weight=rearrange(action_weight[:, 1:], "b (n k) -> b n k", k=frames),
        robot=robot,
        states=rearrange(states[:, ANCHOR_FRAMES:], "b (n k) s -> b n k s", k=frames),
    )
