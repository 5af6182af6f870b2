import pytest
import torch

from worldmodel.draws import RowDraws, step_generator


def test_two_processes_share_one_batch():
    whole = RowDraws(torch.Generator().manual_seed(3), rows=4)
    halves = [RowDraws(torch.Generator().manual_seed(3), 2, first, 4) for first in (0, 2)]
    for name in ("normal", "uniform"):
        expected = getattr(whole, name)(5, 2)
        drawn = torch.cat([getattr(half, name)(5, 2) for half in halves])
        assert expected.shape == (4, 5, 2)
        assert drawn.equal(expected)


def test_rows_outside_of_the_batch_are_refused():
    with pytest.raises(ValueError, match="rows 2 to 4 of a batch of 4"):
        RowDraws(torch.Generator(), rows=3, first=2, total=4)


def test_every_seed_and_every_step_has_numbers_of_its_own():
    """Beyond 32 bits, too, which is all that a generator of torch looks at."""
    draws = [
        torch.rand(1, generator=step_generator(*numbers)).item()
        for numbers in [(0, 0), (0, 1), (1, 0), (1, 0, 1), (2**40, 0)]
    ]
    assert len(set(draws)) == len(draws)
    assert torch.rand(1, generator=step_generator(1, 0)).item() == draws[2]
