import subprocess
import sys

import gymnasium
import numpy as np
import pytest
import torch
from counting_envs import CountingEnv, counting_envs
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from tiny_world_models import rising, tiny_world_model

pytest.importorskip("stable_baselines3")

from stable_baselines3 import PPO, SAC
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
    VecVideoRecorder,
)

import worldmodel  # noqa: F401 (registers the environment)
from worldmodel.adapters.stable_baselines import StableBaselinesVecEnv, unpack

SAME_STEP = AutoresetMode.SAME_STEP


def adapted(num_envs=3, **options):
    return StableBaselinesVecEnv(counting_envs(SAME_STEP, num_envs, **options))


def actions(envs, value=0):
    return np.full(envs.num_envs, value)


def test_gives_what_stable_baselines_own_vector_environment_gives():
    """Everything, over many episodes: observations, rewards, dones, infos, reset infos."""
    ours = adapted()
    theirs = DummyVecEnv([lambda i=i: CountingEnv(i) for i in range(3)])
    for envs in (ours, theirs):
        envs.seed(5)
    np.testing.assert_array_equal(ours.reset(), theirs.reset())
    assert ours.reset_infos == theirs.reset_infos
    assert [info["seed"] for info in ours.reset_infos] == [5, 6, 7]
    for step in range(12):
        chosen = np.array([step % 2, step % 3 == 0, 0])
        got, expected = ours.step(chosen), theirs.step(chosen)
        for one, other in zip(got[:3], expected[:3], strict=True):
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype
        for one, other in zip(got[3], expected[3], strict=True):
            assert one.keys() == other.keys()
            for key, value in other.items():
                np.testing.assert_array_equal(one[key], value)
        assert ours.reset_infos == theirs.reset_infos


def test_the_end_of_an_episode():
    envs = adapted()
    envs.reset()
    envs.step(actions(envs))
    observations, rewards, dones, infos = envs.step(actions(envs))
    assert dones.tolist() == [True, False, False]
    assert observations.tolist() == [[0, 1, 0], [1, 0, 2], [2, 0, 2]], "a new episode began"
    assert rewards.tolist() == [2, 2, 2], "the reward is the old one's"
    assert infos[0]["terminal_observation"].tolist() == [0, 0, 2]
    assert infos[0]["uncertainty"] == 0.2, "and so is info"
    assert "episode_start" not in infos[0]
    assert envs.reset_infos[0]["episode_start"]
    assert "terminal_observation" not in infos[1]
    _, _, dones, infos = envs.step(actions(envs))
    assert dones.tolist() == [False, True, False]
    assert infos[1]["TimeLimit.truncated"] is True
    assert infos[0]["TimeLimit.truncated"] is False


def test_what_is_both_terminated_and_truncated_is_not_truncated():
    envs = adapted()
    envs.reset()
    envs.step(actions(envs))
    *_, infos = envs.step(actions(envs))
    assert infos[0]["TimeLimit.truncated"] is False


def test_dict_observations():
    envs = adapted(as_dict=True)
    start = envs.reset()
    assert {key: value.shape for key, value in start.items()} == {
        "counters": (3, 3),
        "picture": (3, 2, 2, 3),
    }
    envs.step(actions(envs))
    observations, _, _, infos = envs.step(actions(envs))
    assert observations["picture"][:, 0, 0, 0].tolist() == [0, 2, 2]
    assert infos[0]["terminal_observation"]["picture"][0, 0, 0] == 2
    assert infos[0]["terminal_observation"]["counters"].tolist() == [0, 0, 2]


def test_infos_go_to_whom_their_mask_names():
    batch = {
        "a": np.array([1, 2]),
        "_a": np.array([False, True]),
        "b": {"c": np.array([3, 4]), "_c": np.array([True, False])},
        "_b": np.array([True, False]),
        "d": np.array([5, 6]),
        "_private": np.array([7, 8]),
    }
    assert unpack(batch, 2) == [
        {"b": {"c": 3}, "d": 5, "_private": 7},
        {"a": 2, "d": 6, "_private": 8},
    ]


def test_a_seed_is_used_once_and_repeats_the_episode():
    envs = StableBaselinesVecEnv(cartpoles(2))
    assert envs.seed(3) == [3, 4]
    first = envs.reset()
    assert not np.array_equal(envs.reset(), first)
    envs.seed(3)
    np.testing.assert_array_equal(envs.reset(), first)


