"""PPO on rollouts made by hand."""

import copy
from dataclasses import fields

import pytest
import torch

from policy.actors.gaussian import GaussianActor
from policy.critic import Critic, critic_beside
from policy.encoder import ObservationEncoder
from policy.ppo import PPO, PPOOptions
from policy.rollout import Episodes, Rollout


def rollout(steps=8, envs=16, seed=0, good=0.5):
    """One-step episodes in which an action near `good` is rewarded."""
    generator = torch.Generator().manual_seed(seed)
    seen = torch.randn(steps, envs, 3, generator=generator)
    drawn = torch.randn(steps, envs, 1, 2, generator=generator) * 0.3
    true = torch.ones(steps, envs, dtype=torch.bool)
    return Rollout(
        observations={"state": seen},
        reached={"state": seen},
        drawn=drawn,
        rewards=-(drawn - good).square().sum((2, 3)),
        terminated=true,
        truncated=~true,
        ends=true,
        age=torch.arange(float(steps))[:, None].expand(-1, envs),
        valid=true.clone(),
        uncertainty=torch.zeros(steps, envs),
        episodes=Episodes(),
    )


def learner(seed=0, clock=None, **options):
    torch.manual_seed(seed)
    actor = GaussianActor({"state": (3,)}, 2, width=32, depth=1)
    critic = critic_beside(actor, actor.encoder.shapes, clock=clock)
    return PPO(actor, critic, PPOOptions(**options))


def update(ppo, times=1, **options):
    generator = torch.Generator().manual_seed(0)
    return [ppo.update(rollout(**options), generator) for _ in range(times)][-1]


def weights(network):
    return torch.cat([weight.flatten() for weight in network.parameters()]).clone()


def test_what_was_good_becomes_likelier():
    ppo = learner(learning_rate=1e-3)
    seen = {"state": torch.randn(4, 3)}
    before = ppo.actor.act(seen, deterministic=True).mean().item()
    update(ppo, times=5)
    assert ppo.actor.act(seen, deterministic=True).mean().item() > before + 0.1


def test_an_anchor_holds_the_actor_back():
    free, held = learner(anchor_weight=1e-9), learner(anchor_weight=1.0)
    far, near = (update(ppo, times=10)["anchor_kl"] for ppo in (free, held))
    assert near < far / 3
    assert not any(weight.requires_grad for weight in held.anchor.parameters())


def test_the_actor_waits_for_the_critic():
    ppo = learner(critic_warmup=2)
    actor, critic = weights(ppo.actor), weights(ppo.critic)
    update(ppo, times=2)
    assert torch.equal(weights(ppo.actor), actor)
    assert not any(weight in ppo.optimizer.state for weight in ppo.weights[0]), "no momentum yet"
    assert not torch.equal(weights(ppo.critic), critic)
    update(ppo)
    assert not torch.equal(weights(ppo.actor), actor)


def test_steps_that_are_not_valid_teach_nothing():
    spoiled, clean = learner(), learner()
    given = rollout()
    half = copy.deepcopy(given)
    given.valid[4:], given.rewards[4:] = False, torch.nan
    half = Rollout(
        {"state": half.observations["state"][:4]},
        {"state": half.reached["state"][:4]},
        **{
            field.name: getattr(half, field.name)[:4]
            for field in fields(Rollout)
            if field.name not in ("observations", "reached", "episodes")
        },
        episodes=Episodes(),
    )
    for ppo, data in ((spoiled, given), (clean, half)):
        ppo.update(data, torch.Generator().manual_seed(0))
    assert torch.equal(weights(spoiled.actor), weights(clean.actor))


@pytest.mark.parametrize(("terminated", "returns"), [(False, [1, 2, 2]), (True, [0, 0, 2])])
def test_what_a_truncated_episode_was_worth(terminated, returns):
    # the critic says 4 of everything, rewards are zero, an episode ends with the second step
    ppo = learner(discount=0.5, lambda_=1.0)
    torch.nn.init.constant_(ppo.critic.value.bias, 4.0)
    given = rollout(steps=3, envs=1)
    given.rewards.zero_()
    given.ends = torch.tensor([[False], [True], [False]])
    given.terminated = given.ends & terminated
    assert ppo.lesson(given).returns.tolist() == returns


