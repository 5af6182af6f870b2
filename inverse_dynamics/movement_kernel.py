"""Actions read off how the robot's state moves, by kernel regression.

A network that learns actions from few labels learns some of them by heart. Where the robot is in a
frame it learns much sooner, and which action makes it move like that is a smooth function of few
numbers. This regression is fitted to them in closed form, once the network is trained.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from safetensors.torch import load_file, save_file
from torch import Tensor

from inverse_dynamics.kinds import is_kind

KERNEL_FILE = "movement_kernel.safetensors"

BEFORE, AFTER = 2, 3
"""Movements that a step looks at beside its own."""
BANDWIDTH = 2.0
"""Distance at which the kernel has fallen to 1/e, in median distances of the steps."""
RIDGE = 0.2
JITTER = 1e-6
"""So that steps which are all alike can be told apart by the solver."""
CHUNK = 4096
"""Steps that are compared with the basis at once."""


@dataclass(frozen=True, eq=False)
class MovementKernel:
    """A fitted regression from movements to actions, both normalised.

    Attributes:
        center: mean of every feature.
        scale: standard deviation of every feature.
        basis: standardised features of the steps that others are compared with.
        coefficients: of the basis, one for each target.
        offset: mean of every target.
        bandwidth: distance at which the kernel has fallen to 1/e.
    """

    center: Float[Tensor, " features"]
    scale: Float[Tensor, " features"]
    basis: Float[Tensor, "basis features"]
    coefficients: Float[Tensor, "basis targets"]
    offset: Float[Tensor, " targets"]
    bandwidth: Float[Tensor, ""]

    @classmethod
    def fit(
        cls,
        features: Float[Tensor, "steps features"],
        targets: Float[Tensor, "steps targets"],
        weight: Float[Tensor, " steps"],
        most: int,
    ) -> "MovementKernel":
        """Regress targets on features by k(x, z) = exp(-|x - z| / bandwidth).

        With a basis of m of the n steps, evenly spaced, and w their weights, the coefficients are

            c = (K_mn W K_nm + ridge K_mm)^-1 K_mn W (y - mean y)

        which is plain kernel ridge regression, (K + ridge W^-1)^-1 (y - mean y), if all are in it.

        Args:
            features: of the steps, see `movements`.
            targets: what to tell of each.
            weight: how much each counts, above 0; 1 for a recorded action.
            most: steps of the basis, at most.

        Source: Rasmussen & Williams, Gaussian Processes for Machine Learning, section 8.3.1 (subset
        of regressors), and section 4.2.1 for the kernel (Matern, of the order 1/2).
        """
        features, targets, weight = features.double(), targets.double(), weight.double()
        center, scale = features.mean(0), features.std(0, correction=0).clamp(min=1e-6)
        features = (features - center) / scale
        offset = (weight[:, None] * targets).sum(0) / weight.sum()
        chosen = _evenly(len(features), most)
        basis = features[chosen]
        bandwidth = BANDWIDTH * _median_distance(basis)
        gram = (-torch.cdist(basis, basis) / bandwidth).exp()
        gram.diagonal().add_(JITTER)
        lower = torch.linalg.cholesky(gram)
        square = RIDGE * torch.eye(len(basis), dtype=gram.dtype, device=gram.device)
        right = gram.new_zeros(len(basis), targets.shape[1])
        for part in torch.arange(len(features), device=gram.device).split(CHUNK):
            similar = (-torch.cdist(basis, features[part]) / bandwidth).exp()
            whitened = torch.linalg.solve_triangular(lower, similar, upper=False)
            weighted = whitened * weight[part]
            square += weighted @ whitened.mT
            right += weighted @ (targets[part] - offset)
        solved = torch.cholesky_solve(right, torch.linalg.cholesky(square))
        coefficients = torch.linalg.solve_triangular(lower.mT, solved, upper=True)
        parts = (center, scale, basis, coefficients, offset, bandwidth)
        return cls(*(part.float().cpu().contiguous() for part in parts))

    def read(
        self, states: Float[Tensor, "batch frames size"], kinds: Sequence[str]
    ) -> Float[Tensor, "batch steps actions"]:
        """The actions between the frames in which the robot is in these states, normalised."""
        return from_targets(self.predict(movements(states)), kinds)

    def predict(
        self, features: Float[Tensor, "batch steps features"]
    ) -> Float[Tensor, "batch steps targets"]:
        """The regression's targets for each step."""
        numbers = {name: tensor.to(features) for name, tensor in self.tensors().items()}
        steps = (features.flatten(0, 1) - numbers["center"]) / numbers["scale"]
        predicted = [
            (-torch.cdist(part, numbers["basis"]) / numbers["bandwidth"]).exp()
            @ numbers["coefficients"]
            for part in steps.split(CHUNK)
        ]
        return (torch.cat(predicted) + numbers["offset"]).unflatten(0, features.shape[:2])

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any number."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.tensors().items()):
            digest.update(name.encode() + tensor.numpy().tobytes())
        return digest.hexdigest()[:16]

    def tensors(self) -> dict[str, Tensor]:
        """All numbers, by name."""
        return dict(vars(self))

    def save(self, folder: Path) -> None:
        """Write the model folder's file."""
        save_file(self.tensors(), folder / KERNEL_FILE)

    @classmethod
    def load(cls, folder: Path) -> "MovementKernel":
        """Read the model folder's file."""
        return cls(**load_file(folder / KERNEL_FILE))


