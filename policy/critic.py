"""The critic: what return is to be expected from what is seen."""

import copy
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from policy.encoder import ObservationEncoder
from policy.observations import Observation


class Critic(nn.Module):
    """One value for every environment's observation; 0 for all of them at first.

    Args:
        encoder: from observations to features; the critic's own.
        depth: hidden layers behind it.
        clock: steps of an episode, for a critic that also sees how old it is (time-awareness,
            Pardo et al., arXiv 1712.00378); None: it does not.
    """

    def __init__(self, encoder: ObservationEncoder, depth: int = 2, clock: int | None = None):
        super().__init__()
        self.encoder, self.clock = encoder, clock
        width, more = encoder.width, int(clock is not None)
        hidden = [
            layer
            for number in range(depth)
            for layer in (nn.Linear(width + (more if number == 0 else 0), width), nn.Tanh())
        ]
        self.hidden = nn.Sequential(*hidden)
        self.value = nn.Linear(width, 1)
        nn.init.zeros_(self.value.weight)
        nn.init.zeros_(self.value.bias)

    def forward(
        self, observation: Observation, age: Float[Tensor, " envs"] | None = None
    ) -> Float[Tensor, " envs"]:
        """The values.

        Args:
            observation: of every environment.
            age: steps that its episode is old; only a critic with a clock needs to know.
        """
        features = self.encoder(observation)
        if self.clock is not None:
            assert age is not None, "a critic with a clock has to be told how old episodes are"
            features = torch.cat((features, age[:, None] / self.clock), dim=1)
        return self.value(self.hidden(features))[:, 0]


def critic_beside(
    actor: nn.Module,
    shapes: Mapping[str, Sequence[int]],
    width: int = 256,
    depth: int = 2,
    clock: int | None = None,
) -> Critic:
    """A critic that starts with a copy of the actor's encoder, if that has one.

    What a cloned policy has learned to look for, and how it normalises the robot's state, need not
    be learned again.

    Args:
        actor: looks at the same observations.
        shapes: of the observations.
        width: of an encoder of the critic's own, where the actor has none of these observations.
        depth: hidden layers behind the encoder.
        clock: steps of an episode, where it is to see how old it is.
    """
    wanted = {key: tuple(shape) for key, shape in shapes.items()}
    for module in actor.modules():
        if isinstance(module, ObservationEncoder) and module.shapes == wanted:
            return Critic(copy.deepcopy(module).requires_grad_(True), depth, clock)
    return Critic(ObservationEncoder(wanted, width), depth, clock)
