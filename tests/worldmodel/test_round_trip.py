"""What actions an inverse dynamics model reads off the imagined frames."""

import re

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from imagined_environments import commands, imagined, play, success_at
from tiny_world_models import ACTION_HIGH, ACTION_LOW
from torch import Tensor


class Oracle:
    """Reads what was commanded, because it was told; off by so much in the data's units."""

    def __init__(self, offset=(0.0, 0.0)):
        self.offset = torch.tensor(offset)
        self.commanded = torch.zeros(0)
        self.shown: list[Tensor] = []

    def __call__(self, latents: Tensor) -> Tensor:
        self.shown.append(latents)
        actions = torch.zeros(len(latents), latents.shape[1] - 1, 2)
        chunk = self.commanded.shape[1]
        actions[:, -chunk:] = self.commanded + self.offset
        return actions


def errors(env, oracle, actions) -> np.ndarray:
    """The error of every step, `(steps, N)`."""
    told = []
    for action in actions:
        low, high = env.action_space.low, env.action_space.high
        wide = (env.num_envs, env.imagination.chunk, 2)
        oracle.commanded = torch.from_numpy(np.clip(action, low, high).reshape(wide))
        told.append(env.step(action)[-1]["round_trip_error"])
    return np.stack(told)


@pytest.mark.parametrize("chunk", [1, 4])
def test_none_for_the_actions_that_were_commanded(chunk):
    oracle = Oracle()
    env = imagined(3, idm=oracle, chunk=chunk)
    env.reset(seed=0)
    assert errors(env, oracle, 2 * commands(env, 3)).tolist() == [[0.0] * 3] * 3


@pytest.mark.parametrize("chunk", [1, 4])
def test_in_normalised_units_for_others(chunk):
    """Off by half the range in the one dimension (1 of [-1, 1]), by none in the other."""
    half = float(ACTION_HIGH[0] - ACTION_LOW[0]) / 2
    oracle = Oracle((half, 0.0))
    env = imagined(3, idm=oracle, chunk=chunk)
    env.reset(seed=0)
    np.testing.assert_allclose(errors(env, oracle, commands(env, 3)), 0.5**0.5, rtol=1e-5)


def test_the_idm_sees_the_latest_frames():
    oracle = Oracle()
    env = imagined(2, idm=oracle, idm_frames=4)
    first, _ = env.reset(seed=0)
    frames = [first]
    for action in commands(env, 6):
        oracle.commanded = torch.from_numpy(action[:, None])
        frames.append(env.step(action)[0])
    frames = np.stack(frames, axis=1)
    assert oracle.shown[-1].shape == (2, 4, 1, 4, 8, 8)
    assert np.array_equal(oracle.shown[-1], frames[:, 3:])
    # before the first step there was nothing: it has stood still
    stood = np.concatenate((frames[:, :1], frames[:, :1], frames[:, :2]), axis=1)
    assert np.array_equal(oracle.shown[0], stood)


def test_a_chunk_brings_as_many_frames_as_the_idm_needs():
    oracle = Oracle()
    env = imagined(1, idm=oracle, idm_frames=2, chunk=4)
    env.reset(seed=0)
    errors(env, oracle, commands(env, 1))
    assert oracle.shown[0].shape[1] == 5


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_what_was_before_the_episode_is_forgotten(mode):
    oracle = Oracle()
    env = imagined(2, idm=oracle, idm_frames=5, reward=success_at(2, 0), autoreset_mode=mode)
    env.reset(seed=0)
    actions = commands(env, 6)
    errors(env, oracle, actions[:2])
    if mode == AutoresetMode.NEXT_STEP:
        oracle.commanded = torch.from_numpy(actions[2][:, None])
        assert env.step(actions[2])[-1]["_round_trip_error"].tolist() == [False, True]
    fresh = env.observe()
    errors(env, oracle, actions[3:4])
    latest = oracle.shown[-1]
    assert all(np.array_equal(latest[0, t], fresh[0]) for t in range(4))
    assert not np.array_equal(latest[1, 0], latest[1, 3])
    env.reset(options={"reset_mask": np.array([False, True])})
    assert not np.array_equal(env.get_state().recent[0, -2], env.get_state().recent[0, -1])
    assert np.array_equal(env.get_state().recent[1, 0], env.get_state().recent[1, -1])


def test_only_actions_up_to_the_end_count():
    oracle = Oracle()
    env = imagined(2, idm=oracle, chunk=4, reward=success_at(2, 0), autoreset_mode="disabled")
    env.reset(seed=0)
    action = commands(env, 1)[0]
    oracle.commanded = torch.from_numpy(action).clone()
    oracle.commanded[:, 2:, 0] += float(ACTION_HIGH[0] - ACTION_LOW[0]) / 2
    told = play(env, action[None])[0].info["round_trip_error"]
    # of the first row's two actions both are right, of the other's four two are off by (1, 0)
    np.testing.assert_allclose(told, [0.0, 0.5], atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 8, 2), (2, 7, 3), (7, 2)])
def test_actions_of_another_shape_are_named(shape):
    env = imagined(2, idm=lambda latents: torch.zeros(shape))
    env.reset(seed=0)
    message = f"the idm made actions {shape} of latents (2, 8, 1, 4, 8, 8), expected (2, 7, 2)"
    with pytest.raises(ValueError, match=re.escape(message)):
        env.step(commands(env, 1)[0])


def test_without_an_idm_there_is_none():
    env = imagined(1)
    env.reset(seed=0)
    moment = play(env, commands(env, 1))[0]
    assert "round_trip_error" not in moment.info
    assert env.get_state().recent is None
