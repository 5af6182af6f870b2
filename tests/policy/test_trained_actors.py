"""Actors that PPO trains although a flow knows no likelihoods, and one for choices."""

import numpy as np
import pytest
import torch

from policy.actors.actor import StochasticActor, build, describe
from policy.actors.categorical import CategoricalActor
from policy.actors.draws import draw
from policy.actors.flow import FlowActor
from policy.actors.gaussian import GaussianActor
from policy.actors.residual import ResidualActor
from policy.actors.steering import SteeringActor
from video.statistics import Normalizer

SHAPES = {"state": (3,)}
SMALL = {"width": 32, "depth": 1}


def flow():
    torch.manual_seed(0)
    base = FlowActor(SHAPES, 2, chunk=3, **SMALL)
    torch.nn.init.normal_(base.read[1].weight, std=0.2)
    return base


def seen(envs=5):
    return {"state": torch.randn(envs, 3, generator=torch.Generator().manual_seed(0))}


def make(kind):
    base = flow()
    if kind is CategoricalActor:
        return CategoricalActor(SHAPES, 4, **SMALL)
    return kind(base, SHAPES, **SMALL)


@pytest.mark.parametrize("kind", [ResidualActor, SteeringActor])
def test_what_is_trained_sees_the_state_as_the_frozen_actor_does(kind):
    base = flow()
    low, high = np.array([400.0, 0.0, -1.0]), np.array([600.0, 1.0, 1.0])
    base.encoder.normalize_by("state", Normalizer(low, high))
    made = kind(base, SHAPES, **SMALL)
    own = (made.residual if kind is ResidualActor else made.steering).encoder.embed["state"]
    assert own.center.tolist() == [500.0, 0.5, 0.0]
    assert own.half_range.tolist() == [100.0, 0.5, 1.0]


KINDS = [CategoricalActor, ResidualActor, SteeringActor]


@pytest.mark.parametrize("kind", KINDS)
def test_is_a_stochastic_actor(kind):
    actor = make(kind)
    assert isinstance(actor, StochasticActor)
    chances = actor.distribution(seen())
    assert chances.batch_shape == (5,)
    assert chances.event_shape == (actor.chunk, actor.action_dim)
    drawn = draw(chances, torch.Generator().manual_seed(1))
    assert chances.log_prob(drawn).shape == chances.entropy().shape == (5,)
    assert actor.decode(seen(), drawn).shape == (5, actor.chunk, actor.action_dim)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_acts_the_same(kind):
    actor = make(kind)
    one, same, other = (actor.act(seen(60), torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    still = [actor.act(seen(), torch.Generator().manual_seed(s), True) for s in (1, 2)]
    assert torch.equal(*still)


@pytest.mark.parametrize("kind", KINDS)
def test_can_be_described_and_built_again(kind):
    actor = make(kind)
    again = build(describe(actor))
    again.load_state_dict(actor.state_dict())
    assert torch.equal(again.act(seen(), deterministic=True), actor.act(seen(), deterministic=True))


@pytest.mark.parametrize("kind", [ResidualActor, SteeringActor])
def test_begins_as_the_flow_and_leaves_it_frozen(kind):
    actor = make(kind)
    base = flow().act(seen(), deterministic=True)
    assert torch.allclose(actor.act(seen(), deterministic=True), base, atol=0.02)
    assert not any(weight.requires_grad for weight in actor.base.parameters())
    assert any(weight.requires_grad for weight in actor.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_learns_to_draw_one_thing(kind):
    actor, wanted = make(kind), torch.tensor([2.0])
    optimizer = torch.optim.Adam([w for w in actor.parameters() if w.requires_grad], 1e-2)
    aim = wanted.expand(5, actor.chunk, actor.action_dim)
    aim = aim if kind is CategoricalActor else aim / 10
    before = actor.distribution(seen()).log_prob(aim).mean().item()
    for _ in range(200):
        optimizer.zero_grad()
        loss = -actor.distribution(seen()).log_prob(aim).mean()
        loss.backward()
        optimizer.step()
    assert -loss.item() > before + 0.5
    if kind is CategoricalActor:
        assert torch.equal(actor.act(seen(), deterministic=True), aim)


def test_steering_chooses_the_noise_of_the_flow():
    actor = make(SteeringActor)
    noise = torch.randn(5, 3, 2)
    assert torch.equal(actor.decode(seen(), noise), flow().act(seen(), noise=noise))
    chances = actor.distribution(seen())
    assert torch.allclose(chances.stddev, torch.tensor(0.95))
    assert chances.mean.abs().max() < 0.05


def test_the_correction_is_scaled():
    actor = ResidualActor(flow(), SHAPES, scale=0.1, initial_std=0.5, **SMALL)
    chances = actor.distribution(seen())
    assert torch.allclose(chances.stddev, torch.tensor(0.05))


def test_only_a_flow_can_be_steered():
    with pytest.raises(ValueError, match="ResidualActor"):
        SteeringActor(GaussianActor(SHAPES, 2), SHAPES)


def test_draws_need_a_distribution_that_is_known():
    with pytest.raises(TypeError, match="Beta"):
        draw(torch.distributions.Beta(1.0, 1.0))


def test_a_choice_needs_alternatives():
    with pytest.raises(ValueError, match="choices=1"):
        CategoricalActor(SHAPES, 1)
