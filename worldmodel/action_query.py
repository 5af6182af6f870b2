"""A world model as an action model: its inverse dynamics query, over video of any length.

The query reads one block: k actions off the two frames before it and its own k. Blocks begin at
every frame, so up to k of them say something of each action: from the last place of its block,
where nothing of what follows is seen, to the first, where all is.
"""

from pathlib import Path

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from video.action_model import Estimate, fingerprint_of
from video.calibration import Calibration
from video.errors import DatasetError
from video.statistics import Normalizer
from worldmodel.queries import inverse_dynamics
from worldmodel.rollout_state import block_noise
from worldmodel.world_model import WorldModel

DRAWS = 4
"""Draws of the noise that every block is read from."""

STEPS = 2
"""Sampler steps of each. One lands on the same mean whatever the noise, and so knows no doubt."""

SEED = 0

BLOCKS_AT_ONCE = 512

LEAST_SPREAD = 0.05
"""Readings that agree by chance claim no less than this, in normalised units."""


class InverseDynamicsQuery:
    """Reads actions off video by a world model's inverse dynamics query.

    Every block is read several times from different noise. An action is the mean of all readings
    of all blocks that hold it, its spread what they differ by. The noise is the same for every
    video, so that what is read depends on nothing but the frames.

    Example:
        >>> query = InverseDynamicsQuery.from_pretrained("runs/uwm/model")  # doctest: +SKIP
        >>> query.read(query.encode(frames)[None])  # doctest: +SKIP

    Args:
        model: the world model.
        calibration: how far the spread can be trusted; None until that is measured.

    Raises:
        DatasetError: a world model that never saw an action.
    """

    def __init__(self, model: WorldModel, calibration: Calibration | None = None):
        if model.action_normalizer is None:
            raise DatasetError(
                "this world model was trained without any actions (its folder has no action "
                "statistics), so it reads none. Train it on at least one labelled dataset."
            )
        self.model = model
        self.calibration = calibration
        self.action_normalizer: Normalizer = model.action_normalizer
        self.fps = model.fps
        self.cameras = model.cameras
        self.frame_size = model.frame_size
        size = self.action_normalizer.dim
        self.action_names = tuple(str(dimension) for dimension in range(size))
        self.kinds = ("number",) * size
        self.latents_of = model.autoencoder.fingerprint

    @classmethod
    def from_pretrained(cls, folder: Path | str, device: str = "cpu") -> "InverseDynamicsQuery":
        """Load a world model's folder.

        Raises:
            DatasetError: no world model, or one that never saw an action.
        """
        return cls(WorldModel.from_pretrained(folder, device), Calibration.load(folder))

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with the network's weights or settings."""
        settings = {
            "autoencoder": self.latents_of,
            "actions": self.action_normalizer.to_json(),
            "fps": self.fps,
            "cameras": list(self.cameras),
            "frame_size": list(self.frame_size),
            "draws": DRAWS,
            "steps": STEPS,
            "seed": SEED,
        }
        return fingerprint_of(self.model.network, settings)

    def encode(
        self, frames: UInt8[Tensor, "*batch 3 height width"]
    ) -> Float[Tensor, "*batch channels h w"]:
        """Frames to latents."""
        return self.model.encode(frames.to(self.model.network.device))

    @torch.inference_mode()
    def read(self, latents: Float[Tensor, "batch frames views channels h w"]) -> Estimate:
        """Distributions of the actions between the frames, normalised.

        A video shorter than a block is taken to have stood still from then on.

        Raises:
            ValueError: a single frame.
        """
        if latents.shape[1] < 2:
            raise ValueError(
                f"latents of shape {tuple(latents.shape)} cannot be read: an action lies between "
                "two frames"
            )
        network = self.model.network
        size = network.block_frames
        index = block_frames(latents.shape[1], size).to(latents.device)
        if network.first_frame:
            index = torch.cat((torch.zeros_like(index[:, :1]), index), dim=1)
        blocks = latents.to(network.dtype)[:, index].flatten(0, 1)
        window = torch.arange(len(index), device=latents.device).repeat(len(latents))
        readings = []
        for draw in range(DRAWS):
            read = [
                self._read(part, number, draw)
                for part, number in zip(
                    blocks.split(BLOCKS_AT_ONCE), window.split(BLOCKS_AT_ONCE), strict=True
                )
            ]
            readings.append(torch.cat(read).float().unflatten(0, (len(latents), len(index))))
        return combine(torch.stack(readings), latents.shape[1] - 1)

    def _read(
        self,
        blocks: Float[Tensor, "blocks frames views channels h w"],
        window: Int64[Tensor, " blocks"],
        draw: int,
    ) -> Float[Tensor, "blocks size action_dim"]:
        """Each block's actions, from the noise of its place in the video and a draw."""
        anchor, frames = blocks.tensor_split([self.model.network.anchor_frames], dim=1)
        seed = torch.full_like(window, SEED + draw)
        noise = block_noise(self.model.network, anchor, seed, window)
        return inverse_dynamics(self.model.network, anchor, frames, noise, STEPS)


def block_frames(frames: int, size: int) -> Int64[Tensor, "blocks block_frames"]:
    """Which frames of a video stand in each block that is read: its anchor's two, then its own.

    Blocks begin behind every frame of which a whole one is left. Before its first frame a video
    stood still, and behind its last one, if it is shorter than a block.

    Args:
        frames: of the video.
        size: frames k of a block.
    """
    first = torch.arange(max(1, frames - size))
    return (first[:, None] + torch.arange(-1, size + 1)).clamp(0, frames - 1)


def combine(readings: Float[Tensor, "draws batch blocks size action_dim"], steps: int) -> Estimate:
    """Mean of the readings of every action, and their root-mean-square distance from it.

    The spread is sqrt(c^2 + mean d^2) with c = `LEAST_SPREAD`.

    Args:
        readings: of blocks whose first actions follow one another; place p of block b holds action
            b + p.
        steps: actions of the video; what a block holds beyond is left out.
    """
    _, batch, blocks, size, dimensions = readings.shape
    action = (torch.arange(blocks)[:, None] + torch.arange(size)).flatten().to(readings.device)
    held = action < steps
    flat = readings.flatten(2, 3)[:, :, held]
    count = torch.bincount(action[held], minlength=steps)[:, None] * len(readings)

    def mean(values: Tensor) -> Tensor:
        total = values.new_zeros(batch, steps, dimensions)
        return total.index_add(1, action[held], values.sum(0)) / count

    center = mean(flat)
    variance = mean((flat - center[:, action[held]]).square())
    return Estimate(center, (variance + LEAST_SPREAD**2).sqrt())
