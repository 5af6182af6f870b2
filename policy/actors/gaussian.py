"""A Gaussian actor: one network gives the mean of a whole chunk of actions, and how sure it is."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from policy.actors.actor import ActorNetwork
from policy.actors.draws import draw
from policy.encoder import ObservationEncoder
from policy.observations import Observation


class GaussianActor(ActorNetwork):
    """Normal distributions for every action of a chunk.

    Their standard deviation lies between `least_std` and 1, in normalised actions. It does not
    depend on what is seen, unless it is asked to.

    With a `correlation` rho the actions of a chunk deviate together: in each dimension the
    covariance of those at places i and j is std^2 for i = j and rho * std^2 otherwise. Deviations
    that are independent cancel out over a chunk, and RL sees little of what they do (correlated
    exploration in PPO: Hollenstein et al., arXiv 2312.11091). What each action is like by itself
    stays the same, so cloning does not depend on it.

    Args:
        shapes: by key, the shape of one environment's observation; see `ObservationEncoder`.
        action_dim: size A of an action.
        chunk: actions k at a time.
        width: of the hidden layers.
        depth: hidden layers behind the encoder.
        channels: feature maps of a picture.
        state_dependent_std: let the network tell the standard deviation.
        initial_std: where it starts.
        least_std: it never falls below.
        correlation: of any two actions' deviations from their means.

    Raises:
        ValueError: an `initial_std` that is not between `least_std` and 1, or a correlation that
            does not lie in [0, 1), or comes with standard deviations that depend on the state.
    """

    basis: Tensor
    stretch: Tensor

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int]],
        action_dim: int,
        chunk: int = 1,
        width: int = 256,
        depth: int = 2,
        channels: int = 32,
        state_dependent_std: bool = False,
        initial_std: float = 0.3,
        least_std: float = 0.05,
        correlation: float = 0.0,
    ):
        super().__init__()
        if not 0 < least_std < initial_std < 1:
            raise ValueError(
                f"need 0 < least_std < initial_std < 1, got {least_std} and {initial_std}"
            )
        if not 0 <= correlation < 1:
            raise ValueError(f"correlation={correlation} must lie in [0, 1)")
        if correlation and state_dependent_std:
            raise ValueError("choose one: a correlation, or state_dependent_std")
        self.chunk, self.action_dim = chunk, action_dim
        self.correlation = correlation
        self.depth, self.channels = depth, channels
        self.initial_std, self.least_std = initial_std, least_std
        self.encoder = ObservationEncoder(shapes, width, channels)
        hidden = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.SiLU())]
        self.hidden = nn.Sequential(*hidden)
        self.mean = nn.Linear(width, chunk * action_dim)
        self.spread = nn.Linear(width, chunk * action_dim) if state_dependent_std else None
        share = (initial_std - least_std) / (1 - least_std)
        self.raw_std = nn.Parameter(torch.full((action_dim,), math.log(share / (1 - share))))
        # a covariance with one value off the diagonal has the cosines for its eigenvectors: the
        # first of them, the mean of the chunk, has an eigenvalue of its own
        variances = torch.full((chunk, 1), 1 - correlation)
        variances[0] += chunk * correlation
        self.register_buffer("stretch", variances.sqrt(), persistent=False)
        self.register_buffer("basis", cosines(chunk), persistent=False)
        for layer in (self.mean, self.spread):
            if layer is not None:
                nn.init.normal_(layer.weight, std=0.01 / math.sqrt(width))
                nn.init.zeros_(layer.bias)

    def distribution(self, observation: Observation) -> Independent:
        """Of whole chunks: batch shape (E,), event shape (k, A).

        With a correlation it is one of the chunk's cosines, which are independent of each other,
        and `decode` makes actions of them.
        """
        mean, std = self.forward(observation)
        if self.correlation:
            mean, std = self.basis @ mean, self.stretch * std
        return Independent(Normal(mean, std, validate_args=False), 2, validate_args=False)

    def decode(
        self,
        observation: Observation,
        drawn: Float[Tensor, "envs {self.chunk} {self.action_dim}"],
    ) -> Float[Tensor, "envs {self.chunk} {self.action_dim}"]:
        """Actions of what was drawn from the distribution."""
        return self.basis.T @ drawn if self.correlation else drawn

    def forward(
        self, observation: Observation
    ) -> tuple[
        Float[Tensor, "envs {self.chunk} {self.action_dim}"],
        Float[Tensor, "envs {self.chunk} {self.action_dim}"],
    ]:
        """Mean and standard deviation."""
        features = self.hidden(self.encoder(observation))
        mean = self.mean(features).unflatten(1, (self.chunk, self.action_dim))
        raw = self.raw_std.expand_as(mean)
        if self.spread is not None:
            raw = raw + self.spread(features).view_as(mean)
        return mean, self.least_std + (1 - self.least_std) * raw.sigmoid()

    def act(
        self,
        observation: Observation,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> Float[Tensor, "envs {self.chunk} {self.action_dim}"]:
        """The means, or a draw."""
        if deterministic:
            return self.forward(observation)[0]
        return self.decode(observation, draw(self.distribution(observation), generator))

    def cloning_error(
        self,
        observation: Observation,
        actions: Float[Tensor, "envs {self.chunk} {self.action_dim}"],
        known: Bool[Tensor, "envs {self.chunk}"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "envs {self.chunk}"]:
        """Negative log-likelihood of each action, a dimension's mean."""
        mean, std = self.forward(observation)
        actions = torch.where(known[..., None], actions, 0)
        return -Normal(mean, std, validate_args=False).log_prob(actions).mean(-1)

    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            "shapes": {key: list(shape) for key, shape in self.encoder.shapes.items()},
            "action_dim": self.action_dim,
            "chunk": self.chunk,
            "width": self.encoder.width,
            "depth": self.depth,
            "channels": self.channels,
            "state_dependent_std": self.spread is not None,
            "initial_std": self.initial_std,
            "least_std": self.least_std,
            "correlation": self.correlation,
        }


def cosines(number: int) -> Float[Tensor, "number number"]:
    """Orthonormal cosines (DCT-II) as rows; the first is constant."""
    place = torch.arange(number, dtype=torch.float64)
    rows = torch.cos(torch.pi * place[:, None] * (place + 0.5) / number)
    return (rows / rows.norm(dim=1, keepdim=True)).float()
