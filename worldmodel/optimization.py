"""How the world model is optimised: Muon or AdamW, their schedule, and the averaging of weights."""

from dataclasses import dataclass
from typing import Any

import torch

from video.muon import Muon
from worldmodel.uwm import UWM

KINEMATICS_RATE = 3.0
"""Learning rate of the kinematics, a small network on few numbers, over that of the rest."""


@dataclass
class Optimization:
    """Muon or AdamW, its schedule, and the averaging of weights.

    Attributes:
        learning_rate: the peak, of AdamW, or of what Muon leaves to Adam: vectors, and the matrices
            outside the transformer's layers.
        matrix_learning_rate: the peak of Muon, for the matrices of the transformer's layers. None:
            AdamW for all, where a step of Muon costs more than it brings.
        weight_decay: of AdamW for all, of Muon for its matrices.
        betas: of Adam.
        warmup_steps: linear warm-up.
        cooldown: share of the run, at its end, over which the learning rate falls to zero.
        ema_decay: decay of the averaged weights; they are the ones that are saved.
        kinematics_steps: steps in which the kinematics are fitted to recorded states and actions
            before everything else, and then frozen; 0: they learn along with the rest.
        compile: compile the network (`torch.compile`).

    Raises:
        ValueError: a learning rate that is not positive, an `ema_decay` outside [0, 1), or a
            negative number of steps.
    """

    learning_rate: float = 1e-3
    matrix_learning_rate: float | None = None
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.95)
    warmup_steps: int = 200
    cooldown: float = 0.5
    ema_decay: float = 0.998
    kinematics_steps: int = 0
    compile: bool = False

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("learning_rate", "matrix_learning_rate"):
            rate = getattr(self, name)
            if rate is not None and rate <= 0:
                raise ValueError(f"{name}={rate} must be positive")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay={self.ema_decay} must lie in [0, 1)")
        if self.kinematics_steps < 0:
            raise ValueError(f"kinematics_steps={self.kinematics_steps} must not be negative")


def optimizer_of(network: UWM, settings: Optimization) -> torch.optim.Optimizer:
    """Of all the network's weights that are not frozen, with learning rates at their peaks."""
    kinematics = network.kinematics
    of_states = [] if kinematics is None else list(kinematics.parameters())
    own = [weight for weight in of_states if weight.requires_grad]
    own_group: dict[str, Any] = {"params": own, "lr": KINEMATICS_RATE * settings.learning_rate}
    others = [weight for weight in network.parameters() if all(weight is not w for w in of_states)]
    if settings.matrix_learning_rate is None:
        return torch.optim.AdamW(
            [{"params": others}, *([own_group] if own else [])],
            lr=settings.learning_rate,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            fused=True,
        )
    layers = network.transformer.layers
    inner = {id(weight) for weight in layers.parameters() if weight.ndim == 2}
    optimizer = Muon(
        others,
        settings.matrix_learning_rate,
        settings.learning_rate,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
        by_adam=[weight for weight in others if id(weight) not in inner],
    )
    if own:
        optimizer.add_param_group(own_group | {"weight_decay": 0.0, "is_matrix": False})
    return optimizer
