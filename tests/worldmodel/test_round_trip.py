"""What actions an inverse dynamics model reads off the imagined frames."""

import dataclasses
import re

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from imagined_environments import commands, imagined, play, shared_model, success_at
from tiny_autoencoders import tiny_autoencoder
from tiny_world_models import ACTION_HIGH, ACTION_LOW
from torch import Tensor

from video.errors import DatasetError
from video.statistics import Normalizer
from worldmodel.action_query import InverseDynamicsQuery


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
    env = imagined(3, idm=oracle, idm_delay=0, chunk=chunk)
    env.reset(seed=0)
    assert errors(env, oracle, 2 * commands(env, 3)).tolist() == [[0.0] * 3] * 3


@pytest.mark.parametrize("chunk", [1, 4])
def test_in_normalised_units_for_others(chunk):
    """Off by half the range in the one dimension (1 of [-1, 1]), by none in the other."""
    half = float(ACTION_HIGH[0] - ACTION_LOW[0]) / 2
    oracle = Oracle((half, 0.0))
    env = imagined(3, idm=oracle, idm_delay=0, chunk=chunk)
    env.reset(seed=0)
    np.testing.assert_allclose(errors(env, oracle, commands(env, 3)), 0.5**0.5, rtol=1e-5)


def test_the_idm_sees_the_latest_frames():
    oracle = Oracle()
    env = imagined(2, idm=oracle, idm_delay=0, idm_frames=4)
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
    env = imagined(1, idm=oracle, idm_delay=0, idm_frames=2, chunk=4)
    env.reset(seed=0)
    errors(env, oracle, commands(env, 1))
    assert oracle.shown[0].shape[1] == 5
    waiting = imagined(1, idm=oracle, idm_frames=2, chunk=4, idm_delay=3)
    assert waiting.round_trip is not None
    assert waiting.round_trip.frames == 8


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_what_was_before_the_episode_is_forgotten(mode):
    oracle = Oracle()
    env = imagined(
        2, idm=oracle, idm_delay=0, idm_frames=5, reward=success_at(2, 0), autoreset_mode=mode
    )
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
    assert not np.array_equal(
        env.get_state().recent.frames[0, -2], env.get_state().recent.frames[0, -1]
    )
    assert np.array_equal(env.get_state().recent.frames[1, 0], env.get_state().recent.frames[1, -1])


def test_only_actions_up_to_the_end_count():
    oracle = Oracle()
    env = imagined(
        2, idm=oracle, idm_delay=0, chunk=4, reward=success_at(2, 0), autoreset_mode="disabled"
    )
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


class Prompter:
    """Reads the actions of a script, off by 0.1 k in the first dimension for the k-th action."""

    def __init__(self, script: np.ndarray, chunk: int):
        self.script, self.chunk, self.calls = torch.from_numpy(script), chunk, 0

    def __call__(self, latents: Tensor) -> Tensor:
        self.calls += 1
        taken = self.calls * self.chunk
        known = self.script[max(0, taken - latents.shape[1] + 1) : taken].transpose(0, 1).clone()
        first = taken - known.shape[1]
        known[..., 0] += 0.1 * torch.arange(first + 1, taken + 1)
        return torch.nn.functional.pad(known, (0, 0, latents.shape[1] - 1 - known.shape[1], 0))


def script(env, steps: int, chunk: int) -> tuple[np.ndarray, np.ndarray]:
    """Commands as the environment takes them, and one action after the other `(steps, N, A)`."""
    taken = commands(env, steps)
    return taken, taken.reshape(steps, env.num_envs, chunk, 2).swapaxes(1, 2).reshape(-1, 2, 2)


