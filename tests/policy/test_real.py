"""The real environment means the same as an imagined one; both go through the same loops here."""

import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from imagined_environments import shared_model, success_at
from tiny_autoencoders import tiny_autoencoder

from policy.real import RealVectorEnv
from video.episodes import open_dataset
from video.errors import DatasetError, SimulatorMissing
from worldmodel.environment import ImaginedVectorEnv

IDS = ["toy_simulators:toy/Left-v0", "toy_simulators:toy/Right-v0"]
HALT = np.zeros((3, 2), np.float32)
RIGHT = np.array([[2.0, 0.0]] * 3, np.float32)


def real(num_envs: int = 3, **options) -> RealVectorEnv:
    options = {"env": IDS, "autoencoder": tiny_autoencoder(), "workers": 0, **options}
    return RealVectorEnv(num_envs=num_envs, **options)


def imagined(num_envs: int = 3, **options) -> ImaginedVectorEnv:
    options = {"reward": success_at(*[0] * num_envs), **options}
    return ImaginedVectorEnv(shared_model(), num_envs, **options)


BOTH = pytest.mark.parametrize("make", [real, imagined])


def played(env, steps: int, action=HALT) -> list:
    shape = env.action_space.shape
    actions = np.broadcast_to(action.reshape(len(action), *[1] * (len(shape) - 2), 2), shape)
    return [env.step(actions) for _ in range(steps)]


def test_every_id_is_tried_at_once():
    with pytest.raises(DatasetError, match="toy/Missing-v0 cannot be made"):
        real(env=[*IDS, "toy_simulators:toy/Missing-v0"])
    with pytest.raises(SimulatorMissing, match="not_installed"):
        real(env="not_installed:toy/Left-v0")


@BOTH
@pytest.mark.parametrize("chunk", [1, 4])
@pytest.mark.parametrize("state", [False, True])
def test_spaces_and_kinds_are_the_same(make, chunk, state):
    env = make(chunk=chunk, state=state)
    assert env.single_action_space.shape == ((2,) if chunk == 1 else (chunk, 2))
    np.testing.assert_array_equal(env.single_action_space.low[..., 0], -2)
    observations, info = env.reset(seed=0)
    latents = observations["latents"] if state else observations
    assert (latents.shape, latents.dtype) == ((3, 1, 4, 8, 8), np.float32)
    if state:
        assert (observations["state"].shape, observations["state"].dtype) == ((3, 3), np.float32)
    assert observations in env.observation_space
    observations, reward, terminated, truncated, info = played(env, 1)[0]
    assert (reward.dtype, terminated.dtype, truncated.dtype) == (np.float64, bool, bool)
    assert info["elapsed_steps"].tolist() == [chunk] * 3
    assert info["success"].dtype == bool
    assert info["_success"].all()
    env.close()


@BOTH
@pytest.mark.parametrize("mode", ["next_step", "same_step", "disabled"])
def test_a_horizon_truncates_and_the_next_episode_begins_as_the_mode_says(make, mode):
    env = make(horizon=6, chunk=4, autoreset_mode=mode)
    first, _ = env.reset(seed=0)
    _, (last, _, terminated, truncated, info) = played(env, 2)
    assert truncated.all()
    assert not terminated.any()
    if mode == "same_step":
        assert info["final_info"]["elapsed_steps"].tolist() == [6, 6, 6]
        assert info["final_obs"][0].shape == last[0].shape
        assert not np.array_equal(info["final_obs"][0], last[0])
    else:
        assert info["elapsed_steps"].tolist() == [6, 6, 6]
    if mode == "disabled":
        with pytest.raises(ResetNeeded, match="are over"):
            played(env, 1)
        mask = np.array([True, True, False])
        env.reset(options={"reset_mask": mask})
        with pytest.raises(ResetNeeded, match=r"\[2\] are over"):
            played(env, 1)
        env.reset(options={"reset_mask": ~mask})
    elif mode == "next_step":
        _, reward, terminated, truncated, info = played(env, 1)[0]
        assert (reward.tolist(), truncated.any()) == ([0, 0, 0], False)
        assert "elapsed_steps" not in info or not info["_elapsed_steps"].any()
    assert played(env, 1)[0][4]["elapsed_steps"].tolist() == [4, 4, 4]
    again, _ = env.reset(seed=0)
    np.testing.assert_array_equal(again, first)
    env.close()


@BOTH
def test_an_environment_depends_on_its_own_seed_alone(make):
    # what a simulator draws is exact; how its latents round depends on how many are encoded at once
    exact = {real: {"obs_type": "pixels"}, imagined: {}}[make]
    many, one = make(**exact), make(1, **exact)
    seen = [many.reset(seed=5)[0][2], one.reset(seed=7)[0][0]]
    np.testing.assert_array_equal(*seen)
    # and so do its later episodes
    later = [env.reset()[0][i] for env, i in ((many, 2), (one, 0))]
    np.testing.assert_array_equal(*later)
    listed = many.reset(seed=[7, 8, 9])[0][0]
    np.testing.assert_array_equal(listed, seen[0])


