"""Normal noise as a pure function of two numbers: no generator, no state, no order of drawing.

An imagined environment has thousands of rows, each with a seed of its own and at a place of its
own in its episode. Row i's noise is a hash of (its seed, its block), so it is the same in any
batch, on any device and after any fork, and drawing it never asks the host.
"""

import math

import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor

GOLDEN_RATIO = -7046029254386353131
"""2^64 / phi, the odd step between the counters of SplitMix64 (as a signed number)."""


def scramble(counter: Int64[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
    """SplitMix64's finaliser: a bijection of 64 bits in which every input bit moves every output.

    Source: Steele, Lea & Flood, Fast Splittable Pseudorandom Number Generators, OOPSLA 2014,
    with Stafford's variant 13 of the constants.
    """
    counter = (counter ^ _shift_right(counter, 30)) * -4658895280553007687
    counter = (counter ^ _shift_right(counter, 27)) * -7723592293110705685
    return counter ^ _shift_right(counter, 31)


def normal(
    seed: Int64[Tensor, " rows"], counter: Int64[Tensor, " rows"], count: int
) -> Float[Tensor, "rows count"]:
    """Standard normal numbers, `count` for each (seed, counter).

    Two uniform numbers u, v make two normal ones (Box & Muller, 1958):
    sqrt(-2 ln u) cos(2 pi v),  sqrt(-2 ln u) sin(2 pi v). With 24 bits, |n| stays below 5.9.

    Args:
        seed: one a row.
        counter: another number a row, such as its block's.
        count: numbers a row.
    """
    stream = scramble(scramble(seed + GOLDEN_RATIO) + GOLDEN_RATIO * counter)
    pairs = torch.arange(1, (count + 1) // 2 + 1, device=seed.device)
    bits = scramble(stream[:, None] + GOLDEN_RATIO * pairs)
    u = (_shift_right(bits, 40).to(torch.float32) + 0.5) * 2**-24
    v = (bits & 0xFFFFFF).to(torch.float32) * 2**-24
    radius, angle = (-2 * u.log()).sqrt(), 2 * math.pi * v
    both = torch.stack((radius * angle.cos(), radius * angle.sin()))
    return rearrange(both, "two rows pairs -> rows (two pairs)")[:, :count]


def _shift_right(number: Tensor, bits: int) -> Tensor:
    """The logical shift; that of torch drags the sign along."""
    return (number >> bits) & ((1 << (64 - bits)) - 1)