@pytest.mark.parametrize("chunk", [1, 4])
def test_actions_are_judged_a_few_frames_late(chunk):
    """Of actions that are off by 0.1 k: which ones the errors of a step are made of."""
    env = imagined(2, idm=lambda latents: latents, chunk=chunk, idm_frames=4, idm_delay=2)
    assert env.round_trip is not None
    taken, actions = script(env, 3 if chunk == 4 else 6, chunk)
    env.round_trip.idm = Prompter(actions, chunk)
    env.reset(seed=0)
    half = float(ACTION_HIGH[0] - ACTION_LOW[0]) / 2
    squares = (0.1 * np.arange(1, 13) / half) ** 2 / 2  # over two dimensions
    for number, moment in enumerate(play(env, taken)):
        end = (number + 1) * chunk - 2
        judged = squares[max(0, end - chunk) : max(0, end)]
        assert moment.info["_round_trip_error"].tolist() == [len(judged) > 0] * 2
        if len(judged):
            error = np.sqrt(judged.mean())
            np.testing.assert_allclose(moment.info["round_trip_error"], error, rtol=1e-4)
        drift = np.sqrt(squares[: max(0, end)].sum())
        np.testing.assert_allclose(moment.info["round_trip_drift"], drift, rtol=1e-4, atol=1e-6)
    assert moment.info["_round_trip_drift"].all()


def test_a_neighbours_reset_judges_nothing():
    env = imagined(2, idm=Oracle(), reward=success_at(1, 0))
    assert env.round_trip is not None
    env.reset(seed=0)
    told = []
    for action in commands(env, 3):
        env.round_trip.idm.commanded = torch.from_numpy(action[:, None])
        told.append(env.step(action)[-1])
    masks = [info["_round_trip_error"].tolist() for info in told]
    assert masks == [[False, False], [False, False], [False, True]]  # two frames are waited for


def test_a_new_episode_has_not_drifted():
    env = imagined(2, idm=Oracle((1.0, 0.0)), idm_delay=0, reward=success_at(2, 0))
    assert env.round_trip is not None
    env.reset(seed=0)
    for action in commands(env, 3):
        env.round_trip.idm.commanded = torch.from_numpy(action[:, None])
        info = env.step(action)[-1]
    assert info["_round_trip_error"].tolist() == [False, True]  # the first row was reset
    env.round_trip.idm.commanded = torch.from_numpy(action[:, None])
    drift = env.step(action)[-1]["round_trip_drift"]
    np.testing.assert_allclose(drift, np.sqrt(np.array([1, 4]) * 0.5 / 4), rtol=1e-4)


def test_a_folder_reads_its_own_frames(tmp_path):
    model = shared_model()
    model.save_pretrained(tmp_path / "model")
    by_folder = imagined(2, idm=str(tmp_path / "model"))
    by_model = imagined(2, idm=InverseDynamicsQuery(model))
    other = dataclasses.replace(model, autoencoder=tiny_autoencoder(seed=5))
    through_frames = imagined(2, idm=InverseDynamicsQuery(other))
    drifts = []
    for env in (by_folder, by_model, through_frames):
        env.reset(seed=0)
        drifts.append(play(env, commands(env, 4))[-1].info["round_trip_drift"])
    assert np.array_equal(drifts[0], drifts[1])
    assert (drifts[0] > 0).all()
    assert not np.allclose(drifts[1], drifts[2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fps": 5.0}, "frame rate 5.0, the world model 10.0"),
        ({"cameras": ("wrist",)}, "cameras ('wrist',), the world model ('camera_0',)"),
        ({"frame_size": (64, 64)}, "frame size (64, 64), the world model (32, 32)"),
        (
            {"action_normalizer": Normalizer(-np.ones(3), np.ones(3))},
            "number of action dimensions 3, the world model 2",
        ),
    ],
)
def test_a_reader_of_other_video_is_refused(change, message):
    reader = InverseDynamicsQuery(dataclasses.replace(shared_model(), **change))
    with pytest.raises(DatasetError, match=re.escape(message)):
        imagined(2, idm=reader)


def test_a_negative_delay_is_refused():
    with pytest.raises(ValueError, match="idm_delay=-1"):
        imagined(2, idm=Oracle(), idm_delay=-1)


def test_without_an_idm_there_is_none():
    env = imagined(1)
    env.reset(seed=0)
    moment = play(env, commands(env, 1))[0]
    assert "round_trip_error" not in moment.info
    assert env.get_state().recent is None
