"""An action model whose labels say which frame of which video they were read off."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from inverse_dynamics.decoding import DecodeEpisode
from video.action_model import CLASS_KEY, Estimate
from video.calibration import Calibration
from video.statistics import Normalizer

SURE, UNSURE = 0.1, 0.9


class PixelReader:
    """Reads a step's action off the brightness of its first frame, (brightness / 255, -0.5).

    It is sure of it, but for frames with a red corner.
    """

    fps = 10.0
    cameras = ("top",)
    frame_size = (16, 16)
    action_normalizer = Normalizer(np.array([-2.0, 0.0]), np.array([2.0, 10.0]))
    action_names = ("x", "y")
    kinds = ("number", "number")
    latents_of = None

    def __init__(self, calibration: Calibration | None):
        self.calibration = calibration
        self.fingerprint = "0123456789abcdef"

    @classmethod
    def from_pretrained(cls, folder: Path, device: str) -> "PixelReader":
        """A folder that `save` made."""
        return cls(Calibration.load(folder))

    @staticmethod
    def save(folder: Path, calibrated: bool = True) -> Path:
        """A folder of such a model, whose 90 % intervals are 1.6449 spreads wide."""
        folder.mkdir(parents=True)
        name = f"{PixelReader.__module__}.{PixelReader.__name__}"
        (folder / "reader.json").write_text(json.dumps({CLASS_KEY: name}))
        if calibrated:
            Calibration((0.9,), torch.full((1, 2), 1.6449), 100).save(folder)
        return folder

    def encode(self, frames: Tensor) -> Tensor:
        """Brightness, and how red the corner is."""
        green = frames[..., 1, 8:, 8:].float().mean((-1, -2)) / 255
        red = (frames[..., 0, :4, :4].float() - frames[..., 1, :4, :4].float()).mean((-1, -2)) / 255
        return torch.stack((green, red), -1)[..., None, None]

    def read(self, inputs: Tensor) -> Estimate:
        """One step for each pair of frames."""
        green, red = inputs[:, :-1, 0, :, 0, 0].unbind(-1)
        mean = torch.stack((green, torch.full_like(green, -0.5)), -1)
        spread = torch.where(red > 0.3, UNSURE, SURE)[..., None].expand_as(mean)
        return Estimate(mean, spread)


class StateReader(PixelReader):
    """One that tells the robot's state as well: a hundred times the frame's brightness / 255."""

    state_dim = 1

    @staticmethod
    def save(folder: Path, calibrated: bool = True) -> Path:
        """As that of `PixelReader`."""
        PixelReader.save(folder, calibrated)
        name = f"{StateReader.__module__}.{StateReader.__name__}"
        (folder / "reader.json").write_text(json.dumps({CLASS_KEY: name}))
        return folder

    def states(self, inputs: Tensor) -> Tensor:
        """One number for each frame."""
        return 100 * inputs[:, :, 0, :1, 0, 0]


@dataclass(frozen=True)
class EarlierIsSlower(DecodeEpisode):
    """Decodes the first episodes last."""

    def __call__(self, episode: int) -> dict[str, np.ndarray]:
        """Wait the longer, the earlier the episode."""
        time.sleep(0.4 * max(0, 3 - episode))
        return super().__call__(episode)
