"""One seed made of several numbers: of a run and a step, of an environment and an episode."""

import numpy as np


def mixed_seed(*numbers: int) -> int:
    """32 bits, all that PyTorch's CPU generator looks at, out of several numbers from 0 up."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
