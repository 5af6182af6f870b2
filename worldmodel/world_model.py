"""A saved world model: one folder with everything that is needed to imagine.

    world_model.json        frame rate, cameras, frame size, tasks, action and state ranges
    transformer/            the network (diffusers layout: config.json and safetensors)
    autoencoder/            the frozen autoencoder, with its latent statistics
    contexts.safetensors    a few start contexts
    calibration.json        how far the actions that it reads can be trusted, once it is measured
    heads/                  what judges imagined frames, once `configs/reward.yaml` trained it

No pickle anywhere. `WorldModel.from_pretrained(folder)` is all a user calls.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from video.action_model import CLASS_KEY
from video.autoencoder import FrameAutoencoder
from video.errors import DatasetError
from video.safe_files import reading_model, whole_folder, write_json
from video.statistics import Normalizer
from worldmodel.contexts import Contexts
from worldmodel.heads import FrameHeads
from worldmodel.uwm import UWM

DESCRIPTION = "world_model.json"

FORMAT = 1
"""Version of the folder's layout."""

HEADS = "heads"
"""The heads' folder within the model's."""


@dataclass
class WorldModel:
    """The network and all that gives its numbers a meaning.

    Attributes:
        network: the denoiser.
        autoencoder: frames to latents and back.
        fps: frames per second it was trained at.
        cameras: camera names, in the order of the view axis.
        frame_size: height and width in pixels.
        action_normalizer: the data's units to [-1, 1]; None if it never saw an action.
        state_normalizer: likewise for the robot's state.
        task_names: tasks of the training data.
        contexts: where imagined episodes may begin.
        heads: what judges imagined frames; None until they are trained.
    """

    network: UWM
    autoencoder: FrameAutoencoder
    fps: float
    cameras: tuple[str, ...]
    frame_size: tuple[int, int]
    action_normalizer: Normalizer | None = None
    state_normalizer: Normalizer | None = None
    task_names: list[str] = field(default_factory=list)
    contexts: Contexts | None = None
    heads: FrameHeads | None = None

    @property
    def state_dim(self) -> int:
        """Dimensions S of the robot's state that it foretells, or its heads read; 0: none."""
        return self.network.state_dim or (0 if self.heads is None else self.heads.state_dim)

    def normal_state(
        self, state: Float[Tensor, "rows recorded_dim"], known: Bool[Tensor, " rows"]
    ) -> Float[Tensor, "rows state_dim"]:
        """The robot's state as a rollout wants it: normalised, NaN where it is not known.

        A state of another size than the model's is of another robot, and tells it nothing.
        """
        if self.state_normalizer is None or state.shape[-1] != self.state_dim:
            return state.new_full((len(state), self.state_dim), torch.nan)
        return torch.where(known[:, None], self.state_normalizer.normalize(state), torch.nan)

    @classmethod
    def from_pretrained(cls, folder: Path | str, device: str = "cpu") -> "WorldModel":
        """Load a folder written by `save_pretrained`.

        Raises:
            DatasetError: the folder is missing, damaged, no world model, or of a newer layout.
        """
        folder = require_world_model(Path(folder))
        with reading_model(folder):
            saved = json.loads((folder / DESCRIPTION).read_text())
            return cls._read(folder, saved, device)

    def save_pretrained(self, folder: Path | str) -> None:
        """Write the folder; one that is already there is replaced only when the new one is whole.

        Raises:
            DatasetError: the disk does not take it; what stood there before is untouched.
        """
        with whole_folder(Path(folder)) as unfinished:
            self.network.save_pretrained(unfinished / "transformer")
            self.autoencoder.save_pretrained(unfinished / "autoencoder")
            if self.contexts is not None:
                self.contexts.save(unfinished / "contexts.safetensors")
            if self.heads is not None:
                self.heads.save_pretrained(unfinished / HEADS)
            write_json(unfinished / DESCRIPTION, self._json())

    def save_heads(self, folder: Path | str) -> None:
        """Put the heads into a model folder that is already there, and leave the rest of it alone.

        Raises:
            DatasetError: the folder is no world model, or the disk does not take the heads; those
                that stood there before are untouched.
        """
        folder = Path(folder)
        assert self.heads is not None, "no heads to save"
        require_world_model(folder)
        with whole_folder(folder / HEADS) as unfinished:
            self.heads.save_pretrained(unfinished)

    def encode(
        self, frames: UInt8[Tensor, "*batch 3 height width"]
    ) -> Float[Tensor, "*batch channels h w"]:
        """Frames to normalised latents."""
        return self.autoencoder.encode(frames)

    def decode(
        self, latents: Float[Tensor, "*batch channels h w"]
    ) -> UInt8[Tensor, "*batch 3 height width"]:
        """Latents to frames."""
        return self.autoencoder.decode(latents)

    @classmethod
    def _read(cls, folder: Path, saved: dict, device: str) -> "WorldModel":
        """The folder's parts, put together."""
        if saved.get("format") != FORMAT:
            raise DatasetError(
                f"{folder} has format {saved.get('format')}, this code reads {FORMAT}. Use the "
                "version of this package that wrote it, or train again."
            )
        contexts = None
        if (folder / "contexts.safetensors").is_file():
            contexts = Contexts.load(folder / "contexts.safetensors")
        heads = None
        if (folder / HEADS).is_dir():
            heads = FrameHeads.from_pretrained(folder / HEADS, low_cpu_mem_usage=False)
            assert isinstance(heads, FrameHeads)
            nn.Module.to(heads, device).eval().requires_grad_(False)
        network = UWM.from_pretrained(folder / "transformer", low_cpu_mem_usage=False)
        assert isinstance(network, UWM)
        nn.Module.to(network, device)
        return cls(
            network=network.eval().requires_grad_(False),
            autoencoder=FrameAutoencoder.from_pretrained(folder / "autoencoder").to(device),
            fps=saved["fps"],
            cameras=tuple(saved["cameras"]),
            frame_size=(saved["frame_size"][0], saved["frame_size"][1]),
            action_normalizer=_read_normalizer(saved["actions"]),
            state_normalizer=_read_normalizer(saved["state"]),
            task_names=saved["tasks"],
            contexts=contexts,
            heads=heads,
        )

    def _json(self) -> dict:
        return {
            CLASS_KEY: "worldmodel.action_query.InverseDynamicsQuery",
            "format": FORMAT,
            "fps": self.fps,
            "cameras": list(self.cameras),
            "frame_size": list(self.frame_size),
            "actions": self.action_normalizer and self.action_normalizer.to_json(),
            "state": self.state_normalizer and self.state_normalizer.to_json(),
            "tasks": self.task_names,
        }


def require_world_model(folder: Path) -> Path:
    """The folder, if it is that of a world model.

    Raises:
        DatasetError: it is not.
    """
    if not (folder / DESCRIPTION).is_file():
        raise DatasetError(
            f"{folder / DESCRIPTION} does not exist, so {folder} is no world model. Train one with "
            "`lightning fit -c configs/uwm.yaml`; it ends in runs/uwm/model."
        )
    return folder


def _read_normalizer(saved: dict | None) -> Normalizer | None:
    return None if saved is None else Normalizer.from_json(saved)
