"""The success classifier looks at frames, learns from single ones, and the heads listen to it."""

import copy

import pytest
import torch

from worldmodel.heads import FrameHeads
from worldmodel.success_classifier import SuccessClassifier
from worldmodel.success_learning import FrameMemory, Frames, SuccessLearning, learn_success

GRID = (1, 4, 4)


def build(**options) -> FrameHeads:
    options = {"width": 32, "frames": 4, "state_dim": 3, "channels": 16, "hidden": 8} | options
    torch.manual_seed(0)
    return FrameHeads(**options, latent_channels=4, success_channels=8).eval()


def blocks_of(rows: int, seed: int = 0) -> Frames:
    """Blocks that succeed where the latents of one place are above zero."""
    torch.manual_seed(seed)
    imagined = torch.randn(rows, 4, 1, 4, 8, 8)
    success = imagined[:, :, 0, 1, 2, 5] > 0
    return Frames(imagined, imagined + 1, success, torch.ones_like(success))


@pytest.mark.parametrize(("views", "size"), [(1, (8, 8)), (2, (8, 8)), (1, (6, 10))])
def test_each_frame_of_any_size_is_judged_for_itself(views, size):
    torch.manual_seed(0)
    classifier = SuccessClassifier(4, views, channels=8, members=3).eval()
    frames = torch.randn(2, 3, views, 4, *size)
    changed = frames.clone()
    changed[1, 2, -1, :, 1, 1] += 1
    said, moved = classifier(frames), classifier(frames) != classifier(changed)
    assert said.shape == (3, 2, 3)
    assert moved.all(0).tolist() == [[False, False, False], [False, False, True]]
    assert not torch.equal(said[0], said[1])


def test_the_heads_say_of_success_what_the_classifier_says():
    heads, features = build(), torch.randn(3, 20, 32)
    frames, place = blocks_of(3).imagined, torch.tensor([[1], [3], [0]])
    row = torch.arange(3)[:, None]
    whole = heads.judge(features, GRID, frames)
    part = heads.judge(features, GRID, frames[row, place], place)
    assert whole.success_logit.equal(heads.see_success(frames))
    for all_frames, some in zip(whole, part, strict=True):
        torch.testing.assert_close(some, all_frames[:, row, place])
    assert not whole.success_logit.equal(heads.judge_block(features, GRID).success_logit)


def test_what_cannot_be_is_named():
    with pytest.raises(ValueError, match="see success in the frames: pass `frames`"):
        build()(torch.randn(1, 20, 32), GRID)
    with pytest.raises(ValueError, match="success_channels=8 need latent_channels"):
        FrameHeads(width=32, frames=4, state_dim=0, success_channels=8)
    with pytest.raises(ValueError, match="success_channels=12 is not a multiple of 8"):
        SuccessClassifier(4, 1, channels=12, members=1)
    with pytest.raises(ValueError, match="noise=-1 must not be negative"):
        SuccessLearning(noise=-1)
    with pytest.raises(ValueError, match=r"true_frames=1\.5 is a share"):
        SuccessLearning(true_frames=1.5)
    with pytest.raises(ValueError, match="updates=0 and frames=256 must be at least 1"):
        SuccessLearning(updates=0)


def remembered(*frames: Frames) -> FrameMemory:
    memory = FrameMemory()
    for some in frames:
        memory.add(some)
    return memory


@pytest.mark.parametrize(("share", "offset"), [(0.0, 0.0), (1.0, 1.0)])
def test_a_glance_is_of_one_frame_imagined_or_recorded(share, offset):
    """Of any batch so far, together with what is true of that very frame."""
    batches = blocks_of(6), blocks_of(6, seed=1)
    options = SuccessLearning(frames=500, true_frames=share, noise=0.0)
    shown = remembered(*batches).glance(options, torch.Generator().manual_seed(0))
    every = torch.cat([batch.imagined for batch in batches]).flatten(0, 1) + offset
    away = (shown.frames - every).square().flatten(2).mean(2)
    found = away.argmin(1)
    assert away.amin(1).max() < 1e-3
    assert set(found.tolist()) == set(range(2 * 6 * 4))
    success = torch.cat([batch.success for batch in batches]).flatten()
    assert shown.success[:, 0].equal(success[found])


def test_a_share_is_recorded_and_all_are_noisy():
    block = blocks_of(1)
    block = block._replace(
        imagined=torch.zeros_like(block.imagined), recorded=torch.ones_like(block.recorded)
    )
    options = SuccessLearning(frames=400)
    shown = remembered(block).glance(options, torch.Generator().manual_seed(0))
    recorded = shown.frames.flatten(1).mean(1) > 0.5
    assert 0.15 < recorded.float().mean() < 0.25
    noise = shown.frames[~recorded]
    assert noise.std() == pytest.approx(0.15, rel=0.1)
    assert noise.flatten(1).std(dim=1).min() < 0.01  # some are nearly clean


def test_what_is_to_be_seen_is_learned_and_the_same_every_time():
    memory = remembered(*(blocks_of(100, seed=seed) for seed in range(10)))
    torch.manual_seed(1)
    first = SuccessClassifier(4, 1, channels=8, members=2).eval()
    second, fresh = copy.deepcopy(first), blocks_of(256, seed=1000)
    for classifier in (first, second):
        learn_success(classifier, memory, SuccessLearning(updates=150, true_frames=0.0))
        assert not classifier.training
        torch.rand(3)  # what else is drawn does not matter
    said = first(fresh.imagined)
    assert said.equal(second(fresh.imagined))
    for member in said:
        assert ((member > 0) == fresh.success).float().mean() > 0.9


def test_frames_of_which_nothing_is_known_teach_nothing():
    blocks = blocks_of(8)
    known = blocks.mask.clone()
    known[:, 1:] = False
    lies = torch.where(known, blocks.success, ~blocks.success)
    torch.manual_seed(1)
    first = SuccessClassifier(4, 1, channels=8, members=1).eval()
    second = copy.deepcopy(first)
    for classifier, success in ((first, blocks.success), (second, lies)):
        memory = remembered(blocks._replace(success=success, mask=known))
        learn_success(classifier, memory, SuccessLearning(updates=5))
    assert first(blocks.imagined).equal(second(blocks.imagined))
