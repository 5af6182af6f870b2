"""A saved inverse dynamics model: one folder with everything that is needed to read actions.

    inverse_dynamics.json   frame rate, cameras, frame size, window, action and state ranges
    calibration.json        how far its spread can be trusted, once `calibrate` has measured it
    network/                the network (diffusers layout: config.json and safetensors)
    movement_kernel.safetensors  the regression beside it, if there is one
    state_reader/           the network that tells the robot's state alone, if there is one
    autoencoder/            the frozen autoencoder that makes the latents it looks at, if it does

No pickle anywhere. `InverseDynamicsModel.from_pretrained(folder)` is all a user calls.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from inverse_dynamics.estimate import mixture
from inverse_dynamics.movement_kernel import KERNEL_FILE, MovementKernel
from inverse_dynamics.network import ActionReader
from inverse_dynamics.state_reader import StateReader
from inverse_dynamics.windows import read_video
from video.action_model import CLASS_KEY, Estimate, fingerprint_of
from video.autoencoder import FrameAutoencoder
from video.calibration import Calibration
from video.errors import DatasetError
from video.safe_files import reading_model, whole_folder, write_json
from video.statistics import Normalizer

DESCRIPTION = "inverse_dynamics.json"
STATE_READER = "state_reader"

FORMAT = 1
"""Version of the folder's layout."""


