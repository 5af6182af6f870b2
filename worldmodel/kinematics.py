"""Where the robot will be: its own state, step by step, from the actions it is given.

A hand in a small picture is known to a few centimetres, and an imagined hand strays further with
every block; what a robot feels (proprioception) says to the millimetre where it is. This network
carries that on through a rollout, and the world model draws the arm where it says.

What it goes by is the *robot vector* `(M,)`: the state one frame ago, the state now, the set-point
if it keeps one (`set_point.py`), and the last P actions, oldest first, the last of which lies
between the two states; M = 2 S + P A, or 3 S + P A. One state alone would not say how fast the hand
is, nor which command it still lags behind. What is unknown is NaN; all of it is normalised.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from worldmodel.precision import without_autocast
from worldmodel.set_point import SetPoint

STEP = 0.1
"""States move by about a tenth of a unit a step: what goes in and out is brought to the unit."""
OCTAVES = 4
"""Waves that tell a state finely: of 1, 2, 4 and 8 periods over its range."""


@dataclass
class KinematicsSizes:
    """Sizes of the network that foretells the robot's states.

    Attributes:
        width: of its hidden layers.
        depth: how many of them.
        dropout: behind each of them but the last, while it learns.
        waves: whether it is told states finely, by `state_waves`, and not as numbers alone.
        set_point: whether it keeps a set-point, for actions that move the robot by some distance.
            That one is learned when kinematics are fitted beforehand.

    Raises:
        ValueError: fewer than one of width or depth, or a dropout outside [0, 1).
    """

    width: int = 128
    depth: int = 2
    dropout: float = 0.0
    waves: bool = False
    set_point: bool = False

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.width < 1 or self.depth < 1 or not 0 <= self.dropout < 1:
            raise ValueError(
                f"kinematics of width={self.width}, depth={self.depth} and dropout={self.dropout}: "
                "need 1 or more, and a dropout from 0 to below 1"
            )


class Kinematics(nn.Module):
    """The next states of the robot, one after the other; in float32, whatever the video is in.

    Frozen, it foretells the same in training as otherwise: dropout is for weights that learn.

    Args:
        state_dim: dimensions S of its state.
        action_dim: dimensions A of its actions.
        past_actions: actions P of the robot vector.
        sizes: of the network.

    Attributes:
        set_point: the controller's; None: it keeps none.
    """

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        past_actions: int = 1,
        sizes: KinematicsSizes = KinematicsSizes(),  # noqa: B008 - never changed
    ):
        super().__init__()
        self.state_dim = state_dim
        self.waves = sizes.waves
        self.set_point = SetPoint(state_dim, action_dim) if sizes.set_point else None
        position = wave_channels(state_dim) if sizes.waves else state_dim
        widths = [position + state_dim + (past_actions + 1) * action_dim]
        widths[0] += state_dim if sizes.set_point else 0
        widths += [sizes.width] * sizes.depth
        layers: list[nn.Module] = []
        for number, (before, behind) in enumerate(pairwise(widths), 1):
            layers += [nn.Linear(before, behind), nn.SiLU()]
            if sizes.dropout and number < sizes.depth:
                layers.append(nn.Dropout(sizes.dropout))
        self.network = nn.Sequential(*layers, nn.Linear(widths[-1], state_dim))

    def train(self, mode: bool = True) -> "Kinematics":
        """As `nn.Module.train`; what is frozen does not learn."""
        return super().train(mode and any(weight.requires_grad for weight in self.parameters()))

    def forward(
        self,
        robot: Float[Tensor, "batch robot"],
        actions: Float[Tensor, "batch frames action_dim"],
        action_mask: Bool[Tensor, "batch frames"],
    ) -> Float[Tensor, "batch frames state_dim"]:
        """The state behind each action; NaN where it, an action or one before it is unknown."""
        size = self.state_dim
        vector = robot.float().nan_to_num(0.0)
        before, now, past = vector.tensor_split((size, 2 * size), dim=-1)
        past = past[:, self.set_point_dim :]
        known = ~robot[:, : 2 * size + self.set_point_dim].isnan().any(-1, keepdim=True)
        points = self.follow(robot, actions, action_mask).nan_to_num(0.0)
        actions = torch.where(action_mask[..., None], actions, 0.0).float()
        states = []
        for index, action in enumerate(actions.unbind(1)):
            known = known & action_mask[:, index, None]
            past = torch.cat((past, action), dim=-1)
            place = state_waves(now) if self.waves else now
            told = [place, (now - before) / STEP, past]
            if self.set_point is not None:
                told += [(points[:, index] - now) / STEP]
            given = torch.cat(told, dim=-1)
            with without_autocast(given.device):  # small steps add up
                before, now = now, now + STEP * self.network(given)
            past = past[:, action.shape[-1] :]
            states.append(torch.where(known, now, torch.nan))
        return torch.stack(states, dim=1)

    @property
    def set_point_dim(self) -> int:
        """Dimensions of the set-point in the robot vector: S or none."""
        return 0 if self.set_point is None else self.state_dim

    def follow(
        self,
        robot: Float[Tensor, "batch robot"],
        actions: Float[Tensor, "batch frames action_dim"],
        action_mask: Bool[Tensor, "batch frames"],
    ) -> Float[Tensor, "batch frames set_point_dim"]:
        """The set-point behind each action, NaN where it is unknown."""
        if self.set_point is None:
            return actions.new_zeros(*actions.shape[:2], 0)
        point = robot[:, 2 * self.state_dim : 3 * self.state_dim].float()
        return self.set_point(point, actions, action_mask)


def at_rest(
    state: Float[Tensor, "batch state_dim"],
    past_actions: int,
    action_dim: int,
    set_point: bool = False,
) -> Float[Tensor, "batch robot"]:
    """The robot vector of a robot that has not moved yet; there were no actions before."""
    none = state.new_full((len(state), past_actions * action_dim), torch.nan)
    return torch.cat((*(state,) * (3 if set_point else 2), none), dim=-1)


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
    set_point: Float[Tensor, "batch set_point_dim"] | None = None,
) -> Float[Tensor, "batch next_robot"]:
    """The robot vector behind a block, of at least one action.

    Args:
        robot: before the block; as many past actions are kept as it holds.
        states: in the frame before the block and in each of its own.
        actions: that were taken.
        action_mask: which of them are known.
        set_point: behind the block; None: there is none.
    """
    if set_point is None:
        set_point = states.new_zeros(len(states), 0)
    told = 2 * states.shape[-1] + set_point.shape[-1]
    taken = torch.where(action_mask[..., None], actions, torch.nan).flatten(1)
    past = torch.cat((robot[:, told:], taken.to(robot.dtype)), dim=-1)
    past = past[:, past.shape[-1] - (robot.shape[-1] - told) :]
    return torch.cat((states[:, -2], states[:, -1], set_point.to(states.dtype), past), dim=-1)


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
