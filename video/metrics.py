"""How alike two videos are: per-frame measures, and distances by networks whose weights you have.

PSNR, SSIM and latent error need nothing. LPIPS and FVD need a network that is too large to ship:
pass its TorchScript file.
"""

import math
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

PEAK = 255.0
HIGHEST_PSNR = 100.0
"""Given to identical frames, so that means over frames stay finite."""


def psnr(
    predicted: UInt8[Tensor, "*b 3 H W"], real: UInt8[Tensor, "*b 3 H W"]
) -> Float[Tensor, "*b"]:
    """Peak signal-to-noise ratio per frame in dB, at most 100.

    PSNR = 10 log10(255^2 / mean((predicted - real)^2))
    """
    return _decibels((predicted.float() - real.float()).square().mean((-3, -2, -1)))


def foreground_psnr(
    predicted: UInt8[Tensor, "*b 3 H W"],
    real: UInt8[Tensor, "*b 3 H W"],
    background: UInt8[Tensor, "*#b 3 H W"],
    threshold: int = 25,
) -> Float[Tensor, "*b"]:
    """PSNR over the pixels where the real frame differs from a background; NaN if none does.

    Args:
        predicted: frames to judge.
        real: frames that they should be.
        background: what is there when nothing is going on, such as `median_frame` of an episode.
        threshold: a pixel is foreground if any of its colours is further than this from the
            background, in units of 0..255.
    """
    difference = (real.float() - background.float()).abs().amax(-3, keepdim=True)
    foreground = (difference > threshold).float()
    squared = (predicted.float() - real.float()).square() * foreground
    return _decibels(squared.sum((-3, -2, -1)) / (3 * foreground.sum((-3, -2, -1))))


def median_frame(frames: UInt8[Tensor, "n 3 H W"]) -> UInt8[Tensor, "3 H W"]:
    """Per pixel and colour the lower median over the frames."""
    return frames.median(0).values


def ssim(
    predicted: UInt8[Tensor, "*b 3 H W"], real: UInt8[Tensor, "*b 3 H W"]
) -> Float[Tensor, "*b"]:
    """Structural similarity per frame, 1 for identical frames (torchmetrics, 11x11 Gaussian)."""
    values = structural_similarity_index_measure(
        predicted.reshape(-1, *predicted.shape[-3:]).float(),
        real.reshape(-1, *real.shape[-3:]).float(),
        data_range=PEAK,
        reduction="none",
    )
    assert isinstance(values, Tensor)
    return values.reshape(predicted.shape[:-3])


def latent_mse(
    predicted: Float[Tensor, "*b C h w"], real: Float[Tensor, "*b C h w"]
) -> Float[Tensor, "*b"]:
    """Mean squared error of normalised latents per frame."""
    return (predicted - real).square().mean((-3, -2, -1))


def lpips(
    predicted: UInt8[Tensor, "n 3 H W"], real: UInt8[Tensor, "n 3 H W"], network: Path | str
) -> Float[Tensor, " n"]:
    """Learned perceptual distance per frame, 0 for identical frames.

    Args:
        predicted: frames to judge.
        real: frames that they should be.
        network: `vgg16.pt`, the TorchScript file that StyleGAN2-ADA's metrics use; called with
            `resize_images=False, return_lpips=True` it gives features whose squared distance is
            LPIPS (Zhang et al., arXiv 1801.03924).

    Raises:
        ValueError: no such file.
    """
    vgg = _load_network(network, "LPIPS", "vgg16.pt of StyleGAN2-ADA's metrics", predicted.device)
    features = [
        torch.cat(
            [vgg(f.float(), resize_images=False, return_lpips=True) for f in frames.split(16)]
        )
        for frames in (predicted, real)
    ]
    return (features[0] - features[1]).square().sum(-1)


def fvd(
    predicted: UInt8[Tensor, "n t 3 H W"], real: UInt8[Tensor, "m t 3 H W"], network: Path | str
) -> float:
    """Frechet video distance between two sets of videos; some hundred of each make it stable.

    Args:
        predicted: videos to judge; I3D wants at least 10 frames.
        real: others to compare them with.
        network: `i3d_torchscript.pt`, the TorchScript file of StyleGAN-V's metrics; it is called
            with `(n, 3, t, H, W)` in 0..255 and `rescale=True, resize=True, return_features=True`.

    Raises:
        ValueError: no such file.

    Source: Unterthiner et al., arXiv 1812.01717.
    """
    i3d = _load_network(network, "FVD", "i3d_torchscript.pt of StyleGAN-V", predicted.device)
    features = [
        torch.cat(
            [
                i3d(v.transpose(1, 2).float(), rescale=True, resize=True, return_features=True)
                for v in videos.split(4)
            ]
        )
        for videos in (predicted, real)
    ]
    return frechet_distance(*features)


def frechet_distance(first: Float[Tensor, "n D"], second: Float[Tensor, "m D"]) -> float:
    """Squared distance between the Gaussians that fit two sets of features.

    d = |mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1^(1/2) S_2 S_1^(1/2))^(1/2))

    Raises:
        ValueError: fewer than two rows in a set.
    """
    if len(first) < 2 or len(second) < 2:
        raise ValueError(f"a covariance needs two rows or more, got {len(first)}, {len(second)}")
    first, second = first.double(), second.double()
    covariance_1 = torch.atleast_2d(first.T.cov())
    covariance_2 = torch.atleast_2d(second.T.cov())
    root = _square_root(covariance_1)
    cross = _square_root(root @ covariance_2 @ root).trace()
    spread = covariance_1.trace() + covariance_2.trace() - 2 * cross
    return float((first.mean(0) - second.mean(0)).square().sum() + spread)


def _decibels(mean_squared_error: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    lowest = PEAK**2 * 10 ** (-HIGHEST_PSNR / 10)
    return 20 * math.log10(PEAK) - 10 * mean_squared_error.clamp_min(lowest).log10()


def _square_root(matrix: Float[Tensor, "D D"]) -> Float[Tensor, "D D"]:
    """Of a symmetric matrix without negative eigenvalues."""
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    return vectors * values.clamp_min(0).sqrt() @ vectors.T


def _load_network(path: Path | str, metric: str, wanted: str, device: torch.device):
    if not Path(path).is_file():
        raise ValueError(
            f"{metric} needs a network, and there is no file {path}. Get {wanted} and pass its "
            "path, or leave this metric out."
        )
    return torch.jit.load(str(path), map_location=device).eval()
