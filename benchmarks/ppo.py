"""What PPO reaches on CartPole-v1 and Pendulum-v1, seed by seed.

    python benchmarks/ppo.py [--seeds 0 1 2 3 4]

Prints one JSON line: for each environment the mean return of 100 episodes of the trained policy,
without chance, for every seed; the steps it was trained on, and seconds of training a seed. Usual
are 500 of 500 for CartPole and about -150 to -200 for Pendulum.
"""

import argparse
import json
import time
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import VectorEnv

from policy.actors.categorical import CategoricalActor
from policy.actors.gaussian import GaussianActor
from policy.critic import critic_beside
from policy.observations import as_observation, shapes_of
from policy.ppo import PPO, PPOOptions
from policy.rollout import Collector, Commands

STEPS, EPISODES, FIRST_SEED = 128, 100, 1000
COMMON: dict[str, Any] = {"learning_rate": 1e-3, "anneal": True, "epochs": 10, "minibatches": 8}
JOBS = {
    "CartPole-v1": (16, 25, PPOOptions(discount=0.98, lambda_=0.9, **COMMON)),
    "Pendulum-v1": (32, 40, PPOOptions(discount=0.9, critic_learning_rate=3e-3, **COMMON)),
}
"""By environment: how many side by side, how many iterations, and how PPO learns."""


def train(name: str, num_envs: int, iterations: int, options: PPOOptions, seed: int) -> Any:
    """A trained actor."""
    torch.manual_seed(seed)
    envs = make(name, num_envs)
    shapes = shapes_of(envs.single_observation_space)
    space = envs.single_action_space
    if isinstance(space, gymnasium.spaces.Discrete):
        actor = CategoricalActor(shapes, int(space.n))
    else:
        assert space.shape is not None
        actor = GaussianActor(shapes, space.shape[0], width=64, depth=1, initial_std=0.6)
    learner = PPO(actor, critic_beside(actor, shapes), options)
    collector, generator = Collector(envs, actor), torch.Generator().manual_seed(seed)
    collector.restart(seed)
    for iteration in range(iterations):
        rollout = collector.collect(STEPS, generator)
        learner.update(rollout, generator, iteration / iterations)
    envs.close()
    return actor


def mean_return(name: str, actor: Any) -> float:
    """Of the first episode of each of many environments."""
    envs = make(name, EPISODES)
    shapes, commands = shapes_of(envs.single_observation_space), Commands(envs)
    seen, _ = envs.reset(seed=FIRST_SEED)
    going, total = np.ones(EPISODES, bool), np.zeros(EPISODES)
    while going.any():
        with torch.inference_mode():
            actions = actor.act(as_observation(seen, shapes), deterministic=True)
        seen, reward, terminated, truncated, _ = envs.step(commands(actions))
        total += going * reward
        going &= ~(terminated | truncated)
    envs.close()
    return float(total.mean())


def make(name: str, num_envs: int) -> VectorEnv:
    """CartPole has a vector environment of its own."""
    mode = "vector_entry_point" if name == "CartPole-v1" else "sync"
    return gymnasium.make_vec(name, num_envs=num_envs, vectorization_mode=mode)


def main() -> None:
    """Train every seed, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    seeds = parser.parse_args().seeds
    torch.set_flush_denormal(True)
    result = {}
    for name, (num_envs, iterations, options) in JOBS.items():
        began = time.perf_counter()
        actors = [train(name, num_envs, iterations, options, seed) for seed in seeds]
        seconds = (time.perf_counter() - began) / len(seeds)
        result[name] = {
            "returns": [round(mean_return(name, actor), 1) for actor in actors],
            "steps": num_envs * STEPS * iterations,
            "seconds": round(seconds, 1),
        }
    print(json.dumps({"seeds": seeds, **result}))


if __name__ == "__main__":
    main()
