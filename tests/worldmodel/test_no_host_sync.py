"""A step on the "meta" device, where nothing has a value: whoever asks for one there fails."""

import pytest
import torch
from tiny_world_models import tiny_world_model
from torch import nn

from worldmodel.imagination import Imagination
from worldmodel.outcome import outcome_of
from worldmodel.rewards import LearnedReward, LearnedSuccess


@pytest.mark.parametrize("history_blocks", [0, 2])
@pytest.mark.parametrize("chunk", [1, 4])
@pytest.mark.parametrize("reward", [LearnedReward(), LearnedSuccess()])
def test_no_step_waits_for_the_device(history_blocks, chunk, reward):
    model = tiny_world_model(heads=True, history_blocks=history_blocks)
    for module in (model.network, model.heads):
        nn.Module.to(module, "meta")
    imagination = Imagination(model, chunk, steps=2)
    seeds = torch.zeros(3, dtype=torch.long, device="meta")
    state = imagination.start(torch.empty(3, 1, 1, 4, 8, 8, device="meta"), seeds)
    for _ in range(2):
        step, state = imagination.step(state, torch.empty(3, chunk, 2, device="meta"))
        outcome = outcome_of(step, reward(step), horizon=8, terminate_on_success=True)
    assert outcome.reward.shape == (3,)
    with pytest.raises(RuntimeError):
        bool(outcome.success.any())
