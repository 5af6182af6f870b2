import numpy as np
import pytest
import torch
from gymnasium import spaces

from policy.observations import as_observation, shapes_of

LATENTS = spaces.Box(-np.inf, np.inf, (1, 4, 8, 8), np.float32)
STATE = spaces.Box(-1, 1, (3,), np.float64)


def test_spaces_tell_keys_and_shapes():
    both = spaces.Dict(latents=LATENTS, state=STATE)
    assert shapes_of(both) == {"latents": (1, 4, 8, 8), "state": (3,)}
    assert shapes_of(STATE) == {"observation": (3,)}
    with pytest.raises(ValueError, match="Box spaces"):
        shapes_of(spaces.Discrete(3))


def test_what_is_needed_is_taken_as_float_and_pixels_stay_bytes():
    given = {
        "pixels": np.zeros((2, 6, 6, 3), np.uint8),
        "state": np.ones((2, 3)),
        "other": np.zeros(2),
    }
    seen = as_observation(given, {"state": (3,), "pixels": (6, 6, 3)})
    assert list(seen) == ["state", "pixels"]
    assert (seen["state"].dtype, seen["pixels"].dtype) == (torch.float32, torch.uint8)


def test_a_single_key_takes_a_plain_array():
    seen = as_observation(np.ones((2, 3)), {"state": (3,)})
    assert seen["state"].shape == (2, 3)


def test_observations_that_do_not_fit_are_explained():
    with pytest.raises(ValueError, match="state=True"):
        as_observation({"latents": np.zeros((1, 2))}, {"latents": (2,), "state": (3,)})
    with pytest.raises(ValueError, match=r"is \(2,\), but the policy was trained on \(3,\)"):
        as_observation(np.zeros((1, 2)), {"state": (3,)})
