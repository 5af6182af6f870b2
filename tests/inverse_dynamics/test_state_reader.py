"""The network that tells the robot's state alone."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from tiny_datasets import FPS, moving_square

from inverse_dynamics.evaluate import evaluate
from inverse_dynamics.model import STATE_READER, InverseDynamicsModel
from inverse_dynamics.network import ActionReader
from inverse_dynamics.state_fitting import fit_state_reader
from inverse_dynamics.state_reader import StateReader
from video.clip_sources import ClipSource
from video.datamodule import ClipDataModule
from video.episodes import open_dataset
from video.errors import DatasetError
from video.statistics import Normalizer
from video.writer import DatasetWriter

SHAPE = [1, 3, 32, 32]


def tiny_reader(seed: int = 0) -> StateReader:
    torch.manual_seed(seed)
    return StateReader(SHAPE, 2, width=32, channels=8, dropout=0.0, patch=4).eval()


def model(reader: StateReader | None) -> InverseDynamicsModel:
    torch.manual_seed(0)
    network = ActionReader(SHAPE, ["number", "number"], 2, 16, 1, 2, 4, patch=4)
    return InverseDynamicsModel(
        network=network.eval(),
        autoencoder=None,
        fps=FPS,
        cameras=("top",),
        frame_size=(32, 32),
        window=5,
        action_normalizer=Normalizer(np.array([-1.0, -1.0]), np.array([1.0, 1.0])),
        action_names=("x", "y"),
        state_normalizer=Normalizer(np.array([10.0, 0.0]), np.array([30.0, 2.0])),
        state_reader=reader,
    )


@pytest.fixture
def data(tiny_dataset, tmp_path):
    """Squares whose states are known, and as many of which they are not."""
    blind = DatasetWriter(tmp_path / "blind", FPS, crf=10)
    for seed in range(3):
        episode = moving_square(seed, 20)
        episode.state = None
        blind.add(seed, episode, "train")
    sources = [ClipSource(str(path)) for path in (blind.finalize(), tiny_dataset)]
    module = ClipDataModule(sources, clip_frames=6, batch_size=8, pad_start=0)
    module.setup("fit")
    return module


def test_it_tells_the_state_instead_of_the_network_in_the_units_of_the_data():
    reader = tiny_reader()
    frames = torch.rand(2, 8, 1, 3, 32, 32) * 2 - 1  # longer than a window
    told = model(reader).states(frames)
    alone = reader(frames[:, 6:7]) * torch.tensor([10.0, 1.0]) + torch.tensor([20.0, 1.0])
    torch.testing.assert_close(told[:, 6:7], alone)
    assert not told.allclose(model(None).states(frames))
    assert model(reader).actions(frames).equal(model(None).actions(frames))


def test_a_model_comes_back_with_it(tmp_path):
    own = model(tiny_reader())
    own.save_pretrained(tmp_path / "model")
    loaded = InverseDynamicsModel.from_pretrained(tmp_path / "model")
    frames = torch.rand(1, 4, 1, 3, 32, 32)
    assert loaded.states(frames).equal(own.states(frames))
    assert loaded.fingerprint == own.fingerprint
    assert len({model(r).fingerprint for r in (None, tiny_reader(), tiny_reader(1))}) == 3
    with pytest.raises(ValueError, match="with two frames or more"):
        loaded.states(torch.zeros(1, 1, 1, 3, 32, 32))


def test_another_models_is_found_out(tmp_path):
    model(tiny_reader()).save_pretrained(tmp_path / "model")
    tiny_reader(1).save_pretrained(tmp_path / "model" / STATE_READER)
    with pytest.raises(DatasetError, match=r"state_reader has the fingerprint .* Put that one"):
        InverseDynamicsModel.from_pretrained(tmp_path / "model")


def fitted(data: ClipDataModule, steps: int, seed: int = 0) -> StateReader:
    reader = tiny_reader()
    fit_state_reader(reader, data, data.embodiments[0], steps, seed, nullcontext)
    return reader


def error(reader: StateReader, data: ClipDataModule) -> float:
    """Mean absolute error of the known states, normalised."""
    episodes = [data.train_clips.whole(number) for number in range(6)]
    known = [clip for clip in episodes if clip["state_mask"].all()]
    assert len(known) == 3
    each = [reader(c["frames"].float() / 127.5 - 1) - c["state"] for c in known]
    return torch.cat(each, dim=1).abs().mean().item()


def test_fitted_to_squares_it_tells_where_they_are(data):
    """Known ones alone: told that the others' states are zero, it would be off by far more."""
    mean = torch.cat([data.train_clips.whole(n)["state"] for n in (3, 4, 5)], dim=1)
    spread = (mean - mean.mean(1, keepdim=True)).abs().mean().item()
    assert error(fitted(data, 120), data) < 0.15 * spread


def test_the_same_seed_fits_the_same_and_leaves_the_generator_alone(data):
    first, again, other = (fitted(data, 2, seed).state_dict() for seed in (0, 0, 1))
    assert all(weight.equal(again[name]) for name, weight in first.items())
    assert any(not weight.equal(other[name]) for name, weight in first.items())
    reader = tiny_reader()
    before = torch.get_rng_state()
    fit_state_reader(reader, data, data.embodiments[0], 1, 0, nullcontext)
    assert torch.get_rng_state().equal(before)


def test_only_datasets_that_know_the_state_are_drawn_from(data):
    assert data.train_clips.parts_with("state") == [False, True]
    assert data.train_clips.parts_with("actions") == [True, True]
    batches = list(data.state_dataloader(3, 5))
    assert [batch["state_mask"].shape[0] for batch in batches] == [5, 5, 5]
    assert all(batch["state_mask"].all() for batch in batches)


def test_how_far_the_states_are_off_is_evaluated(tiny_dataset, tmp_path, capsys):
    own = model(tiny_reader())
    own.save_pretrained(tmp_path / "model")
    dataset = open_dataset(tiny_dataset)
    result = evaluate(tmp_path / "model", tiny_dataset, split="train")
    errors = []
    for episode in dataset.splits["train"]:
        first, length = dataset.starts[episode], dataset.lengths[episode]
        frames = dataset.read_frames(int(episode), np.arange(length), "top")
        told = own.states(own.encode(torch.from_numpy(frames).permute(0, 3, 1, 2))[None, :, None])
        true = torch.from_numpy(np.array(dataset.columns["state"][first : first + length]))
        errors.append((told[0] - true).abs())
    assert result["state_mae"] == pytest.approx(torch.cat(errors).mean(0).tolist(), rel=1e-4)
    assert "error of the state" in capsys.readouterr().out


def test_states_that_a_model_has_read_are_no_truth(tmp_path):
    own = model(tiny_reader())
    own.save_pretrained(tmp_path / "model")
    writer = DatasetWriter(tmp_path / "read", FPS, crf=10)
    episode = moving_square(0, 12)
    episode.notes["state_read_by"] = "another model"
    writer.add(0, episode, "test")
    assert "state_mae" not in evaluate(tmp_path / "model", writer.finalize())
