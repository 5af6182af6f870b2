from types import SimpleNamespace

from video.seeds import mixed_seed
from video.step_seeds import seed_of_step


def test_every_number_counts_and_so_does_their_order():
    seeds = {mixed_seed(1, 2), mixed_seed(2, 1), mixed_seed(1, 3), mixed_seed(1)}
    assert len(seeds) == 4
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert mixed_seed(1, 2) == mixed_seed(1, 2) == 1596810411


def trainer(step: int, rank: int = 0) -> SimpleNamespace:
    return SimpleNamespace(accumulate_grad_batches=2, global_step=step, global_rank=rank)


def test_a_resumed_step_draws_the_same(shapes_unchecked):
    """Lightning counts batches anew behind a resumption, but every step's from an even one on."""
    assert seed_of_step(trainer(5), 3, 10) == seed_of_step(trainer(5), 3, 0)
    others = [seed_of_step(trainer(5), 3, 11), seed_of_step(trainer(6), 3, 12)]
    others += [seed_of_step(trainer(5, rank=1), 3, 10), seed_of_step(trainer(5), 4, 10)]
    assert len({*others, seed_of_step(trainer(5), 3, 10)}) == 5
