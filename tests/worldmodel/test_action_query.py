"""A world model that reads actions off video of any length."""

import dataclasses

import pytest
import torch
from tiny_world_models import tiny_world_model

from video.action_model import load_action_model
from video.calibration import Calibration
from video.errors import DatasetError
from worldmodel import action_query
from worldmodel.action_query import InverseDynamicsQuery, block_frames, combine
from worldmodel.queries import inverse_dynamics
from worldmodel.rollout_state import block_noise


@pytest.fixture(scope="module")
def query() -> InverseDynamicsQuery:
    return InverseDynamicsQuery(tiny_world_model())


def test_blocks_begin_behind_every_frame():
    assert block_frames(4, 2).tolist() == [[0, 0, 1, 2], [0, 1, 2, 3]]
    assert block_frames(3, 4).tolist() == [[0, 0, 1, 2, 2, 2]]  # too short: it stands still


def test_readings_are_averaged_over_blocks_and_draws():
    """Two draws, two blocks of two actions, three steps: the middle one is in both blocks."""
    readings = torch.tensor([[[[1.0], [2.0]], [[4.0], [5.0]]], [[[3.0], [2.0]], [[4.0], [7.0]]]])
    mean, spread = combine(readings[:, None], 3)
    assert mean.flatten().tolist() == [2.0, 3.0, 6.0]
    expected = (torch.ones(3) + action_query.LEAST_SPREAD**2).sqrt()
    torch.testing.assert_close(spread.flatten(), expected)
    assert combine(readings[:, None], 2).mean.flatten().tolist() == [2.0, 3.0]


def test_it_is_the_query_of_every_block(query, monkeypatch):
    monkeypatch.setattr(action_query, "DRAWS", 1)
    network, latents = query.model.network, torch.randn(1, 5, 1, 4, 8, 8)
    anchor = latents[:, :1].expand(-1, 2, -1, -1, -1, -1)
    zero = torch.zeros(1, dtype=torch.long)
    noise = block_noise(network, anchor, zero, zero)
    own = inverse_dynamics(network, anchor, latents[:, 1:], noise, action_query.STEPS)
    torch.testing.assert_close(query.read(latents).mean, own)


@pytest.mark.parametrize("frames", [2, 5, 11])
def test_any_length_from_two_frames_on_is_read(query, frames):
    mean, spread = query.read(torch.randn(2, frames, 1, 4, 8, 8))
    assert mean.shape == spread.shape == (2, frames - 1, 2)
    assert (spread > action_query.LEAST_SPREAD).all()


def test_a_reading_depends_on_nothing_but_its_frames(query, monkeypatch):
    latents = torch.randn(3, 9, 1, 4, 8, 8)
    together = query.read(latents)
    for row in range(3):
        alone = query.read(latents[row : row + 1])
        torch.testing.assert_close(alone.mean[0], together.mean[row])
        torch.testing.assert_close(alone.spread[0], together.spread[row])
    monkeypatch.setattr(action_query, "BLOCKS_AT_ONCE", 2)
    torch.testing.assert_close(query.read(latents).mean, together.mean)
    monkeypatch.setattr(action_query, "SEED", 1)
    assert not query.read(latents).mean.equal(together.mean)


def test_a_world_models_folder_reads_actions(query, tmp_path):
    model = tiny_world_model()
    model.save_pretrained(tmp_path / "model")
    Calibration((0.9,), torch.tensor([[1.0, 2.0]]), 100).save(tmp_path / "model")
    loaded = load_action_model(tmp_path / "model")
    assert isinstance(loaded, InverseDynamicsQuery)
    frames = torch.randint(0, 256, (6, 1, 3, 32, 32), dtype=torch.uint8)
    read = loaded.read(loaded.encode(frames)[None])
    assert read.mean.equal(query.read(query.encode(frames)[None]).mean)
    assert loaded.calibration is not None
    assert loaded.fingerprint == query.fingerprint
    assert loaded.fingerprint != InverseDynamicsQuery(tiny_world_model(seed=1)).fingerprint
    assert loaded.latents_of == model.autoencoder.fingerprint


def test_what_cannot_be_read_is_refused(query):
    with pytest.raises(ValueError, match="two frames"):
        query.read(torch.zeros(1, 1, 1, 4, 8, 8))
    with pytest.raises(DatasetError, match="without any actions"):
        InverseDynamicsQuery(dataclasses.replace(query.model, action_normalizer=None))
