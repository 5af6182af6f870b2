"""What the heads see of single frames."""

import torch

from worldmodel.frame_pictures import FramePictures


def build(views: int = 1) -> FramePictures:
    torch.manual_seed(0)
    return FramePictures(width=8, frames=2, patch=2, views=views, maps=4, outputs=6).eval()


def test_places_of_a_token_lie_where_they_are_in_the_frame():
    """Channel 0 of the pictures is the number of the place in its token, or of the frame."""
    look = build()
    seen = []
    look.encoder.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0]))
    torch.nn.init.zeros_(look.unfold.weight)
    bias = torch.zeros(2, 2, 2, 16)  # frame, row, column, channel
    bias[0, ..., 0] = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    bias[1, ..., 0] = 9.0
    look.unfold.bias.data = bias.flatten()
    look(torch.zeros(1, 6, 8), (1, 2, 3))
    first, second = seen[0][:, 0, 0]
    assert first.tolist() == [[1, 2, 1, 2, 1, 2], [3, 4, 3, 4, 3, 4]] * 2
    assert (second == 9).all()


def test_a_token_is_known_by_its_row_and_column():
    look, video = build(), torch.randn(1, 6, 8)
    turned = video.view(1, 2, 3, 8).flip(2).flatten(1, 2)
    assert not torch.allclose(look(video, (1, 2, 3)), look(turned, (1, 2, 3)))


def test_views_are_told_apart():
    look, video = build(views=2), torch.randn(1, 8, 8)
    swapped = video.unflatten(1, (2, 4)).flip(1).flatten(1, 2)
    assert not torch.allclose(look(video, (2, 2, 2)), look(swapped, (2, 2, 2)))
