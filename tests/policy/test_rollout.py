"""Rollouts of environments that say exactly where they are."""

import gymnasium
import numpy as np
import pytest
import torch
from counting_envs import counting_envs
from gymnasium.vector import AutoresetMode
from torch.distributions import Independent, Normal

from policy.actors.actor import ActorNetwork
from policy.actors.categorical import CategoricalActor
from policy.rollout import Collector, Commands, told
from video.statistics import Normalizer

NEXT, SAME = AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP


class Idle(ActorNetwork):
    """Draws about zero, far from what would terminate a `CountingEnv`."""

    chunk, action_dim = 1, 2

    def distribution(self, observation):
        mean = torch.zeros(len(next(iter(observation.values()))), 1, 2)
        return Independent(Normal(mean, 0.01), 2)

    def act(self, observation, generator=None, deterministic=False):
        return self.distribution(observation).mean

    def arguments(self):
        return {}


def rollout(mode, steps=6, only_first=False, limit=None, copy=True, **options):
    envs = counting_envs(mode, num_envs=2, copy=copy, discrete=False, **options)
    collector = Collector(envs, Idle(), uncertainty_limit=limit)
    collector.restart(0)
    return collector.collect(steps, torch.Generator().manual_seed(0), only_first)


def times(observations):
    """The step within its episode that each observation is of, by environment."""
    counters = observations.get("counters", observations.get("observation"))
    return counters[..., 2].long().T.tolist()


@pytest.mark.parametrize("copy", [True, False])
def test_next_step_autoreset(copy):
    # episodes of environment 0 terminate with step 2, those of environment 1 are cut with step 3
    found = rollout(NEXT, copy=copy)
    assert times(found.observations) == [[0, 1, 2, 0, 1, 2], [0, 1, 2, 3, 0, 1]]
    assert found.valid.T.tolist() == [[1, 1, 0, 1, 1, 0], [1, 1, 1, 0, 1, 1]]
    assert found.ends.T.tolist() == [[0, 1, 0, 0, 1, 0], [0, 0, 1, 0, 0, 0]]
    assert found.terminated.T.tolist() == [[0, 1, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0]]
    assert found.truncated.T.tolist() == [[0] * 6, [0, 0, 1, 0, 0, 0]]
    old = torch.tensor(times(found.observations)).T[found.valid]
    assert found.age[found.valid].tolist() == old.tolist()
    assert times(found.reached) == [[1, 2, 0, 1, 2, 0], [1, 2, 3, 0, 1, 2]]
    assert found.rewards.T.tolist() == [[1, 2, 0, 1, 2, 0], [1, 2, 3, 0, 1, 2]]


@pytest.mark.parametrize("as_dict", [True, False])
def test_same_step_autoreset(as_dict):
    found = rollout(SAME, as_dict=as_dict)
    assert times(found.observations) == [[0, 1, 0, 1, 0, 1], [0, 1, 2, 0, 1, 2]]
    assert times(found.reached) == [[1, 2, 1, 2, 1, 2], [1, 2, 3, 1, 2, 3]]
    assert found.valid.all()
    assert found.ends.T.tolist() == [[0, 1, 0, 1, 0, 1], [0, 0, 1, 0, 0, 1]]
    assert found.terminated.T.tolist() == [[0, 1, 0, 1, 0, 1], [0] * 6]
    assert found.truncated.T.tolist() == [[0] * 6, [0, 0, 1, 0, 0, 1]]
    assert found.age.T.tolist() == times(found.observations)


@pytest.mark.parametrize("mode", [NEXT, SAME])
def test_episodes_are_told_of_when_they_end(mode):
    found = rollout(mode, steps=5).episodes
    ends = {NEXT: [(3.0, 2), (6.0, 3), (3.0, 2)], SAME: [(3.0, 2), (6.0, 3), (3.0, 2)]}[mode]
    assert list(zip(found.returns, found.lengths, strict=True)) == ends
    assert found.successes == [True, False, True]
    assert found.figures() == {
        "return": 4.0,
        "success": pytest.approx(2 / 3),
        "episode_steps": pytest.approx(7 / 3),
    }


def test_only_the_first_episode_of_each_environment_counts():
    found = rollout(SAME, only_first=True).episodes
    assert found.returns == [3.0, 6.0]


def test_a_rollout_goes_on_where_the_last_one_ended():
    envs = counting_envs(SAME, num_envs=2, discrete=False)
    collector = Collector(envs, Idle())
    collector.restart(0)
    generator = torch.Generator().manual_seed(0)
    first, second = collector.collect(2, generator), collector.collect(2, generator)
    assert times(second.observations) == [[0, 1], [2, 0]]
    assert first.episodes.returns == [3.0]
    assert second.episodes.returns == [6.0, 3.0]


def test_early_truncation():
    # the uncertainty is a tenth of the step: step 2 is beyond the limit
    found = rollout(SAME, steps=4, limit=0.15)
    assert found.valid.T.tolist() == [[1, 1, 1, 1], [1, 1, 0, 1]]
    assert found.ends.T.tolist() == [[0, 1, 0, 1], [0, 1, 1, 0]]
    assert found.terminated.T.tolist() == [[0, 1, 0, 1], [0, 0, 0, 0]]
    assert times(found.reached)[1][1] == 2, "bootstraps from where it was cut"
    assert found.uncertainty.T[0].tolist() == pytest.approx([0.1, 0.2, 0.1, 0.2])


def test_the_same_generator_draws_the_same():
    one, same = (rollout(SAME) for _ in range(2))
    assert torch.equal(one.drawn, same.drawn)
    assert len(one.drawn.unique()) > 12


def test_actions_in_the_units_of_the_environment():
    envs = gymnasium.make_vec("Pendulum-v1", num_envs=3, vectorization_mode="sync")
    wanted = torch.tensor([-0.5, 1.0, 3.0]).view(3, 1, 1)
    assert Commands(envs)(wanted).tolist() == [[-1.0], [2.0], [2.0]]
    own = Normalizer(np.array([-1.0]), np.array([1.0]))
    assert Commands(envs, own)(wanted).tolist() == [[-0.5], [1.0], [2.0]]


def test_choices_are_numbers():
    envs = gymnasium.make_vec("CartPole-v1", num_envs=2, vectorization_mode="vector_entry_point")
    found = Commands(envs)(torch.tensor([0.0, 1.0]).view(2, 1, 1))
    assert found.tolist() == [0, 1]
    assert found in envs.action_space


def test_told_prefers_what_is_said_of_the_end():
    info = {
        "success": np.array([True, False]),
        "_success": np.array([True, False]),
        "final_info": {"success": np.array([False, True]), "_success": np.array([False, True])},
    }
    assert told(info, "success", 2).tolist() == [1, 1]
    assert told(info, "uncertainty", 2).tolist() == [0, 0]


def test_refuses_environments_that_are_reset_by_hand():
    with pytest.raises(ValueError, match="same_step"):
        Collector(counting_envs(AutoresetMode.DISABLED), CategoricalActor({"observation": [3]}, 2))


def test_refuses_actions_without_bounds():
    envs = counting_envs(SAME, discrete=False)
    envs.single_action_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,))
    with pytest.raises(ValueError, match="has no bounds"):
        Commands(envs)
