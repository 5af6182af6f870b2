"""A world model as a policy: its policy query, which chooses actions without imagining frames.

It acts as the recorded data would have gone on, failures included (`configs/uwm/act.yaml` trains on
with demonstrations), and sees the latest frame alone, not the robot's state. By its methods and
attributes it is an actor like any other.
"""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from video.errors import DatasetError
from video.statistics import Normalizer
from worldmodel.draws import step_generator
from worldmodel.generator import latent_shape
from worldmodel.queries import draw_noise, policy
from worldmodel.rollout_state import draw_seeds, first_anchor
from worldmodel.world_model import WorldModel


class PolicyQuery:
    """Chooses the actions of one block.

    Example: see `configs/policies/uwm_query.yaml`.

    Args:
        checkpoint: a world model, or its folder.
        steps: sampler steps; a single one gives the mean of what the data do there.
        seed: of the noise that an actor which leaves nothing to chance begins with.
        device: where to compute, if `checkpoint` is a folder.

    Attributes:
        chunk: actions k at a time: the block's.
        action_dim: size A of one.
        shapes: by key, the shape of what it sees of one environment.
        action_normalizer: the data's units to [-1, 1].
        latents_of: fingerprint of the autoencoder whose latents it looks at.

    Raises:
        DatasetError: the folder is no world model, or one that never saw an action.
        ValueError: no step.
    """

    def __init__(
        self,
        checkpoint: WorldModel | Path | str,
        steps: int = 4,
        seed: int = 0,
        device: str = "cpu",
    ):
        if steps < 1:
            raise ValueError(f"steps={steps} must be at least 1")
        if not isinstance(checkpoint, WorldModel):
            checkpoint = WorldModel.from_pretrained(checkpoint, device)
        if checkpoint.action_normalizer is None:
            raise DatasetError(
                "this world model was trained without any actions (its folder has no action "
                "statistics), so it chooses none. Train it on at least one labelled dataset."
            )
        self.model, self.steps, self.seed = checkpoint, steps, seed
        self.action_normalizer: Normalizer = checkpoint.action_normalizer
        self.chunk = checkpoint.network.block_frames
        self.action_dim = self.action_normalizer.dim
        self.shapes = {"latents": latent_shape(checkpoint)}
        self.latents_of = checkpoint.autoencoder.fingerprint
        self.fps = checkpoint.fps
        self.cameras = checkpoint.cameras
        self.frame_size = checkpoint.frame_size

    @torch.inference_mode()
    def act(
        self,
        observation: dict[str, Tensor],
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> Float[Tensor, "envs chunk action_dim"]:
        """The next actions, normalised.

        Args:
            observation: of E environments; "latents" `(E, V, C, h, w)`.
            generator: where chance comes from.
            deterministic: begin with the same noise whenever it is asked.
        """
        network = self.model.network
        frame = observation["latents"][:, None].to(network.device, network.dtype)
        seeds = [self.seed] * len(frame)
        if not deterministic:
            seeds = draw_seeds(generator or torch.default_generator, len(frame)).tolist()
        anchor = first_anchor(network, frame)
        noise = draw_noise(network, anchor, [step_generator(seed) for seed in seeds])
        return policy(network, anchor, noise, self.steps).float()
