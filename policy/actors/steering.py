"""A Gaussian actor that chooses the noise which a frozen flow makes its actions of.

Whatever noise it chooses, what comes out is something the flow has learned to do. PPO trains the
choice, and needs no gradient through the flow. Source: Wagenmaker et al. (DSRL), arXiv 2506.15799;
there with an off-policy learner.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Independent, Normal

from policy.actors.actor import ActorNetwork, describe
from policy.actors.draws import draw
from policy.actors.flow import FlowActor
from policy.actors.gaussian import GaussianActor
from policy.observations import Observation


class SteeringActor(ActorNetwork):
    """Normal distributions of the noise; `decode` turns a draw into actions.

    noise = reach * mean(o) + std * eps,  a = flow(o, noise)

    It starts near the flow itself, whose noise has mean 0 and standard deviation 1.

    Args:
        base: the flow; its weights are frozen.
        shapes: by key, the shape of one environment's observation; see `ObservationEncoder`.
        reach: standard deviations of the flow's noise that one unit of the mean is worth.
        width: of the hidden layers of the choice.
        depth: its hidden layers behind the encoder.
        channels: its feature maps of a picture.
        initial_std: standard deviation of the noise at first, at most 1.

    Raises:
        ValueError: an actor that makes nothing of noise, or a reach that is not positive.
    """

    def __init__(
        self,
        base: ActorNetwork,
        shapes: Mapping[str, Sequence[int]],
        reach: float = 1.0,
        width: int = 256,
        depth: int = 2,
        channels: int = 32,
        initial_std: float = 0.95,
    ):
        super().__init__()
        if not isinstance(base, FlowActor):
            raise ValueError(
                f"a {type(base).__name__} makes nothing of noise, so it cannot be steered by it; "
                "only a FlowActor can. Correct it with policy.actors.residual.ResidualActor."
            )
        if reach <= 0:
            raise ValueError(f"reach={reach} must be positive")
        self.chunk, self.action_dim = base.chunk, base.action_dim
        self.base = base.requires_grad_(False)
        self.reach = reach
        self.sizes = {
            "width": width,
            "depth": depth,
            "channels": channels,
            "initial_std": initial_std,
        }
        noise_chunk, noise_size = base.noise_shape
        self.steering = GaussianActor(shapes, noise_size, noise_chunk, **self.sizes)
        self.steering.encoder.normalize_like(base)

    def distribution(self, observation: Observation) -> Independent:
        """Of the noise: batch shape (E,), event shape (k, A)."""
        mean, std = self.steering(observation)
        chosen = Normal(self.reach * mean, std, validate_args=False)
        return Independent(chosen, 2, validate_args=False)

    def decode(
        self, observation: Observation, drawn: Float[Tensor, "envs chunk action_dim"]
    ) -> Float[Tensor, "envs chunk action_dim"]:
        """The actions that the flow makes of the noise."""
        with torch.no_grad():
            return self.base.act(observation, noise=drawn)

    def act(
        self,
        observation: Observation,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> Float[Tensor, "envs {self.chunk} {self.action_dim}"]:
        """Actions of the likeliest noise, or of a draw."""
        chances = self.distribution(observation)
        noise = chances.mean if deterministic else draw(chances, generator)
        return self.decode(observation, noise)

    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments."""
        shapes = self.steering.encoder.shapes
        return {
            "base": describe(self.base),
            "shapes": {key: list(shape) for key, shape in shapes.items()},
            "reach": self.reach,
            **self.sizes,
        }
