"""The saved model: its folder, what it takes, and how it reads."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_autoencoders import tiny_autoencoder

from inverse_dynamics.model import InverseDynamicsModel
from inverse_dynamics.network import ActionReader
from video.calibration import Calibration
from video.errors import DatasetError
from video.statistics import Normalizer


def build(**options) -> InverseDynamicsModel:
    torch.manual_seed(0)
    network = ActionReader([1, 4, 8, 8], ["number", "number"], 0, 16, 1, 2, 4)
    torch.nn.init.normal_(network.read_actions.weight)
    return InverseDynamicsModel(
        network=network.eval(),
        autoencoder=tiny_autoencoder(),
        fps=10.0,
        cameras=("top",),
        frame_size=(32, 32),
        window=5,
        action_normalizer=Normalizer(np.array([-2.0, 0.0]), np.array([2.0, 10.0])),
        action_names=("x", "y"),
        calibration=Calibration((0.9,), torch.tensor([[1.0, 2.0]]), 100),
        **options,
    )


@pytest.fixture
def folder(tmp_path):
    build().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_model_comes_back_as_it_was(folder):
    model, loaded = build(), InverseDynamicsModel.from_pretrained(folder)
    latents = torch.randn(2, 8, 1, 4, 8, 8)
    assert loaded.actions(latents).equal(model.actions(latents))
    for name in ("fps", "cameras", "frame_size", "window", "action_names", "kinds"):
        assert getattr(loaded, name) == getattr(model, name), name
    assert loaded.calibration is not None
    assert loaded.calibration.radii.tolist() == [[1.0, 2.0]]
    assert not any(path.suffix in (".bin", ".pt", ".pkl") for path in folder.rglob("*"))


def test_actions_are_in_the_units_of_the_data():
    model = build()
    latents = torch.randn(3, 4, 1, 4, 8, 8)
    mean = model.read(latents).mean
    expected = mean * torch.tensor([2.0, 5.0]) + torch.tensor([0.0, 5.0])
    torch.testing.assert_close(model.actions(latents), expected)
    assert model.actions(latents).shape == (3, 3, 2)


def test_the_robots_state_is_told_in_the_units_of_the_data(tmp_path):
    torch.manual_seed(0)
    model = build()
    assert model.state_dim == 0
    with pytest.raises(ValueError, match="without the robot's state"):
        model.states(torch.zeros(1, 2, 1, 4, 8, 8))
    model.network = ActionReader([1, 4, 8, 8], ["number", "number"], 1, 16, 1, 2, 4).eval()
    model.state_normalizer = Normalizer(np.array([10.0]), np.array([30.0]))
    latents = torch.randn(2, 8, 1, 4, 8, 8)  # longer than a window
    frame = model.network.states(model.network.tokens(latents[:, 6:7]))
    torch.testing.assert_close(model.states(latents)[:, 6:7], 20 + 10 * frame)
    model.save_pretrained(tmp_path / "model")
    loaded = InverseDynamicsModel.from_pretrained(tmp_path / "model")
    assert loaded.state_dim == 1
    assert loaded.states(latents).equal(model.states(latents))
    assert loaded.fingerprint == model.fingerprint


def test_any_length_from_two_frames_on_is_read():
    model = build()
    for frames in (2, 5, 6, 13):
        assert model.actions(torch.randn(1, frames, 1, 4, 8, 8)).shape == (1, frames - 1, 2)


def test_frames_are_read_through_the_own_autoencoder():
    model = build()
    frames = torch.randint(0, 256, (2, 4, 1, 3, 32, 32), dtype=torch.uint8)
    latents = model.autoencoder.encode(frames).half().float()
    torch.testing.assert_close(model.actions_of_frames(frames), model.actions(latents))


@pytest.mark.parametrize("shape", [(1, 1, 1, 4, 8, 8), (1, 4, 2, 4, 8, 8), (1, 4, 1, 4, 16, 8)])
def test_what_cannot_be_read_is_refused(shape):
    with pytest.raises(ValueError, match="with two frames or more"):
        build().read(torch.zeros(shape))


def test_folders_that_are_no_models_are_explained(folder, tmp_path):
    with pytest.raises(DatasetError, match=r"lightning fit -c configs/idm\.yaml"):
        InverseDynamicsModel.from_pretrained(tmp_path)
    path = folder / "inverse_dynamics.json"
    saved = json.loads(path.read_text())
    path.write_text(json.dumps(saved | {"actions": None}))
    with pytest.raises(DatasetError, match="lacks the range of the actions"):
        InverseDynamicsModel.from_pretrained(folder)
    path.write_text(json.dumps(saved | {"format": 9}))
    with pytest.raises(DatasetError, match="format 9"):
        InverseDynamicsModel.from_pretrained(folder)


def test_another_autoencoder_in_the_folder_is_found_out(folder):
    tiny_autoencoder(seed=1).save_pretrained(folder / "autoencoder")
    with pytest.raises(DatasetError, match="Put that one back"):
        InverseDynamicsModel.from_pretrained(folder)


def test_another_networks_weights_are_found_out(folder):
    """Diffusers itself would draw the missing ones at random."""
    path = folder / "network" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    lacking = sorted(weights)[0]
    weights["of_another.weight"] = weights.pop(lacking)
    save_file(weights, path)
    with pytest.raises(DatasetError, match=f"2 do not fit, the first is '{lacking}'"):
        InverseDynamicsModel.from_pretrained(folder)


def test_a_full_disk_leaves_the_old_model(folder, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ActionReader, "save_pretrained", full)
    with pytest.raises(DatasetError, match="No space left on device"):
        build().save_pretrained(folder)
    monkeypatch.undo()
    InverseDynamicsModel.from_pretrained(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
