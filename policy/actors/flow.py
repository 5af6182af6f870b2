"""A flow-matching actor: a chunk of actions, made of noise by a few Euler steps.

Rectified flow (Liu et al., arXiv 2209.03003; as a policy: Black et al., pi0, arXiv 2410.24164).
Unlike a Gaussian it can choose between two ways round an obstacle instead of taking their mean.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from policy.actors.actor import ActorNetwork
from policy.encoder import ObservationEncoder
from policy.observations import Observation, rows_of

Chunk = Float[Tensor, "envs chunk action_dim"]


def interpolate(actions: Chunk, noise: Chunk, time: Float[Tensor, " envs"]) -> Chunk:
    """The straight path x_tau = (1 - tau) a + tau eps, from actions (0) to noise (1)."""
    tau = time[:, None, None]
    return (1 - tau) * actions + tau * noise


def euler(
    velocity: Callable[[Chunk, Float[Tensor, " envs"]], Chunk], noise: Chunk, steps: int
) -> Chunk:
    """Follow dx/dtau = v(x, tau) from noise (tau = 1) to actions (tau = 0) in equal steps.

    Args:
        velocity: of chunks at a time of each.
        noise: where the path begins.
        steps: how many.
    """
    x = noise
    for step in range(steps):
        time = x.new_full((len(x),), 1 - step / steps)
        x = x - velocity(x, time) / steps
    return x


class FlowActor(ActorNetwork):
    """Learns the velocity eps - a of the straight path between noise and demonstrated chunks.

    Args:
        shapes: by key, the shape of one environment's observation; see `ObservationEncoder`.
        action_dim: size A of an action.
        chunk: actions k at a time.
        width: of the hidden layers.
        depth: hidden layers, each added to what it is given.
        channels: feature maps of a picture.
        steps: Euler steps from noise to actions.

    Raises:
        ValueError: fewer than one step.
    """

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int]],
        action_dim: int,
        chunk: int = 4,
        width: int = 256,
        depth: int = 3,
        channels: int = 32,
        steps: int = 5,
    ):
        super().__init__()
        if steps < 1:
            raise ValueError(f"steps={steps}: a flow needs at least one Euler step")
        self.chunk, self.action_dim = chunk, action_dim
        self.channels, self.steps = channels, steps
        self.encoder = ObservationEncoder(shapes, width, channels)
        self.embed_noisy = nn.Linear(chunk * action_dim, width)
        self.embed_time = nn.Sequential(nn.Linear(2 * TIME_WAVES, width), nn.SiLU())
        self.layers = nn.ModuleList(Residual(width) for _ in range(depth))
        self.read = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, chunk * action_dim))

    @property
    def noise_shape(self) -> tuple[int, int]:
        """Of the noise that one chunk is made of."""
        return self.chunk, self.action_dim

    def act(
        self,
        observation: Observation,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
        noise: Float[Tensor, "envs {self.chunk} {self.action_dim}"] | None = None,
    ) -> Float[Tensor, "envs {self.chunk} {self.action_dim}"]:
        """Make chunks of noise.

        Args:
            observation: of E environments.
            generator: where the noise comes from.
            deterministic: begin with the likeliest noise, zero.
            noise: begin with this one.
        """
        features = self.encoder(observation)
        start = features.new_zeros(rows_of(observation), *self.noise_shape)
        if noise is not None:
            start = noise
        elif not deterministic:
            start.normal_(generator=generator)
        return euler(lambda x, time: self.velocity(x, time, features), start, self.steps)

    def velocity(
        self,
        noisy: Float[Tensor, "envs {self.chunk} {self.action_dim}"],
        time: Float[Tensor, " envs"],
        features: Float[Tensor, "envs width"],
    ) -> Float[Tensor, "envs {self.chunk} {self.action_dim}"]:
        """The velocity at chunks between actions and noise, given what is seen."""
        condition = features + self.embed_time(waves(time))
        x = self.embed_noisy(noisy.flatten(1))
        for layer in self.layers:
            x = layer(x, condition)
        return self.read(x).unflatten(1, self.noise_shape)

    def cloning_error(
        self,
        observation: Observation,
        actions: Float[Tensor, "envs {self.chunk} {self.action_dim}"],
        known: Bool[Tensor, "envs {self.chunk}"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "envs {self.chunk}"]:
        """Squared error of the velocity at a random time, a dimension's mean.

        An action that is not known enters as pure noise.
        """
        device = actions.device
        noise = torch.randn(actions.shape, generator=generator, device=device)
        time = torch.rand(len(actions), generator=generator, device=device)
        actions = torch.where(known[..., None], actions, 0)
        noisy = torch.where(known[..., None], interpolate(actions, noise, time), noise)
        velocity = self.velocity(noisy, time, self.encoder(observation))
        return (velocity - (noise - actions)).square().mean(-1)

    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            "shapes": {key: list(shape) for key, shape in self.encoder.shapes.items()},
            "action_dim": self.action_dim,
            "chunk": self.chunk,
            "width": self.encoder.width,
            "depth": len(self.layers),
            "channels": self.channels,
            "steps": self.steps,
        }


TIME_WAVES = 8


def waves(time: Float[Tensor, " envs"]) -> Float[Tensor, "envs waves"]:
    """Sines and cosines of times in [0, 1], of half a period and more."""
    angles = time[:, None] * torch.pi * 2 ** torch.arange(TIME_WAVES, device=time.device)
    return torch.cat((angles.sin(), angles.cos()), dim=1)


class Residual(nn.Module):
    """A layer whose input is scaled and shifted by the condition, and added to its output.

    Args:
        width: of both.
    """

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulate = nn.Linear(width, 2 * width)
        self.hidden = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(
        self, x: Float[Tensor, "envs width"], condition: Float[Tensor, "envs width"]
    ) -> Float[Tensor, "envs width"]:
        """One step further."""
        scale, shift = self.modulate(condition).chunk(2, dim=1)
        return x + self.hidden(self.norm(x) * (1 + scale) + shift)
