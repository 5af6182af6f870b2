"""A user's own PPO loop, in the well-known shape of one file, on gymnasium's interface alone."""

import gymnasium
import numpy as np
import torch
from counting_envs import counting_envs
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from tiny_world_models import rising, tiny_world_model
from torch import Tensor, nn
from torch.distributions import Normal

import worldmodel  # noqa: F401 (registers the environment)


class Agent(nn.Module):
    def __init__(self, envs: VectorEnv):
        super().__init__()
        inputs = int(np.prod(envs.single_observation_space.shape))
        outputs = int(np.prod(envs.single_action_space.shape))
        self.critic = nn.Sequential(nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 1))
        self.actor = nn.Sequential(nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, outputs))
        self.log_std = nn.Parameter(torch.zeros(outputs))

    def value(self, observations: Tensor) -> Tensor:
        return self.critic(observations.flatten(1))[:, 0]

    def policy(self, observations: Tensor) -> Normal:
        return Normal(self.actor(observations.flatten(1)), self.log_std.exp())


def ppo(
    envs: VectorEnv,
    iterations: int,
    num_steps: int = 32,
    epochs: int = 4,
    minibatches: int = 4,
    gamma: float = 0.95,
    gae_lambda: float = 0.9,
    clip: float = 0.2,
    learning_rate: float = 3e-3,
    seed: int = 0,
) -> list[list[float]]:
    """Returns of the episodes that ended in each iteration."""
    torch.manual_seed(seed)
    agent = Agent(envs)
    optimizer = torch.optim.Adam(agent.parameters(), lr=learning_rate, eps=1e-5)
    space, shape = envs.single_action_space, (num_steps, envs.num_envs)
    low, high = space.low.reshape(-1), space.high.reshape(-1)
    observations = torch.zeros(*shape, *envs.single_observation_space.shape)
    actions = torch.zeros(*shape, len(low))
    log_probs, rewards, terminated, values = (torch.zeros(shape) for _ in range(4))
    valid = torch.zeros(shape, dtype=torch.bool)

    observation, _ = envs.reset(seed=seed)
    ended = np.zeros(envs.num_envs, bool)
    history = []
    for _ in range(iterations):
        history.append([])
        for step in range(num_steps):
            observations[step] = torch.as_tensor(observation)
            valid[step] = torch.as_tensor(~ended)  # the step behind an end only resets
            with torch.no_grad():
                policy = agent.policy(observations[step])
                actions[step] = policy.sample()
                log_probs[step] = policy.log_prob(actions[step]).sum(1)
                values[step] = agent.value(observations[step])
            scaled = low + (high - low) * (actions[step].clamp(-1, 1).numpy() + 1) / 2
            scaled = scaled.astype(np.float32).reshape(envs.num_envs, *space.shape)
            observation, reward, terminations, truncations, info = envs.step(scaled)
            rewards[step] = torch.as_tensor(reward)
            terminated[step] = torch.as_tensor(terminations)
            ended = terminations | truncations
            if "episode" in info:
                history[-1] += info["episode"]["r"][info["_episode"]].tolist()

        advantages = torch.zeros(shape)
        with torch.no_grad():
            following = agent.value(torch.as_tensor(observation, dtype=torch.float32))
        goes_on, advantage = torch.as_tensor(~ended), torch.zeros(envs.num_envs)
        for step in reversed(range(num_steps)):
            target = rewards[step] + gamma * following * (1 - terminated[step])
            advantage = target - values[step] + gamma * gae_lambda * advantage * goes_on
            advantages[step], following, goes_on = advantage, values[step], valid[step]
        returns = advantages + values

        batch = valid.flatten().nonzero()[:, 0]
        flat = [x.flatten(0, 1) for x in (observations, actions, log_probs, advantages, returns)]
        for _ in range(epochs):
            for rows in batch[torch.randperm(len(batch))].chunk(minibatches):
                seen, taken, old, gain, wanted = (x[rows] for x in flat)
                policy = agent.policy(seen)
                ratio = (policy.log_prob(taken).sum(1) - old).exp()
                gain = (gain - gain.mean()) / (gain.std() + 1e-8)
                surrogate = torch.min(gain * ratio, gain * ratio.clamp(1 - clip, 1 + clip))
                value_loss = (agent.value(seen) - wanted).square().mean()
                optimizer.zero_grad()
                (0.5 * value_loss - surrogate.mean()).backward()
                nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
                optimizer.step()
    return history


def test_reads_whole_episodes_from_any_vector_environment():
    envs = RecordEpisodeStatistics(counting_envs(AutoresetMode.NEXT_STEP, discrete=False))
    history = ppo(envs, iterations=2, num_steps=12)
    # episodes last 2, 3 and 4 steps, and one more to reset
    assert sorted(history[0]) == [1 + 2] * 4 + [1 + 2 + 3] * 3 + [1 + 2 + 3 + 4] * 2


def test_learns_in_the_imagined_environment():
    envs = gymnasium.make_vec(
        "worldmodel/Imagined-v0",
        num_envs=16,
        vectorization_mode="vector_entry_point",
        checkpoint=tiny_world_model(),
        horizon=8,
        reward=rising,
    )
    assert envs.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    history = ppo(RecordEpisodeStatistics(envs), iterations=10, num_steps=36)
    assert [len(returns) for returns in history] == [16 * 4] * 10
    before, after = np.mean(history[0]), np.mean(history[-1])
    noise = np.std(history[0]) / np.sqrt(len(history[0]))
    assert after > before + 8 * noise
