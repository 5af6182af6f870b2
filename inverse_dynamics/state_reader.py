"""A network of its own for the robot's state: where the robot is in a frame, and nothing else.

A reader's tokens have to tell actions, and may have to redraw their frames. With few labels that
costs what states need most, precision; the figures are in `docs/inverse_dynamics.md`.
"""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from jaxtyping import Float
from torch import Tensor, nn

from video.picture_encoder import PictureEncoder


class StateReader(ModelMixin, ConfigMixin):
    """The robot's state in single frames.

    Args:
        frame_shape: of one frame: views, channels, height and width of latents or pixels.
        state_dim: dimensions S of the state.
        width: channels of a frame's token.
        channels: feature maps of the picture.
        dropout: of the glance at the whole, in training.
        patch: pixels that are folded into one place of the feature maps, each way; 1 for latents.
    """

    @register_to_config
    def __init__(
        self,
        frame_shape: list[int],
        state_dim: int,
        width: int = 192,
        channels: int = 48,
        dropout: float = 0.1,
        patch: int = 1,
    ):
        super().__init__()
        self.embed_frame = PictureEncoder(frame_shape, width, channels, dropout, patch)
        self.read_state = nn.Linear(width, state_dim)

    def forward(
        self, frames: Float[Tensor, "batch frames views channels height width"]
    ) -> Float[Tensor, "batch frames state_dim"]:
        """The state in each frame, normalised; in full precision, which it is all about."""
        tokens = self.embed_frame(frames.flatten(0, 1))
        with torch.autocast(frames.device.type, enabled=False):
            return self.read_state(tokens.float()).unflatten(0, frames.shape[:2])
