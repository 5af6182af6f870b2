"""Figures by horizon."""

import torch

from inverse_dynamics.held_out import Reading, known_steps
from inverse_dynamics.horizons import horizon_bins, split_by_horizon
from video.action_model import Estimate


def test_bins_grow_twice_as_long():
    assert horizon_bins(32) == [(1, 4), (5, 8), (9, 16), (17, 32)]
    assert horizon_bins(3) == [(1, 3)]
    assert horizon_bins(9) == [(1, 4), (5, 8), (9, 9)]


def reading(steps: int, known: int) -> Reading:
    """Step t (from 1 on) has action t, is read as 10 t, and is known up to `known`."""
    actions = torch.arange(1.0, steps + 1)[:, None]
    mask = torch.arange(1, steps + 1) <= known
    return Reading(0, "", Estimate(10 * actions, actions / 2), actions, mask)


def test_every_known_step_is_in_one_bin():
    parts = split_by_horizon([reading(10, 6), reading(5, 5)])
    assert list(parts) == ["1-4", "5-8"]  # nothing is known beyond
    assert known_steps(parts["1-4"]).actions.flatten().tolist() == [1, 2, 3, 4, 1, 2, 3, 4]
    later = known_steps(parts["5-8"])
    assert later.actions.flatten().tolist() == [5, 6, 5]
    assert later.estimate.mean.flatten().tolist() == [50, 60, 50]
    assert later.estimate.spread.flatten().tolist() == [2.5, 3.0, 2.5]
