import numpy as np
import pytest
import torch

from policy.encoder import ObservationEncoder, Picture, as_views, channels_first
from video.statistics import Normalizer

SHAPES = {"latents": (2, 4, 8, 8), "pixels": (64, 64, 3), "state": (3,)}


def observation(envs: int = 5) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "latents": torch.randn(envs, 2, 4, 8, 8, generator=generator),
        "pixels": torch.randint(0, 256, (envs, 64, 64, 3), generator=generator).byte(),
        "state": torch.randn(envs, 3, generator=generator),
    }


@pytest.mark.parametrize("keys", [["state"], ["latents"], ["pixels"], list(SHAPES)])
def test_any_combination_becomes_features(keys):
    encoder = ObservationEncoder({key: SHAPES[key] for key in keys}, width=16, channels=4)
    features = encoder(observation())
    assert features.shape == (5, 16)
    for key in keys:
        changed = observation() | {key: observation()[key].flip(0)}
        assert not torch.allclose(encoder(changed), features)


def test_kinds_of_pictures_are_told_apart():
    assert channels_first((64, 48, 3)) == (1, 3, 64, 48)
    assert channels_first((2, 64, 48, 3)) == (2, 3, 64, 48)
    assert channels_first((2, 8, 6, 5)) == (2, 8, 6, 5)
    pixels = torch.zeros(1, 4, 4, 3, dtype=torch.uint8)
    pixels[0, 1, 2, 0] = 255
    seen = as_views(pixels)
    assert seen.shape == (1, 1, 3, 4, 4)
    assert (seen[0, 0, 0, 1, 2], seen.min(), seen.sum()) == (1, -1, 2 - 48)


def test_a_soft_centre_is_where_the_map_is():
    picture = Picture(1, 1, 3, 5, width=4, channels=1)
    scores = torch.full((1, 1, 3, 5), -100.0)
    scores[0, 0, 2, 1] = 100.0
    centers = scores.flatten(2).softmax(-1) @ picture.centers
    torch.testing.assert_close(centers[0, 0], torch.tensor([1.0, -0.5]))


def test_vectors_are_normalised_inside_and_that_is_saved():
    encoder = ObservationEncoder({"state": (2,)}, width=8)
    encoder.normalize_by("state", Normalizer(np.array([0.0, 5.0]), np.array([10.0, 5.0])))
    vector = encoder.embed["state"]
    expected = vector.project(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
    torch.testing.assert_close(vector(torch.tensor([[0.0, 5.0], [10.0, 5.0]])), expected)
    again = ObservationEncoder({"state": (2,)}, width=8)
    again.load_state_dict(encoder.state_dict())
    state = {"state": torch.tensor([[3.0, 7.0]])}
    torch.testing.assert_close(again(state), encoder(state))


def test_observations_without_a_shape_that_fits_are_refused():
    with pytest.raises(ValueError, match="neither a vector"):
        ObservationEncoder({"grid": (3, 3)})
    with pytest.raises(ValueError, match="at least one"):
        ObservationEncoder({})
