"""Which frame of a chunk ends an episode, and what counts up to there: literal numbers."""

import re

import pytest
import torch

from worldmodel.heads import FrameOutputs
from worldmodel.imagination import ImaginedStep
from worldmodel.outcome import outcome_of
from worldmodel.rewards import Verdict

REWARD = torch.tensor([[1.0, 2.0, 4.0, 8.0]]).repeat(4, 1)
ERROR = torch.tensor([[0.1, 0.4, 0.2, 0.9]]).repeat(4, 1)


def step_of(elapsed: list[int], heads: bool = True) -> ImaginedStep:
    """Four rows of four frames; each frame, and the state in it, is its number in the chunk."""
    frames = torch.arange(4.0)[None, :, None, None, None, None].repeat(4, 1, 1, 1, 1, 1)
    state = torch.arange(4.0)[None, :, None].repeat(4, 1, 1)
    outputs = FrameOutputs(REWARD, REWARD, REWARD, state, ERROR, ERROR) if heads else None
    return ImaginedStep(
        model=None,  # type: ignore[arg-type]  (nothing is decoded here)
        previous=frames[:, 0],
        frames=frames,
        actions=torch.zeros(4, 4, 2),
        elapsed=torch.tensor(elapsed),
        outputs=outputs,
        robot=state,
    )


SUCCESS = torch.tensor(
    [
        [False, False, False, False],
        [False, True, False, True],
        [False, False, True, False],
        [False, False, False, True],
    ]
)


def test_a_chunk_without_an_end_counts_whole():
    ended = outcome_of(step_of([0, 4, 8, 12]), Verdict(REWARD, SUCCESS & False), 100, True)
    assert ended.last.tolist() == [3] * 4
    assert ended.reward.tolist() == [15.0] * 4
    assert ended.elapsed.tolist() == [4, 8, 12, 16]
    torch.testing.assert_close(ended.uncertainty, torch.full((4,), 0.9))
    assert not (ended.success | ended.terminated | ended.truncated).any()


def test_the_first_success_ends_it():
    ended = outcome_of(step_of([0, 0, 0, 0]), Verdict(REWARD, SUCCESS), 100, True)
    assert ended.last.tolist() == [3, 1, 2, 3]
    assert ended.frame[:, 0, 0, 0, 0].tolist() == [3.0, 1.0, 2.0, 3.0]
    assert ended.robot[:, 0].tolist() == [3.0, 1.0, 2.0, 3.0]
    assert ended.reward.tolist() == [15.0, 3.0, 7.0, 15.0]
    assert ended.elapsed.tolist() == [4, 2, 3, 4]
    torch.testing.assert_close(ended.uncertainty, torch.tensor([0.9, 0.4, 0.4, 0.9]))
    assert ended.success.tolist() == ended.terminated.tolist() == [False, True, True, True]
    assert not ended.truncated.any()


def test_the_horizon_ends_it_and_a_success_in_its_step_goes_before():
    """The horizon of 6 comes in the chunk's third frame: place 2."""
    ended = outcome_of(step_of([3, 3, 3, 3]), Verdict(REWARD, SUCCESS), 6, True)
    assert ended.last.tolist() == [2, 1, 2, 2]
    assert ended.reward.tolist() == [7.0, 3.0, 7.0, 7.0]
    assert ended.elapsed.tolist() == [6, 5, 6, 6]
    assert ended.terminated.tolist() == [False, True, True, False]
    assert ended.truncated.tolist() == [True, False, False, True]
    assert ended.success.tolist() == [False, True, True, False]  # that in place 3 came too late


def test_the_horizon_at_the_chunks_own_end():
    ended = outcome_of(step_of([0, 1, 2, 3]), Verdict(REWARD, SUCCESS & False), 4, True)
    assert ended.last.tolist() == [3, 2, 1, 0]
    assert ended.reward.tolist() == [15.0, 7.0, 3.0, 1.0]
    assert ended.truncated.tolist() == [True] * 4


def test_a_success_that_is_no_end_is_only_told():
    ended = outcome_of(step_of([0, 0, 0, 0]), Verdict(REWARD, SUCCESS), 100, False)
    assert ended.last.tolist() == [3] * 4
    assert ended.reward.tolist() == [15.0] * 4
    assert ended.success.tolist() == [False, True, True, True]
    assert not ended.terminated.any()


def test_what_comes_behind_the_end_cannot_matter():
    reward, success = REWARD.clone(), SUCCESS.clone()
    reward[1, 2:] = torch.nan
    step = step_of([0, 0, 0, 0])
    step.outputs.error[1, 2:] = torch.nan
    ended = outcome_of(step, Verdict(reward, success), 100, True)
    assert ended.reward.tolist() == [15.0, 3.0, 7.0, 15.0]
    assert not ended.uncertainty.isnan().any()


def test_without_heads():
    ended = outcome_of(step_of([0] * 4, heads=False), Verdict(REWARD, SUCCESS), 100, True)
    assert ended.uncertainty is None
    assert "uncertainty" not in ended.figures()


@pytest.mark.parametrize(
    ("verdict", "message"),
    [
        (Verdict(REWARD[:, 0], SUCCESS), "reward is torch.float32 (4,), expected float (4, 4)"),
        (Verdict(REWARD, SUCCESS[:, :1]), "success is torch.bool (4, 1), expected bool (4, 4)"),
        (Verdict(REWARD, SUCCESS.float()), "success is torch.float32 (4, 4), expected bool (4, 4)"),
        (Verdict(SUCCESS, SUCCESS), "reward is torch.bool (4, 4), expected float (4, 4)"),
    ],
)
def test_a_verdict_of_another_shape_is_refused(verdict, message, shapes_unchecked):
    """`(N,)` would otherwise be broadcast, and every row be paid for all."""
    with pytest.raises(ValueError, match=re.escape(message)):
        outcome_of(step_of([0] * 4), verdict, 100, True)
