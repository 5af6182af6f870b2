"""Figures of the heads, by hand."""

import math

import pytest
import torch

from worldmodel.evaluate_heads import heads_table
from worldmodel.heads import FrameOutputs
from worldmodel.heads_replay import Replay, TrueLabels
from worldmodel.heads_scores import (
    auroc,
    auroc_within_step,
    episode_figures,
    interval,
    reward_figures,
    state_figures,
    success_figures,
    threshold_for,
    uncertainty_figures,
)


def imagined(probability, error=None, predicted=None, reward=None, members=None, known=None):
    """A replay of given numbers."""
    probability = torch.tensor(probability)
    shape = probability.shape
    error = torch.zeros(shape) if error is None else error
    members = probability[None] if members is None else torch.tensor(members)
    outputs = FrameOutputs(
        reward=torch.zeros(shape) if reward is None else torch.tensor(reward),
        success_logit=probability.logit(),
        lowest_success_logit=members.logit().amin(0),
        state=torch.zeros(*shape, 0),
        error=error if predicted is None else predicted,
        disagreement=torch.rand(shape, generator=torch.Generator().manual_seed(0)),
    )
    known = torch.ones(shape, dtype=torch.bool) if known is None else torch.tensor(known)
    return Replay(outputs, outputs.state, error, known)


def recorded(success, reward=None, mask=None):
    success = torch.tensor(success)
    every = torch.ones(success.shape, dtype=torch.bool)
    return TrueLabels(
        reward=torch.zeros(success.shape) if reward is None else torch.tensor(reward),
        success=success,
        state=torch.zeros(*success.shape, 0),
        reward_mask=every if mask is None else torch.tensor(mask),
        success_mask=every if mask is None else torch.tensor(mask),
        state_mask=every,
    )


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        ([0.1, 0.2, 0.3, 0.4], 1.0),
        ([0.4, 0.3, 0.2, 0.1], 0.0),
        ([1.0, 3.0, 2.0, 4.0], 0.75),
        ([5.0, 5.0, 5.0, 5.0], 0.5),
        ([1e4, 2e4, 3e4, 4e4], 1.0),  # far outside of [0, 1]
        ([-4e4, -3e4, -2e4, -1e4], 1.0),
    ],
)
def test_auroc_by_hand(score, expected):
    positive = torch.tensor([False, False, True, True])
    assert auroc(torch.tensor(score), positive) == pytest.approx(expected)


def test_auroc_of_one_class_is_no_number():
    assert math.isnan(auroc(torch.rand(3), torch.ones(3, dtype=torch.bool)))


def test_frames_by_hand():
    replay = imagined([[0.9, 0.2, 0.8, 0.7]])
    figures = success_figures(replay, recorded([[True, True, False, False]]))
    assert figures["precision"] == pytest.approx(1 / 3)
    assert figures["recall"] == pytest.approx(1 / 2)
    assert figures["auroc"] == pytest.approx(2 / 4)


def test_episodes_by_each_rule():
    probability = [[0.9, 0.1, 0.9], [0.1, 0.9, 0.8], [0.1, 0.1, 0.1], [0.6, 0.1, 0.1]]
    true = [[False] * 3, [False, True, True], [True, False, False], [False] * 3]
    members = [probability, [[0.9, 0.1, 0.1], [0.9, 0.1, 0.9], [0.9] * 3, [0.1] * 3]]
    rules = success_figures(imagined(probability, members=members), recorded(true))["episodes"]
    assert rules["mean"]["failed"] == rules["mean"]["successful"] == 2
    rates = {
        name: (figures["false_success_rate"], figures["recall"]) for name, figures in rules.items()
    }
    assert rates == {
        "mean": (1.0, 0.5),
        "two_frames": (0.0, 0.5),
        "every_member": (0.5, 0.5),
    }


def test_what_is_unknown_is_no_success():
    probability, true = [[0.1, 0.9], [0.9, 0.1]], [[False, True], [True, False]]
    mask = [[True, False], [True, True]]
    for replay, labels in (
        (imagined(probability, known=mask), recorded(true)),
        (imagined(probability), recorded(true, mask=mask)),
    ):
        figures = success_figures(replay, labels)
        assert figures["frames"] == 3
        assert figures["precision"] == 1.0
        assert figures["episodes"]["mean"]["failed"] == 1
        assert figures["episodes"]["mean"]["false_success_rate"] == 0.0


def test_the_threshold_for_a_rate():
    scores = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95])
    assert threshold_for(scores, 0.02) == pytest.approx(0.95)
    assert threshold_for(scores, 0.1) == pytest.approx(0.9)
    assert (scores > threshold_for(scores, 0.2)).sum() == 2
    assert threshold_for(scores, 1.0) == 0.0


