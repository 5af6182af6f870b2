"""What an agent sees of an imagined episode: latents or pixels, and the robot's state."""

from typing import Any, Literal

import numpy as np
import torch
from einops import rearrange
from gymnasium import spaces
from jaxtyping import Float, UInt8
from torch import Tensor

from worldmodel.imagination import ImaginedState
from worldmodel.world_model import WorldModel

ObservationType = Literal["latents", "pixels"]


class Observations:
    """Turns imagined states into observations.

    Args:
        model: the world model; it brings the shapes, and decodes where pixels are wanted.
        obs_type: "latents", float32 `(V, C, h, w)`, or "pixels", uint8 `(H, W, 3)`, of several
            cameras `(V, H, W, 3)`.
        state: add the robot's state, float32 `(S,)` in the data's units.

    Attributes:
        space: of one environment's observation: a Box, with the state a Dict of `obs_type` and
            "state".

    Raises:
        ValueError: another `obs_type`, or a state that neither the model nor its heads know.
    """

    def __init__(self, model: WorldModel, obs_type: ObservationType, state: bool):
        if obs_type not in ("latents", "pixels"):
            raise ValueError(f"obs_type={obs_type!r}: use 'latents' or 'pixels'")
        known = model.state_dim
        if state and not (known and model.state_normalizer):
            raise ValueError(
                "state=True, but this world model does not predict the robot's state: its heads "
                "were trained without one, or not at all. Train them with `lightning fit -c "
                "configs/reward.yaml` on data with states, or pass state=False."
            )
        self.model = model
        self.obs_type = obs_type
        self.with_state = state
        views, (height, width) = len(model.cameras), model.frame_size
        if obs_type == "latents":
            shape = (views, *model.autoencoder.latent_shape(height, width))
            space = spaces.Box(-np.inf, np.inf, shape, np.float32)
        else:
            shape = (height, width, 3) if views == 1 else (views, height, width, 3)
            space = spaces.Box(0, 255, shape, np.uint8)
        self.space: spaces.Space = space
        if state:
            robot = spaces.Box(-np.inf, np.inf, (known,), np.float32)
            self.space = spaces.Dict({obs_type: space, "state": robot})

    def __call__(self, state: ImaginedState) -> Any:
        """Observations of all rows, as NumPy arrays of their own."""
        if self.obs_type == "latents":
            seen = state.frame.cpu().numpy().copy()
        else:
            pixels = self._pixels(state.frame)
            seen = pixels[:, 0] if pixels.shape[1] == 1 else pixels
        if not self.with_state:
            return seen
        assert self.model.state_normalizer is not None
        robot = self.model.state_normalizer.denormalize(state.robot)
        return {self.obs_type: seen, "state": robot.cpu().numpy()}

    def pictures(
        self, frame: Float[Tensor, "rows views channels height width"]
    ) -> UInt8[np.ndarray, "rows high wide 3"]:
        """Decoded frames, cameras beside each other."""
        return rearrange(self._pixels(frame), "n v h w c -> n h (v w) c")

    @torch.inference_mode()
    def _pixels(self, frame: Tensor) -> np.ndarray:
        pixels = self.model.decode(frame)
        return np.ascontiguousarray(rearrange(pixels, "n v c h w -> n v h w c").cpu().numpy())
