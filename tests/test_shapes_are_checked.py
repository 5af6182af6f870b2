"""The shapes in the annotations are enforced while the tests run."""

import jaxtyping
import pytest
import torch

from worldmodel.noise import corrupt


def test_a_wrong_shape_raises():
    with pytest.raises(jaxtyping.TypeCheckError, match="clean"):
        corrupt(torch.zeros(2), torch.zeros(3), torch.zeros(2))
