"""The gate: recorded failures, replayed, and the policy's success here and there."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from imagined_environments import imagined, success_at
from tiny_policies import tiny_policy

from policy.gate import Gate, GateResult, Recording, failed_recordings, replayed_successes
from policy.model import Policy
from video.episodes import open_dataset
from video.errors import DatasetError, SimulatorMissing
from worldmodel.environment import ImaginedVectorEnv


class Still:
    """Acts, but does nothing."""

    def act(self, observations, steps=None):
        return np.zeros((len(observations), steps or 1, 2), np.float32)


def recordings(*lengths):
    generator = np.random.default_rng(0)
    return [
        Recording(
            generator.integers(0, 256, (1, 1, 32, 32, 3), np.uint8),
            np.zeros(3, np.float32),
            generator.uniform(-1, 1, (length, 2)).astype(np.float32),
        )
        for length in lengths
    ]


@pytest.mark.parametrize("mode", ["same_step", "next_step"])
def test_only_what_was_recorded_counts(mode):
    # two actions at a time: of 4 and of 5 recorded actions 4 are taken
    env = imagined(3, chunk=2, reward=success_at(4, 5, 0), autoreset_mode=mode, horizon=8)
    found = replayed_successes(env, recordings(4, 5, 8))
    assert found.tolist() == [True, False, False]


def test_successes_of_the_next_episode_do_not_count():
    calls = []

    def third_time(step):
        calls.append(None)
        return success_at(*[int(len(calls) == 3)] * 2)(step)

    env = imagined(2, reward=third_time, horizon=2, autoreset_mode="same_step")
    assert not replayed_successes(env, recordings(9, 9)).any()


def test_more_recordings_than_environments():
    env = imagined(2, state=True, reward=success_at(2, 0))
    assert replayed_successes(env, recordings(3, 3, 3, 3, 1)).tolist() == [1, 0, 1, 0, 0]


def test_begins_where_the_recordings_began(monkeypatch):
    env, given, seen = imagined(2, state=True), recordings(2, 2), []
    reset = env.reset
    monkeypatch.setattr(env, "reset", lambda **options: seen.append(options) or reset(**options))
    replayed_successes(env, given)
    assert np.array_equal(seen[0]["options"]["context"][1], given[1].context)
    assert seen[0]["options"]["state"].shape == (2, 3)


def test_failed_recordings_are_those_without_a_success(tiny_dataset, square_episodes):
    dataset = open_dataset(tiny_dataset)
    found = failed_recordings([dataset], "train")
    assert len(found) == 1
    assert len(failed_recordings([dataset, dataset], "train")) == 2
    failed = square_episodes[1]
    assert np.allclose(found[0].actions, failed.actions[:-1])
    assert np.allclose(found[0].state, failed.state[0])
    assert found[0].context.shape == (1, 1, 32, 32, 3)


@pytest.mark.parametrize(
    ("split", "tasks", "says"),
    [("validation", None, "splits"), ("train", ["right"], "no failed episode")],
)
def test_says_what_is_missing(split, tasks, says, tiny_dataset):
    with pytest.raises(DatasetError, match=says):
        failed_recordings([open_dataset(tiny_dataset)], split, tasks)


def result(**changes):
    figures = {
        "failures": 20,
        "false_successes": 2,
        "most_false": 0.1,
        "imagined_success": 0.6,
        "real_success": 0.5,
        "tolerance": 0.15,
    }
    return GateResult(**figures | changes)


def test_the_verdict():
    assert result().problems == []
    assert str(result()).startswith("Gate passed. replayed failures that succeed: 2 of 20")
    failed = result(false_successes=3, imagined_success=0.7)
    assert len(failed.problems) == 2
    assert "3 of 20 recorded failures become successes" in str(failed)
    assert "70% of the imagined and in 50% of the real" in str(failed)
    assert result(real_success=None, imagined_success=0.0).problems == []


def small_gate(dataset, **options):
    return Gate(str(dataset), "train", episodes=4, **options)


def test_the_policy_is_tried_here_and_there(tiny_dataset):
    env = imagined(4, reward=success_at(1, 1, 1, 0), horizon=3, autoreset_mode="same_step")
    real = imagined(4, reward=success_at(1, 0, 0, 0), horizon=3, autoreset_mode="same_step")
    found = small_gate(tiny_dataset, real_environment=lambda: real).try_out(Still(), env)
    assert (found.failures, found.false_successes) == (1, 1)
    assert (found.imagined_success, found.real_success) == (0.75, 0.25)
    assert len(found.problems) == 2


def test_without_a_simulator_one_question_stays_open(tiny_dataset):
    def missing():
        raise SimulatorMissing("metaworld cannot be made")

    env = imagined(4, reward=success_at(0, 0, 0, 0), horizon=3, autoreset_mode="same_step")
    with pytest.warns(UserWarning, match="reality: metaworld cannot be made"):
        found = small_gate(tiny_dataset, real_environment=missing).try_out(Still(), env)
    assert found.real_success is None
    assert found.problems == []


def test_a_simulator_of_other_latents_or_no_such_task_ends_the_run(tiny_dataset):
    policy = tiny_policy(chunk=2)
    options = {"chunk": 2, "horizon": 4, "state": True, "autoreset_mode": "same_step"}
    env, real = (imagined(2, reward=success_at(0, 0), **options) for _ in range(2))
    real.metadata = real.metadata | {"autoencoder": "of another video"}
    with pytest.raises(DatasetError, match="real environment: the policy looks at latents"):
        small_gate(tiny_dataset, real_environment=lambda: real).try_out(policy, env)

    def misspelt():
        raise DatasetError("metaworld/drawer-opne-v3 cannot be made")

    with pytest.raises(DatasetError, match="drawer-opne"):
        small_gate(tiny_dataset, real_environment=misspelt).try_out(policy, env)


def test_a_run_begins_with_the_verdict(tiny_dataset, tmp_path, monkeypatch):
    env = imagined(4, reward=success_at(1, 1, 1, 0), horizon=3, autoreset_mode="same_step")
    assert isinstance(env, ImaginedVectorEnv)
    policy = Policy(Still(), {"observation": (1, 4, 8, 8)}, None)
    monkeypatch.setattr(policy, "act", Still().act, raising=False)
    trainer = SimpleNamespace(is_global_zero=True, default_root_dir=str(tmp_path), global_step=0)
    gate = small_gate(tiny_dataset, real_success=0.75)
    with pytest.warns(UserWarning, match="GATE FAILED"):
        gate.on_train_start(trainer, SimpleNamespace(environment=env, cloned=policy))
    saved = json.loads((tmp_path / "gate.json").read_text())
    assert saved["imagined_success"] == saved["real_success"] == 0.75
    assert len(saved["problems"]) == 1


def test_the_verdict_stands_when_a_run_is_resumed(tiny_dataset, tmp_path):
    trainer = SimpleNamespace(is_global_zero=True, default_root_dir=str(tmp_path), global_step=3)
    small_gate(tiny_dataset).on_train_start(trainer, SimpleNamespace())
    assert not (tmp_path / "gate.json").exists()


def test_refuses_a_share_that_is_none(tiny_dataset):
    with pytest.raises(ValueError, match=r"real_success=45"):
        Gate(str(tiny_dataset), real_success=45)
