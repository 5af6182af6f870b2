import numpy as np
import pytest
from torch.utils.data import DistributedSampler

from video.batches import ClipBatches


def batches(**changed) -> ClipBatches:
    options = {"batch_size": 8, "steps": 6, "seed": 3} | changed
    return ClipBatches([100, 20], [3.0, 1.0], **options)


def test_ranks_share_what_one_process_sees_alone():
    alone = list(batches())
    ranks = [list(batches(rank=rank, world_size=4)) for rank in range(4)]
    together = [np.concatenate(pieces) for pieces in zip(*ranks, strict=True)]
    np.testing.assert_array_equal(together, alone)
    assert len(ranks[0][0]) == 2


def test_resumed_run_sees_the_batches_that_are_left():
    step = 4
    resumed = batches(start=lambda: step)
    np.testing.assert_array_equal(list(resumed), list(batches())[4:])
    assert len(resumed) == 6


def test_next_epoch_counts_on():
    longer = list(batches(steps=12))
    np.testing.assert_array_equal(list(batches(start=lambda: 6)), longer[6:])


def test_batch_depends_on_seed_and_step_alone():
    np.testing.assert_array_equal(batches().global_batch(5), batches(steps=99).global_batch(5))
    assert not np.array_equal(batches().global_batch(5), batches().global_batch(4))
    assert not np.array_equal(batches().global_batch(5), batches(seed=4).global_batch(5))


def test_datasets_get_their_share_whatever_their_size():
    drawn = batches(batch_size=4000).global_batch(0)
    assert drawn.min() == 0
    assert drawn.max() == 119
    assert np.mean(drawn >= 100) == pytest.approx(0.25, abs=0.03)
    assert set(drawn) == set(range(120))


def test_lightning_takes_it_for_a_distributed_sampler():
    assert isinstance(batches(), DistributedSampler)


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="multiple of 3"):
        batches(world_size=3)
    with pytest.raises(ValueError, match="weights must not be negative"):
        ClipBatches([5], [-1.0], 1, 1, 0)
    with pytest.raises(ValueError, match="needs a window"):
        ClipBatches([5, 0], [1.0, 1.0], 1, 1, 0)
    with pytest.raises(ValueError, match="must be positive"):
        batches(steps=0)
