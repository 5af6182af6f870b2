import pytest
import torch

from worldmodel.blocks import cut


def clip(frames=10):
    """A clip whose frames and actions are their own number."""
    latents = torch.arange(frames, dtype=torch.float32)[None, :, None, None, None, None]
    actions = torch.arange(frames - 1, dtype=torch.float32)[None, :, None]
    return latents, actions, actions[..., 0] != 7


def test_frames_actions_and_anchors_by_number():
    blocks = cut(*clip(), frames=4)
    assert blocks.anchor.flatten().tolist() == [0, 1, 4, 5]
    assert blocks.latents.flatten().tolist() == [2, 3, 4, 5, 6, 7, 8, 9]
    # action t leads from frame t to frame t + 1: frame 2 is reached by action 1
    assert blocks.actions.flatten().tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert blocks.action_mask.flatten().tolist() == [True] * 6 + [False, True]


def test_the_first_frame_stands_before_every_anchor():
    latents, actions, mask = clip()
    first = torch.full((1, 1, 1, 1, 1), 50.0)
    blocks = cut(latents, actions, mask, 4, first=first)
    assert blocks.anchor.flatten().tolist() == [50, 0, 1, 50, 4, 5]


def test_weights_go_with_their_actions():
    latents, actions, mask = clip()
    assert cut(latents, actions, mask, 4).action_weight.flatten().tolist() == [1] * 6 + [0, 1]
    weighted = cut(latents, actions, mask, 4, actions[..., 0] / 8)
    assert weighted.action_weight.equal(weighted.actions[..., 0] / 8)


def test_rows_pick_their_own_first_block():
    latents, actions, mask = (part.expand(2, *part.shape[1:]) for part in clip(14))
    blocks = cut(latents, actions, mask, frames=4).pick(torch.tensor([0, 1]), count=2)
    assert blocks.latents[:, :, 0].flatten().tolist() == [2, 6, 6, 10]
    assert blocks.anchor[:, :, 1].flatten().tolist() == [1, 5, 5, 9]


def test_a_broken_block_is_refused():
    with pytest.raises(ValueError, match="a clip of 9 frames"):
        cut(*clip(9), frames=4)
