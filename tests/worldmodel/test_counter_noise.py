import pytest
import torch
from torch.distributions import Normal

from worldmodel.counter_noise import GOLDEN_RATIO, normal, scramble


def draw(seed, counter, count=4096):
    return normal(torch.tensor(seed), torch.tensor(counter), count)


def test_scramble_is_splitmix64():
    """Vigna's reference output for seed 1234567."""
    states = torch.tensor([1234567 + GOLDEN_RATIO, 1234567 + 2 * GOLDEN_RATIO + 2**64])
    expected = [6457827717110365317, 3203168211198807973]
    assert [number % 2**64 for number in scramble(states).tolist()] == expected


def test_a_row_does_not_depend_on_its_neighbours():
    assert draw([7, 8, 9], [0, 5, 1])[1].equal(draw([8], [5])[0])


def test_seed_and_counter_both_matter():
    rows = draw([1, 2, 1, 2], [0, 0, 1, 1])
    correlation = torch.corrcoef(rows) - torch.eye(4)
    assert correlation.abs().max() < 0.06


@pytest.mark.parametrize("count", [1, 2, 7])
def test_it_draws_as_many_as_asked(count):
    assert draw([1, 2], [0, 0], count).shape == (2, count)


def test_it_is_normal():
    """Kolmogorov-Smirnov: the largest distance between the distribution functions."""
    numbers = draw(list(range(50)), [3] * 50).flatten().sort().values
    wanted = Normal(0.0, 1.0).cdf(numbers)
    steps = torch.arange(1, len(numbers) + 1) / len(numbers)
    assert (wanted - steps).abs().max() < 1.63 / len(numbers) ** 0.5
    halves = draw(list(range(50)), [3] * 50).view(50, 2, -1)
    assert torch.corrcoef(halves.transpose(0, 1).flatten(1))[0, 1].abs() < 0.01
