"""Long videos: overlapping windows of the length that a model was trained on, put together.

The steps at a window's edge are read with less in view; their spread says so, and they count less.
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from inverse_dynamics.estimate import Estimate, binary_spread
from inverse_dynamics.kinds import is_kind, signed_error


def window_starts(frames: int, window: int, stride: int) -> list[int]:
    """First frames of windows that cover a video, the last one flush with its end.

    Args:
        frames: of the video.
        window: frames of a window; a shorter video is a single window.
        stride: frames from one window to the next.
    """
    last = max(0, frames - window)
    return [*range(0, last, stride), last]


def combine(estimates: Sequence[Estimate], starts: Sequence[int], kinds: Sequence[str]) -> Estimate:
    """One estimate for each step of a video out of those of its windows.

    With the weight w = 1 / spread^2 of every window's estimate:

    - a number is the mean of the windows' by weight;
    - an angle the direction of the sum of w (cos, sin);
    - a binary dimension the mean of the windows' 2 p - 1: every window has a vote of equal weight,
      and its spread follows from that mean.

    The spread of numbers and angles is sqrt(n / sum w + v / 2) for n windows: what a typical one of
    them says, and the variance v = sum w (m - mean)^2 / sum w of what they read, half of it because
    spreads are scales of Laplace distributions, as in `estimate.mixture`. Windows see the same
    frames and err together, so more of them promise no more; but if they disagree, some are wrong.

    Args:
        estimates: of the windows, `(batch, steps, size)`.
        starts: the windows' first steps; together they leave none out.
        kinds: of the dimensions.
    """
    first = estimates[0].mean
    steps = max(start + one.mean.shape[1] for start, one in zip(starts, estimates, strict=True))
    shape = (len(first), steps, first.shape[2])
    count = first.new_zeros(1, steps, 1)
    weight, linear, sine, cosine, vote = (first.new_zeros(shape) for _ in range(5))
    for start, (mean, spread) in zip(starts, estimates, strict=True):
        here = slice(start, start + mean.shape[1])
        precision = spread.square().reciprocal()
        count[:, here] += 1
        weight[:, here] += precision
        linear[:, here] += precision * mean
        sine[:, here] += precision * torch.sin(math.pi * mean)
        cosine[:, here] += precision * torch.cos(math.pi * mean)
        vote[:, here] += mean
    mean = torch.where(
        is_kind(kinds, "angle", first), torch.atan2(sine, cosine) / math.pi, linear / weight
    )
    apart = first.new_zeros(shape)
    for start, (own, spread) in zip(starts, estimates, strict=True):
        here = slice(start, start + own.shape[1])
        apart[:, here] += signed_error(own, mean[:, here], kinds).square() / spread.square()
    spread = ((count + apart / 2) / weight).sqrt()
    binary = is_kind(kinds, "binary", first)
    mean = torch.where(binary, vote / count, mean)
    return Estimate(mean, torch.where(binary, binary_spread(mean), spread))


def read_video(
    read: Callable[[Tensor], Estimate],
    frames: Float[Tensor, "batch frames *shape"],
    window: int,
    kinds: Sequence[str],
) -> Estimate:
    """Read the actions between the frames of videos of any length.

    Args:
        read: reads one window.
        frames: of the videos, two or more.
        window: frames of a window; they follow one another at half of that.
        kinds: of the dimensions.
    """
    starts = window_starts(frames.shape[1], window, max(1, window // 2))
    estimates = [read(frames[:, start : start + window]) for start in starts]
    return combine(estimates, starts, kinds)
