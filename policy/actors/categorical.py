"""An actor for environments whose action is one of a few choices."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Categorical, Independent

from policy.actors.actor import ActorNetwork
from policy.actors.draws import draw, likeliest
from policy.encoder import ObservationEncoder
from policy.observations import Observation


class CategoricalActor(ActorNetwork):
    """Probabilities of the choices of a `Discrete` space; an action is the number of one.

    Args:
        shapes: by key, the shape of one environment's observation; see `ObservationEncoder`.
        choices: how many there are.
        width: of the hidden layers.
        depth: hidden layers behind the encoder.
        channels: feature maps of a picture.

    Raises:
        ValueError: fewer than two choices.
    """

    chunk = 1
    action_dim = 1

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int]],
        choices: int,
        width: int = 64,
        depth: int = 1,
        channels: int = 32,
    ):
        super().__init__()
        if choices < 2:
            raise ValueError(f"choices={choices}: with fewer than two there is nothing to choose")
        self.choices, self.depth, self.channels = choices, depth, channels
        self.encoder = ObservationEncoder(shapes, width, channels)
        hidden = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.Tanh())]
        self.hidden = nn.Sequential(*hidden)
        self.logits = nn.Linear(width, choices)
        nn.init.orthogonal_(self.logits.weight, gain=0.01)
        nn.init.zeros_(self.logits.bias)

    def distribution(self, observation: Observation) -> Independent:
        """Of the numbers of the choices: batch shape (E,), event shape (1, 1)."""
        logits = self.logits(self.hidden(self.encoder(observation)))[:, None, None]
        return Independent(Categorical(logits=logits, validate_args=False), 2, validate_args=False)

    def act(
        self,
        observation: Observation,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> Float[Tensor, "envs 1 1"]:
        """The likeliest choices, or drawn ones."""
        chances = self.distribution(observation)
        return likeliest(chances) if deterministic else draw(chances, generator)

    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            "shapes": {key: list(shape) for key, shape in self.encoder.shapes.items()},
            "choices": self.choices,
            "width": self.encoder.width,
            "depth": self.depth,
            "channels": self.channels,
        }
