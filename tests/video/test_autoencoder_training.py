import json

import imageio.v3 as iio
import lightning as L
import pytest
import torch
from tiny_autoencoders import tiny_autoencoder

from video.autoencoder import FrameAutoencoder
from video.autoencoder_training import AutoencoderTraining
from video.datamodule import ClipDataModule, ClipSource

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The '.*dataloader' does not have many workers"),
]


def train(dataset, folder, steps: int = 40, **options) -> AutoencoderTraining:
    torch.manual_seed(0)
    training = AutoencoderTraining(tiny_autoencoder().network.train(), 4, **options)
    source = ClipSource(str(dataset), validation_split="test")
    data = ClipDataModule([source], 1, 16, pad_start=0, in_memory=True, clips_per_validation=16)
    trainer = L.Trainer(
        max_steps=steps,
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(training, data)
    return training


def test_training_leaves_a_model_its_scores_and_a_picture(tiny_dataset, tmp_path):
    training = train(tiny_dataset, tmp_path)
    saved = FrameAutoencoder.from_pretrained(tmp_path / "model")
    assert saved.fingerprint == training.autoencoder.fingerprint
    scores = json.loads((tmp_path / "evaluation.json").read_text())
    assert scores["frames"] == 20  # the one episode that is held out
    assert scores["split"] == "validation"
    assert scores["latent_shape"] == [4, 8, 8]
    assert scores["psnr"] > scores["noisy_psnr"] > 10
    assert iio.imread(tmp_path / "reconstructions.png").shape == (2 * 32, 12 * 32, 3)
    untrained = train(tiny_dataset, tmp_path / "untrained", steps=1)
    assert untrained.autoencoder.fingerprint != saved.fingerprint
    first = json.loads((tmp_path / "untrained" / "evaluation.json").read_text())
    assert scores["psnr"] > first["psnr"] + 3


def test_same_seed_same_model(tiny_dataset, tmp_path):
    first, second = (
        train(tiny_dataset, tmp_path / name, steps=3).autoencoder.fingerprint for name in "ab"
    )
    assert first == second


def test_latents_are_of_unit_variance(tiny_dataset, tmp_path):
    model = train(tiny_dataset, tmp_path, steps=10, latent_noise=0.0).autoencoder
    data = ClipDataModule([ClipSource(str(tiny_dataset))], 1, 60, pad_start=0)
    data.setup()
    frames = data.train_clips[range(len(data.train_clips))]["frames"][:, 0, 0]
    spread = model.encode(frames).transpose(0, 1).flatten(1).std(1)
    torch.testing.assert_close(spread, torch.ones(4), atol=0.02, rtol=0)
