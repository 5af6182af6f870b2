import json
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import video.autoencoder
from video.autoencoder import FrameAutoencoder
from video.autoencoder_training import add_noise, reconstruction_loss
from video.episodes import open_dataset
from video.errors import DatasetError
from video.metrics import psnr
from video.muon import Muon
from video.resizing import resize_frames


def tiny_network(channels: int = 4, width: int = 16) -> diffusers.AutoencoderTiny:
    torch.manual_seed(0)
    return diffusers.AutoencoderTiny(
        in_channels=48,
        out_channels=48,
        latent_channels=channels,
        encoder_block_out_channels=(width, width),
        decoder_block_out_channels=(width, width),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )


def random_frames(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


@pytest.fixture
def autoencoder() -> FrameAutoencoder:
    model = FrameAutoencoder(tiny_network(), pixel_fold=4).eval()
    model.fit_statistics(random_frames(16, 3, 32, 32))
    return model


def test_frames_to_latents_and_back_keep_every_leading_axis(autoencoder):
    frames = random_frames(2, 5, 1, 3, 32, 32)
    latents = autoencoder.encode(frames)
    assert latents.shape == (2, 5, 1, 4, 4, 4)
    assert latents.shape[-3:] == autoencoder.latent_shape(32, 32)
    decoded = autoencoder.decode(latents)
    assert decoded.shape == frames.shape
    assert decoded.dtype == torch.uint8
    assert autoencoder.encode(frames[:0]).shape == (0, 5, 1, 4, 4, 4)
    assert autoencoder.decode(latents[:0]).shape == (0, 5, 1, 3, 32, 32)


def test_latents_are_normalised_per_channel(autoencoder):
    latents = autoencoder.encode(random_frames(16, 3, 32, 32)).transpose(0, 1).flatten(1)
    torch.testing.assert_close(latents.mean(1), torch.zeros(4), atol=2e-3, rtol=0)
    torch.testing.assert_close(latents.std(1), torch.ones(4), atol=2e-3, rtol=0)


def test_decode_undoes_the_normalisation(autoencoder):
    frames = random_frames(3, 3, 32, 32)
    with torch.no_grad():
        pixels = autoencoder.decode_pixels(autoencoder.encode_pixels(frames.float() / 127.5 - 1))
    expected = ((pixels.clamp(-1, 1) + 1) * 127.5).round()
    found = autoencoder.decode(autoencoder.encode(frames)).float()
    assert (found - expected).abs().max() <= 1


def test_latents_may_enter_a_training_graph(autoencoder):
    latents = autoencoder.encode(random_frames(2, 3, 32, 32))
    weight = torch.ones((), requires_grad=True)
    (latents * weight).square().sum().backward()
    assert weight.grad is not None


def test_chunks_change_nothing(autoencoder, monkeypatch):
    frames = random_frames(7, 3, 32, 32)
    latents = autoencoder.encode(frames)
    decoded = autoencoder.decode(latents)
    monkeypatch.setattr(video.autoencoder, "PIXELS_AT_ONCE", 3 * 32 * 32)
    torch.testing.assert_close(autoencoder.encode(frames), latents, atol=1e-5, rtol=0)
    assert (autoencoder.decode(latents).int() - decoded.int()).abs().max() <= 1


def test_saved_folder_holds_no_pickle_and_loads_the_same(autoencoder, tmp_path):
    autoencoder.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    loaded = FrameAutoencoder.from_pretrained(tmp_path)
    frames = random_frames(2, 3, 32, 32, seed=1)
    assert torch.equal(loaded.encode(frames), autoencoder.encode(frames))
    assert loaded.fingerprint == autoencoder.fingerprint
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_half_precision_halves_the_file_and_leaves_the_model_alone(autoencoder, tmp_path):
    before = autoencoder.fingerprint
    autoencoder.save_pretrained(tmp_path, half_precision=True)
    weights = load_file(tmp_path / "diffusion_pytorch_model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float16}
    loaded = FrameAutoencoder.from_pretrained(tmp_path)
    assert next(loaded.parameters()).dtype == torch.float32
    frames = random_frames(2, 3, 32, 32)
    torch.testing.assert_close(loaded.encode(frames), autoencoder.encode(frames), atol=0.02, rtol=0)
    assert FrameAutoencoder(autoencoder.network, 4).fingerprint != before
    assert autoencoder.fingerprint == before


def test_fingerprint_follows_weights_statistics_and_fold(autoencoder):
    def fingerprint(**changed) -> str:
        options = {"pixel_fold": 4, "mean": [0.0] * 4, "std": [1.0] * 4} | changed
        return FrameAutoencoder(tiny_network(), **options).fingerprint

    other = tiny_network()
    other.encoder.layers[0].bias.data[0] += 1e-3
    moved = FrameAutoencoder(other, 4, [0.0] * 4, [1.0] * 4).fingerprint
    assert fingerprint() == fingerprint()
    all_different = {fingerprint(), moved, fingerprint(std=[2.0] * 4), fingerprint(pixel_fold=2)}
    assert len(all_different) == 4


def test_bfloat16_gives_nearly_the_same(autoencoder, tmp_path):
    autoencoder.save_pretrained(tmp_path)
    short = FrameAutoencoder.from_pretrained(tmp_path, use_bfloat16=True)
    frames = random_frames(2, 3, 32, 32)
    exact, rounded = autoencoder.encode(frames), short.encode(frames)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, atol=0.3, rtol=0)
    assert not torch.equal(rounded, exact)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(autoencoder.encode(frames), exact)


def test_overfits_one_batch():
    model = FrameAutoencoder(tiny_network(channels=8, width=32), pixel_fold=4)
    coarse = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    pixels = torch.nn.functional.interpolate(coarse, (32, 32), mode="bilinear").clamp(-1, 1)
    optimizer = Muon(model.parameters())
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = reconstruction_loss(model.decode_pixels(model.encode_pixels(pixels)), pixels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_reconstruction_loss_of_a_known_error():
    decoded, pixels = torch.full((2, 3, 4, 4), 0.5), torch.zeros(2, 3, 4, 4)
    assert reconstruction_loss(decoded, pixels).item() == pytest.approx(0.5 + 2 * 0.25)


def test_noise_is_relative_to_each_channels_spread():
    latents = torch.randn(400, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    latents[:, 1] *= 10
    torch.manual_seed(1)
    noisy = add_noise(latents, 0.3)
    deviation = (noisy - latents).std((0, 2, 3))
    # of a scale that is uniform in 0..0.3 the root mean square is 0.3 / sqrt(3)
    torch.testing.assert_close(
        deviation, 0.3 / 3**0.5 * torch.tensor([1.0, 10.0]), rtol=0.1, atol=0
    )
    torch.manual_seed(1)
    assert torch.equal(add_noise(latents, 0.3), noisy)
    assert add_noise(latents, 0.0) is latents


FOREIGN = {
    "AutoencoderKL": {
        "block_out_channels": (32, 32),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "scaling_factor": 0.5,
        "shift_factor": 0.25,
    },
    "AutoencoderDC": {
        "latent_channels": 4,
        "encoder_block_out_channels": (16, 16),
        "decoder_block_out_channels": (16, 16),
        "encoder_layers_per_block": (1, 1),
        "decoder_layers_per_block": (1, 1),
        "encoder_block_types": "ResBlock",
        "decoder_block_types": "ResBlock",
        "encoder_qkv_multiscales": ((), ()),
        "decoder_qkv_multiscales": ((), ()),
    },
    "VQModel": {
        "block_out_channels": (32, 32),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "latent_channels": 4,
    },
    "AutoencoderKLWan": {
        "base_dim": 8,
        "z_dim": 4,
        "dim_mult": [1, 2],
        "num_res_blocks": 1,
        "temperal_downsample": [True],
    },
}


@pytest.mark.parametrize("name", FOREIGN)
def test_any_diffusers_autoencoder_loads_from_its_folder(name, tmp_path):
    torch.manual_seed(0)
    getattr(diffusers, name)(**FOREIGN[name]).save_pretrained(tmp_path)
    model = FrameAutoencoder.from_pretrained(tmp_path)
    assert model.latent_shape(16, 16) == (4, 8, 8)
    if model.mean is None:
        with pytest.raises(ValueError, match="fit_statistics"):
            model.encode(random_frames(1, 3, 16, 16))
        model.fit_statistics(random_frames(4, 3, 16, 16))
    assert model.decode(model.encode(random_frames(2, 1, 3, 16, 16))).shape == (2, 1, 3, 16, 16)


def test_scaling_factor_becomes_mean_and_std(tmp_path):
    diffusers.AutoencoderKL(**FOREIGN["AutoencoderKL"]).save_pretrained(tmp_path)
    model = FrameAutoencoder.from_pretrained(tmp_path)
    assert model.mean is not None
    assert model.std is not None
    assert model.mean.flatten().tolist() == [0.25] * 4  # (z - shift) * scaling
    assert model.std.flatten().tolist() == [2.0] * 4


def test_sizes_that_do_not_come_back_are_refused(autoencoder):
    with pytest.raises(ValueError, match="cannot encode frames of 30x32"):
        autoencoder.latent_shape(30, 32)
    with pytest.raises(ValueError, match="frames of 36x32 come back as 40x32"):
        autoencoder.latent_shape(36, 32)
    with pytest.raises(ValueError, match="both mean and std"):
        FrameAutoencoder(tiny_network(), 4, mean=[0.0] * 4)
    with pytest.raises(ValueError, match="pixel_fold must be"):
        FrameAutoencoder(tiny_network(), 0)


def test_unusable_folders_are_named(autoencoder, tmp_path):
    with pytest.raises(DatasetError, match=r"no config.json.*'vae'"):
        FrameAutoencoder.from_pretrained(tmp_path)
    autoencoder.save_pretrained(tmp_path)
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    kept = load_file(weights)
    kept.pop("encoder.layers.0.bias")
    save_file(kept, weights)
    with pytest.raises(DatasetError, match=r"lacks 1 weights .*'encoder.layers.0.bias'"):
        FrameAutoencoder.from_pretrained(tmp_path)
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(DatasetError, match=r"cannot read .*diffusion_pytorch_model.safetensors"):
        FrameAutoencoder.from_pretrained(tmp_path)
    weights.unlink()
    with pytest.raises(DatasetError, match=r"holds no \.safetensors weights"):
        FrameAutoencoder.from_pretrained(tmp_path)
    save_file(kept, weights)
    config = json.loads((tmp_path / "config.json").read_text())
    config["_class_name"] = "AutoencoderOfTomorrow"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(DatasetError, match="'AutoencoderOfTomorrow', which is no autoencoder"):
        FrameAutoencoder.from_pretrained(tmp_path)


def test_the_shipped_autoencoder_is_small_and_sharp_on_held_out_frames():
    folder = Path(video.autoencoder.__file__).parent
    shipped = folder / "autoencoders" / "metaworld"
    assert sum(path.stat().st_size for path in shipped.iterdir()) <= 5e6
    dataset = open_dataset(folder / "datasets" / "metaworld")
    frames = [
        resize_frames(dataset.read_frames(int(episode), np.arange(0, 36, 6), "corner2"), (64, 64))
        for episode in dataset.splits["test"][::3]
    ]
    real = torch.from_numpy(np.stack(frames))
    model = FrameAutoencoder.from_pretrained(shipped)
    latents = model.encode(real)
    assert latents.shape[2:] == (8, 8, 8)
    assert 0.9 < latents.std() < 1.1
    assert psnr(model.decode(latents), real).mean() > 31
