"""The Muon optimiser: for convolutions and linear layers several times fewer steps than AdamW."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from video.precision import is_bfloat16_fast

A, B, C = 3.4445, -4.7750, 2.0315
"""Coefficients of the Newton-Schulz iteration."""


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum for weight matrices, Adam for biases, gains and all other vectors.

    For a matrix W with gradient G, and momentum M = b M + (1 - b) G, both Nesterov-averaged:
    W <- (1 - lr * weight_decay) W - lr * sqrt(max(1, rows / columns)) * orthogonalize(M).
    The kernel of a convolution is the matrix (out channels, everything else).

    Args:
        parameters: what to train.
        lr: for matrices; 0.02 fits most networks, since every step has the same size.
        vector_lr: for everything else, as for Adam.
        momentum: b above.
        betas: of Adam.
        weight_decay: for matrices only, decoupled.
        by_adam: matrices that Adam steps as well, such as those of the first and last layers.

    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float = 0.02,
        vector_lr: float = 2e-3,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        by_adam: Iterable[nn.Parameter] = (),
    ) -> None:
        parameters, others = list(parameters), {id(p) for p in by_adam}
        matrices = [p for p in parameters if p.ndim >= 2 and id(p) not in others]
        vectors = [p for p in parameters if p.ndim < 2 or id(p) in others]
        groups = [
            {"params": matrices, "lr": lr, "weight_decay": weight_decay, "is_matrix": True},
            {"params": vectors, "lr": vector_lr, "weight_decay": 0.0, "is_matrix": False},
        ]
        groups = [group for group in groups if group["params"]]
        super().__init__(groups, {"momentum": momentum, "betas": betas})

    @torch.no_grad()
    def step(self, closure=None):
        """Update all parameters; the closure, if given, computes loss and gradients first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            trained = [p for p in group["params"] if p.grad is not None]
            if group["is_matrix"]:
                self._step_matrices(group, trained)
            else:
                self._step_vectors(group, trained)
        return loss

    def _step_matrices(self, group: dict, parameters: list[Tensor]) -> None:
        """Matrices of the same shape are orthogonalised in one batch."""
        by_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
        for parameter in parameters:
            assert parameter.grad is not None
            average = self.state[parameter].setdefault("average", torch.zeros_like(parameter.grad))
            average.lerp_(parameter.grad, 1 - group["momentum"])
            direction = parameter.grad.lerp(average, group["momentum"]).flatten(1)
            by_shape.setdefault(direction.shape, []).append((parameter, direction))
        for (rows, columns), pairs in by_shape.items():
            updates = orthogonalize(torch.stack([direction for _, direction in pairs]))
            size = group["lr"] * max(1, rows / columns) ** 0.5
            for (parameter, _), update in zip(pairs, updates, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update.view(parameter.shape), alpha=-size)

    def _step_vectors(self, group: dict, parameters: list[Tensor]) -> None:
        """Adam with bias correction."""
        beta1, beta2 = group["betas"]
        for parameter in parameters:
            gradient = parameter.grad
            assert gradient is not None
            state = self.state[parameter]
            if not state:
                state["steps"] = torch.zeros(())
                state["average"] = torch.zeros_like(gradient)
                state["square"] = torch.zeros_like(gradient)
            state["steps"] += 1
            steps = state["steps"].item()
            average = state["average"].lerp_(gradient, 1 - beta1) / (1 - beta1**steps)
            square = state["square"].lerp_(gradient.square(), 1 - beta2) / (1 - beta2**steps)
            parameter.addcdiv_(average, square.sqrt().add_(1e-8), value=-group["lr"])


def orthogonalize(
    matrices: Float[Tensor, "n rows columns"], iterations: int = 5
) -> Float[Tensor, "n rows columns"]:
    """About U V^T of every matrix U S V^T: all its singular values between 0.7 and 1.2.

    Newton-Schulz iteration, from X scaled to Frobenius norm 1: in bfloat16 where that is fast,
    otherwise in float32 by the shorter way, which needs its precision.
    """
    coarse = is_bfloat16_fast(matrices.device)
    x = matrices.bfloat16() if coarse else matrices.float()
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)
    x = newton_schulz(x, iterations) if coarse else newton_schulz_by_squares(x, iterations)
    return x.to(matrices.dtype)


def newton_schulz(
    x: Float[Tensor, "n rows columns"], iterations: int
) -> Float[Tensor, "n rows columns"]:
    """X <- (A + B Y + C Y Y) X with Y = X X^T, or the same from the right if X is higher than wide.

    Nothing is transposed in memory, and every sum is part of a product: in training on two cores a
    sum with a transposed bfloat16 took 9 ms, the products beside it 3 and 8 (six of 1408x256).
    """
    high = is_high(x)
    for _ in range(iterations):
        y = x.mT @ x if high else x @ x.mT
        step = torch.baddbmm(y, y, y, beta=B, alpha=C)
        factors = (x, step) if high else (step, x)
        x = torch.baddbmm(x, *factors, beta=A)
    return x


def newton_schulz_by_squares(
    x: Float[Tensor, "n rows columns"], iterations: int
) -> Float[Tensor, "n rows columns"]:
    """The same, in about half the time for matrices that are three times as wide as they are high.

    P = A + B Y + C Y Y is a polynomial of the first Y in every iteration, so all P can be
    multiplied first, with Y <- P Y P, and X by their product in the end: squares as small as the
    shorter side. Their product is large for small singular values, and its rounding errors reach
    the large ones: against exact arithmetic up to 0.9 in bfloat16 and 0.09 in TF32 (256x256).
    """
    high = is_high(x)
    wide = x.mT if high else x
    y = wide @ wide.mT
    step = product = polynomial(y)
    for _ in range(iterations - 1):
        y = step @ y @ step
        step = polynomial(y)
        product = step @ product
    wide = product @ wide
    return wide.mT if high else wide


def polynomial(y: Float[Tensor, "n rows rows"]) -> Float[Tensor, "n rows rows"]:
    """A + B Y + C Y Y."""
    step = B * y + C * y @ y
    step.diagonal(dim1=-2, dim2=-1).add_(A)
    return step


def is_high(x: Float[Tensor, "n rows columns"]) -> bool:
    """Whether the matrices have more rows than columns."""
    return x.shape[-2] > x.shape[-1]
