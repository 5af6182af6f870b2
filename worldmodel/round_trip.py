"""The round trip: which actions does an inverse dynamics model read off the imagined frames?

If they are others than those commanded, the world model has not done what it was told. What an
action did shows only in the frames after it (the hand lags behind its command), so an action is
judged a few frames late.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from video.action_model import ActionModel, load_action_model
from video.errors import DatasetError
from worldmodel.imagination import ImaginedStep
from worldmodel.world_model import WorldModel

InverseDynamics = Callable[
    [Float[Tensor, "rows frames views channels height width"]],
    Float[Tensor, "rows actions action_dim"],
]
"""From latents of T frames to the T-1 actions between them, in the data's units."""


@dataclass
class Recent:
    """What is remembered of the rows' episodes.

    Attributes:
        frames: the latest ones.
        actions: those between them, as commanded, normalised.
        squares: sum of the squared errors of all actions that have been judged.
    """

    frames: Float[Tensor, "rows frames views channels height width"]
    actions: Float[Tensor, "rows actions action_dim"]
    squares: Float[Tensor, " rows"]


class RoundTripErrors(NamedTuple):
    """What a step tells.

    Attributes:
        error: root-mean-square error of the actions that were judged in it, normalised units.
        drift: root of the sum of the squared errors of all actions judged in this episode, each the
            mean over its dimensions: how far the wrong ways may have led by now.
        judged: whether any was; the first ones of an episode have to wait.
    """

    error: Float[Tensor, " rows"]
    drift: Float[Tensor, " rows"]
    judged: Bool[Tensor, " rows"]


class RoundTrip:
    """Keeps the latest frames and actions of every row and asks the IDM about them.

    Args:
        idm: see `InverseDynamics`.
        model: brings the actions' range.
        frames: how many the IDM is shown.
        delay: frames after an action that are waited for before it is judged.
    """

    def __init__(self, idm: InverseDynamics, model: WorldModel, frames: int, delay: int):
        self.idm = idm
        self.frames = frames
        self.delay = delay
        assert model.action_normalizer is not None
        self.normalizer = model.action_normalizer

    def begin(self, frame: Float[Tensor, "rows views channels height width"]) -> Recent:
        """Rows that have stood still so far."""
        return Recent(
            frames=frame[:, None].repeat(1, self.frames, 1, 1, 1, 1),
            actions=frame.new_zeros(len(frame), self.frames - 1, self.normalizer.dim),
            squares=frame.new_zeros(len(frame)),
        )

    @torch.inference_mode()
    def __call__(
        self, recent: Recent | None, step: ImaginedStep, last: Int64[Tensor, " rows"]
    ) -> tuple[Recent, RoundTripErrors]:
        """What is remembered after a step, and how far its latest actions were missed.

        Args:
            recent: what was remembered before it.
            step: what was imagined.
            last: place in the chunk of the last action that counts.

        Raises:
            ValueError: actions of another shape from the IDM.
        """
        assert recent is not None
        chunk, dimensions = step.actions.shape[1:]
        frames = torch.cat((recent.frames[:, chunk:], step.frames), dim=1)
        given = self.normalizer.normalize(step.actions)
        actions = torch.cat((recent.actions[:, chunk:], given), dim=1)
        read = torch.as_tensor(self.idm(frames), device=frames.device)
        wanted = (len(frames), self.frames - 1, dimensions)
        if tuple(read.shape) != wanted:
            raise ValueError(
                f"the idm made actions {tuple(read.shape)} of latents {tuple(frames.shape)}, "
                f"expected {wanted}"
            )
        judged = slice(self.frames - 1 - self.delay - chunk, self.frames - 1 - self.delay)
        squares = (self.normalizer.normalize(read.float()) - actions)[:, judged].square().mean(2)
        place = torch.arange(chunk, device=last.device) - self.delay
        counts = (step.elapsed[:, None] + place >= 0) & (place <= last[:, None])
        number, total = counts.sum(dim=1), (squares * counts).sum(dim=1)
        recent = Recent(frames, actions, recent.squares + total)
        error = (total / number.clamp(min=1)).sqrt()
        return recent, RoundTripErrors(error, recent.squares.sqrt(), number > 0)


def idm_for(
    model: WorldModel, idm: InverseDynamics | ActionModel | str | Path, device: str = "cpu"
) -> InverseDynamics:
    """A callable of the imagined latents, whatever the inverse dynamics model is.

    An action model that looks at other latents than the world model's, or at pixels, is shown the
    decoded frames.

    Args:
        model: imagines the latents.
        idm: a callable, which is returned as it is; an action model; or the folder of one.
        device: where a folder is loaded to.

    Raises:
        DatasetError: no action model's folder, or one of other cameras, frames, frame rate or
            actions than the world model's.
    """
    if isinstance(idm, str | Path):
        idm = load_action_model(idm, device)
    if not isinstance(idm, ActionModel):
        return idm
    reader, own = idm, model.action_normalizer
    for what, its, wanted in (
        ("cameras", tuple(reader.cameras), tuple(model.cameras)),
        ("frame size", tuple(reader.frame_size), tuple(model.frame_size)),
        ("frame rate", reader.fps, model.fps),
        ("number of action dimensions", reader.action_normalizer.dim, own.dim if own else 0),
    ):
        if its != wanted:
            raise DatasetError(
                f"the idm has the {what} {its}, the world model {wanted}. Use one that was trained "
                "on the same kind of data."
            )
    shares_latents = reader.latents_of == model.autoencoder.fingerprint

    def actions(latents: Tensor) -> Tensor:
        inputs = latents if shares_latents else reader.encode(model.decode(latents))
        return reader.action_normalizer.denormalize(reader.read(inputs).mean)

    return actions
