"""Meta-World as an environment: repeatable, upright, restorable; and its fallible policies."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.error import DependencyNotInstalled

import video
from video.episodes import open_dataset
from video.simulators import METAWORLD_TASKS, register_metaworld

DATASETS = Path(video.__file__).parent / "datasets"
TASKS = ("button-press-topdown-v3", "drawer-open-v3", "window-close-v3")
OBJECT = slice(4, 7)
simulator = pytest.mark.simulator


@pytest.fixture(scope="module")
def metaworld_env():
    """The module; tests that ask for it are skipped where Meta-World cannot be imported."""
    try:
        return import_module("video.simulators.metaworld_env")
    except DependencyNotInstalled as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def policies(metaworld_env):
    return import_module("video.simulators.metaworld_policies")


@pytest.fixture
def make(metaworld_env):
    """Makes environments, and closes them after the test."""
    made = []

    def make_one(task: str = TASKS[0], rendered: bool = False, **kwargs) -> gymnasium.Env:
        mode = "rgb_array" if rendered else None
        env = gymnasium.make(f"metaworld/{task}", render_mode=mode, **kwargs)
        made.append(env)
        if rendered:
            env.reset(seed=0)
            try:
                env.render()
            except DependencyNotInstalled as error:
                pytest.skip(str(error))
        return env

    yield make_one
    for env in made:
        env.close()


def run(env, policy, seed: int, steps: int = 36) -> list[bool]:
    """Success after every step."""
    observation, info = env.reset(seed=seed)
    policy.reset(env, seed + 10_000)
    successes = []
    for _ in range(steps):
        observation, _, terminated, _, info = env.step(policy(observation, info))
        assert not terminated
        successes.append(info["success"])
    return successes


def test_every_task_has_an_id():
    register_metaworld()
    assert len(METAWORLD_TASKS) == 50
    for task in METAWORLD_TASKS:
        assert f"metaworld/{task}" in gymnasium.registry


def test_without_metaworld_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "video.simulators.metaworld_env", raising=False)
    monkeypatch.setitem(sys.modules, "metaworld.env_dict", None)
    with pytest.raises(DependencyNotInstalled, match=r"pip install -e '\.\[sim\]'.*libegl1"):
        gymnasium.make(f"metaworld/{TASKS[0]}")


@simulator
def test_gymnasium_imports_the_ids_by_itself(metaworld_env):
    code = f"import gymnasium; gymnasium.make('video.simulators:metaworld/{TASKS[0]}')"
    subprocess.run([sys.executable, "-c", code], check=True)


@simulator
def test_ids_are_those_of_metaworld(metaworld_env):
    assert set(METAWORLD_TASKS) == set(metaworld_env.ENV_CLS_MAP)


@simulator
def test_spaces_and_returned_values(make):
    env = make(TASKS[1])
    observation, info = env.reset(seed=3)
    assert info == {"success": False, "seed": 3}
    assert env.observation_space.contains(observation)
    np.testing.assert_array_equal(observation["agent_pos"], observation["environment_state"][:4])
    np.testing.assert_array_equal(
        observation["environment_state"][:18], observation["environment_state"][18:36]
    )
    observation, _, terminated, truncated, info = env.step(env.action_space.sample())
    assert env.observation_space.contains(observation)
    assert isinstance(info["success"], bool)
    assert (terminated, truncated) == (False, False)


@simulator
@pytest.mark.parametrize("task", TASKS)
def test_a_seed_repeats_the_episode_whatever_happened_before(make, task):
    env, other = make(task), make(task)
    action = np.array([0.5, 1, -0.5, 0], np.float32)
    episodes = []
    for which, history in ((env, ()), (env, (1, 2)), (other, (4,))):
        for seed in history:
            which.reset(seed=seed)
            which.step(-action)
        observation, _ = which.reset(seed=9)
        steps = [which.step(action)[:2] for _ in range(4)]
        values = [observation["environment_state"]]
        values += [after["environment_state"] for after, _ in steps]
        episodes.append((np.array(values), [reward for _, reward in steps]))
    for states, rewards in episodes[1:]:
        np.testing.assert_array_equal(states, episodes[0][0])
        assert rewards == episodes[0][1]
    elsewhere, _ = env.reset(seed=10)
    assert np.abs(elsewhere["environment_state"] - episodes[0][0][0])[OBJECT].max() > 1e-3


@simulator
def test_without_a_seed_every_reset_is_another_one(make):
    env = make()
    env.reset(seed=1)
    first, info = env.reset()
    second, _ = env.reset()
    assert not np.array_equal(first["environment_state"], second["environment_state"])
    again, _ = env.reset(seed=info["seed"])
    np.testing.assert_array_equal(first["environment_state"], again["environment_state"])


@simulator
@pytest.mark.parametrize("task", TASKS)
def test_the_first_frame_shows_the_object_where_it_is(make, task):
    env = make(task, rendered=True)
    for seed in range(3):
        before, _ = env.reset(seed=seed)
        first = env.render().astype(int)
        after, *_ = env.step(np.array([0, 0, 0, -1], np.float32))
        moved = (after["environment_state"] - before["environment_state"])[OBJECT]
        assert np.abs(moved).max() < 0.01
        assert (np.abs(env.render() - first).max(axis=-1) > 60).sum() < 30


@simulator
def test_pictures_are_upright_and_repeat(make):
    env = make(rendered=True)
    env.reset(seed=5)
    frame = env.render()
    assert frame.shape == (64, 64, 3)
    assert frame.dtype == np.uint8
    grey_wall, brown_table = frame[2, 50:62].mean(axis=0), frame[60, 30:50].mean(axis=0)
    assert np.ptp(grey_wall) < 15
    assert brown_table[0] - brown_table[2] > 20
    red = (frame[..., 0] > 120) & (frame[..., 1:].max(axis=-1) < 60)
    assert red[:, :32].sum() > 3 * red[:, 32:].sum(), "the robot stands on the left"
    env.step(np.ones(4, np.float32))
    assert (env.render() != frame).any()
    env.reset(seed=5)
    np.testing.assert_array_equal(env.render(), frame)


@simulator
def test_a_pixel_is_the_mean_of_what_is_drawn_larger(make, metaworld_env):
    drawn = np.array([[0, 255, 1, 2], [255, 255, 2, 1]], np.uint8)[..., None].repeat(3, -1)
    mean = metaworld_env._averaged(drawn, 2)
    np.testing.assert_array_equal(mean, np.array([[[191] * 3, [2] * 3]], np.uint8))
    white = np.full((32, 32, 3), 255, np.uint8)
    np.testing.assert_array_equal(metaworld_env._averaged(white, 16), white[:2, :2])

    small, large = (make(rendered=True, size=16 * n, supersampling=4 // n) for n in (1, 2))
    for env in (small, large):
        env.reset(seed=5)
    from_twos = metaworld_env._averaged(large.render(), 2).astype(int)
    assert np.abs(small.render() - from_twos).max() <= 1


@simulator
def test_finer_frames_move_more_evenly(make):
    """An edge that crosses a pixel changes it bit by bit: the sum of its changes is smaller."""
    changes = {}
    for samples in (1, 4):
        env = make(rendered=True, supersampling=samples)
        env.reset(seed=5)
        frames = [env.render().astype(int)]
        for _ in range(12):
            env.step(np.array([0.3, 0.2, 0.1, 0], np.float32))
            frames.append(env.render().astype(int))
        changes[samples] = np.abs(np.diff(frames, axis=0)).mean()
    assert changes[4] < 0.97 * changes[1]


@simulator
def test_size_camera_and_action_repeat(make):
    env = make(rendered=True, size=32, camera="topview", camera_position=None, action_repeat=2)
    assert env.render().shape == (32, 32, 3)
    assert env.metadata["render_fps"] == 40
    twice = make(action_repeat=2)
    once = make(action_repeat=1)
    action = np.array([1, 0.5, 0.25, 0], np.float32)
    twice.reset(seed=2)
    once.reset(seed=2)
    after, reward, *_ = twice.step(action)
    first_reward = once.step(action)[1]
    after_both, second_reward, *_ = once.step(action)
    np.testing.assert_array_equal(after["environment_state"], after_both["environment_state"])
    assert reward == pytest.approx(first_reward + second_reward)


@simulator
@pytest.mark.parametrize("task", TASKS)
def test_a_state_is_restored_exactly(make, policies, task):
    env, other = make(task), make(task)
    policy = policies.Expert(noise=0.3)
    run(env, policy, seed=1, steps=2)
    run(env, policy, seed=3, steps=15)
    state = env.unwrapped.get_state()
    action = np.array([0.3, -0.2, 0.1, 1], np.float32)
    expected, reward, *_ = env.step(action)
    run(other, policy, seed=8, steps=3)
    other.unwrapped.set_state(state)
    found, found_reward, *_ = other.step(action)
    np.testing.assert_array_equal(found["environment_state"], expected["environment_state"])
    assert found_reward == reward


@simulator
def test_actions_beyond_the_bounds_are_clipped(make):
    env = make()
    results = []
    for action in ([1, -1, 1, 1], [3, -9, 1, 2]):
        env.reset(seed=0)
        results.append(env.step(np.array(action, np.float32))[0]["environment_state"])
    np.testing.assert_array_equal(*results)


@simulator
def test_an_episode_is_truncated_by_the_time_limit_only(make):
    env = make(max_episode_steps=2)
    env.reset(seed=0)
    assert env.step(np.zeros(4, np.float32))[2:4] == (False, False)
    assert env.step(np.zeros(4, np.float32))[2:4] == (False, True)


@simulator
def test_mistakes_are_named(make):
    env = make()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="4 finite numbers"):
        env.unwrapped.step(np.zeros(3))
    with pytest.raises(ValueError, match="nan"):
        env.unwrapped.step(np.array([0, np.nan, 0, 0]))
    with pytest.raises(RuntimeError, match="rgb_array"):
        env.unwrapped.render()
    with pytest.raises(ValueError, match=r"'cellar'.*corner2"):
        make(camera="cellar")
    with pytest.raises(ValueError, match="action_repeat"):
        make(action_repeat=0)
    for samples in (0, 17):
        with pytest.raises(ValueError, match=f"supersampling must be 1 to 16, got {samples}"):
            make(supersampling=samples)
    with pytest.raises(ValueError, match="no task 'fly'"):
        env.unwrapped.__class__("fly")


@simulator
@pytest.mark.parametrize("task", TASKS)
def test_the_expert_is_quick_and_the_others_are_not_as_good(make, policies, task):
    env = make(task)
    expert = [run(env, policies.Expert(), seed, steps=28) for seed in range(5)]
    assert all(map(any, expert))
    aside = [run(env, policies.Expert(aim_offset=0.1), seed, steps=28) for seed in range(5)]
    assert sum(map(any, aside)) <= 2
    assert not any(run(env, policies.Expert(gives_up_by=3), seed=0, steps=28))


@simulator
def test_the_expert_gives_up_and_holds_still(make, policies):
    env = make()
    policy = policies.Expert(gives_up_by=5)
    observation, info = env.reset(seed=0)
    policy.reset(env, 0)
    actions = []
    for _ in range(8):
        actions.append(policy(observation, info))
        observation, *_, info = env.step(actions[-1])
    np.testing.assert_array_equal(np.array(actions)[5:, :3], 0)


@simulator
@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_noise_has_the_size_and_the_memory_asked_for(make, policies, monkeypatch, correlation):
    class Idle:
        def get_action(self, values):
            return np.zeros(4)

    monkeypatch.setattr(policies, "expert_of", lambda task: Idle())
    env = make()
    observation, info = env.reset(seed=0)
    policy = policies.Expert(noise=0.2, correlation=correlation)
    policy.reset(env, 0)
    noise = np.array([policy(observation, info) for _ in range(4000)])
    assert noise.std() == pytest.approx(0.2, rel=0.05)
    assert np.mean(noise[1:] * noise[:-1]) / np.var(noise) == pytest.approx(correlation, abs=0.05)
    policy.reset(env, 0)
    np.testing.assert_array_equal(policy(observation, info), noise[0])


@simulator
def test_play_moves_about_and_repeats_by_seed(make, policies):
    env = make()
    hands = []
    for seed in (0, 0, 1):
        observation, info = env.reset(seed=3)
        policy = policies.Play()
        policy.reset(env, seed)
        hands.append([])
        for _ in range(30):
            observation, *_, info = env.step(policy(observation, info))
            hands[-1].append(observation["agent_pos"][:3])
    np.testing.assert_array_equal(hands[0], hands[1])
    assert not np.array_equal(hands[0], hands[2])
    assert np.ptp(hands[0], axis=0).min() > 0.05


@simulator
def test_policies_of_metaworld_act_nowhere_else(policies, metaworld_env):
    class Elsewhere(gymnasium.Env):
        pass

    for policy in (policies.Expert(), policies.Play()):
        with pytest.raises(ValueError, match=r"metaworld/<task> only"):
            policy.reset(Elsewhere(), 0)
    with pytest.raises(ValueError, match=r"correlation.*1\.0"):
        policies.Expert(correlation=1.0)


@simulator
@pytest.mark.parametrize("task", [task.removesuffix("-v3") for task in TASKS])
def test_the_shipped_dataset_repeats_in_the_simulator(make, task):
    dataset = open_dataset(DATASETS / "metaworld")
    episode = dataset.tasks.index(task)
    rows = slice(dataset.starts[episode], dataset.starts[episode] + dataset.lengths[episode])
    env = make(dataset.notes[episode]["env"].removeprefix("metaworld/"), rendered=True)
    observation, _ = env.reset(seed=dataset.notes[episode]["seed"])
    recorded = dataset.read_frames(episode, np.arange(36), "corner2").astype(float)
    for t, action in enumerate(dataset.columns["actions"][rows]):
        state = dataset.columns["state"][rows][t]
        np.testing.assert_allclose(observation["agent_pos"], state, atol=1e-4)
        if t % 10 == 0:
            assert 10 * np.log10(255**2 / np.mean((env.render() - recorded[t]) ** 2)) > 28
        observation, reward, *_, info = env.step(action)
        assert info["success"] == dataset.columns["success"][rows][t]
        assert reward == pytest.approx(dataset.columns["reward"][rows][t], abs=1e-3)