@pytest.mark.parametrize(("deadline", "returns"), [(False, [1, 2, 2]), (True, [0, 0, 2])])
def test_behind_a_deadline_nothing_is_worth_anything(deadline, returns):
    ppo = learner(clock=3, discount=0.5, lambda_=1.0, deadline=deadline)
    torch.nn.init.constant_(ppo.critic.value.bias, 4.0)
    given = rollout(steps=3, envs=1)
    given.rewards.zero_()
    given.terminated.zero_()
    given.ends = given.truncated = torch.tensor([[False], [True], [False]])
    assert ppo.lesson(given).returns.tolist() == returns


def test_an_early_truncation_is_no_deadline():
    ppo = learner(clock=3, discount=0.5, lambda_=1.0, deadline=True)
    torch.nn.init.constant_(ppo.critic.value.bias, 4.0)
    given = rollout(steps=3, envs=1)
    given.rewards.zero_()
    given.terminated.zero_()
    given.ends = torch.tensor([[False], [True], [False]])
    assert ppo.lesson(given).returns.tolist() == [1, 2, 2]


def test_with_a_deadline_haste_is_worth_nothing_and_coming_too_late_everything():
    """Four steps: success in the second, in the fourth, and never."""
    ppo = learner(clock=4, discount=1.0, lambda_=1.0, deadline=True)
    given = rollout(steps=4, envs=3)
    given.rewards.zero_()
    given.rewards[1, 0] = given.rewards[3, 1] = 1.0
    given.terminated = given.rewards > 0
    given.truncated = torch.zeros_like(given.terminated)
    given.truncated[3, 2] = True
    given.ends = given.terminated | given.truncated
    assert ppo.lesson(given).returns.view(4, 3)[0].tolist() == [1.0, 1.0, 0.0]


def test_a_critic_with_a_clock_tells_early_from_late():
    torch.manual_seed(0)
    critic = Critic(ObservationEncoder({"state": (3,)}, 32), clock=8)
    seen = {"state": torch.zeros(9, 3)}
    age = torch.arange(9.0)
    optimizer = torch.optim.Adam(critic.parameters(), 3e-3)
    for _ in range(300):
        optimizer.zero_grad()
        loss = (critic(seen, age) - (1 - age / 8)).square().mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < 1e-3
    with pytest.raises(ValueError, match="needs a clock"):
        learner(deadline=True)


def test_uncertainty_costs_reward():
    ppo = learner(uncertainty_penalty=2.0)
    given = rollout(envs=4)
    free = ppo.lesson(given).returns.view(8, 4)
    given.uncertainty += torch.tensor([0.5, 0.5, 0.5, 1.5])  # 0.25 below the average, 0.75 above
    expected = free + torch.tensor([0.5, 0.5, 0.5, -1.5])
    assert torch.allclose(ppo.lesson(given).returns.view(8, 4), expected)
    given.uncertainty += given.age  # the same for all of an age
    assert torch.allclose(ppo.lesson(given).returns.view(8, 4), expected)


def test_the_same_seed_learns_the_same():
    one, same, other = learner(), learner(), learner(seed=1)
    figures = [update(ppo) for ppo in (one, same, other)]
    assert figures[0] == figures[1] != figures[2]
    assert torch.equal(weights(one.actor), weights(same.actor))


def test_annealing_ends_at_zero():
    ppo = learner(anneal=True)
    before = weights(ppo.actor)
    ppo.update(rollout(), torch.Generator().manual_seed(0), progress=1.0)
    assert torch.equal(weights(ppo.actor), before)


def test_the_critic_overfits_one_batch():
    torch.manual_seed(0)
    critic = Critic(ObservationEncoder({"latents": (1, 4, 8, 8), "state": (3,)}, 64, 8))
    seen = {"latents": torch.randn(8, 1, 4, 8, 8), "state": torch.randn(8, 3)}
    assert critic(seen).tolist() == [0.0] * 8
    wanted = torch.randn(8)
    optimizer = torch.optim.Adam(critic.parameters(), 3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        loss = (critic(seen) - wanted).square().mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < 1e-3


def test_the_critic_begins_with_what_the_actor_sees():
    actor = GaussianActor({"state": (3,)}, 2, width=32)
    critic = critic_beside(actor, {"state": (3,)})
    assert torch.equal(weights(critic.encoder), weights(actor.encoder))
    assert critic.encoder is not actor.encoder
    other = critic_beside(actor, {"pixels": (8, 8, 3)}, width=16)
    assert other.encoder.shapes == {"pixels": (8, 8, 3)}


@pytest.mark.parametrize(
    "wrong",
    [{"discount": 1.2}, {"clip": 0.0}, {"epochs": 0}, {"anchor_weight": -1.0}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_refuses_numbers_that_mean_nothing(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PPOOptions(**wrong)