def test_options_reach_the_next_reset_only():
    envs = adapted(2)
    envs.set_options({"context": 7})
    envs.reset()
    assert envs.get_attr("envs")[0][0].options == {"context": 7}
    envs.reset()
    assert envs.get_attr("envs")[0][0].options is None
    with pytest.raises(TypeError, match="one dict for the whole batch"):
        envs.set_options([{}, {}])


def test_attributes_and_methods_speak_for_the_batch():
    inner = counting_envs(SAME_STEP)
    envs = StableBaselinesVecEnv(RecordEpisodeStatistics(inner))
    assert envs.get_attr("num_envs", indices=[0, 2]) == [3, 3]
    assert envs.get_attr("copy") == [True] * 3, "an attribute below the wrapper"
    assert envs.get_attr("episode_count", indices=1) == [0], "and one of the wrapper"
    envs.set_attr("copy", False)
    assert inner.copy is False
    envs.set_attr("note", "new")
    assert envs.get_attr("note") == ["new"] * 3
    assert envs.env_method("get_attr", "number", indices=[1]) == [(0, 1, 2)]
    assert not envs.has_attr("nothing")
    with pytest.raises(AttributeError, match="nothing"):
        envs.env_method("nothing")
    with pytest.raises(ValueError, match="Leave out indices"):
        envs.set_attr("copy", True, indices=[0])


def test_says_what_it_is_wrapped_in():
    envs = StableBaselinesVecEnv(RecordEpisodeStatistics(counting_envs(SAME_STEP)))
    assert envs.env_is_wrapped(RecordEpisodeStatistics) == [True] * 3
    assert envs.env_is_wrapped(Monitor, indices=[0]) == [False]


def test_pictures_side_by_side():
    envs = adapted(4)
    envs.reset()
    assert [image[0, 0, 0] for image in envs.get_images()] == [0, 10, 20, 30]
    whole = envs.render("rgb_array")
    assert whole.shape == (8, 12, 3)
    assert (whole[0, 0, 0], whole[0, 6, 0], whole[4, 0, 0]) == (0, 10, 20)
    assert envs.metadata["render_fps"] == 7, "VecVideoRecorder asks for it"


def test_records_a_video(tmp_path, capsys):
    pytest.importorskip("moviepy")
    envs = VecVideoRecorder(adapted(4), str(tmp_path), lambda step: step == 0, video_length=3)
    envs.reset()
    for _ in range(4):
        envs.step(actions(envs))
    assert [path.suffix for path in tmp_path.iterdir()] == [".mp4"]


def test_no_pictures_without_a_render_mode():
    envs = StableBaselinesVecEnv(cartpoles(2))
    envs.reset()
    assert envs.get_images() == [None, None]


def test_close_closes():
    inner = counting_envs(SAME_STEP)
    StableBaselinesVecEnv(inner).close()
    assert inner.closed


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_refuses_another_autoreset_mode(mode):
    with pytest.raises(ValueError, match='autoreset_mode="same_step"') as error:
        StableBaselinesVecEnv(counting_envs(mode))
    assert mode.name in str(error.value)


def test_refuses_an_environment_that_does_not_say_how_it_resets():
    envs = counting_envs(SAME_STEP)
    del envs.metadata["autoreset_mode"]
    with pytest.raises(ValueError, match="autoreset mode None"):
        StableBaselinesVecEnv(envs)


def test_refuses_a_single_environment():
    with pytest.raises(TypeError, match="make_vec"):
        StableBaselinesVecEnv(gymnasium.make("CartPole-v1"))


def test_episode_statistics_from_either_library():
    theirs = VecMonitor(adapted())
    ours = StableBaselinesVecEnv(RecordEpisodeStatistics(counting_envs(SAME_STEP)))
    for envs in (theirs, ours):
        envs.reset()
        for _ in range(4):
            *_, infos = envs.step(actions(envs))
        assert [("episode" in info) for info in infos] == [True, False, True]
        assert infos[0]["episode"]["r"] == 1 + 2
        assert infos[0]["episode"]["l"] == 2
        assert infos[2]["episode"]["r"] == 1 + 2 + 3 + 4


def test_normalises():
    envs = VecNormalize(adapted())
    envs.reset()
    for _ in range(4):
        observations, *_, infos = envs.step(actions(envs))
    assert np.abs(observations).max() < 5
    assert infos[0]["terminal_observation"].max() < 5, "and the last observation, too"


