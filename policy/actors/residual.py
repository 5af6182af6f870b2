"""A small Gaussian actor that corrects a frozen one.

For actors that do not know how likely their actions are, such as a flow: PPO trains the correction,
and needs no gradient through the frozen actor. Source: Ankile et al. (ResiP), arXiv 2407.16677.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Independent, Normal

from policy.actors.actor import ActorNetwork, describe
from policy.actors.draws import draw
from policy.actors.gaussian import GaussianActor
from policy.observations import Observation

BASE = "base_action"
"""Key under which the correction sees what it corrects."""


class ResidualActor(ActorNetwork):
    """Normal distributions around a frozen actor's actions.

    a = a_base(o) + scale * (mean(o, a_base) + std * eps), where a_base leaves nothing to chance. It
    starts where the frozen actor is: the correction's mean is about 0 at first.

    Args:
        base: the actor to correct; its weights are frozen.
        shapes: by key, the shape of one environment's observation; see `ObservationEncoder`.
        scale: normalised actions that one unit of the correction is worth.
        width: of the hidden layers of the correction.
        depth: its hidden layers behind the encoder.
        channels: its feature maps of a picture.
        initial_std: standard deviation of the correction at first, in its own units.

    Raises:
        ValueError: a scale that is not positive.
    """

    def __init__(
        self,
        base: ActorNetwork,
        shapes: Mapping[str, Sequence[int]],
        scale: float = 0.2,
        width: int = 256,
        depth: int = 2,
        channels: int = 32,
        initial_std: float = 0.5,
    ):
        super().__init__()
        if scale <= 0:
            raise ValueError(f"scale={scale} must be positive")
        self.chunk, self.action_dim = base.chunk, base.action_dim
        self.base = base.requires_grad_(False)
        self.scale = scale
        self.shapes = {key: list(shape) for key, shape in shapes.items()}
        self.sizes = {
            "width": width,
            "depth": depth,
            "channels": channels,
            "initial_std": initial_std,
        }
        seen = {**shapes, BASE: (base.chunk * base.action_dim,)}
        self.residual = GaussianActor(seen, base.action_dim, base.chunk, **self.sizes)
        self.residual.encoder.normalize_like(base)

    def distribution(self, observation: Observation) -> Independent:
        """Of whole chunks: batch shape (E,), event shape (k, A)."""
        with torch.no_grad():
            base = self.base.act(observation, deterministic=True)
        flat = rearrange(base, "envs chunk size -> envs (chunk size)")
        mean, std = self.residual(observation | {BASE: flat})
        corrected = Normal(base + self.scale * mean, self.scale * std, validate_args=False)
        return Independent(corrected, 2, validate_args=False)

    def act(
        self,
        observation: Observation,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> Float[Tensor, "envs {self.chunk} {self.action_dim}"]:
        """The corrected actions, or a draw around them."""
        chances = self.distribution(observation)
        return chances.mean if deterministic else draw(chances, generator)

    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            "base": describe(self.base),
            "shapes": self.shapes,
            "scale": self.scale,
            **self.sizes,
        }
