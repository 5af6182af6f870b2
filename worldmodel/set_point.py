"""Where commands have asked a robot to be, which it lags behind, or is held up from.

A controller of displacements adds every command to its set-point, and keeps that inside the
workspace. A hand that a table holds up stays where it is while its set-point sinks further, and
comes free only when that has come back up: no picture shows this, but the commands tell it.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from worldmodel.precision import without_autocast

HISTORY = 64
"""Actions before a clip that its set-point is followed through; there, the robot is at its own."""


class SetPoint(nn.Module):
    """The set-point of a controller that is learned from what its robot does.

    p' = min(max(p + W a + b, low), high)

    Args:
        state_dim: dimensions S of the robot's state, and of the set-point.
        action_dim: dimensions A of its actions.
    """

    def __init__(self, state_dim: int, action_dim: int):
        super().__init__()
        self.step = nn.Linear(action_dim, state_dim)
        nn.init.zeros_(self.step.weight)
        nn.init.zeros_(self.step.bias)
        self.low = nn.Parameter(torch.full((state_dim,), -1.0))
        self.high = nn.Parameter(torch.full((state_dim,), 1.0))

    def forward(
        self,
        point: Float[Tensor, "batch state_dim"],
        actions: Float[Tensor, "batch frames action_dim"],
        action_mask: Bool[Tensor, "batch frames"],
        taken: Bool[Tensor, "batch frames"] | None = None,
    ) -> Float[Tensor, "batch frames state_dim"]:
        """The set-point behind each action; NaN where it, an action or one before it is unknown.

        Args:
            point: the set-point before the first of them; NaN where unknown.
            actions: normalised.
            action_mask: which of them are known.
            taken: which of them there were at all, as there are none before an episode; None: all.
        """
        points = []
        with without_autocast(actions.device):  # small steps add up
            steps = self.step(torch.where(action_mask[..., None], actions, 0.0).float())
        steps = torch.where(action_mask[..., None], steps, torch.nan)
        for index, step in enumerate(steps.unbind(1)):
            following = torch.minimum(torch.maximum(point + step, self.low), self.high)
            if taken is not None:
                following = torch.where(taken[:, index, None], following, point)
            point = following
            points.append(point)
        return torch.stack(points, dim=1)


def clip_set_points(
    set_point: SetPoint,
    batch: dict[str, Tensor],
    actions: Float[Tensor, "batch steps action_dim"],
    states: Float[Tensor, "batch frames state_dim"],
    past_actions: Float[Tensor, "batch history action_dim"],
    past_state: Float[Tensor, "batch state_dim"],
) -> Float[Tensor, "batch frames state_dim"]:
    """The set-point in each frame of clips; where it is unknown, the state.

    Only recorded actions count: those that a model read tell where the robot went, and not where it
    was sent.

    Args:
        set_point: of the controller.
        batch: of a `ClipDataset` that has a `history`.
        actions: the clips', as the network has them.
        states: likewise, NaN where unknown.
        past_actions: those before the clips.
        past_state: the state where these begin, NaN where unknown.
    """
    history, steps = past_actions.shape[1], actions.shape[1]
    weight = torch.cat((batch["past_action_weight"], batch["action_weight"]), dim=1)
    frame = batch["start"][:, None] + torch.arange(-history, steps, device=weight.device)
    every = torch.cat((past_actions, actions), dim=1)
    points = set_point(past_state, every, weight == 1, taken=frame >= 0)[:, history - 1 :]
    return torch.where(points.isnan(), states, points)
