"""The training objective: which query a block asks, at which times, and what its errors cost.

Pure functions of tensors and generators. The mask contract lives here and in `noise.corrupt`: an
action whose mask is False enters as noise at `ABSENT` and its loss is exactly zero, whatever
stands in its place.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from worldmodel.blocks import Blocks
from worldmodel.draws import RowDraws
from worldmodel.kinematics import state_loss
from worldmodel.noise import ABSENT, GIVEN, corrupt, logit_normal_times, velocity_weight
from worldmodel.uwm import UWM


@dataclass
class QueryMix:
    """How the blocks of a batch are shared out among the queries, and how their times are drawn.

    Blocks without a single known action always ask for video generation, so action-free clips
    come on top of the share given here.

    Attributes:
        forward_dynamics: share with every known action given.
        prefix: share with the first actions given and the rest absent, for stepping a model of
            k-frame blocks one action at a time.
        inverse_dynamics: share with the latents given.
        policy: share with the latents absent and the actions denoised.
        video_generation: share with the actions absent.
        joint: share with both denoised, on independent times.
        latent_pure_noise: probability that a denoised latent block is drawn at tau = 1 itself, the
            only time that one-step sampling ever sees.
        action_pure_noise: likewise for denoised actions.
        time_mean: mean of the logit-normal times of the rest.
        time_std: their standard deviation.
    """

    forward_dynamics: float = 0.66
    prefix: float = 0.14
    inverse_dynamics: float = 0.07
    policy: float = 0.05
    video_generation: float = 0.03
    joint: float = 0.05
    latent_pure_noise: float = 0.5
    action_pure_noise: float = 0.5
    time_mean: float = 0.5
    time_std: float = 1.0

    def __post_init__(self):
        """Check the shares.

        Raises:
            ValueError: a negative share, or shares that do not sum to 1.
        """
        shares = self.shares()
        if min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
            raise ValueError(f"query shares {shares} must be non-negative and sum to 1")

    def shares(self) -> tuple[float, ...]:
        """The six shares, in the order of the fields."""
        return (
            self.forward_dynamics,
            self.prefix,
            self.inverse_dynamics,
            self.policy,
            self.video_generation,
            self.joint,
        )


_FORWARD, _PREFIX, _INVERSE, _POLICY, _GENERATION, _JOINT = range(6)


FAR = 0.2
"""From where a state was foretold, normalised: further than readings of free movements are off."""

SHARES = ("self_rollout", "finished_history", "late_start", "single_frame", "state_dropout")


@dataclass
class Objective:
    """What a block's loss is made of, and how its anchor is disturbed against drift.

    Attributes:
        mix: shares of the queries, and their times.
        anchor_noise: largest standard deviation of the noise on an anchor, drawn uniformly.
        self_rollout: share of the rows whose anchor the model rolled out itself.
        self_rollout_blocks: how many blocks it rolls out for that, at most.
        finished_history: with history blocks, share of the rows whose earlier blocks are finished;
            in the others every block has times of its own (Diffusion Forcing, arXiv 2407.01392).
        late_start: for networks that see their episode's first frame, share of the clips that are
            shown a later one instead, as where a rollout begins amid an episode.
        single_frame: share of the blocks whose anchor shows its last frame twice, as where a
            rollout begins amid an episode with a single frame.
        change_weight: extra weight of the latent loss where the picture changes.
        action_weight: weight of the action loss beside the latent loss.
        time_floor: smallest time in the velocity weight.
        state_dropout: share of the blocks that are not told the robot's state, where it is known,
            nor the actions before.
        state_weight: weight of the error of the states, as they are corrected.
        kinematics_weight: weight of the error of the states that are foretold. Small: nothing else
            learns from it, and it must not use up what the gradients are clipped to.
    """

    mix: QueryMix = field(default_factory=QueryMix)
    anchor_noise: float = 0.3
    self_rollout: float = 0.25
    self_rollout_blocks: int = 1
    finished_history: float = 0.5
    late_start: float = 0.2
    single_frame: float = 0.0
    change_weight: float = 4.0
    action_weight: float = 0.1
    time_floor: float = 0.2
    state_dropout: float = 0.1
    state_weight: float = 1.0
    kinematics_weight: float = 0.01

    def __post_init__(self) -> None:
        """Check the shares.

        Raises:
            ValueError: one that is none, by name.
        """
        for name in SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} is a share: from 0 to 1")


class Times(NamedTuple):
    """Times of a batch of blocks."""

    latent: Float[Tensor, "batch blocks"]
    action: Float[Tensor, "batch blocks frames"]


class Depths(NamedTuple):
    """Which of its clip's blocks each row trains on: block `first + depth`.

    Attributes:
        depth: how many blocks before it are imagined.
        first: the one that follows true frames.
    """

    depth: Int[Tensor, " batch"]
    first: Int[Tensor, " batch"]


def draw_depths(share: float, blocks: int, draws: RowDraws) -> Depths:
    """Draw how many blocks each row imagines, and where in its clip it begins.

    Args:
        share: of the rows that imagine any; those imagine 1 to `blocks`.
        blocks: at most; a clip has one more.
        draws: of the batch.
    """
    rolled = draws.uniform() < share
    some = (1 + draws.uniform() * blocks).long().clamp(max=blocks)
    depth = torch.where(rolled, some, 0)
    return Depths(depth, first=(draws.uniform() * (blocks - depth + 1)).long())


def draw_times(
    action_mask: Bool[Tensor, "batch blocks frames"], mix: QueryMix, draws: RowDraws
) -> Times:
    """Draw a query for every block, and the times that make it that query.

    How many numbers are drawn does not depend on the mask.
    """
    _, blocks, frames = action_mask.shape
    edges = torch.tensor(mix.shares(), device=action_mask.device).cumsum(0)[:-1]
    query = torch.bucketize(draws.uniform(blocks), edges, right=True)
    query = torch.where(action_mask.any(-1), query, _GENERATION)
    latent_time = _denoised_times(blocks, mix, mix.latent_pure_noise, draws)
    action_time = _denoised_times(blocks, mix, mix.action_pure_noise, draws)
    prefix = 1 + (draws.uniform(blocks) * frames).floor()  # 1 .. k actions

    latent_time = torch.where(query == _INVERSE, GIVEN, latent_time)
    latent_time = torch.where(query == _POLICY, ABSENT, latent_time)
    action_time = torch.where(query == _FORWARD, GIVEN, action_time)
    action_time = torch.where(query == _GENERATION, ABSENT, action_time)
    action_time = action_time[..., None].expand(action_mask.shape)
    begun = torch.arange(frames, device=action_mask.device) < prefix[..., None]
    begun = torch.where(begun, GIVEN, ABSENT)
    action_time = torch.where((query == _PREFIX)[..., None], begun, action_time)
    return Times(latent_time, torch.where(action_mask, action_time, ABSENT))


def finish_history(
    times: Times, action_mask: Bool[Tensor, "batch blocks frames"], share: float, draws: RowDraws
) -> Times:
    """Give all but the last block of a share of the rows the times of a finished block."""
    finished = draws.uniform(1) < share
    earlier = torch.arange(action_mask.shape[1], device=action_mask.device)
    finished = finished & (earlier < action_mask.shape[1] - 1)
    known = torch.where(action_mask, GIVEN, ABSENT)
    return Times(
        torch.where(finished, GIVEN, times.latent),
        torch.where(finished[..., None], known, times.action),
    )


def _denoised_times(
    blocks: int, mix: QueryMix, pure_noise: float, draws: RowDraws
) -> Float[Tensor, "batch blocks"]:
    times = logit_normal_times(draws.normal(blocks), mix.time_mean, mix.time_std)
    return torch.where(draws.uniform(blocks) < pure_noise, ABSENT, times)


def given_weight(
    action_time: Float[Tensor, "batch blocks frames"],
    action_weight: Float[Tensor, "batch blocks frames"],
) -> Float[Tensor, "batch blocks"]:
    """How much a block's latent loss counts: the mean weight of the actions that it is given.

    1 where none is given: the frames are real, whoever read the actions between them.

    Args:
        action_time: `ABSENT` where an action is not known.
        action_weight: how much each action counts.
    """
    given = (action_time == GIVEN).to(action_weight.dtype)
    count = given.sum(-1)
    mean = (given * action_weight).sum(-1) / count.clamp(min=1)
    return torch.where(count > 0, mean, 1.0)


def latent_loss(
    predicted: Float[Tensor, "batch blocks frames views channels height width"],
    latents: Float[Tensor, "batch blocks frames views channels height width"],
    anchor: Float[Tensor, "batch blocks anchor views channels height width"],
    time: Float[Tensor, "batch blocks"],
    change_weight: float,
    time_floor: float,
) -> Float[Tensor, "batch blocks"]:
    """Weighted squared velocity error of a block's latents.

    L = mean[(1 + change_weight * min(|x - a|, 1)) * (x_hat - x)^2] / max(tau, floor)^2

    where |x - a| is the root mean square over channels of the change from the anchor's last frame
    `a`: the arm and what it moves are a small part of the picture. Zero at tau = `GIVEN`.
    """
    change = (latents - anchor[:, :, -1:]).square().mean(dim=4, keepdim=True).sqrt().clamp(max=1)
    error = (1 + change_weight * change) * (predicted - latents).square()
    return error.mean(dim=(2, 3, 4, 5, 6)) * velocity_weight(time, time_floor)


def action_loss(
    predicted: Float[Tensor, "batch blocks frames action_dim"],
    actions: Float[Tensor, "batch blocks frames action_dim"],
    action_mask: Bool[Tensor, "batch blocks frames"],
    action_weight: Float[Tensor, "batch blocks frames"],
    time: Float[Tensor, "batch blocks frames"],
    time_floor: float,
) -> Float[Tensor, "batch blocks"]:
    """Weighted squared velocity error of a block's actions, exactly zero where one is not known.

    The mean is over all k * A numbers, known or not and whatever they weigh, so that the loss of a
    batch is the mean of its parts however it is split over processes.
    """
    actions = torch.where(action_mask[..., None], actions, predicted.detach())
    error = (predicted - actions).square().mean(-1) * velocity_weight(time, time_floor)
    return torch.where(action_mask, action_weight * error, 0.0).mean(-1)


@torch.no_grad()
def foretold_states(
    network: UWM, blocks: Blocks
) -> Float[Tensor, "batch blocks frames_and_now state_dim"]:
    """The robot's states before and in each block, as they will be foretold when it is imagined.

    Where the actions were read off the frames, the states that are known take the place of foretold
    ones: such actions tell what the robot did, which commands do not. But where one is far from
    what was foretold, the robot was held up, and the network has to learn to see that.
    """
    parts = blocks.robot, blocks.actions, blocks.action_mask
    rows, count = blocks.action_mask.shape[:2]
    states = network.predict_states(*(part.flatten(0, 1) for part in parts))
    states = states.unflatten(0, (rows, count))
    foretold = states[:, :, 1:]
    is_near = ((foretold - blocks.states).abs() < FAR).all(dim=2, keepdim=True)  # not where NaN
    taken = blocks.were_read()[..., None, None] & is_near
    following = torch.where(taken, blocks.states, foretold)
    return torch.cat((states[:, :, :1], following), dim=2)


class Losses(NamedTuple):
    """Mean losses of a batch, not yet weighted against each other."""

    latent: Float[Tensor, ""]
    action: Float[Tensor, ""]
    state: Float[Tensor, ""]


def block_losses(
    network: UWM, blocks: Blocks, times: Times, objective: Objective, draws: RowDraws
) -> Losses:
    """Corrupt the blocks at their times, let the network restore them, and compare.

    Args:
        network: the denoiser.
        blocks: clean blocks behind their (already disturbed) anchors.
        times: of video and actions.
        objective: weights.
        draws: of the noise.
    """
    latent_noise = draws.normal(*blocks.latents.shape[1:])
    action_noise = draws.normal(*blocks.actions.shape[1:])
    action_time = torch.where(blocks.action_mask, times.action, ABSENT)
    prediction = network(
        blocks.anchor,
        corrupt(blocks.latents, latent_noise, times.latent[..., None, None, None, None, None]),
        corrupt(blocks.actions, action_noise, action_time[..., None]),
        times.latent,
        action_time,
        states=foretold_states(network, blocks),
        robot=blocks.robot,
    )
    latent = latent_loss(
        prediction.latents,
        blocks.latents,
        blocks.anchor,
        times.latent,
        objective.change_weight,
        objective.time_floor,
    )
    latent = latent * given_weight(action_time, blocks.action_weight)
    action = action_loss(
        prediction.actions,
        blocks.actions,
        blocks.action_mask,
        blocks.action_weight,
        action_time,
        objective.time_floor,
    )
    state = state_loss(prediction.states[:, :, 1:], blocks.states)
    return Losses(latent.mean(), action.mean(), state)
