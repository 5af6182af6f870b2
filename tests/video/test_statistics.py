import json

import numpy as np
import pytest
import torch

from video.errors import DatasetError
from video.statistics import Normalizer, renormalized


@pytest.fixture
def normalizer() -> Normalizer:
    return Normalizer.fit(np.array([[0.0, -2.0, 5.0], [10.0, 2.0, 5.0], [5.0, 0.0, 5.0]]))


def test_range_becomes_minus_one_to_one(normalizer):
    values = np.array([[0.0, 0.0, 5.0], [10.0, 1.0, 5.0], [12.5, -2.0, 5.0]], np.float32)
    expected = [[-1.0, 0.0, 0.0], [1.0, 0.5, 0.0], [1.5, -1.0, 0.0]]
    np.testing.assert_array_equal(normalizer.normalize(values), expected)
    np.testing.assert_array_equal(normalizer.denormalize(np.array(expected, np.float32)), values)


def test_constant_dimension_comes_back_as_its_constant(normalizer):
    np.testing.assert_array_equal(
        normalizer.denormalize(np.array([0.0, 0.0, 0.7], np.float32)), [5.0, 0.0, 5.0]
    )


def test_tensors_keep_type_and_shape(normalizer):
    values = torch.tensor([10.0, 2.0, 5.0], dtype=torch.float64).expand(2, 4, 3)
    normalized = normalizer.normalize(values)
    assert normalized.dtype == torch.float64
    torch.testing.assert_close(normalized[1, 3], torch.tensor([1.0, 1.0, 0.0]).double())
    torch.testing.assert_close(normalizer.denormalize(normalized), values)


def test_what_one_normaliser_made_another_one_would_have_made():
    one = Normalizer(np.array([0.0, -1.0]), np.array([10.0, 1.0]))
    other = Normalizer(np.array([0.0, 0.0]), np.array([5.0, 4.0]))
    values = one.normalize(torch.tensor([[10.0, 1.0, 5.0, 0.0]]).unflatten(1, (2, 2))).flatten(1)
    torch.testing.assert_close(
        renormalized(values, one, other), torch.tensor([[3.0, -0.5, 1.0, -1.0]])
    )
    assert renormalized(values, None, other) is values
    assert renormalized(values, one, None) is values


def test_a_spread_has_a_size_but_no_place():
    normalizer = Normalizer(np.array([0.0, 5.0]), np.array([4.0, 5.0]))  # the second is constant
    spread = torch.tensor([[1.0, 0.0]])
    assert normalizer.normalize_spread(spread).tolist() == [[0.5, 0.0]]
    assert normalizer.denormalize_spread(torch.tensor([[0.5, 3.0]])).tolist() == [[1.0, 0.0]]
    assert normalizer.normalize_spread(np.array([2.0, 1.0], np.float32)).tolist() == [1.0, 1.0]


def test_json_is_exact(normalizer):
    low = np.array([0.1, -1 / 3, 5.0], np.float32)
    saved = json.loads(json.dumps(Normalizer(low, low + 1).to_json()))
    np.testing.assert_array_equal(Normalizer.from_json(saved).low, low)
    assert normalizer.dim == 3


def test_unusable_values_are_named():
    with pytest.raises(DatasetError, match=r"row 1, dimension 0 is nan"):
        Normalizer.fit(np.array([[0.0, 1.0], [np.nan, 2.0]]))
    with pytest.raises(DatasetError, match="empty"):
        Normalizer.fit(np.zeros((0, 2)))
    with pytest.raises(ValueError, match="low must be"):
        Normalizer(np.array([1.0]), np.array([0.0]))
    with pytest.raises(ValueError, match=r"\(2,\) and \(1,\)"):
        Normalizer(np.zeros(2), np.zeros(1))
