"""What becomes of a single frame."""

import pytest
import torch

from video.picture_encoder import PictureEncoder


def build(frame_shape, channels=1, patch=1) -> PictureEncoder:
    torch.manual_seed(0)
    return PictureEncoder(frame_shape, width=4, channels=channels, dropout=0, patch=patch)


def test_things_are_found_between_places():
    """The centre of a map that is bright in two neighbouring places lies between them."""
    encoder = build([1, 1, 4, 4])
    encoder.maps.load_state_dict({"weight": torch.ones(1, 1, 1, 1), "bias": torch.zeros(1)})
    encoder.values.load_state_dict(
        {"weight": torch.full((1, 1, 1, 1), 0.5), "bias": torch.zeros(1)}
    )
    features = torch.full((1, 1, 4, 4), -50.0)
    features[..., 1, 2] = features[..., 1, 3] = 50.0
    row, column, strength, value = encoder.find(features)[0].tolist()
    assert row == pytest.approx(-1 / 3)
    assert column == pytest.approx(2 / 3)
    assert strength == pytest.approx(50 - torch.tensor(8.0).log().item())
    assert value == pytest.approx(25)


def test_every_pixel_of_a_patch_is_seen():
    encoder = build([1, 3, 8, 8], channels=8, patch=4)
    frames = torch.randn(1, 1, 3, 8, 8, requires_grad=True)
    encoder(frames).sum().backward()
    assert frames.grad is not None
    assert (frames.grad != 0).all()


def test_all_views_are_seen():
    encoder, frames = build([2, 3, 8, 8], channels=4), torch.randn(2, 2, 3, 8, 8)
    changed = frames.clone()
    changed[:, 1] += torch.randn(3, 8, 8)
    assert (encoder(frames) != encoder(changed)).any(dim=1).all()


def test_low_precision_leaves_places_exact():
    """Autocast may round features, not what is found among them."""
    encoder, frames = build([1, 3, 8, 8], channels=4), torch.randn(5, 1, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        token = encoder(frames)
    assert token.dtype == torch.float32


def test_patches_must_fit():
    with pytest.raises(ValueError, match="pictures of 6x8 do not divide into patch=4"):
        build([1, 3, 6, 8], patch=4)