def test_the_curve_of_thresholds():
    score = torch.tensor([0.55, 0.95, 0.97, 0.3])
    figures = episode_figures(score, torch.tensor([False, False, True, True]))
    at = {row["threshold"]: (row["false_success_rate"], row["recall"]) for row in figures["curve"]}
    assert at[0.5] == (1.0, 0.5)
    assert at[0.9] == (0.5, 0.5)
    assert at[0.2] == (1.0, 1.0)
    assert at[0.99] == (0.0, 0.0)
    assert figures["at_false_success_rate"]["0.02"] == {
        "threshold": pytest.approx(0.95),
        "recall": 0.5,
    }


def test_without_failures_there_is_no_rate_of_false_successes():
    figures = episode_figures(torch.tensor([0.9, 0.2]), torch.tensor([True, True]))
    assert figures["recall"] == 0.5
    assert "false_success_rate" not in figures


def test_reward_by_hand():
    figures = reward_figures(
        imagined([[0.5, 0.5, 0.5]], reward=[[1.0, 2.0, 5.0]]),
        recorded([[False] * 3], reward=[[1.0, 2.0, 3.0]]),
    )
    assert figures["r2"] == pytest.approx(1 - 4 / 2)
    assert figures["rmse"] == pytest.approx((4 / 3) ** 0.5)


def test_state_by_hand():
    labels = recorded([[False, False]])
    labels.state = torch.tensor([[[0.0, 10.0], [2.0, 10.0]]])
    predicted = torch.tensor([[[1.0, 10.0], [2.0, 13.0]]])
    figures = state_figures(predicted, imagined([[0.5, 0.5]]), labels)
    assert figures["rmse"] == pytest.approx([0.5**0.5, 4.5**0.5])
    assert figures["standard_deviation"] == pytest.approx([2**0.5, 0.0])
    assert figures["median_error"] == {"1": [1.0, 0.0]}


def test_state_errors_have_a_tail():
    labels = recorded([[False]] * 11)
    labels.state = torch.zeros(11, 1, 1)
    predicted = torch.arange(11.0).view(11, 1, 1)
    figures = state_figures(predicted, imagined([[0.5]] * 11), labels)
    assert figures["median_error"] == {"1": [5.0]}
    assert figures["ninth_decile_error"] == {"1": [pytest.approx(9.0)]}


def errors(episodes=40, frames=6):
    """Errors that grow with the step and differ between episodes."""
    generator = torch.Generator().manual_seed(1)
    growth = torch.arange(1.0, frames + 1)
    return growth + torch.rand(episodes, 1, generator=generator) * torch.ones(frames)


def test_who_knows_the_error_tells_the_worst_frames():
    error = errors()
    figures = uncertainty_figures(imagined([[0.5] * 6] * 40, error=error, predicted=error.exp()))
    assert figures["predicted_error"]["auroc"] == pytest.approx(1.0)
    assert figures["predicted_error"]["auroc_within_step"] == pytest.approx(1.0)
    assert figures["predicted_error"]["spearman"] == pytest.approx(1.0, abs=1e-4)
    assert figures["step"]["auroc"] > 0.9
    assert figures["step"]["auroc_within_step"] == pytest.approx(0.5)
    low, high = figures["disagreement"]["auroc_interval"]
    assert low < figures["disagreement"]["auroc"] < high


def test_within_a_step_a_shift_by_step_does_not_count():
    error = errors()
    mask = torch.ones(error.shape, dtype=torch.bool)
    shifted = error + 100 * torch.arange(6.0)
    assert auroc_within_step(shifted, error, mask) == pytest.approx(1.0)
    assert auroc_within_step(-error, error, mask) == pytest.approx(0.0)
    assert math.isnan(auroc_within_step(error[:5], error[:5], mask[:5]))


def test_intervals_repeat_and_hold_the_mean():
    values = torch.tensor([0.0, 1.0]).repeat(50)

    def mean(rows):
        return values[rows].mean().item()

    low, high = interval(mean, 100, seed=3)
    assert [low, high] == interval(mean, 100, seed=3)
    assert [low, high] != interval(mean, 100, seed=4)
    assert low == pytest.approx(0.5 - 1.96 * 0.05, abs=0.02)
    assert high == pytest.approx(0.5 + 1.96 * 0.05, abs=0.02)


def test_the_table_leaves_out_what_is_not_known():
    uncertainty = uncertainty_figures(imagined([[0.5] * 6] * 40, error=errors()))
    result = {
        "whole_blocks": {"uncertainty": uncertainty},
        "one_action_at_a_time": {"uncertainty": uncertainty},
        "episodes": 40,
        "data": "here",
        "split": "test",
        "steps": 1,
        "seed": 0,
    }
    text = heads_table(result)
    assert "disagreement: AUROC" in text
    assert "success" not in text
