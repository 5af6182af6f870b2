"""PPO on the environments that everybody knows; more of it in benchmarks/ppo.py."""

import gymnasium
import numpy as np
import pytest
import torch

from policy.actors.categorical import CategoricalActor
from policy.actors.gaussian import GaussianActor
from policy.critic import critic_beside
from policy.ppo import PPO, PPOOptions
from policy.rollout import Collector


def train(envs, actor, options, iterations, seed, steps=128):
    """The learner, and the mean return of each iteration in which an episode ended."""
    learner = PPO(actor, critic_beside(actor, actor.encoder.shapes), options)
    collector, generator = Collector(envs, actor), torch.Generator().manual_seed(seed)
    collector.restart(seed)
    history = []
    for iteration in range(iterations):
        rollout = collector.collect(steps, generator)
        learner.update(rollout, generator, iteration / iterations)
        history += [rollout.episodes.figures()["return"]] if rollout.episodes.returns else []
    return learner, history


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
    envs = gymnasium.make_vec("CartPole-v1", num_envs=100, **options)
    seen, _ = envs.reset(seed=1000)
    alive, total = np.ones(100, bool), np.zeros(100)
    for _ in range(500):
        chosen = actor.act({"observation": torch.as_tensor(seen)}, deterministic=True)
        seen, reward, terminated, truncated, _ = envs.step(chosen[:, 0, 0].numpy().astype(int))
        total += alive * reward
        alive &= ~(terminated | truncated)
    assert total.mean() >= 475


def test_pendulum_becomes_much_better():
    torch.manual_seed(0)
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
    _, history = train(envs, actor, settings, iterations=20, seed=0)
    assert history[0] < -1000
    assert history[-1] > -400
