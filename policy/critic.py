"""The critic: what return is to be expected from what is seen."""

import copy
from collections.abc import Mapping, Sequence

from jaxtyping import Float
from torch import Tensor, nn

from policy.encoder import ObservationEncoder
from policy.observations import Observation


class Critic(nn.Module):
    """One value for every environment's observation; 0 for all of them at first.

    Args:
        encoder: from observations to features; the critic's own.
        depth: hidden layers behind it.
    """

    def __init__(self, encoder: ObservationEncoder, depth: int = 2):
        super().__init__()
        self.encoder = encoder
        width = encoder.width
        hidden = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.Tanh())]
        self.hidden = nn.Sequential(*hidden)
        self.value = nn.Linear(width, 1)
        nn.init.zeros_(self.value.weight)
        nn.init.zeros_(self.value.bias)

    def forward(self, observation: Observation) -> Float[Tensor, " envs"]:
        """The values."""
        return self.value(self.hidden(self.encoder(observation)))[:, 0]


def critic_beside(
    actor: nn.Module, shapes: Mapping[str, Sequence[int]], width: int = 256, depth: int = 2
) -> Critic:
    """A critic that starts with a copy of the actor's encoder, if that has one.

    What a cloned policy has learned to look for, and how it normalises the robot's state, need not
    be learned again.

    Args:
        actor: looks at the same observations.
        shapes: of the observations.
        width: of an encoder of the critic's own, where the actor has none of these observations.
        depth: hidden layers behind the encoder.
    """
    wanted = {key: tuple(shape) for key, shape in shapes.items()}
    for module in actor.modules():
        if isinstance(module, ObservationEncoder) and module.shapes == wanted:
            return Critic(copy.deepcopy(module).requires_grad_(True), depth)
    return Critic(ObservationEncoder(wanted, width), depth)
