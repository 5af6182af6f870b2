"""The success classifier looks at frames, learns from single ones, and the heads listen to it."""

import pytest
import torch

from worldmodel.heads import FrameHeads
from worldmodel.heads_batch import FrameMemory, HeadsBatch
from worldmodel.heads_objective import FrameLabels
from worldmodel.heads_rollouts import HeadsRollouts
from worldmodel.success_classifier import SuccessClassifier
from worldmodel.success_learning import learn_success

GRID = (1, 4, 4)


def build(**options) -> FrameHeads:
    options = {"width": 32, "frames": 4, "state_dim": 3, "channels": 16, "hidden": 8} | options
    torch.manual_seed(0)
    return FrameHeads(**options, latent_channels=4, success_channels=8).eval()


def batch_of(rows: int, seed: int = 0, views: int = 1) -> HeadsBatch:
    """Blocks that succeed where the latents of one place are above zero."""
    torch.manual_seed(seed)
    imagined = torch.randn(rows, 4, views, 4, 8, 8)
    mask = torch.ones(rows, 4, dtype=torch.bool)
    success = imagined[:, :, 0, 1, 2, 5] > 0
    labels = FrameLabels(
        torch.zeros(rows, 4), mask, success, mask, torch.zeros(rows, 4, 3), mask,
        torch.ones(rows, 4), mask,
    )  # fmt: skip
    features = torch.randn(rows, 20, 32)
    return HeadsBatch(features, imagined, imagined + 1, labels, torch.ones(5, rows), GRID)


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
    heads, batch = build(), batch_of(3)
    place = torch.tensor([[1], [3], [0]])
    frames = batch.imagined[torch.arange(3)[:, None], place]
    whole = heads.judge(batch.features, GRID, batch.imagined)
    part = heads.judge(batch.features, GRID, frames, place)
    assert whole.success_logit.equal(heads.see_success(batch.imagined))
    row = torch.arange(3)[:, None]
    for all_frames, some in zip(whole, part, strict=True):
        torch.testing.assert_close(some, all_frames[:, row, place])
    assert not whole.success_logit.equal(heads.judge_block(batch.features, GRID).success_logit)


def test_what_cannot_be_is_named():
    with pytest.raises(ValueError, match="see success in the frames: pass `frames`"):
        build()(torch.randn(1, 20, 32), GRID)
    with pytest.raises(ValueError, match="success_channels=8 need latent_channels"):
        FrameHeads(width=32, frames=4, state_dim=0, success_channels=8)
    with pytest.raises(ValueError, match="success_channels=12 is not a multiple of 8"):
        SuccessClassifier(4, 1, channels=12, members=1)
    with pytest.raises(ValueError, match="frame_noise=-1 must not be negative"):
        HeadsRollouts(frame_noise=-1)
    with pytest.raises(ValueError, match=r"true_frames=1\.5 .* are shares"):
        HeadsRollouts(true_frames=1.5)


def remembered(*batches: HeadsBatch) -> FrameMemory:
    memory = FrameMemory()
    for batch in batches:
        memory.add(batch)
    return memory


@pytest.mark.parametrize(("share", "offset"), [(0.0, 0.0), (1.0, 1.0)])
def test_a_glance_is_of_one_frame_imagined_or_recorded(share, offset):
    """Of any batch so far, together with what is true of that very frame."""
    batches = batch_of(6), batch_of(6, seed=1)
    settings = HeadsRollouts(true_frames=share, frame_noise=0.0)
    shown = remembered(*batches).glance(500, settings, torch.Generator().manual_seed(0))
    every = torch.cat([batch.imagined for batch in batches]).flatten(0, 1) + offset
    away = (shown.frames - every).square().flatten(2).mean(2)
    found = away.argmin(1)
    assert away.amin(1).max() < 1e-3
    assert set(found.tolist()) == set(range(2 * 6 * 4))
    success = torch.cat([batch.labels.success for batch in batches]).flatten()
    assert shown.success[:, 0].equal(success[found])


def test_a_share_is_recorded_and_all_are_noisy():
    batch, settings = batch_of(1), HeadsRollouts(true_frames=0.2, frame_noise=0.15)
    batch = batch._replace(
        imagined=torch.zeros(1, 4, 1, 4, 8, 8), recorded=torch.ones(1, 4, 1, 4, 8, 8)
    )
    shown = remembered(batch).glance(400, settings, torch.Generator().manual_seed(0))
    recorded = shown.frames.flatten(1).mean(1) > 0.5
    assert 0.15 < recorded.float().mean() < 0.25
    noise = shown.frames[~recorded]
    assert noise.std() == pytest.approx(0.15, rel=0.1)
    assert noise.flatten(1).std(dim=1).min() < 0.01  # some are nearly clean


def test_what_is_unknown_stays_so():
    batch = batch_of(3)
    mask = torch.tensor([[True, False, False, False]]).expand(3, 4)
    batch = batch._replace(labels=batch.labels._replace(success_mask=mask))
    shown = remembered(batch).glance(400, HeadsRollouts(), torch.Generator().manual_seed(0))
    assert 0.15 < shown.mask.float().mean() < 0.35


def test_what_is_to_be_seen_is_learned_and_the_same_every_time():
    memory = remembered(*(batch_of(100, seed=seed) for seed in range(10)))
    fresh, logits = batch_of(256, seed=1000), []
    for _ in range(2):
        torch.manual_seed(1)
        classifier = SuccessClassifier(4, 1, channels=8, members=2).eval()
        learn_success(classifier, memory, HeadsRollouts(true_frames=0.0), 1.0, updates=150)
        assert not classifier.training
        with torch.no_grad():
            logits.append(classifier(fresh.imagined))
        torch.rand(3)  # what else is drawn does not matter
    assert logits[0].equal(logits[1])
    for member in logits[0]:
        assert ((member > 0) == fresh.labels.success).float().mean() > 0.9
