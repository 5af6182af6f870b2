"""Saved models that read actions, found by the class that their folder names."""

import json

import pytest
import torch
from torch import nn

from video.action_model import fingerprint_of, load_action_model
from video.calibration import Calibration
from video.errors import DatasetError


class Reader:
    """Stands for a model."""

    def __init__(self, folder, device):
        self.folder, self.device = folder, device

    @classmethod
    def from_pretrained(cls, folder, device):
        return cls(folder, device)


def described(folder, content):
    (folder / "model.json").write_text(json.dumps(content))
    return folder


def test_the_class_that_the_folder_names_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("video.action_model.import_module", lambda name: {"m": Module}[name])
    (tmp_path / "calibration.json").write_text("{}")
    loaded = load_action_model(described(tmp_path, {"action_model": "m.Reader"}), "meta")
    assert isinstance(loaded, Reader)
    assert (loaded.folder, loaded.device) == (tmp_path, "meta")


class Module:
    """Stands for the module of that class."""

    Reader = Reader


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"fps": 10}, "no action model, or one of an older layout"),
        ({"action_model": "nowhere_to_be_found.Reader"}, "cannot be imported"),
        ({"action_model": "video.action_model.Missing"}, "cannot be imported"),
        ({"action_model": "Reader"}, "cannot be imported"),
    ],
)
def test_folders_without_a_reader_are_explained(tmp_path, content, message):
    with pytest.raises(DatasetError, match=message):
        load_action_model(described(tmp_path, content))


def test_missing_and_damaged_folders_are_named(tmp_path):
    with pytest.raises(DatasetError, match="nowhere does not exist"):
        load_action_model(tmp_path / "nowhere")
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(DatasetError, match="damaged"):
        load_action_model(tmp_path)


def test_the_fingerprint_follows_weights_and_settings():
    torch.manual_seed(0)
    network = nn.Linear(2, 2)
    first = fingerprint_of(network, {"fps": 10})
    assert len(first) == 16
    assert fingerprint_of(network, {"fps": 10}) == first
    assert fingerprint_of(network, {"fps": 20}) != first
    with torch.no_grad():
        network.bias[0] += 1e-6
    assert fingerprint_of(network, {"fps": 10}) != first


def test_a_calibration_has_a_file_of_its_own(tmp_path):
    assert Calibration.load(tmp_path) is None
    saved = Calibration((0.5, 0.9), torch.tensor([[1.0, 2.0], [3.0, 4.0]]), 7)
    assert saved.save(tmp_path) == tmp_path / "calibration.json"
    loaded = Calibration.load(tmp_path)
    assert loaded is not None
    assert (loaded.levels, loaded.steps) == ((0.5, 0.9), 7)
    assert loaded.radius(0.9).tolist() == [3.0, 4.0]
    (tmp_path / "calibration.json").write_text("{")
    with pytest.raises(DatasetError, match="damaged"):
        Calibration.load(tmp_path)
