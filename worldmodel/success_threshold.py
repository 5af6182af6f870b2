"""From what probability on an imagined frame counts as success: as often as success is true.

A classifier that is asked frame by frame is seldom sure of any one: it may know that a button gets
pressed, and not whether in this frame or in the next. At a probability of one half it misses most
successes. So the threshold is taken from whole held-out episodes instead.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from video.clip_sources import ClipSource
from video.episodes import open_dataset
from worldmodel.heads_replay import FRAMES, read_labels, replay
from worldmodel.held_out import open_split, read_held_out
from worldmodel.world_model import WorldModel

EPISODES = 120
"""Of a split, spread evenly over it, at most."""

FEWEST = 10
"""Successful and failed episodes that a threshold is taken from, at least."""


def balanced_threshold(
    score: Float[Tensor, " episodes"], succeeded: Bool[Tensor, " episodes"]
) -> float:
    """The threshold at which as many episodes pass as have succeeded.

    Then failures that pass and successes that do not are equally many, and the rate of success is
    right on these episodes: the break-even point of precision and recall.

    Args:
        score: an episode passes where this is above the threshold.
        succeeded: what is true; some are, some are not.

    Source: Lewis, Evaluating and optimizing autonomous text classification systems, 1995 (the
        break-even point).
    """
    ranked = score.sort(descending=True).values
    count = int(succeeded.sum())
    return ((ranked[count - 1] + ranked[count]) / 2).item()


def episode_scores(
    model: WorldModel,
    data: Path | str,
    split: str,
    seed: int = 0,
    tasks: Sequence[str] | None = None,
) -> tuple[Float[Tensor, " episodes"], Bool[Tensor, " episodes"]]:
    """The highest probability of success in every episode of a split, and whether it succeeded.

    Episodes are imagined from their first frame with the recorded actions; what every member of the
    ensemble believes at least is what counts. Those of which no success is known are left out.
    """
    dataset, chosen, _ = open_split(model, data, split)
    frames = min(FRAMES, int(dataset.lengths[chosen].max()))
    held_out = read_held_out(model, data, split, frames, EPISODES)
    labels = read_labels(model, data, split, held_out)
    imagined = replay(model, held_out, seed=seed)
    mask = imagined.known & labels.success_mask
    lowest = imagined.outputs.lowest_success_logit.sigmoid().masked_fill(~mask, 0.0)
    wanted = [tasks is None or task in tasks for task in held_out.tasks]
    known = mask.any(dim=1) & torch.tensor(wanted)
    return lowest.amax(dim=1)[known], (labels.success & mask).any(dim=1)[known]


def fit_threshold(model: WorldModel, sources: Sequence[ClipSource], seed: int = 0) -> float | None:
    """The balanced threshold over validation episodes; None where too few are known.

    Args:
        model: a world model with heads that know success.
        sources: what they were trained and validated on. Those whose cameras have names of their
            own are left out, since the model would not find them.
        seed: of the noise.
    """
    found = [
        episode_scores(model, source.path, source.validation_split, seed, source.tasks)
        for source in sources
        if not source.action_free
        and source.cameras is None
        and len(open_dataset(source.path).splits.get(source.validation_split, ()))
    ]
    if not found:
        return None
    score, succeeded = (torch.cat(parts) for parts in zip(*found, strict=True))
    if min(int(succeeded.sum()), int((~succeeded).sum())) < FEWEST:
        return None
    return balanced_threshold(score, succeeded)
