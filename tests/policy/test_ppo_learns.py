"""PPO on the environments that everybody knows; more of it in benchmarks/ppo.py."""

import gymnasium
import numpy as np
import pytest
import torch

from policy.actors.categorical import CategoricalActor
from policy.actors.gaussian import GaussianActor
from policy.critic import critic_beside
from policy.ppo import PPO, PPOOptions
from policy.rollout import Collector, Commands


def train(envs, actor, options, iterations, seed, steps=128):
    learner = PPO(actor, critic_beside(actor, actor.encoder.shapes), options)
    collector, generator = Collector(envs, actor), torch.Generator().manual_seed(seed)
    collector.restart(seed)
    for iteration in range(iterations):
        rollout = collector.collect(steps, generator)
        learner.update(rollout, generator, iteration / iterations)


@torch.inference_mode()
def first_episodes(envs, actor):
    """The return of every environment's first episode, without chance."""
    commands = Commands(envs)
    seen, _ = envs.reset(seed=1000)
    going, total = np.ones(envs.num_envs, bool), np.zeros(envs.num_envs)
    while going.any():
        chosen = actor.act({"observation": torch.as_tensor(seen)}, deterministic=True)
        seen, reward, terminated, truncated, _ = envs.step(commands(chosen))
        total += going * reward
        going &= ~(terminated | truncated)
    return total


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cartpole(seed):
    torch.manual_seed(seed)
    options = {"vectorization_mode": "vector_entry_point"}
    envs = gymnasium.make_vec("CartPole-v1", num_envs=16, **options)
    actor = CategoricalActor({"observation": (4,)}, 2)
    settings = PPOOptions(
        learning_rate=1e-3, anneal=True, epochs=10, minibatches=8, discount=0.98, lambda_=0.9
    )
    train(envs, actor, settings, iterations=25, seed=seed)
    returns = first_episodes(gymnasium.make_vec("CartPole-v1", num_envs=100, **options), actor)
    assert returns.mean() >= 475


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_pendulum(seed):
    torch.manual_seed(seed)
    envs = gymnasium.make_vec("Pendulum-v1", num_envs=32, vectorization_mode="sync")
    actor = GaussianActor({"observation": (3,)}, 1, width=64, depth=1, initial_std=0.6)
    settings = PPOOptions(
        learning_rate=1e-3,
        critic_learning_rate=3e-3,
        anneal=True,
        epochs=10,
        minibatches=8,
        discount=0.9,
    )
    train(envs, actor, settings, iterations=40, seed=seed)
    envs = gymnasium.make_vec("Pendulum-v1", num_envs=100, vectorization_mode="sync")
    assert first_episodes(envs, actor).mean() >= -200
