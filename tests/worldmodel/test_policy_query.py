"""A world model that acts by itself."""

import dataclasses

import pytest
import torch
from imagined_environments import shared_model

from video.errors import DatasetError
from worldmodel.draws import step_generator
from worldmodel.policy_query import PolicyQuery
from worldmodel.queries import draw_noise, policy

FRAME = torch.randn(3, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def test_it_is_the_policy_query_of_a_frame_that_stood_still():
    query = PolicyQuery(shared_model(), steps=2, seed=5)
    network = shared_model().network
    anchor = torch.stack((FRAME, FRAME), dim=1)
    noise = draw_noise(network, anchor, [step_generator(5) for _ in range(3)])
    chosen = query.act({"latents": FRAME, "state": torch.zeros(3, 3)}, deterministic=True)
    assert chosen.shape == (3, query.chunk, query.action_dim)
    torch.testing.assert_close(chosen, policy(network, anchor, noise, 2))


def test_rows_do_not_know_each_other_and_chance_comes_from_the_generator():
    query = PolicyQuery(shared_model(), steps=2)
    together = query.act({"latents": FRAME}, deterministic=True)
    for row in range(3):
        alone = query.act({"latents": FRAME[row : row + 1]}, deterministic=True)
        torch.testing.assert_close(alone[0], together[row])

    def act(seed):
        return query.act({"latents": FRAME}, torch.Generator().manual_seed(seed))

    assert act(1).equal(act(1))
    assert not act(1).equal(act(2))


def test_what_cannot_act_is_refused():
    with pytest.raises(ValueError, match="steps=0"):
        PolicyQuery(shared_model(), steps=0)
    with pytest.raises(DatasetError, match="without any actions"):
        PolicyQuery(dataclasses.replace(shared_model(), action_normalizer=None))
