import json

import numpy as np
import pytest
import torch
from counting_envs import counting_envs
from gymnasium.vector import AutoresetMode
from imagined_environments import shared_model, success_at
from PIL import Image
from tiny_autoencoders import tiny_autoencoder
from tiny_policies import tiny_policy

from policy.compare import compare
from policy.episodes import PlayedEpisode, play
from policy.evaluate import difference, evaluate, measure
from policy.evaluation_pictures import some_of_each_task
from policy.real import RealVectorEnv
from video.errors import DatasetError
from worldmodel.environment import ImaginedVectorEnv

IDS = ["toy_simulators:toy/Left-v0", "toy_simulators:toy/Right-v0"]


class Pusher:
    """Pushes right, by so much."""

    def __init__(self, speed: float):
        self.speed = speed

    def act(self, observations, steps=None):
        envs = len(observations["state"])
        return np.full((envs, steps, 2), [self.speed, 0], np.float32)


def real(**options) -> RealVectorEnv:
    options = {"num_envs": 4, "horizon": 6, "chunk": 2, "render_mode": "rgb_array", **options}
    return RealVectorEnv(IDS, autoencoder=tiny_autoencoder(), state=True, workers=0, **options)


def imagined(**options) -> ImaginedVectorEnv:
    options = {"num_envs": 4, "horizon": 6, "chunk": 2, "render_mode": "rgb_array", **options}
    return ImaginedVectorEnv(shared_model(), state=True, reward=success_at(3, 0, 0, 5), **options)


