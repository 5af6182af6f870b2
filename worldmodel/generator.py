"""A world model as a video generator: how may a video go on, whatever is done?

It answers by one of the two queries that are told no actions, for whoever has a use for the
frames, such as a policy that reads its actions off them.
"""

from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from worldmodel.draws import step_generator
from worldmodel.imagined_video import GENERATIVE_STEPS
from worldmodel.rollout import joint_rollout, rollout
from worldmodel.world_model import WorldModel


class VideoGenerator:
    """Imagines the frames behind one that is seen.

    What was seen is taken to have stood still before, as it did where an episode begins.

    Example:
        >>> generator = VideoGenerator("runs/uwm/model")  # doctest: +SKIP
        >>> generator.imagine(latents, 8, seeds)  # one of (E, 8, V, C, h, w) # doctest: +SKIP

    Args:
        checkpoint: a world model, or its folder.
        query: "video_generation", which leaves the actions out, or "joint", which dreams them along
            and drops them.
        steps: sampler steps.
        device: where to compute, if `checkpoint` is a folder.

    Attributes:
        latent_shape: views, channels, height and width of a frame's latents.
        latents_of: fingerprint of the autoencoder that makes them.

    Raises:
        DatasetError: the folder is no world model.
        ValueError: another query, or no step.
    """

    def __init__(
        self,
        checkpoint: WorldModel | Path | str,
        query: Literal["video_generation", "joint"] = "video_generation",
        steps: int = GENERATIVE_STEPS,
        device: str = "cpu",
    ):
        if query not in ("video_generation", "joint") or steps < 1:
            raise ValueError(
                f"query={query!r} must be 'video_generation' or 'joint', steps={steps} at least 1"
            )
        if not isinstance(checkpoint, WorldModel):
            checkpoint = WorldModel.from_pretrained(checkpoint, device)
        self.model, self.query, self.steps = checkpoint, query, steps
        self.fps = checkpoint.fps
        self.cameras = checkpoint.cameras
        self.frame_size = checkpoint.frame_size
        self.latent_shape = latent_shape(checkpoint)
        self.latents_of = checkpoint.autoencoder.fingerprint

    @torch.inference_mode()
    def imagine(
        self,
        frame: Float[Tensor, "envs views channels h w"],
        horizon: int,
        seeds: Int64[Tensor, " envs"],
    ) -> Float[Tensor, "envs horizon views channels h w"]:
        """Latents of the next frames; a row depends on nothing but its frame and its seed.

        Args:
            frame: latents of what is seen now.
            horizon: frames to imagine.
            seeds: one a row.
        """
        network = self.model.network
        context = frame[:, None].to(network.device, network.dtype)
        draws = [step_generator(seed) for seed in seeds.tolist()]
        if self.query == "joint":
            return joint_rollout(network, context, horizon, draws, self.steps)
        return rollout(network, context, None, horizon, draws, steps=self.steps)

    def decode(
        self, latents: Float[Tensor, "*batch channels h w"]
    ) -> UInt8[Tensor, "*batch 3 height width"]:
        """Latents to frames."""
        return self.model.decode(latents)


def latent_shape(model: WorldModel) -> tuple[int, int, int, int]:
    """Views, channels, height and width of the latents of one of its frames."""
    return (len(model.cameras), *model.autoencoder.latent_shape(*model.frame_size))
