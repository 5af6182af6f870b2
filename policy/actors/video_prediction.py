"""A policy that imagines what will be seen next and reads the actions off that.

A video generator, which is told no actions, imagines how the video goes on; an action model reads
which actions lead through the imagined frames; the first few are carried out, then it looks again.
Sources: UniPi (Du et al., arXiv 2302.00111), predictive inverse dynamics (Tian et al., arXiv
2412.15109), Vidar (Feng et al., arXiv 2507.12898). Neither part is made here: any generator and any
action model will do that know the same cameras at the same rate.
"""

from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from policy.observations import Observation, Shapes
from video.action_model import ActionModel, load_action_model
from video.errors import DatasetError
from video.statistics import Normalizer


@runtime_checkable
class VideoGenerator(Protocol):
    """Imagines how a video goes on, from its latest frame.

    Attributes:
        fps: frames per second.
        cameras: camera names, in the order of the view axis.
        frame_size: height and width in pixels.
        latent_shape: views, channels, height and width of a frame's latents.
        latents_of: fingerprint of the autoencoder that makes them.
    """

    @property
    def fps(self) -> float: ...  # noqa: D102
    @property
    def cameras(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def frame_size(self) -> tuple[int, int]: ...  # noqa: D102
    @property
    def latent_shape(self) -> tuple[int, int, int, int]: ...  # noqa: D102
    @property
    def latents_of(self) -> str: ...  # noqa: D102

    def imagine(
        self,
        frame: Float[Tensor, "envs views channels h w"],
        horizon: int,
        seeds: Int64[Tensor, " envs"],
    ) -> Float[Tensor, "envs horizon views channels h w"]:
        """Latents of the next frames, on the generator's device.

        A row depends on nothing but its frame and its seed.

        Args:
            frame: latents of what is seen now.
            horizon: frames to imagine.
            seeds: one an environment.
        """
        ...

    def decode(
        self, latents: Float[Tensor, "*batch channels h w"]
    ) -> UInt8[Tensor, "*batch 3 height width"]:
        """Latents to frames."""
        ...


class VideoPredictionActor:
    """Imagines, reads, acts.

    It looks at the latest frame alone: between two looks lie as many frames as it carries out
    actions, so the frame of the look before tells no velocity, and a new episode has none.

    A reader that looks at the generator's own latents gets them as they are; for any other the
    imagined frames are decoded.

    Example: see `configs/policies/video_prediction.yaml`.

    Args:
        generator: imagines the frames.
        reader: reads the actions, or the folder of a saved action model.
        chunk: actions k that are carried out before it looks again.
        horizon: frames that are imagined, at least k. What follows a frame says more of the action
            that led to it, so a few more are better.
        seed: of the noise that an actor which leaves nothing to chance imagines from.
        device: where a reader computes that is given as a folder.

    Raises:
        DatasetError: parts that do not fit each other, or no such folder.
        ValueError: a horizon shorter than the chunk.
    """

    def __init__(
        self,
        generator: VideoGenerator,
        reader: ActionModel | Path | str,
        chunk: int = 4,
        horizon: int = 8,
        seed: int = 0,
        device: str = "cpu",
    ):
        if not 1 <= chunk <= horizon:
            raise ValueError(f"chunk={chunk} must be at least 1 and at most horizon={horizon}")
        if isinstance(reader, str | Path):
            reader = load_action_model(reader, device)
        self.generator, self.reader = generator, reader
        self.chunk, self.horizon, self.seed = chunk, horizon, seed
        self.action_normalizer: Normalizer = reader.action_normalizer
        self.action_dim = reader.action_normalizer.dim
        self.shapes: Shapes = {"latents": tuple(generator.latent_shape)}
        self.latents_of = generator.latents_of
        self.fps = generator.fps
        self.cameras = tuple(generator.cameras)
        self.frame_size = tuple(generator.frame_size)
        for name, read in (
            ("fps", reader.fps),
            ("cameras", tuple(reader.cameras)),
            ("frame_size", tuple(reader.frame_size)),
        ):
            imagined = getattr(self, name)
            if imagined != read:
                raise DatasetError(
                    f"the generator imagines video with {name} {imagined}, the reader was trained "
                    f"on {read}. Choose two that were trained on video of the same kind."
                )

    @torch.inference_mode()
    def act(
        self,
        observation: Observation,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> Float[Tensor, "envs {self.chunk} {self.action_dim}"]:
        """The first actions of what it imagines, as `Actor.act`."""
        frame = observation["latents"]
        seeds = torch.full((len(frame),), self.seed)
        if not deterministic:
            chance = generator or torch.default_generator
            seeds = torch.randint(2**31, seeds.shape, generator=chance, device=chance.device)
        imagined = self.generator.imagine(frame, self.horizon, seeds)
        video = torch.cat((frame[:, None].to(imagined), imagined), dim=1)
        if self.reader.latents_of != self.latents_of:
            video = self.reader.encode(self.generator.decode(video))
        return self.reader.read(video).mean[:, : self.chunk].float()