@dataclass
class InverseDynamicsModel:
    """The network and all that gives its numbers a meaning.

    Example:
        >>> model = InverseDynamicsModel.from_pretrained("runs/idm/model")  # doctest: +SKIP
        >>> model.actions(latents)  # (N, T, V, C, h, w) to (N, T-1, A) # doctest: +SKIP

    Attributes:
        network: from frames to distributions of the actions between them.
        autoencoder: frames to the latents that the network looks at; None: it looks at the frames.
        fps: frames per second it was trained at.
        cameras: camera names, in the order of the view axis.
        frame_size: height and width in pixels.
        window: frames of a clip it was trained on.
        action_normalizer: the data's units to [-1, 1].
        action_names: one for each dimension.
        calibration: how far its spread can be trusted; None until that is measured.
        kernel: reads the actions off the states that the network tells; None: the network reads
            alone.
        state_normalizer: of the robot's state, where the data had it.
        state_reader: tells that state; None: the network does, beside the actions.
    """

    network: ActionReader
    autoencoder: FrameAutoencoder | None
    fps: float
    cameras: tuple[str, ...]
    frame_size: tuple[int, int]
    window: int
    action_normalizer: Normalizer
    action_names: tuple[str, ...]
    calibration: Calibration | None = None
    kernel: MovementKernel | None = None
    state_normalizer: Normalizer | None = None
    state_reader: StateReader | None = None

    @classmethod
    def from_pretrained(cls, folder: Path | str, device: str = "cpu") -> "InverseDynamicsModel":
        """Load a folder written by `save_pretrained`.

        Raises:
            DatasetError: the folder is missing, damaged, no such model, lacks the range of the
                actions, or is of another layout.
        """
        folder = Path(folder)
        path = folder / DESCRIPTION
        if not path.is_file():
            raise DatasetError(
                f"{path} does not exist, so {folder} is no inverse dynamics model. Train one with "
                "`lightning fit -c configs/idm.yaml`; it ends in runs/idm/model."
            )
        with reading_model(folder):
            return cls._read(folder, json.loads(path.read_text()), device)

    def save_pretrained(self, folder: Path | str) -> None:
        """Write the folder; one that is already there is replaced only when the new one is whole.

        Raises:
            DatasetError: the disk does not take it; what stood there before is untouched.
        """
        with whole_folder(Path(folder)) as unfinished:
            self.network.save_pretrained(unfinished / "network")
            if self.autoencoder is not None:
                self.autoencoder.save_pretrained(unfinished / "autoencoder")
            write_json(unfinished / DESCRIPTION, self._json())
            if self.calibration is not None:
                self.calibration.save(unfinished)
            if self.kernel is not None:
                self.kernel.save(unfinished)
            if self.state_reader is not None:
                self.state_reader.save_pretrained(unfinished / STATE_READER)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with weights or settings."""
        return fingerprint_of(self.network, self._json())

    @property
    def latents_of(self) -> str | None:
        """Fingerprint of the autoencoder whose latents it reads; None: it reads frames."""
        return self.autoencoder and self.autoencoder.fingerprint

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kind of each action dimension, see `kinds.py`."""
        return self.network.kinds

    @property
    def state_dim(self) -> int:
        """Dimensions S of the robot's state that `states` tells; 0: none."""
        return 0 if self.state_normalizer is None else self.state_normalizer.dim

    def encode(
        self, frames: UInt8[Tensor, "*batch 3 height width"]
    ) -> Float[Tensor, "*batch channels h w"]:
        """Frames to latents, rounded as stored ones are; or to [-1, 1] without an autoencoder."""
        device = next(self.network.parameters()).device
        if self.autoencoder is None:
            return scale_frames(frames.to(device))
        return self.autoencoder.encode(frames.to(device)).half().float()

    @torch.inference_mode()
    def read(self, inputs: Float[Tensor, "batch frames views channels h w"]) -> Estimate:
        """Distributions of the actions between the frames, normalised.

        A video that is longer than `window` is read in overlapping windows. With a kernel, the mean
        is that of what the network and the kernel read, and the spread that of their mixture, each
        as unsure as the network. Rows of a batch do not know each other.

        Args:
            inputs: of videos of two frames or more, as `encode` makes them.

        Raises:
            ValueError: a single frame, or frames of another shape than it was trained on.
        """
        tokens = self._tokens(inputs)
        by_network = read_video(self.network.read_tokens, tokens, self.window, self.kinds)
        if self.kernel is None:
            return by_network
        if self.state_reader is None:
            states = self.network.states(tokens)
        else:
            states = self.tell_states(inputs)
        by_kernel = Estimate(self.kernel.read(states, self.kinds), by_network.spread)
        return mixture((by_network, by_kernel), self.kinds)

    @torch.inference_mode()
    def states(
        self, inputs: Float[Tensor, "batch frames views channels h w"]
    ) -> Float[Tensor, "batch frames state_dim"]:
        """The robot's state in each frame, in the data's units, by that frame alone.

        Raises:
            ValueError: inputs as for `read`, or a model of data without the state.
        """
        if self.state_normalizer is None:
            raise ValueError("this model was trained without the robot's state, so it tells none")
        return self.state_normalizer.denormalize(self.tell_states(inputs))

    @torch.inference_mode()
    def tell_states(
        self, inputs: Float[Tensor, "batch frames views channels h w"]
    ) -> Float[Tensor, "batch frames state_dim"]:
        """The same as it is normalised, which the kernel goes by."""
        if self.state_reader is None:
            return self.network.states(self._tokens(inputs))
        return torch.cat([self.state_reader(piece) for piece in self._pieces(inputs)], dim=1)

    def actions(
        self, inputs: Float[Tensor, "batch frames views channels h w"]
    ) -> Float[Tensor, "batch steps size"]:
        """The likeliest actions between the frames, in the data's units; as `read`.

        An imagined environment takes this method as its `idm`.
        """
        return self.action_normalizer.denormalize(self.read(inputs).mean)

    def actions_of_frames(
        self, frames: UInt8[Tensor, "batch frames views 3 height width"]
    ) -> Float[Tensor, "batch steps size"]:
        """The same for frames of `frame_size`."""
        return self.actions(self.encode(frames))

    def _tokens(
        self, inputs: Float[Tensor, "batch frames views channels h w"]
    ) -> Float[Tensor, "batch frames width"]:
        """A token of each frame."""
        return torch.cat([self.network.tokens(piece) for piece in self._pieces(inputs)], dim=1)

    def _pieces(self, inputs: Float[Tensor, "batch frames views channels h w"]) -> list[Tensor]:
        """Long videos in pieces, where the weights are."""
        shape = tuple(inputs.shape[2:])
        if shape != self.network.frame_shape or inputs.shape[1] < 2:
            raise ValueError(
                f"an input of shape {tuple(inputs.shape)} cannot be read: this model wants (videos,"
                f" frames, *{self.network.frame_shape}) with two frames or more, as its own "
                "encode() makes them."
            )
        weights = next(self.network.parameters())
        return list(inputs.to(weights).split(self.window, dim=1))

    @classmethod
    def _read(cls, folder: Path, saved: dict, device: str) -> "InverseDynamicsModel":
        """The folder's parts, put together."""
        if saved.get("format") != FORMAT:
            raise DatasetError(
                f"{folder} has format {saved.get('format')}, this code reads {FORMAT}. Use the "
                "version of this package that wrote it, or train again."
            )
        if not saved.get("actions"):
            raise DatasetError(
                f"{folder / DESCRIPTION} lacks the range of the actions ('actions' with 'low' and "
                "'high'), so what the network reads has no units. Train again, or put the folder's "
                "own file back."
            )
        autoencoder = None
        if saved["autoencoder"] is not None:
            autoencoder = FrameAutoencoder.from_pretrained(folder / "autoencoder").to(device)
            if autoencoder.fingerprint != saved["autoencoder"]:
                raise DatasetError(
                    f"{folder / 'autoencoder'} has the fingerprint {autoencoder.fingerprint}, the "
                    f"network was trained on latents of {saved['autoencoder']}. Put that one back."
                )
        network = _load(ActionReader, folder / "network", device)
        state_reader = None
        if "state_reader" in saved:
            state_reader = _load(StateReader, folder / STATE_READER, device)
            if (found := fingerprint_of(state_reader, {})) != saved["state_reader"]:
                raise DatasetError(
                    f"{folder / STATE_READER} has the fingerprint {found}, the model was saved "
                    f"with {saved['state_reader']}. Put that one back."
                )
        return cls(
            network=network,
            autoencoder=autoencoder,
            fps=saved["fps"],
            cameras=tuple(saved["cameras"]),
            frame_size=(saved["frame_size"][0], saved["frame_size"][1]),
            window=saved["window"],
            action_normalizer=Normalizer.from_json(saved["actions"]),
            action_names=tuple(saved["action_names"]),
            calibration=Calibration.load(folder),
            kernel=cls._read_kernel(folder, saved.get("kernel")),
            state_normalizer=Normalizer.from_json(saved["state"]) if "state" in saved else None,
            state_reader=state_reader,
        )

    @staticmethod
    def _read_kernel(folder: Path, fingerprint: str | None) -> MovementKernel | None:
        """The folder's kernel, if it is to have one; models of before 30 November have none."""
        if fingerprint is None:
            return None
        kernel = MovementKernel.load(folder)
        if kernel.fingerprint != fingerprint:
            raise DatasetError(
                f"{folder / KERNEL_FILE} has the fingerprint {kernel.fingerprint}, the model was "
                f"saved with {fingerprint}. Put that one back."
            )
        return kernel

    def _json(self) -> dict:
        described: dict[str, Any] = {
            CLASS_KEY: "inverse_dynamics.model.InverseDynamicsModel",
            "format": FORMAT,
            "fps": self.fps,
            "cameras": list(self.cameras),
            "frame_size": list(self.frame_size),
            "window": self.window,
            "autoencoder": self.latents_of,
            "actions": self.action_normalizer.to_json(),
            "action_names": list(self.action_names),
        }
        if self.kernel is not None:  # models of before keep their fingerprint
            described["kernel"] = self.kernel.fingerprint
        if self.state_normalizer is not None:  # likewise
            described["state"] = self.state_normalizer.to_json()
        if self.state_reader is not None:  # likewise
            described["state_reader"] = fingerprint_of(self.state_reader, {})
        return described


def _load(kind: Any, folder: Path, device: str) -> Any:
    """A frozen network of a class of diffusers' layout.

    Raises:
        DatasetError: its weights are another network's.
    """
    network, loading = kind.from_pretrained(
        folder, low_cpu_mem_usage=False, output_loading_info=True
    )
    strange = [*loading["missing_keys"], *loading["unexpected_keys"]]
    if strange:
        raise DatasetError(
            f"{folder} holds another network's weights: {len(strange)} do not fit, the first is "
            f"{strange[0]!r}. Use the version of this package that wrote it, or train again."
        )
    return nn.Module.to(network, device).eval().requires_grad_(False)


def scale_frames(frames: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Bytes to [-1, 1], for networks that look at frames."""
    return frames.float() / 127.5 - 1


def pictures_of(batch: dict[str, Tensor]) -> Float[Tensor, "batch frames views channels h w"]:
    """What the network looks at: a batch's latents, or its frames where there are none."""
    return batch["latents"] if "latents" in batch else scale_frames(batch["frames"])