@pytest.mark.parametrize("mode", ["next_step", "same_step", "disabled"])
@pytest.mark.parametrize("num_envs", [1, 4])
def test_episodes_are_those_of_their_seeds(mode, num_envs):
    env = real(autoreset_mode=mode, num_envs=num_envs)
    episodes = play(Pusher(0.9), env, range(10, 16)).episodes
    assert [e.seed for e in episodes] == list(range(10, 16))
    assert [e.task for e in episodes] == ["Left", "Right"] * 3
    for episode in episodes:
        # 3.6 pixels a step from 0..7 (left) or 12..19 (right) to 24
        assert episode.success == (episode.total == 1)
        assert episode.success or episode.steps == 6
        frames = 1 + -(-episode.steps // 2)
        assert len(episode.frames) == frames - (mode == "same_step")
    assert [e.success for e in episodes[1::2]] == [True] * 3
    assert not all(e.success for e in episodes[::2])


def test_environments_that_are_reset_by_hand_wait_for_nobody(monkeypatch):
    steps, results = {}, {}
    for mode in ("next_step", "disabled"):
        taken, env = [], real(autoreset_mode=mode, num_envs=3, horizon=12)
        monkeypatch.setattr(
            env, "step", lambda a, e=env, t=taken: t.append(a) or type(e).step(e, a)
        )
        results[mode] = play(Pusher(0.9), env, range(10, 20))
        steps[mode] = len(taken)
    by_hand, together = (
        [episode.to_json() for episode in results[mode].episodes] for mode in steps
    )
    assert by_hand == together
    for one, other in zip(*(played.starts for played in results.values()), strict=True):
        np.testing.assert_array_equal(one.frame, other.frame)
        np.testing.assert_array_equal(one.state, other.state)
    lengths = [-(-episode.steps // 2) for episode in results["disabled"].episodes]
    assert len(set(lengths)) > 1
    assert sum(lengths) <= 3 * steps["disabled"] < 3 * steps["next_step"]


def test_without_seeds_nothing_is_played():
    assert play(Pusher(0.9), real(), []).episodes == []


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_successes_and_steps_of_any_environment_count(mode):
    class Halt:
        def act(self, observations, steps=None):
            return np.zeros((len(observations), steps, 2), np.float32)

    # of CountingEnv 0 the last step of two is a success; number 1 says nothing in its last one
    first, second = play(Halt(), counting_envs(mode, 2, discrete=False), [0, 0]).episodes
    assert (first.success, first.steps, first.total) == (True, 2, 3)
    assert (second.success, second.steps, second.total) == (False, 3, 6)


def test_imagined_episodes_begin_where_the_real_ones_did():
    there = play(Pusher(0.0), real(), range(4))
    here = play(Pusher(0.0), imagined(), range(4), there.starts, ["a", "b", "c", "d"])
    by_hand = imagined(autoreset_mode="disabled")
    again = play(Pusher(0.0), by_hand, range(4), there.starts)
    assert [e.steps for e in again.episodes] == [e.steps for e in here.episodes]
    for one, other in zip(again.starts, here.starts, strict=True):
        np.testing.assert_allclose(one.frame.astype(int), other.frame, atol=1)
    assert [e.task for e in here.episodes] == ["a", "b", "c", "d"]
    for start, begun in zip(there.starts, here.starts, strict=True):
        np.testing.assert_allclose(begun.state, start.state, atol=1e-5)
    model = shared_model()
    frame = torch.from_numpy(there.starts[2].frame).permute(2, 0, 1)
    expected = model.decode(model.encode(frame[None, None])[:, None])[0, 0, 0].permute(1, 2, 0)
    difference = here.starts[2].frame.astype(int) - expected.numpy()
    assert np.abs(difference).mean() < 3


def test_figures_and_changes_by_hand():
    def episodes(successes):
        return [
            PlayedEpisode(seed, "ab"[seed % 2], bool(s), steps=4 + seed, total=s)
            for seed, s in enumerate(successes)
        ]

    before, after = episodes([1, 0, 0, 0]), episodes([0, 1, 0, 1])
    found = measure(after)
    assert (found["success"], found["return"], found["steps"], found["episodes"]) == (
        0.5,
        0.5,
        5.5,
        4,
    )
    assert (found["tasks"]["a"]["success"], found["tasks"]["b"]["success"]) == (0, 1)
    assert found["tasks"]["b"]["interval"][1] == 1
    change = difference(before, after)["change"]
    assert (change["fixed"], change["broken"], change["success_before"]) == (2, 1, 0.25)
    assert (change["tasks"]["b"]["fixed"], change["tasks"]["a"]["broken"]) == (2, 1)


def test_some_of_each_task_are_shown():
    outcomes = [("a", 1), ("a", 1), ("b", 1), ("a", 0), ("b", 1), ("b", 1)]
    episodes = [PlayedEpisode(0, task, bool(s)) for task, s in outcomes]
    assert some_of_each_task(episodes, True) == [0, 2, 1, 4, 5]
    assert some_of_each_task(episodes, False) == [3]


@pytest.fixture
def policies(tmp_path):
    """Two saved policies."""
    folders = []
    for number in range(2):
        folder = tmp_path / f"run{number}" / "policy"
        tiny_policy(chunk=2).save_pretrained(folder)
        folders.append(folder)
    return folders


def test_a_policy_in_both_environments(policies, capsys):
    result = evaluate(policies[0], real(), imagined(), episodes=6, seed=7, before=policies[1])
    run = policies[0].parent
    assert json.loads((run / "evaluation.json").read_text()) == result
    for env in ("real", "imagined"):
        assert [e["seed"] for e in result[env]["each"]] == list(range(7, 13))
        assert set(result[env]["tasks"]) == {"Left", "Right"}
        change = result[env]["change"]
        assert (change["fixed"], change["broken"]) == (0, 0)  # they are the same
    printed = capsys.readouterr().out
    assert "imagined, Left" in printed
    assert "0 fixed, 0 broken" in printed
    same = [
        there["success"] == here["success"]
        for there, here in zip(result["real"]["each"], result["imagined"]["each"], strict=True)
    ]
    assert result["agreement"]["same_outcome"] == sum(same) / 6
    assert f"{sum(same) / 6:.0%} of the episodes end alike" in printed
    shown = [path for path in run.iterdir() if path.suffix in (".png", ".mp4")]
    assert len(shown) in (2, 4)
    for path in shown:
        assert str(path) in printed

    evaluate(policies[1], real(), imagined(), episodes=6, seed=7)
    out = run / "comparison.json"
    compared = compare([run, policies[1].parent / "evaluation.json"], out=out)
    assert json.loads(out.read_text()) == compared
    assert [p["name"] for p in compared["policies"]] == ["run0", "run1"]
    assert compared["all"]["mean_rank_violation"]["value"] == 0
    assert compared["all"]["pearson"]["value"] is None  # both are the same
    assert "run1" in capsys.readouterr().out
    with Image.open(out.with_suffix(".png")) as picture:
        assert picture.width > 480


def test_evaluations_on_other_tasks_are_not_compared(policies):
    paths = []
    for number, names in enumerate((["Left", "Right"], ["Left", "Down"])):
        each = [{"seed": n, "task": task, "success": n == 0} for n, task in enumerate(names)]
        found = {"policy": "p", **{env: {"each": each} for env in ("real", "imagined")}}
        paths.append(policies[0].parent / f"{number}.json")
        paths[-1].write_text(json.dumps(found))
    with pytest.raises(DatasetError, match=r"1\.json was evaluated on other tasks than"):
        compare(paths)


def test_one_environment_is_enough_for_figures_but_not_to_compare(policies):
    result = evaluate(policies[0], real(render_mode=None), episodes=2, seed=0)
    assert "imagined" not in result
    assert "agreement" not in result
    assert not list(policies[0].parent.glob("*.mp4"))
    with pytest.raises(DatasetError, match="holds no imagined episodes"):
        compare([policies[0].parent] * 2)


def test_evaluations_that_cannot_be_are_explained(policies, tmp_path):
    with pytest.raises(DatasetError, match="no environment"):
        evaluate(policies[0])
    with pytest.raises(DatasetError, match="--episodes 0 must be at least 1"):
        evaluate(policies[0], real(), episodes=0)
    with pytest.raises(DatasetError, match="the real environment: the environment takes 4"):
        evaluate(policies[0], real(chunk=4))
    with pytest.raises(DatasetError, match="does not exist"):
        compare([tmp_path / "nowhere.json"] * 2)
    cut_off = tmp_path / "cut_off.json"
    cut_off.write_text('{"real": ')
    with pytest.raises(DatasetError, match=r"cut_off\.json is damaged.*Write it again"):
        compare([cut_off] * 2)
    for number, policy in enumerate(policies):
        evaluate(policy, real(), imagined(), episodes=2, seed=number)
    with pytest.raises(DatasetError, match="different seeds"):
        compare([policy.parent for policy in policies])
    with pytest.raises(DatasetError, match="two policies or more"):
        compare([policies[0].parent])
