"""gymnasium's own wrappers around the imagined environment, single and in batches."""

import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import FlattenObservation, NormalizeReward, RecordVideo
from gymnasium.wrappers import RecordEpisodeStatistics as RecordSingle
from gymnasium.wrappers import vector as wrappers
from gymnasium.wrappers.vector import RecordEpisodeStatistics as RecordVector
from imagined_environments import commands, imagined, never, play, shared_model, success_at

import worldmodel  # noqa: F401 (registers the environment)

ID = "worldmodel/Imagined-v0"


def test_gymnasium_records_its_video(tmp_path):
    pytest.importorskip("moviepy")
    env = gymnasium.make(
        ID, checkpoint=shared_model(), reward=never, horizon=5, render_mode="rgb_array"
    )
    env = RecordVideo(env, str(tmp_path / "videos"), episode_trigger=lambda episode: True)
    env.reset(seed=0)
    for _ in range(5):
        env.step(env.action_space.sample())
    env.close()
    assert [path.name for path in tmp_path.glob("*/*.mp4")] == ["rl-video-episode-0.mp4"]


def test_gymnasium_counts_a_single_episode():
    env = RecordSingle(gymnasium.make(ID, checkpoint=shared_model(), reward=never, horizon=4))
    env.reset(seed=0)
    infos = [env.step(env.action_space.sample())[-1] for _ in range(4)]
    assert ["episode" in info for info in infos] == [False, False, False, True]
    assert (infos[-1]["episode"]["r"], infos[-1]["episode"]["l"]) == (1 + 2 + 3 + 4, 4)


@pytest.mark.parametrize(
    ("mode", "counted"),
    [
        # a step of its own for every reset: row 0 ends in steps 2, 5 and 8, row 1 in 4 and 9
        ("next_step", [[0, 2], [1, 4], [0, 2], [0, 2], [1, 4]]),
        ("same_step", [[0, 2], [0, 2], [1, 4], [0, 2], [0, 2], [1, 4], [0, 2]]),
    ],
)
def test_gymnasium_counts_many_episodes(mode, counted):
    """Row 0 succeeds in its second step, row 1 never: it is truncated after its fourth."""
    envs = RecordVector(imagined(2, reward=success_at(2, 0), horizon=4, autoreset_mode=mode))
    envs.reset(seed=0)
    ended = []
    for moment in play(envs, commands(envs, 10)):
        for row in np.flatnonzero(moment.info.get("_episode", [])):
            episode = moment.info["episode"]
            ended.append([int(row), int(episode["l"][row])])
            assert episode["r"][row] == {2: 1 + 2, 4: 1 + 2 + 3 + 4}[ended[-1][1]]
    assert ended == counted


def test_other_wrappers_of_gymnasium_go_around_it():
    env = gymnasium.make(ID, checkpoint=shared_model(), obs_type="pixels", state=True)
    env = NormalizeReward(FlattenObservation(env))
    observation, _ = env.reset(seed=0)
    assert observation.shape == (32 * 32 * 3 + 3,)
    assert env.step(env.action_space.sample())[0] in env.observation_space


@pytest.mark.parametrize(
    "wrapper",
    [
        wrappers.ClipAction,
        wrappers.DictInfoToList,
        wrappers.FlattenObservation,
        wrappers.NormalizeObservation,
        wrappers.NormalizeReward,
    ],
)
def test_other_wrappers_of_gymnasium_go_around_the_batch(wrapper):
    envs = wrapper(imagined(3, horizon=2))
    envs.reset(seed=0)
    for _ in range(4):
        moment = envs.step(envs.action_space.sample())
    if wrapper is wrappers.DictInfoToList:  # the fourth step is the second episode's first
        assert [told["elapsed_steps"] for told in moment[-1]] == [1, 1, 1]
