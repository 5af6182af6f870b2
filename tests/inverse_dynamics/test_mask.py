"""The learned mask: it hides, it is asked to show little, and it finds what matters."""

import numpy as np
import pytest
import torch

from inverse_dynamics.losses import action_loss
from inverse_dynamics.mask import PictureMask
from inverse_dynamics.mask_video import mask
from inverse_dynamics.model import InverseDynamicsModel
from inverse_dynamics.network import ActionReader
from video.errors import DatasetError
from video.muon import Muon
from video.statistics import Normalizer
from video.video_file import read_video


def test_everything_is_shown_at_first():
    frames = torch.randn(2, 1, 3, 8, 8)
    masked, shown = PictureMask(3, 4, patch=4)(frames)
    assert masked.equal(frames)
    assert shown.shape == (2, 1, 8, 8)
    torch.testing.assert_close(shown, torch.full((2, 1, 8, 8), 0.8808), atol=1e-4, rtol=0)


def test_what_is_hidden_is_zero_and_the_rounding_is_passed_over():
    mask = PictureMask(1, 2)
    for parameter in mask.decide[-1].parameters():  # the last layer alone decides, for hiding
        torch.nn.init.constant_(parameter, -0.1 if parameter.ndim == 1 else 0.0)
    masked, shown = mask(torch.ones(1, 1, 1, 4, 4))
    assert (shown > 0.4).all()
    assert not masked.any()
    masked.sum().backward()
    assert all(parameter.grad is not None for parameter in mask.parameters())


def moving_dot(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """A dot in the left half moves as the actions say; the right half is noise."""
    frames = 0.5 * torch.randn(16, 4, 1, 1, 8, 8, generator=generator)
    places = torch.randint(0, 8, (16, 4), generator=generator)
    frames[..., :4] = 0
    for clip in range(16):
        for time in range(4):
            frames[clip, time, 0, 0, places[clip, time], 1] = 3.0
    return frames, (places.diff(dim=1) / 7.0)[..., None]


def test_the_mask_learns_where_the_action_is():
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    network = ActionReader([1, 1, 8, 8], ["number"], 0, 16, 1, 2, 8, 0.0, masked=True)
    optimizer = Muon(network.parameters())
    for _ in range(150):
        frames, actions = moving_dot(generator)
        readout = network(frames)
        loss = action_loss(
            readout.actions, actions, torch.ones(16, 3, 1, dtype=torch.bool), ["number"]
        )
        loss = loss + readout.shown.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    frames, actions = moving_dot(generator)
    readout = network.eval()(frames)
    is_dot = frames[:, :, :, 0] == 3.0
    assert readout.shown[is_dot].round().mean() > 0.9
    assert readout.shown.mean() < 0.2
    assert (readout.actions.location - actions).abs().mean() < 0.1


def save_model(folder, masked: bool):
    """A model of the tiny dataset's frames, whose mask hides the left half of every patch."""
    network = ActionReader([1, 3, 32, 32], ["number"] * 2, 0, 16, 1, 2, 4, patch=4, masked=masked)
    if network.mask is not None:
        side = torch.tensor([-9.0, -9.0, 9.0, 9.0]).repeat(4)
        network.mask.decide[-1].load_state_dict({"weight": torch.zeros(16, 4, 1, 1), "bias": side})
    normalizer = Normalizer(-np.ones(2), np.ones(2))
    model = InverseDynamicsModel(network, None, 10.0, ("top",), (32, 32), 6, normalizer, ("x", "y"))
    model.save_pretrained(folder)
    return folder


def test_the_mask_is_written_as_video(tiny_dataset, tmp_path):
    model = save_model(tmp_path / "model", masked=True)
    (path,) = mask(model, tiny_dataset, tmp_path / "out", split="test")
    assert path == tmp_path / "out" / "0003-top.mp4"
    pictures = read_video(path, np.arange(20)).transpose(0, 3, 1, 2).astype(float)
    assert pictures.shape == (20, 3, 128, 256)
    seen, masked = pictures[..., :128], pictures[..., 128:]
    stripes = (np.arange(128) // 8) % 2 == 1  # what is shown, four times enlarged
    inner = np.isin(np.arange(128) % 8, (2, 3, 4, 5))  # away from the codec's soft edges
    assert abs(masked - seen)[..., stripes & inner].mean() < 6
    assert abs(masked - 0.2 * seen)[..., ~stripes & inner].mean() < 6


def test_without_a_mask_there_is_nothing_to_see(tiny_dataset, tmp_path):
    model = save_model(tmp_path / "model", masked=False)
    with pytest.raises(DatasetError, match="has no mask"):
        mask(model, tiny_dataset, tmp_path / "out")
    model = save_model(tmp_path / "model", masked=True)
    with pytest.raises(DatasetError, match="no episodes in split 'none'"):
        mask(model, tiny_dataset, tmp_path / "out", split="none")
