"""Where the robot will be: its own state, step by step, from the actions it is given.

A hand in a small picture is known to a few centimetres, and an imagined hand strays further with
every block; what a robot feels (proprioception) says to the millimetre where it is. This network
carries that on through a rollout, and the world model draws the arm where it says.

What it goes by is the *robot vector* `(M,)`: the state one frame ago, the state now, and the last P
actions, oldest first, the last of which lies between the two; M = 2 S + P A. One state alone would
not say how fast the hand is, nor which command it still lags behind. States and actions are NaN
where they are unknown; all of it is normalised.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

WIDTH = 128
STEP = 0.1
"""States move by about a tenth of a unit a step: what goes in and out is brought to the unit."""
OCTAVES = 4
"""Waves that tell a state finely: of 1, 2, 4 and 8 periods over its range."""


class Kinematics(nn.Module):
    """The next states of the robot, one after the other; in float32, whatever the video is in.

    Args:
        state_dim: dimensions S of its state.
        action_dim: dimensions A of its actions.
    """

    def __init__(self, state_dim: int, action_dim: int):
        super().__init__()
        self.state_dim = state_dim
        self.network = nn.Sequential(
            nn.Linear(2 * (state_dim + action_dim), WIDTH),
            nn.SiLU(),
            nn.Linear(WIDTH, WIDTH),
            nn.SiLU(),
            nn.Linear(WIDTH, state_dim),
        )

    def forward(
        self,
        robot: Float[Tensor, "batch robot"],
        actions: Float[Tensor, "batch frames action_dim"],
        action_mask: Bool[Tensor, "batch frames"],
    ) -> Float[Tensor, "batch frames state_dim"]:
        """The state behind each action; NaN where it, an action or one before it is unknown."""
        size = self.state_dim
        vector = robot.float().nan_to_num(0.0)
        before, now = vector[:, : 2 * size].chunk(2, dim=-1)
        last = vector[:, -actions.shape[-1] :]
        known = ~robot[:, : 2 * size].isnan().any(-1, keepdim=True)
        actions = torch.where(action_mask[..., None], actions, 0.0).float()
        states = []
        for index, action in enumerate(actions.unbind(1)):
            known = known & action_mask[:, index, None]
            given = torch.cat((now, (now - before) / STEP, last, action), dim=-1)
            with without_autocast(given.device):  # small steps add up
                before, now, last = now, now + STEP * self.network(given), action
            states.append(torch.where(known, now, torch.nan))
        return torch.stack(states, dim=1)


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Whatever is computed inside keeps the precision that it is given."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def at_rest(
    state: Float[Tensor, "batch state_dim"], past_actions: int, action_dim: int
) -> Float[Tensor, "batch robot"]:
    """The robot vector of a robot that has not moved yet; there were no actions before."""
    none = state.new_full((len(state), past_actions * action_dim), torch.nan)
    return torch.cat((state, state, none), dim=-1)


def present_state(
    robot: Float[Tensor, "*batch robot"], state_dim: int
) -> Float[Tensor, "*batch state_dim"]:
    """The state now, of a robot vector."""
    return robot[..., state_dim : 2 * state_dim]


def next_robot(
    robot: Float[Tensor, "batch robot"],
    states: Float[Tensor, "batch frames_and_now state_dim"],
    actions: Float[Tensor, "batch frames action_dim"],
    action_mask: Bool[Tensor, "batch frames"],
) -> Float[Tensor, "batch next_robot"]:
    """The robot vector behind a block, of at least one action.

    Args:
        robot: before the block; as many past actions are kept as it holds.
        states: in the frame before the block and in each of its own.
        actions: that were taken.
        action_mask: which of them are known.
    """
    told = 2 * states.shape[-1]
    taken = torch.where(action_mask[..., None], actions, torch.nan).flatten(1)
    past = torch.cat((robot[:, told:], taken.to(robot.dtype)), dim=-1)
    past = past[:, past.shape[-1] - (robot.shape[-1] - told) :]
    return torch.cat((states[:, -2], states[:, -1], past), dim=-1)


def state_waves(states: Float[Tensor, "*batch state_dim"]) -> Float[Tensor, "*batch channels"]:
    """States as a network reads them finely; zero where NaN, which a last channel tells.

    x, then sin and cos of 2^j pi x for each of the octaves j.
    """
    known = ~states.isnan().any(-1)
    states = torch.where(known[..., None], states, 0.0)
    scales = torch.pi * 2.0 ** torch.arange(OCTAVES, device=states.device)
    angles = (states[..., None] * scales).flatten(-2)
    waves = torch.cat((states, angles.sin(), angles.cos()), dim=-1) * known[..., None]
    return torch.cat((waves, known[..., None].to(waves.dtype)), dim=-1)


def wave_channels(state_dim: int) -> int:
    """Channels of `state_waves`; none where there is no state."""
    return state_dim * (1 + 2 * OCTAVES) + 1 if state_dim else 0


def state_loss(
    predicted: Float[Tensor, "*batch state_dim"],
    states: Float[Tensor, "*batch state_dim"],
) -> Float[Tensor, ""]:
    """Absolute error where both are known, zero elsewhere; the mean is over all numbers.

    Absolute, since a hand that is held up by a table is far off, and not by its own fault. Over
    all, so that a batch's loss is the mean of its parts, however it is split over processes. It is
    zero where a state has no dimension, too.
    """
    known = ~(predicted.isnan() | states.isnan())
    error = torch.where(known, predicted - states, 0.0).abs()
    return error.mean() if error.numel() else error.sum()
