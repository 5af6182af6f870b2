"""Frames to normalised latents and back, by any diffusers image or video autoencoder.

A saved autoencoder is an ordinary diffusers folder (`config.json`, safetensors) with one more file,
`latents.json`: the latents' statistics and the pixel fold. Training one is the business of
`autoencoder_training.py`, storing a dataset's latents that of `latents.py`.
"""

import copy
import hashlib
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from torch import Tensor, nn

from video.errors import DatasetError

PIXELS_AT_ONCE = 64 * 64 * 256
"""Frames are encoded and decoded in chunks of this many pixels: 256 of 64x64, 4 of 512x512."""

Pixels = Float[Tensor, "n 3 H W"]
Latents = Float[Tensor, "n C h w"]


class FrameAutoencoder(nn.Module):
    """A frozen diffusers autoencoder between uint8 frames and latents of about unit variance.

    Example:
        >>> autoencoder = FrameAutoencoder.from_pretrained("video/autoencoders/metaworld")
        >>> latents = autoencoder.encode(frames)  # uint8 (..., 3, 64, 64) -> float (..., C, 8, 8)
        >>> pictures = autoencoder.decode(latents)  # and back to uint8

    Args:
        network: a diffusers autoencoder: AutoencoderTiny, AutoencoderKL, AutoencoderDC, VQModel or,
            frame by frame, a causal video autoencoder such as AutoencoderKLWan.
        pixel_fold: squares of this many pixels are folded into channels before the network, and
            unfolded after it. 4 makes a 64x64x3 frame 16x16x48, which is cheap to work on.
        mean: per-channel mean of the network's latents; None if it was never measured.
        std: per-channel standard deviation of the network's latents.
        use_bfloat16: run the network in bfloat16 autocast.
    """

    network: Any
    mean: Tensor | None
    std: Tensor | None

    def __init__(
        self,
        network: nn.Module,
        pixel_fold: int = 1,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        use_bfloat16: bool = False,
    ) -> None:
        super().__init__()
        if pixel_fold < 1:
            raise ValueError(f"pixel_fold must be at least 1, got {pixel_fold}")
        if (mean is None) != (std is None):
            raise ValueError("give both mean and std of the latents, or neither")
        self.network = network
        self.pixel_fold = pixel_fold
        self.use_bfloat16 = use_bfloat16
        self.register_buffer("mean", None, persistent=False)
        self.register_buffer("std", None, persistent=False)
        if mean is not None and std is not None:
            self._set_statistics(mean, std)
        encoder = getattr(network, "encoder", network)
        self._is_video = any(isinstance(module, nn.Conv3d) for module in encoder.modules())
        for weight in network.parameters():
            if weight.ndim == 4:  # about twice as fast on CPUs
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        takes_length = "num_frames" in inspect.signature(self.network.decode).parameters
        self._decode_options = {"num_frames": 1} if takes_length else {}
        self._latent_shapes: dict[tuple[int, int], tuple[int, int, int]] = {}
        self._frame_sizes: dict[tuple[int, int], tuple[int, int]] = {}
        self._fingerprint: str | None = None

    @classmethod
    def from_pretrained(cls, folder: Path | str, use_bfloat16: bool = False) -> "FrameAutoencoder":
        """Load a folder written by `save_pretrained`, or any diffusers autoencoder's own folder.

        The latents' statistics come from `latents.json`, else from the network's own configuration
        (`latents_mean`/`latents_std` or `scaling_factor`), else `fit_statistics` must measure them.

        Args:
            folder: with `config.json` and `diffusion_pytorch_model.safetensors`.
            use_bfloat16: run the network in bfloat16 autocast.

        Raises:
            DatasetError: no `config.json`, no safetensors, or a class that diffusers does not have.
        """
        folder = Path(folder)
        if not (folder / "config.json").is_file():
            raise DatasetError(
                f"{folder} holds no config.json, so it is no diffusers autoencoder. Of a pipeline, "
                "pass the subfolder that is one, usually 'vae'."
            )
        if not any(folder.glob("*.safetensors")):
            raise DatasetError(
                f"{folder} holds no .safetensors weights, and pickled .bin files are not read. "
                "Load it with diffusers and save it again by model.save_pretrained(folder)."
            )
        config = json.loads((folder / "config.json").read_text())
        name = config.get("_class_name", "")
        network_class: Any = getattr(diffusers, name, None)
        if not hasattr(network_class, "decode"):
            raise DatasetError(
                f"{folder}/config.json has _class_name {name!r}, which is no autoencoder of "
                f"diffusers {diffusers.__version__}. Upgrade diffusers, or pass another folder."
            )
        try:
            network, loading = network_class.from_pretrained(
                folder,
                use_safetensors=True,
                low_cpu_mem_usage=False,
                local_files_only=True,
                output_loading_info=True,
            )
        except (OSError, RuntimeError, ValueError, SafetensorError) as error:
            weights = ", ".join(path.name for path in folder.glob("*.safetensors"))
            raise DatasetError(
                f"cannot read {folder}/{weights} as weights of {name}: {str(error).strip()} If the "
                "file is damaged, copy it again, or train another autoencoder with `lightning fit "
                "-c configs/autoencoder.yaml`."
            ) from error
        if loading["missing_keys"]:
            raise DatasetError(
                f"{folder} lacks {len(loading['missing_keys'])} weights of its {name}, the first "
                f"{loading['missing_keys'][0]!r}: config.json and weights do not belong together."
            )
        saved = folder / "latents.json"
        if saved.is_file():
            statistics = json.loads(saved.read_text())
        else:
            statistics = _statistics_of_config(config)
        autoencoder = cls(network, **statistics, use_bfloat16=use_bfloat16)
        return autoencoder.eval().requires_grad_(False)

    def save_pretrained(self, folder: Path | str, half_precision: bool = False) -> None:
        """Write safetensors and JSON, nothing pickled.

        Args:
            folder: where to; it is made if it is not there.
            half_precision: float16 weights, half as large; the autoencoder itself stays as it is.
        """
        folder = Path(folder)
        network = copy.deepcopy(self.network).half() if half_precision else self.network
        network.save_pretrained(folder, safe_serialization=True)
        accepted = inspect.signature(type(self.network).__init__).parameters
        config = json.loads((folder / "config.json").read_text())
        config = {k: v for k, v in config.items() if k.startswith("_") or k in accepted}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        (folder / "latents.json").write_text(json.dumps(self._statistics(), indent=2) + "\n")

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with weights, configuration or statistics."""
        if self._fingerprint is None:
            digest = hashlib.sha256()
            config = {k: v for k, v in dict(self.network.config).items() if not k.startswith("_")}
            described = [type(self.network).__name__, config, self._statistics()]
            digest.update(json.dumps(described, sort_keys=True, default=str).encode())
            for name, weight in sorted(self.network.state_dict().items()):
                digest.update(name.encode())
                digest.update(weight.detach().float().cpu().contiguous().numpy().tobytes())
            self._fingerprint = digest.hexdigest()[:16]
        return self._fingerprint

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Channels, height and width of the latents of a frame of this size.

        Raises:
            ValueError: the autoencoder does not give frames of this size back.
        """
        if (height, width) not in self._latent_shapes:
            weight = next(self.network.parameters())
            grey = torch.zeros(1, 3, height, width, device=weight.device, dtype=weight.dtype)
            with torch.inference_mode(), self._autocast(grey):
                try:
                    latents = self.encode_pixels(grey)
                    returned = self.decode_pixels(latents).shape[-2:]
                except RuntimeError as error:
                    raise ValueError(
                        f"cannot encode frames of {height}x{width}: {error}."
                    ) from error
            if returned != (height, width):
                raise ValueError(
                    f"frames of {height}x{width} come back as {returned[0]}x{returned[1]}: the "
                    f"{type(self.network).__name__} with pixel_fold {self.pixel_fold} needs sizes "
                    "divisible by its whole downsampling."
                )
            channels, rows, columns = latents.shape[1:]
            self._latent_shapes[height, width] = (channels, rows, columns)
        return self._latent_shapes[height, width]

    def encode(self, frames: UInt8[Tensor, "*b 3 H W"]) -> Float[Tensor, "*b C h w"]:
        """Normalised latents of about unit variance.

        Raises:
            ValueError: frame size that the network cannot encode, or no statistics yet.
        """
        mean, std = self._measured()
        shape = self.latent_shape(*frames.shape[-2:])

        def normalised_latents(chunk: Tensor) -> Tensor:
            return (self.encode_pixels(_to_pixels(chunk, mean.dtype)).to(mean) - mean) / std

        return self._in_chunks(frames, normalised_latents, frames.shape[-2:].numel(), shape, mean)

    def decode(self, latents: Float[Tensor, "*b C h w"]) -> UInt8[Tensor, "*b 3 H W"]:
        """Frames of normalised latents.

        Raises:
            ValueError: no statistics yet.
        """
        mean, std = self._measured()
        height, width = self._frame_size(latents)

        def frames(chunk: Tensor) -> Tensor:
            pixels = self.decode_pixels(chunk.to(mean) * std + mean)
            return pixels.float().clamp(-1, 1).add(1).mul(127.5).round()

        like = torch.empty(0, dtype=torch.uint8, device=latents.device)
        return self._in_chunks(latents, frames, height * width, (3, height, width), like)

    def fit_statistics(self, frames: UInt8[Tensor, "n 3 H W"]) -> None:
        """Measure mean and standard deviation of every latent channel, from here on used."""
        pixels_a_frame = frames.shape[-2:].numel()
        shape = self.latent_shape(*frames.shape[-2:])
        like = torch.empty(0, device=frames.device)

        def raw_latents(chunk: Tensor) -> Tensor:
            return self.encode_pixels(_to_pixels(chunk, torch.float32)).float()

        raw = self._in_chunks(frames, raw_latents, pixels_a_frame, shape, like)
        channels = raw.double().transpose(0, 1).flatten(1)
        std = channels.std(1).clamp_min(1e-4)
        self._set_statistics(_four_digits(channels.mean(1)), _four_digits(std))

    def encode_pixels(self, pixels: Pixels) -> Latents:
        """The network's own latents, not normalised, of pixels in [-1, 1]; differentiable."""
        folded = self._arranged(F.pixel_unshuffle(pixels, self.pixel_fold))
        output = self.network.encode(folded)
        if hasattr(output, "latent_dist"):
            latents = output.latent_dist.mode()
        else:
            latents = output.latents if hasattr(output, "latents") else output.latent
        return latents.squeeze(2) if self._is_video else latents

    def decode_pixels(self, latents: Latents) -> Pixels:
        """Pixels, about [-1, 1], of the network's own latents; differentiable."""
        folded = self.network.decode(self._arranged(latents), **self._decode_options).sample
        folded = folded.squeeze(2) if self._is_video else folded
        return F.pixel_shuffle(folded, self.pixel_fold)

    def _arranged(self, inputs: Tensor) -> Tensor:
        """As the network wants it: with a time axis, or channels last in memory."""
        if self._is_video:
            return inputs.unsqueeze(2)
        return inputs.contiguous(memory_format=torch.channels_last)

    def _in_chunks(
        self,
        inputs: Tensor,
        function: Callable[[Tensor], Tensor],
        pixels_a_frame: int,
        shape: tuple[int, int, int],
        like: Tensor,
    ) -> Tensor:
        """Apply `function` to bounded chunks of the frames; the result is no inference tensor."""
        flat = inputs.reshape(-1, *inputs.shape[-3:])
        result = like.new_empty(len(flat), *shape)
        step = max(1, PIXELS_AT_ONCE // pixels_a_frame)
        for start in range(0, len(flat), step):
            with torch.inference_mode(), self._autocast(inputs):
                result[start : start + step] = function(flat[start : start + step])
        return result.reshape(*inputs.shape[:-3], *shape)

    def _frame_size(self, latents: Tensor) -> tuple[int, int]:
        """Height and width of the frames of such latents; the first time by decoding zeros."""
        channels, rows, columns = latents.shape[-3:]
        if (rows, columns) not in self._frame_sizes:
            weight = next(self.network.parameters())
            with torch.inference_mode(), self._autocast(latents):
                pixels = self.decode_pixels(weight.new_zeros(1, channels, rows, columns))
            self._frame_sizes[rows, columns] = (pixels.shape[-2], pixels.shape[-1])
        return self._frame_sizes[rows, columns]

    def _autocast(self, inputs: Tensor) -> torch.autocast:
        """On or off by `use_bfloat16` alone, whatever the caller's own autocast says."""
        return torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.use_bfloat16)

    def _set_statistics(self, mean: list[float], std: list[float]) -> None:
        device = next(self.network.parameters()).device
        self.mean = torch.tensor(mean, device=device).view(-1, 1, 1)
        self.std = torch.tensor(std, device=device).view(-1, 1, 1)
        self._fingerprint = None

    def _measured(self) -> tuple[Tensor, Tensor]:
        if self.mean is None or self.std is None:
            raise ValueError(
                "the mean and std of the latents are not known: this autoencoder has neither a "
                "latents.json nor a scaling_factor. Call fit_statistics(frames) with a few hundred "
                "training frames and save_pretrained(folder), or let ClipDataModule or "
                "'python -m video encode' do so."
            )
        return self.mean, self.std

    def _statistics(self) -> dict:
        statistics: dict = {"pixel_fold": self.pixel_fold}
        if self.mean is not None and self.std is not None:
            statistics["mean"] = [float(f"{v:.4g}") for v in self.mean.flatten().tolist()]
            statistics["std"] = [float(f"{v:.4g}") for v in self.std.flatten().tolist()]
        return statistics


def _statistics_of_config(config: dict) -> dict:
    """What the network's own configuration says of its latents, if it says anything."""
    channels = config.get("latent_channels") or config.get("z_dim")
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean and std and len(mean) == channels:
        return {"mean": list(mean), "std": list(std)}
    scaling_factor = config.get("scaling_factor") or 1.0
    if scaling_factor == 1.0 or channels is None:
        return {}
    shift = config.get("shift_factor") or 0.0
    return {"mean": [shift] * channels, "std": [1.0 / scaling_factor] * channels}


def _to_pixels(frames: UInt8[Tensor, "n 3 H W"], dtype: torch.dtype) -> Pixels:
    """0..255 to [-1, 1]."""
    return frames.to(dtype).div_(127.5).sub_(1)


def _four_digits(values: Float[Tensor, " C"]) -> list[float]:
    """Rounded, so that the fingerprint does not hang on the last bit of a sum."""
    return [float(f"{value:.4g}") for value in values.tolist()]