@BOTH
def test_misuse_is_explained(make):
    env = make()
    with pytest.raises(ResetNeeded):
        played(env, 1)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="expected"):
        env.step(np.zeros((3, 4, 2), np.float32))
    with pytest.raises(ValueError, match=r"\[1\] are not finite"):
        env.step(np.array([[0, 0], [np.nan, 0], [0, 0]], np.float32))
    with pytest.raises(ValueError, match="2 seeds for num_envs=3"):
        env.reset(seed=[1, 2])
    with pytest.raises(ValueError, match="unknown options"):
        env.reset(options={"colour": "red"})
    with pytest.raises(ValueError, match="reset_mask"):
        env.reset(options={"reset_mask": np.zeros(3, bool)})


def test_a_success_within_a_chunk_is_the_end_and_shows_it():
    env = real(chunk=4, state=True)
    _, info = env.reset(seed=0)
    assert info["task"].tolist() == ["Left", "Right", "Left"]
    observations, reward, terminated, _, info = played(env, 1, RIGHT)[0]
    assert terminated.all()
    assert info["success"].all()
    assert reward.tolist() == [1, 1, 1]  # the success that ends it, and none behind
    np.testing.assert_allclose(observations["state"][:, 0], 1)
    np.testing.assert_allclose(observations["state"][:, 2] * 24, info["elapsed_steps"], rtol=1e-6)
    assert info["elapsed_steps"][1] < info["elapsed_steps"][0] <= 3


def test_latents_depend_on_the_number_of_environments_by_rounding_alone():
    many, one = real(), real(1)
    latents = many.reset(seed=5)[0][2], one.reset(seed=7)[0][0]
    np.testing.assert_allclose(*latents, atol=2 * np.finfo(np.float16).eps * np.abs(latents).max())


def test_episodes_go_on_behind_a_success_where_that_is_wanted():
    env = real(chunk=4, terminate_on_success=False, reward="dense", horizon=8)
    env.reset(seed=0)
    (_, reward, *_), (_, _, terminated, truncated, info) = played(env, 2, RIGHT)
    assert not terminated.any()
    assert truncated.all()
    assert info["success"].all()
    assert (reward > 40).all()


def test_frames_are_drawn_once_a_step_and_encoded_as_stored_ones():
    env = real(chunk=4, render_mode="rgb_array")
    observations, _ = env.reset(seed=0)
    frames = np.stack(env.render())
    assert frames.shape == (3, 32, 32, 3)
    pixels = torch.from_numpy(frames.transpose(0, 3, 1, 2).copy())[:, None]
    expected = tiny_autoencoder().encode(pixels).half().float()
    np.testing.assert_array_equal(observations, expected)
    before = [env.workers.here.at[i][1].unwrapped.rendered for i in range(3)]
    played(env, 1)
    env.render()
    drawn = [env.workers.here.at[i][1].unwrapped.rendered for i in range(3)]
    assert [b - a for a, b in zip(before, drawn, strict=True)] == [1, 1, 1]


def test_pixels_of_another_size():
    env = real(obs_type="pixels", autoencoder=None, frame_size=(16, 24))
    observations, _ = env.reset(seed=0)
    assert (observations.shape, observations.dtype) == ((3, 16, 24, 3), np.uint8)
    assert observations in env.observation_space


def test_the_number_of_workers_changes_nothing():
    seen = []
    for workers in (0, 2):
        env = real(workers=workers, state=True, horizon=2)
        steps = [env.reset(seed=3), *played(env, 4, RIGHT / 4)]
        seen.append(np.stack([step[0]["state"] for step in steps]))
        env.close()
    np.testing.assert_array_equal(*seen)


def test_a_worker_that_fails_says_why():
    with pytest.raises(DatasetError, match="no_such_package"):
        real(env="no_such_package/Env-v0", workers=1)
    with pytest.raises(ValueError, match="not a Box"):
        real(env="toy_simulators:toy/Buttons-v0")
    with pytest.raises(ValueError, match="needs the autoencoder"):
        real(autoencoder=None)
    with pytest.raises(ValueError, match="horizon=0"):
        real(horizon=0)


@pytest.mark.simulator
def test_a_reset_shows_the_first_frame_that_was_recorded_with_the_same_seed():
    dataset = open_dataset("video/datasets/metaworld")
    chosen = [int(dataset.splits["train"][n]) for n in (0, 200, 400)]
    ids = [dataset.notes[episode]["env"] for episode in chosen]
    seeds = [dataset.notes[episode]["seed"] for episode in chosen]
    for env_id, seed, episode in zip(ids, seeds, chosen, strict=True):
        env = RealVectorEnv(env_id, obs_type="pixels", state=True, workers=0)
        observations, info = env.reset(seed=[seed])
        env.close()
        own, other = (first_frame(dataset, number) for number in (episode, episode + 1))
        error = [np.abs(observations["pixels"] - frame).mean() for frame in (own, other)]
        assert error[0] < min(4, error[1])  # of 255: mp4 loses that much
        state = dataset.columns["state"][dataset.starts[episode]]
        np.testing.assert_allclose(observations["state"][0], state, atol=1e-6)
        assert info["task"][0] == dataset.tasks[episode]


def first_frame(dataset, episode: int) -> np.ndarray:
    return dataset.read_frames(episode, np.zeros(1, int), dataset.cameras[0]).astype(float)
