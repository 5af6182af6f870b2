import math

import pytest
import torch

from worldmodel.rotary import Rotation, rotary_angles, rotate


def test_a_quarter_turn_by_hand():
    rotation = Rotation.of(torch.tensor([[math.pi / 2]]), torch.float32)
    turned = rotate(torch.tensor([[3.0, 4.0]]), rotation)
    torch.testing.assert_close(turned, torch.tensor([[-4.0, 3.0]]))


def test_angles_grow_with_each_axis_position():
    angles = rotary_angles(torch.tensor([[2.0, 3.0, 5.0]]), head_width=6)
    torch.testing.assert_close(angles, torch.tensor([[2.0, 3.0, 5.0]]))


def test_products_depend_on_distance_only():
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 24, generator=generator)

    def product(at_query, at_key):
        angles = rotary_angles(torch.tensor([at_query, at_key]), head_width=24)
        turned = Rotation.of(angles, torch.float32)
        return (rotate(query, turned.first(1)) * rotate(key, turned.last(1))).sum()

    here = product([0.0, 1.0, 2.0], [4.0, 0.0, 2.0])
    shifted = product([8.0, 3.0, 7.0], [12.0, 2.0, 7.0])
    elsewhere = product([0.0, 1.0, 2.0], [8.0, 0.0, 2.0])
    torch.testing.assert_close(here, shifted)
    assert abs(here - elsewhere) > 1e-3


@pytest.mark.parametrize("width", [4, 7])
def test_a_head_too_narrow_for_three_axes_is_refused(width):
    with pytest.raises(ValueError, match=f"head width {width}"):
        rotary_angles(torch.zeros(1, 3), width)