def movements(states: Float[Tensor, "batch frames size"]) -> Float[Tensor, "batch steps features"]:
    """What tells the action of each step between two frames: 7 numbers of each of the state's.

    Its differences d_{t-2}, ..., d_{t+3} around the step, the first and last one repeated beyond
    the ends, and the state s_t before it.
    """
    differences = states.diff(dim=1)
    padded = F.pad(differences.mT, (BEFORE, AFTER), mode="replicate").mT
    around = padded.unfold(1, BEFORE + 1 + AFTER, 1).mT.flatten(2)
    return torch.cat((around, states[:, :-1]), dim=-1)


def to_targets(
    actions: Float[Tensor, "*batch actions"], kinds: Sequence[str]
) -> Float[Tensor, "*batch targets"]:
    """What is regressed for normalised actions: two targets of each dimension.

    A number itself, -1 or 1 for a binary one, both beside 0; of an angle its cosine and sine.
    """
    angle = is_kind(kinds, "angle", actions)
    first = torch.where(
        is_kind(kinds, "binary", actions), torch.where(actions > 0, 1.0, -1.0), actions
    )
    turn = math.pi * actions
    return torch.cat(
        (torch.where(angle, turn.cos(), first), torch.where(angle, turn.sin(), 0.0)), dim=-1
    )


def from_targets(
    targets: Float[Tensor, "*batch targets"], kinds: Sequence[str]
) -> Float[Tensor, "*batch actions"]:
    """The inverse of `to_targets`; numbers stay within [-1, 1]."""
    first, second = targets.chunk(2, dim=-1)
    angle = torch.atan2(second, first) / math.pi
    return torch.where(is_kind(kinds, "angle", first), angle, first.clamp(-1, 1))


def _evenly(count: int, most: int) -> Int64[Tensor, " chosen"]:
    """Numbers of at most so many of `count` things, evenly spaced."""
    return torch.linspace(0, count - 1, min(count, most), dtype=torch.float64).round().long()


def _median_distance(basis: Float[Tensor, "basis features"]) -> Float[Tensor, ""]:
    """Of pairs of a thousand steps, those of a step and itself left out."""
    some = basis[_evenly(len(basis), 1000)]
    distances = torch.cdist(some, some)
    apart = distances[~torch.eye(len(some), dtype=torch.bool, device=basis.device)]
    return apart.median().clamp(min=1e-6) if len(apart) else distances.new_ones(())
