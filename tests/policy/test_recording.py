"""Datasets that saved policies record."""

import gymnasium
import numpy as np
import pytest
from tiny_autoencoders import tiny_autoencoder
from tiny_policies import tiny_policy

from policy.model import as_actions
from policy.real import RealVectorEnv
from policy.recording import SavedPolicy
from video.episodes import open_dataset
from video.errors import DatasetError
from video.record import record
from video.simulators.recipe import Source

ID = "toy_simulators:toy/Left-v0"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folders of a policy and of its autoencoder."""
    folder = tmp_path_factory.mktemp("saved")
    tiny_policy(chunk=3).save_pretrained(folder / "policy")
    tiny_autoencoder().save_pretrained(folder / "autoencoder")
    return {"path": str(folder / "policy"), "autoencoder": str(folder / "autoencoder")}


def recorded(out, workers=0, episodes=2, **options):
    """Actions of a recording."""
    record(out, ID, policy=SavedPolicy(**options), episodes=episodes, length=8, workers=workers)
    return open_dataset(out).columns["actions"].reshape(episodes, 8, 2)


def test_it_acts_as_it_does_in_the_real_environment(saved, tmp_path):
    options = {"horizon": 8, "chunk": 3, "state": True, "terminate_on_success": False}
    env = RealVectorEnv(ID, autoencoder=tiny_autoencoder(), workers=0, **options)
    policy = tiny_policy(chunk=3)
    observations, _ = env.reset(seed=0)
    expected = []
    for _ in range(2):
        chosen = policy.act(observations)
        expected.append(np.clip(chosen[0], [-2, 0], [2, 1]))
        observations, *_ = env.step(as_actions(chosen, env))
    actions = recorded(tmp_path / "out", **saved)
    np.testing.assert_allclose(actions[0, :6], np.concatenate(expected), atol=1e-5)


def test_it_can_look_again_before_its_chunk_is_over(saved):
    env = gymnasium.make(ID, render_mode="rgb_array", disable_env_checker=True)
    for chunk, looks in ((None, 3), (1, 7), (2, 4)):
        policy = SavedPolicy(**saved, chunk=chunk)
        observation, info = env.reset(seed=0)
        policy.reset(env, seed=0)
        before = env.unwrapped.rendered
        for _ in range(7):
            action = np.clip(policy(observation, info), env.action_space.low, env.action_space.high)
            observation, *_, info = env.step(action)
        assert env.unwrapped.rendered - before == looks


def test_noise_is_that_of_the_seed_and_as_large_as_asked_for(saved):
    env = gymnasium.make(ID, render_mode="rgb_array", disable_env_checker=True)
    observation, info = env.reset(seed=0)

    def first_actions(noise, seed):
        policy = SavedPolicy(**saved, noise=noise)
        found = []
        for episode in range(100):
            policy.reset(env, seed=100 * seed + episode)
            found.append(policy(observation, info))
        return np.stack(found)

    quiet, noisy = first_actions(0.0, 0), first_actions(0.5, 0)
    assert (quiet == quiet[0]).all()
    assert np.array_equal(noisy, first_actions(0.5, 0))
    assert not np.array_equal(noisy, first_actions(0.5, 1))
    np.testing.assert_allclose(noisy.std(0), [0.5 * 2, 0.5 * 0.5], rtol=0.25)
    np.testing.assert_allclose(noisy.mean(0), quiet[0], atol=0.4)


def test_workers_record_the_same(saved, tmp_path):
    here = recorded(tmp_path / "here", noise=0.1, **saved)
    there = recorded(tmp_path / "there", workers=1, noise=0.1, **saved)
    np.testing.assert_allclose(here, there, atol=1e-5)


def test_its_description_names_the_policy(saved):
    described = Source(SavedPolicy(**saved, noise=0.2)).description()
    assert described.startswith("SavedPolicy(path=")
    assert described.endswith("noise=0.2)")


def test_what_does_not_fit_is_explained(saved, tmp_path):
    env = gymnasium.make(ID, render_mode="rgb_array", disable_env_checker=True)
    with pytest.raises(DatasetError, match="looks at latents: name the folder"):
        SavedPolicy(saved["path"]).reset(env, 0)
    tiny_autoencoder(seed=1).save_pretrained(tmp_path / "other")
    with pytest.raises(DatasetError, match="Name the one it was trained on"):
        SavedPolicy(saved["path"], str(tmp_path / "other")).reset(env, 0)
    tiny_policy(fps=20.0).save_pretrained(tmp_path / "fast")
    with pytest.raises(DatasetError, match="acts at 20 steps a second"):
        SavedPolicy(str(tmp_path / "fast"), saved["autoencoder"]).reset(env, 0)
    with pytest.raises(ValueError, match=r"noise=-0\.1"):
        SavedPolicy(**saved, noise=-0.1)


def test_a_policy_of_pixels_needs_no_autoencoder(tmp_path):
    shapes = {"pixels": (32, 32, 3), "state": (3,)}
    tiny_policy(shapes=shapes, autoencoder=None).save_pretrained(tmp_path / "policy")
    actions = recorded(tmp_path / "out", path=str(tmp_path / "policy"), episodes=1)
    assert np.isfinite(actions).all()
