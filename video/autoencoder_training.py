"""Training of a small frame autoencoder: `lightning fit -c configs/autoencoder.yaml`."""

import json
import math
from pathlib import Path

import imageio.v3 as iio
import lightning as L
import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from torch import Tensor, nn

from video.autoencoder import FrameAutoencoder
from video.clips import ClipDataset, Clips
from video.datamodule import ClipDataModule
from video.metrics import psnr, ssim
from video.muon import Muon

STATISTICS_FRAMES = 2048
PICTURES = 12
"""Frames shown in `reconstructions.png`."""


class AutoencoderTraining(L.LightningModule):
    """Trains a diffusers autoencoder to give frames back, from slightly noisy latents.

    loss = mean |y - x| + 2 mean (y - x)^2, y = decode(encode(x) + noise), pixels in [-1, 1]. The
    noise makes the decoder forgive the small errors of a model that predicts latents.

    When training ends, `model/`, `evaluation.json` and `reconstructions.png` (real over decoded
    frames of the validation split) are written to the trainer's `default_root_dir`.

    Args:
        network: the diffusers autoencoder to train, such as `diffusers.AutoencoderTiny`.
        pixel_fold: squares of this many pixels that are folded into its input channels.
        matrix_learning_rate: of Muon, for kernels, after a warm-up and before a cosine decay to 0.
        learning_rate: of Adam, for vectors, likewise.
        warmup: share of the steps over which the learning rates rise.
        latent_noise: the largest noise added to latents, in units of their standard deviation; each
            frame draws its own up to this.
        half_precision: save the weights in float16, half as large.
    """

    def __init__(
        self,
        network: nn.Module,
        pixel_fold: int = 4,
        matrix_learning_rate: float = 0.02,
        learning_rate: float = 2e-3,
        warmup: float = 0.05,
        latent_noise: float = 0.2,
        half_precision: bool = True,
    ) -> None:
        super().__init__()
        self.autoencoder = FrameAutoencoder(network, pixel_fold)
        self.matrix_learning_rate = matrix_learning_rate
        self.learning_rate = learning_rate
        self.warmup = warmup
        self.latent_noise = latent_noise
        self.half_precision = half_precision

    def training_step(self, batch: Clips, batch_idx: int) -> Tensor:
        """Reconstruct every frame of the clips."""
        pixels = _pixels(batch["frames"])
        latents = self.autoencoder.encode_pixels(pixels)
        decoded = self.autoencoder.decode_pixels(add_noise(latents, self.latent_noise))
        loss = reconstruction_loss(decoded, pixels)
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Clips, batch_idx: int) -> None:
        """PSNR of noiseless reconstructions."""
        frames = batch["frames"]
        pixels = _pixels(frames)
        decoded = self.autoencoder.decode_pixels(self.autoencoder.encode_pixels(pixels))
        flat = frames.reshape(-1, *frames.shape[-3:])
        decibels = psnr(_frames(decoded), flat).mean()
        self.log("val_psnr", decibels, prog_bar=True, sync_dist=True, batch_size=len(flat))

    def configure_optimizers(self):
        """Muon for kernels and Adam for vectors, with warm-up and cosine decay."""
        optimizer = Muon(self.parameters(), self.matrix_learning_rate, vector_lr=self.learning_rate)
        steps = self.trainer.estimated_stepping_batches
        warmup_steps = max(1, round(self.warmup * steps))

        def factor(step: int) -> float:
            return (
                min(1.0, (step + 1) / warmup_steps) * 0.5 * (1 + math.cos(math.pi * step / steps))
            )

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def on_train_end(self) -> None:
        """Measure the latents, save the model, score it on held-out frames."""
        data = getattr(self.trainer, "datamodule", None)
        assert isinstance(data, ClipDataModule), "train with ClipDataModule as --data"
        if not getattr(self.trainer, "fast_dev_run", False):
            self._save(data)

    @rank_zero_only
    def _save(self, data: ClipDataModule) -> None:
        folder = Path(self.trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        if self.half_precision:
            self.autoencoder.half().float()  # what is measured and scored is what is saved
        self.autoencoder.eval()
        spread = np.linspace(0, len(data.train_clips) - 1, STATISTICS_FRAMES).astype(np.int64)
        frames = _read_frames(data.train_clips, np.unique(spread))
        self.autoencoder.fit_statistics(frames.to(self.device))
        self.autoencoder.save_pretrained(folder / "model", half_precision=self.half_precision)
        clips = data.validation_clips or data.train_clips
        scores, pictures = evaluate(self.autoencoder, clips)
        scores["split"] = "train" if data.validation_clips is None else "validation"
        (folder / "evaluation.json").write_text(json.dumps(scores, indent=2) + "\n")
        iio.imwrite(folder / "reconstructions.png", pictures.numpy())
        rank_zero_info(
            f"\nPSNR {scores['psnr']:.2f} dB, SSIM {scores['ssim']:.3f} on the {scores['frames']} "
            f"frames of the {scores['split']} split. The autoencoder, its scores and pictures:\n"
            f"{folder}/model, {folder}/evaluation.json, {folder}/reconstructions.png"
        )


def add_noise(latents: Float[Tensor, "n C h w"], largest: float) -> Float[Tensor, "n C h w"]:
    """Gaussian noise of 0 to `largest` standard deviations of each channel, drawn per frame."""
    if largest == 0:
        return latents
    deviation = latents.detach().float().std((0, 2, 3), keepdim=True)
    scale = largest * torch.rand(len(latents), 1, 1, 1, device=latents.device)
    return latents + (deviation * scale * torch.randn_like(latents, dtype=torch.float32))


def reconstruction_loss(
    decoded: Float[Tensor, "n 3 H W"], pixels: Float[Tensor, "n 3 H W"]
) -> Float[Tensor, ""]:
    """Mean |e| + 2 mean e^2: the first keeps edges sharp, the second is what PSNR counts."""
    error = decoded.float() - pixels
    return error.abs().mean() + 2 * error.square().mean()


def evaluate(
    autoencoder: FrameAutoencoder, clips: ClipDataset
) -> tuple[dict, UInt8[Tensor, "height width 3"]]:
    """Score the reconstruction of every frame; and some real frames above their reconstructions.

    Returns:
        `psnr` and `ssim` means over frames, `noisy_psnr` with latents off by 0.2 standard
        deviations, `frames` and `latent_shape`; and the picture.
    """
    device = next(autoencoder.parameters()).device
    generator = torch.Generator(device).manual_seed(0)
    totals = {"psnr": 0.0, "ssim": 0.0, "noisy_psnr": 0.0}
    for numbers in np.array_split(np.arange(len(clips)), -(-len(clips) // 256)):
        real = _read_frames(clips, numbers).to(device)
        latents = autoencoder.encode(real)
        noise = torch.randn(latents.shape, generator=generator, device=device)
        decoded = autoencoder.decode(latents)
        totals["psnr"] += psnr(decoded, real).sum().item()
        totals["ssim"] += ssim(decoded, real).sum().item()
        totals["noisy_psnr"] += psnr(autoencoder.decode(latents + 0.2 * noise), real).sum().item()
    shown = _read_frames(clips, np.linspace(0, len(clips) - 1, PICTURES).astype(np.int64))
    decoded = autoencoder.decode(autoencoder.encode(shown.to(device))).cpu()
    rows = [torch.cat(list(row), dim=2) for row in (shown, decoded)]
    scores: dict = {name: total / len(clips) for name, total in totals.items()}
    scores["frames"] = len(clips)
    scores["latent_shape"] = list(autoencoder.latent_shape(*clips.size))
    return scores, torch.cat(rows, dim=1).permute(1, 2, 0).contiguous()


def _read_frames(
    clips: ClipDataset, numbers: Int64[np.ndarray, " n"]
) -> UInt8[Tensor, "frames 3 H W"]:
    frames = clips[numbers]["frames"]
    return frames.reshape(-1, *frames.shape[-3:])


def _pixels(frames: UInt8[Tensor, "B T V 3 H W"]) -> Float[Tensor, "n 3 H W"]:
    """All frames of all clips, in [-1, 1]."""
    return frames.reshape(-1, *frames.shape[-3:]).float() / 127.5 - 1


def _frames(pixels: Float[Tensor, "n 3 H W"]) -> UInt8[Tensor, "n 3 H W"]:
    return pixels.float().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