def test_an_off_policy_learner_stores_the_true_last_observation():
    envs = adapted(discrete=False)
    agent = SAC("MlpPolicy", envs, learning_starts=30, buffer_size=300, seed=0)
    agent.learn(36)
    stored = agent.replay_buffer
    before, after = stored.observations[:12], stored.next_observations[:12]
    np.testing.assert_array_equal(after - before, np.broadcast_to([0, 0, 1], before.shape))


def cartpoles(num_envs):
    makers = [lambda: gymnasium.make("CartPole-v1")] * num_envs
    return gymnasium.vector.SyncVectorEnv(makers, autoreset_mode=SAME_STEP)


def test_learns_to_balance_a_pole():
    torch.manual_seed(0)
    envs = VecMonitor(StableBaselinesVecEnv(cartpoles(8)))
    agent = PPO("MlpPolicy", envs, n_steps=32, batch_size=256, learning_rate=2e-3, seed=0)
    before, _ = evaluate_policy(agent, envs, n_eval_episodes=8, deterministic=False)
    agent.learn(8_000)
    after, _ = evaluate_policy(agent, envs, n_eval_episodes=8, deterministic=False)
    assert after > 100 > 3 * before


def test_learns_in_the_imagined_environment():
    envs = VecMonitor(StableBaselinesVecEnv(imagined(16)))
    agent = PPO(
        "MlpPolicy",
        envs,
        n_steps=32,
        batch_size=128,
        gamma=0.95,
        gae_lambda=0.9,
        learning_rate=3e-3,
        seed=0,
    )
    before, _ = evaluate_policy(agent, envs, 64, deterministic=False, return_episode_rewards=True)
    agent.learn(16 * 32 * 12)
    after, _ = evaluate_policy(agent, envs, 64, deterministic=False, return_episode_rewards=True)
    noise = np.std(before) / np.sqrt(len(before))
    assert np.mean(after) > np.mean(before) + 8 * noise


def imagined(num_envs, **options):
    return gymnasium.make_vec(
        "worldmodel/Imagined-v0",
        num_envs=num_envs,
        vectorization_mode="vector_entry_point",
        checkpoint=tiny_world_model(told=False),
        horizon=8,
        reward=rising,
        autoreset_mode="same_step",
        **options,
    )


def test_the_end_of_an_imagined_episode():
    envs = StableBaselinesVecEnv(imagined(3))
    envs.reset()
    for _ in range(7):
        *_, infos = envs.step(np.zeros((3, 2), np.float32))
    assert not any("terminal_observation" in info for info in infos)
    start, _, dones, infos = envs.step(np.zeros((3, 2), np.float32))
    assert dones.all()
    for i, info in enumerate(infos):
        assert info["TimeLimit.truncated"]
        assert info["elapsed_steps"] == 8
        assert info["terminal_observation"].shape == start[i].shape
        assert not np.array_equal(info["terminal_observation"], start[i])


def test_learns_from_imagined_latents_and_the_robots_state():
    envs = StableBaselinesVecEnv(imagined(2, state=True))
    PPO("MultiInputPolicy", envs, n_steps=10, batch_size=20, n_epochs=1).learn(20)


def test_imagined_pixels_are_images_of_stable_baselines():
    envs = StableBaselinesVecEnv(imagined(2, obs_type="pixels"))
    assert is_image_space(envs.observation_space)
    assert VecTransposeImage(envs).reset().shape == (2, 3, 32, 32)


def test_imagined_chunks_are_actions_of_stable_baselines():
    envs = StableBaselinesVecEnv(imagined(2, chunk=4))
    assert envs.action_space.shape == (4, 2)
    PPO("MlpPolicy", envs, n_steps=10, batch_size=20, n_epochs=1).learn(20)


def test_imagined_pictures():
    envs = StableBaselinesVecEnv(imagined(4, render_mode="rgb_array"))
    envs.reset()
    assert envs.render("rgb_array").shape == (64, 64, 3)


def test_says_how_to_get_the_library():
    code = (
        "import sys; sys.modules['stable_baselines3.common.vec_env'] = None\n"
        "import worldmodel.adapters.stable_baselines"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install -e '.[rl]'" in result.stderr


def test_nothing_is_imported_unasked():
    code = (
        "import sys, worldmodel, worldmodel.adapters\n"
        "assert not {'stable_baselines3', 'torchrl', 'tensordict'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
