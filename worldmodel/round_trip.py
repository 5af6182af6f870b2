"""The round trip: which actions does an inverse dynamics model read off the imagined frames?

If they are others than those commanded, the world model has not done what it was told.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from worldmodel.imagination import ImaginedStep
from worldmodel.world_model import WorldModel

InverseDynamics = Callable[
    [Float[Tensor, "rows frames views channels height width"]],
    Float[Tensor, "rows actions action_dim"],
]
"""From latents of T frames to the T-1 actions between them, in the data's units."""


class RoundTrip:
    """Keeps the latest frames of every row and asks the IDM about them.

    Args:
        idm: see `InverseDynamics`.
        model: brings the actions' range.
        frames: how many the IDM is shown.
    """

    def __init__(self, idm: InverseDynamics, model: WorldModel, frames: int):
        self.idm = idm
        self.frames = frames
        assert model.action_normalizer is not None
        self.normalizer = model.action_normalizer

    def begin(
        self, frame: Float[Tensor, "rows views channels height width"]
    ) -> Float[Tensor, "rows frames views channels height width"]:
        """The latest frames of rows that have stood still so far."""
        return frame[:, None].repeat(1, self.frames, 1, 1, 1, 1)

    @torch.inference_mode()
    def __call__(
        self,
        recent: Float[Tensor, "rows frames views channels height width"] | None,
        step: ImaginedStep,
        last: Int64[Tensor, " rows"],
    ) -> tuple[Float[Tensor, "rows frames views channels height width"], Float[Tensor, " rows"]]:
        """The latest frames after a step, and its error: root-mean-square, normalised actions.

        Args:
            recent: the latest frames before it.
            step: what was imagined.
            last: place in the chunk of the last action that counts.

        Raises:
            ValueError: actions of another shape from the IDM.
        """
        assert recent is not None
        chunk, dimensions = step.actions.shape[1:]
        recent = torch.cat((recent[:, chunk:], step.frames), dim=1)
        read = torch.as_tensor(self.idm(recent), device=recent.device)
        wanted = (len(recent), self.frames - 1, dimensions)
        if tuple(read.shape) != wanted:
            raise ValueError(
                f"the idm made actions {tuple(read.shape)} of latents {tuple(recent.shape)}, "
                f"expected {wanted}"
            )
        difference = self.normalizer.normalize(read[:, -chunk:].float())
        difference = difference - self.normalizer.normalize(step.actions)
        counts = torch.arange(chunk, device=last.device) <= last[:, None]
        squares = difference.square().mean(dim=2) * counts
        return recent, (squares.sum(dim=1) / counts.sum(dim=1)).sqrt()
