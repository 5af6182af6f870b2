"""The threshold from which a frame counts as success."""

import pytest
import torch

from worldmodel.success_threshold import balanced_threshold, fit_threshold


def test_as_many_episodes_pass_as_succeed():
    """Two of five succeed; the second and the third highest score are 0.6 and 0.3."""
    score = torch.tensor([0.1, 0.9, 0.3, 0.6, 0.2])
    succeeded = torch.tensor([True, True, False, False, False])
    threshold = balanced_threshold(score, succeeded)
    assert threshold == pytest.approx(0.45)
    assert (score > threshold).tolist() == [False, True, False, True, False]


def test_nothing_is_fitted_to_nothing():
    assert fit_threshold(None, []) is None  # pyright: ignore[reportArgumentType]
