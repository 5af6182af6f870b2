import numpy as np
import pytest
import torch
from torch import Tensor, nn

from video.metrics import (
    foreground_psnr,
    frechet_distance,
    fvd,
    latent_mse,
    lpips,
    median_frame,
    psnr,
    ssim,
)


def grey(value: int, *shape: int) -> Tensor:
    return torch.full((*shape, 3, 16, 16), value, dtype=torch.uint8)


def test_psnr_of_known_errors():
    predicted = torch.stack([grey(110), grey(100), grey(0)])
    real = torch.stack([grey(100), grey(100), grey(255)])
    expected = torch.tensor([28.1308, 100.0, 0.0])
    torch.testing.assert_close(psnr(predicted, real), expected, atol=1e-4, rtol=0)


def test_psnr_is_per_frame():
    assert psnr(grey(1, 2, 5), grey(3, 2, 5)).shape == (2, 5)


def test_foreground_psnr_counts_only_what_differs_from_the_background():
    background = grey(100)
    real = background.clone()
    real[:, :4, :8] = 200  # an object
    predicted = real.clone()
    predicted[:, :4, :8] = 190  # 10 off on the object
    predicted[:, 8:] = 0  # and anything in the background
    value = foreground_psnr(predicted[None], real[None], background)
    torch.testing.assert_close(value, torch.tensor([28.1308]), atol=1e-4, rtol=0)


def test_foreground_psnr_without_foreground_is_nan():
    assert foreground_psnr(grey(110, 1), grey(110, 1), grey(100)).isnan().all()


def test_median_frame_ignores_a_passing_object():
    frames = torch.stack([grey(10), grey(10), grey(250)])
    assert torch.equal(median_frame(frames), grey(10))


def test_ssim_of_identical_and_of_constant_frames():
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (2, 3, 3, 16, 16), dtype=torch.uint8, generator=generator)
    torch.testing.assert_close(ssim(frames, frames), torch.ones(2, 3))
    # of constant frames only luminance is left: (2 a b + C) / (a^2 + b^2 + C), C = (0.01 * 255)^2
    constant = (2 * 100 * 200 + 2.55**2) / (100**2 + 200**2 + 2.55**2)
    value = ssim(grey(100, 1), grey(200, 1))
    torch.testing.assert_close(
        value, torch.tensor([constant], dtype=value.dtype), atol=1e-4, rtol=0
    )


def test_latent_mse():
    predicted = torch.zeros(2, 3, 8, 4, 4)
    real = predicted.clone()
    real[1, 2] = 3.0
    expected = torch.zeros(2, 3)
    expected[1, 2] = 9.0
    assert torch.equal(latent_mse(predicted, real), expected)


def test_frechet_distance_of_known_gaussians():
    # one dimension: (mu_1 - mu_2)^2 + (sigma_1 - sigma_2)^2 with means 0, 3 and deviations 1, 2
    first, second = torch.tensor([[-1.0], [0.0], [1.0]]), torch.tensor([[1.0], [3.0], [5.0]])
    assert frechet_distance(first, second) == pytest.approx(9 + 1)
    generator = np.random.default_rng(0)
    features = torch.from_numpy(generator.normal(size=(50, 4)))
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(features, features + 2) == pytest.approx(4 * 4)
    with pytest.raises(ValueError, match="two rows"):
        frechet_distance(first[:1], second)


class Vgg(nn.Module):
    """Called as StyleGAN2-ADA's vgg16.pt is: the mean of every colour is the feature."""

    def forward(self, frames: Tensor, resize_images: bool, return_lpips: bool) -> Tensor:
        assert return_lpips
        assert not resize_images
        return frames.mean((2, 3))


class I3d(nn.Module):
    """Called as StyleGAN-V's i3d_torchscript.pt is: its features are two frames' red."""

    def forward(self, video: Tensor, rescale: bool, resize: bool, return_features: bool) -> Tensor:
        assert return_features
        assert rescale
        assert resize
        return video[:, 0, :, 0, 0][:, [0, -1]]


def save_script(module: nn.Module, path) -> str:
    torch.jit.save(torch.jit.script(module), str(path))
    return str(path)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_lpips_with_a_local_network(tmp_path):
    network = save_script(Vgg(), tmp_path / "vgg16.pt")
    value = lpips(grey(12, 20), grey(10, 20), network)
    torch.testing.assert_close(value, torch.full((20,), 3 * 4.0))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_fvd_with_a_local_network(tmp_path):
    network = save_script(I3d(), tmp_path / "i3d_torchscript.pt")
    videos = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1, 1).expand(6, 10, 3, 4, 4)
    moved = videos.clone()
    moved[:, -1] += 3
    assert fvd(videos, videos, network) == pytest.approx(0, abs=1e-6)
    assert fvd(moved, videos, network) == pytest.approx(9)


def test_without_the_network_the_file_is_named():
    with pytest.raises(ValueError, match=r"no file nowhere/vgg16.pt. Get vgg16.pt"):
        lpips(grey(1, 1), grey(1, 1), "nowhere/vgg16.pt")
    with pytest.raises(ValueError, match=r"FVD needs .* i3d_torchscript.pt of StyleGAN-V"):
        fvd(grey(1, 2, 10), grey(1, 2, 10), "nowhere")
