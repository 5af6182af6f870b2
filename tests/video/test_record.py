"""What `python -m video record` promises: rows, seeds, resuming, and what becomes of failures."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from importlib import import_module
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import yaml

from video.bare_videos import BareVideoWriter
from video.episodes import Episode, open_dataset
from video.errors import DatasetError
from video.front_door import run_commands
from video.info import describe
from video.record import record
from video.simulators.policies import Random
from video.simulators.recipe import Source, task_name
from video.writer import DatasetWriter

ENVIRONMENTS = Path(__file__).parent / "environments"
CONFIGS = Path(__file__).parents[2] / "configs"
ENV = "counting:counting/Counting-v0"


@pytest.fixture(autouse=True)
def _importable_environment(monkeypatch):
    monkeypatch.syspath_prepend(str(ENVIRONMENTS))


def command_line(*words: str):
    return run_commands(["video.record.record"], "python -m video", ["record", *words])


def rows(dataset, name: str, episode: int) -> np.ndarray:
    start = dataset.starts[episode]
    return dataset.columns[name][start : start + dataset.lengths[episode]]


def brightness(dataset, episode: int) -> np.ndarray:
    frames = dataset.read_frames(episode, np.arange(dataset.lengths[episode]), dataset.cameras[0])
    return frames.mean(axis=(1, 2, 3))


def test_row_t_is_the_frame_before_action_t(tmp_path):
    out = record(tmp_path / "out", ENV, episodes=2, length=8, workers=0, crf=4)
    dataset = open_dataset(out)
    assert dataset.fps == 10
    assert dataset.lengths.tolist() == [8, 8]
    for episode in range(2):
        state, actions = (rows(dataset, name, episode)[:, 0] for name in ("state", "actions"))
        np.testing.assert_allclose(brightness(dataset, episode), state, atol=2)
        np.testing.assert_allclose(state[1:], state[:-1] + 10 * actions[:-1], rtol=1e-5)
        after = state + 10 * actions
        np.testing.assert_allclose(rows(dataset, "reward", episode), after, rtol=1e-5)
        np.testing.assert_array_equal(rows(dataset, "success", episode), after >= 150)
    assert dataset.tasks == ["Counting", "Counting"]
    assert [note["seed"] for note in dataset.notes] == [0, 1]
    assert {note["policy"] for note in dataset.notes} == {"Random()"}
    assert {note["env"] for note in dataset.notes} == {ENV}


def test_the_seed_decides_start_and_actions(tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        record(tmp_path / name, ENV, episodes=2, length=4, seed=seed, workers=0)
    a, b, c = (open_dataset(tmp_path / name) for name in "abc")
    for name in ("state", "actions"):
        np.testing.assert_array_equal(a.columns[name], b.columns[name])
        np.testing.assert_array_equal(rows(a, name, 1), rows(c, name, 0))
        assert not np.array_equal(rows(a, name, 0), rows(a, name, 1))


def test_the_policy_has_a_seed_of_its_own(tmp_path):
    """With the environment's, noise would follow the random places of the objects."""
    policy = import_module("counting").Climb()
    record(tmp_path / "a", ENV, None, policy, 1, length=4, seed=7, workers=0)
    first = policy.seed
    record(tmp_path / "b", ENV, None, policy, 1, length=4, seed=7, workers=0)
    assert policy.seed == first != 7


def test_discrete_actions_are_stored_as_their_number(tmp_path):
    out = record(tmp_path / "out", ENV, {"discrete": True}, episodes=1, length=12, workers=0)
    actions = open_dataset(out).columns["actions"]
    assert actions.shape == (12, 1)
    assert set(actions.ravel()) == {0, 1, 2}


def test_a_stored_action_is_the_one_that_acted(tmp_path):
    counting = import_module("counting")
    out = record(tmp_path / "out", ENV, None, counting.Climb(by=4.0), 1, length=4, workers=0)
    dataset = open_dataset(out)
    np.testing.assert_array_equal(dataset.columns["actions"], np.ones((4, 1), np.float32))
    np.testing.assert_allclose(np.diff(dataset.columns["state"], axis=0), 10, rtol=1e-5)


def test_an_environment_that_ends_makes_a_shorter_episode(tmp_path):
    out = record(tmp_path / "out", ENV, {"ends": 5}, episodes=2, length=8, workers=0)
    assert open_dataset(out).lengths.tolist() == [5, 5]


def test_random_holds_its_actions():
    env = gymnasium.make(ENV)
    policy = Random(hold=3)
    policy.reset(env, 0)
    actions = np.array([policy(None, {}) for _ in range(9)])[:, 0]
    assert len(set(actions)) == 3
    np.testing.assert_array_equal(actions.reshape(3, 3), actions[::3, None].repeat(3, axis=1))
    with pytest.raises(ValueError, match="hold=0"):
        Random(hold=0)


def test_options_and_policies_come_from_the_command_line(tmp_path, capsys):
    out = tmp_path / "out"
    command_line(
        *("--out", str(out), "--env", ENV, "--env_kwargs.size", "40", "--workers", "0"),
        *("--policy", "counting.Climb", "--policy.by", "0.5", "--episodes", "2"),
        *("--length", "4", "--split", "test", "--size", "24", "--camera", "front"),
    )
    dataset = open_dataset(out)
    assert dataset.frame_shape("front") == (24, 24)
    assert {note["policy"] for note in dataset.notes} == {"Climb(by=0.5)"}
    assert dataset.splits["test"].tolist() == [0, 1]
    assert "2 test episodes" in capsys.readouterr().out


def test_several_sources_make_one_dataset_with_splits(tmp_path):
    recipe = {
        "out": str(tmp_path / "out"),
        "env": ENV,
        "length": 4,
        "workers": 0,
        "sources": [
            {"policy": {"class_path": "counting.Climb"}, "episodes": {"train": 2, "test": 1}},
            {"policy": "random", "episodes": 1, "label": "anything"},
        ],
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    command_line("--config", str(tmp_path / "recipe.yaml"))
    dataset = open_dataset(tmp_path / "out")
    assert [note["policy"] for note in dataset.notes] == [
        "Climb()",
        "Climb()",
        "anything",
        "Climb()",
    ]
    assert [note["seed"] for note in dataset.notes] == [0, 1, 3, 2]
    assert dataset.splits["train"].tolist() == [0, 1, 2]
    assert dataset.splits["test"].tolist() == [3]


def test_a_killed_recording_goes_on_and_loses_no_finished_episode(tmp_path):
    out, log = tmp_path / "out", tmp_path / "log"
    words = [sys.executable, "-m", "video", "record", "--out", str(out), "--env", ENV]
    words += ["--episodes", "10", "--length", "6", "--workers", "2"]
    kwargs = {"seconds": 0.05, "log": str(log)}
    words += ["--env_kwargs", json.dumps(kwargs)]
    environment = os.environ | {"PYTHONPATH": str(ENVIRONMENTS)}
    process = subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL)
    staging = out / ".staging"
    wait_until(lambda: len(list(staging.glob("episode_*"))) >= 3)
    children = child_processes(process.pid)
    assert children
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: not any(Path(f"/proc/{child}").exists() for child in children))
    finished = DatasetWriter(out, 10).finished
    assert 3 <= len(finished) < 10

    tried = Counter(map(int, log.read_text().split()))
    record(out, ENV, kwargs, episodes=10, length=6, workers=0)
    tried_again = Counter(map(int, log.read_text().split())) - tried
    assert set(tried_again) == set(range(10)) - finished

    record(tmp_path / "undisturbed", ENV, episodes=10, length=6, workers=0)
    interrupted, undisturbed = open_dataset(out), open_dataset(tmp_path / "undisturbed")
    assert interrupted.notes == undisturbed.notes
    for name in ("state", "actions", "reward", "success"):
        np.testing.assert_array_equal(interrupted.columns[name], undisturbed.columns[name])
    np.testing.assert_array_equal(brightness(interrupted, 9), brightness(undisturbed, 9))


def wait_until(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def child_processes(parent: int) -> list[int]:
    """Those that record, without Python's own resource tracker."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    commands = {int(child): Path(f"/proc/{child}/cmdline").read_text() for child in children}
    return [child for child, command in commands.items() if "spawn_main" in command]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_failing_episode_is_named_counted_and_left_out(tmp_path, capsys, workers):
    out = tmp_path / "out"
    record(out, ENV, {"fails_at": 1}, episodes=3, length=4, workers=workers)
    assert [note["seed"] for note in open_dataset(out).notes] == [0, 2]
    shown = capsys.readouterr()
    assert f"Episode 1 ({ENV}, seed 1) failed" in shown.err
    assert "the simulation exploded" in shown.err
    assert "1 of 3 episodes failed" in shown.err
    assert "2 train episodes" in shown.out
    with pytest.raises(DatasetError, match="1 of 3 episodes left out"):
        record(out, ENV, {"fails_at": 1}, episodes=3, length=4, workers=0)


def test_a_dying_process_costs_one_episode(tmp_path, capsys):
    out = record(tmp_path / "out", ENV, {"dies_at": 1}, episodes=4, length=4, workers=1)
    assert [note["seed"] for note in open_dataset(out).notes] == [0, 2, 3]
    assert "the process died with exit code 7" in capsys.readouterr().err


def test_nothing_but_failures_is_an_error(tmp_path):
    with pytest.raises(DatasetError, match=r"all 1 episodes failed.*exploded"):
        record(tmp_path / "out", ENV, {"fails_at": 0}, episodes=1, length=4, workers=0)


def test_a_full_disk_stops_the_recording_and_keeps_what_there_is(tmp_path, monkeypatch):
    add = DatasetWriter.add

    def add_two(self, episode_id, episode, split):
        if episode_id == 2:
            raise DatasetError("episode 2 could not be written: no space left on device")
        add(self, episode_id, episode, split)

    monkeypatch.setattr(DatasetWriter, "add", add_two)
    with pytest.raises(DatasetError, match="no space left"):
        record(tmp_path / "out", ENV, episodes=4, length=4, workers=0)
    assert DatasetWriter(tmp_path / "out", 10).finished == {0, 1}
    monkeypatch.undo()
    monkeypatch.syspath_prepend(str(ENVIRONMENTS))
    record(tmp_path / "out", ENV, episodes=4, length=4, workers=0)
    assert len(open_dataset(tmp_path / "out").lengths) == 4


def test_a_recording_is_not_continued_with_other_options(tmp_path):
    record(tmp_path / "out", ENV, episodes=2, length=4, workers=0)
    with pytest.raises(DatasetError, match="length was 4, is now 5"):
        record(tmp_path / "out", ENV, episodes=2, length=5, workers=0)
    with pytest.raises(DatasetError, match=r"Random\(\).*Random\(hold=2\)"):
        record(tmp_path / "out", ENV, None, Random(hold=2), 2, length=4, workers=0)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(DatasetError, match="not empty"):
        record(tmp_path / "mine", ENV, episodes=2, length=4, workers=0)


def test_repeating_a_finished_recording_changes_nothing(tmp_path):
    out = record(tmp_path / "out", ENV, episodes=2, length=4, workers=0)
    before = open_dataset(out).fingerprint
    record(out, ENV, episodes=2, length=4, workers=0)
    assert open_dataset(out).fingerprint == before


def test_bare_videos_lie_in_a_folder_per_task(tmp_path):
    out = tmp_path / "out"
    record(out, ENV, episodes=2, length=5, workers=0, video_files=True)
    files = sorted(str(file.relative_to(out)) for file in out.rglob("*.mp4"))
    assert files == ["Counting/episode_000000.mp4", "Counting/episode_000001.mp4"]
    assert not (out / ".staging").exists()
    videos = open_dataset(out)
    assert videos.lengths.tolist() == [5, 5]
    assert videos.tasks == ["Counting", "Counting"]
    assert videos.columns == {}
    record(tmp_path / "labelled", ENV, episodes=2, length=5, workers=0)
    np.testing.assert_array_equal(
        brightness(videos, 1), brightness(open_dataset(tmp_path / "labelled"), 1)
    )


def test_bare_videos_go_on_where_they_stopped(tmp_path):
    record(tmp_path / "out", ENV, episodes=3, length=5, workers=0, video_files=True)
    lost = tmp_path / "out" / "Counting" / "episode_000001.mp4"
    lost.unlink()
    assert BareVideoWriter(tmp_path / "out", 10).finished == {0, 2}
    kept = [file.stat().st_mtime_ns for file in sorted(lost.parent.glob("*"))]
    record(tmp_path / "out", ENV, episodes=3, length=5, workers=0, video_files=True)
    now = [file.stat().st_mtime_ns for file in sorted(lost.parent.glob("*"))]
    assert [now[0], now[2]] == kept


def test_full_color_keeps_the_colour_of_single_pixels(tmp_path):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    errors = {}
    for full_color in (False, True):
        writer = DatasetWriter(tmp_path / str(full_color), 10, crf=1, full_color=full_color)
        writer.add(0, Episode(frames={"main": frames}))
        dataset = open_dataset(writer.finalize())
        decoded = dataset.read_frames(0, np.arange(2), "main")
        errors[full_color] = np.abs(decoded.astype(int) - frames).mean()
    assert errors[True] < 4 < 20 < errors[False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"env": ENV}, "--out"),
        ({"out": "out"}, "--env ID"),
        ({"out": "out", "env": ENV, "length": 1}, "--length 1"),
        ({"out": "out", "env": "Nowhere-v0"}, "Nowhere"),
        ({"out": "out", "env": ENV, "env_kwargs": {"colour": "red"}}, "colour"),
        ({"out": "out", "env": ENV, "episodes": 0}, "Nothing to record"),
        ({"out": "out", "env": ENV, "env_kwargs": {"fps": None}}, "Say --fps"),
    ],
)
def test_wrong_options_are_named(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    if "out" in options:
        options = options | {"out": tmp_path / options["out"]}
    with pytest.raises(DatasetError, match=message):
        record(workers=0, **options)
    assert not (tmp_path / "out" / "meta").exists()


def test_an_environment_without_pictures_is_named(tmp_path, monkeypatch):
    counting = import_module("counting")
    monkeypatch.setattr(counting.Counting, "render", lambda self: None)
    with pytest.raises(DatasetError, match=r"render\(\) gave None"):
        record(tmp_path / "out", ENV, episodes=1, length=4, workers=0)


def test_task_names():
    assert task_name("metaworld/drawer-open-v3") == "drawer-open"
    assert task_name("CartPole-v1") == "CartPole"
    assert task_name("package.module:PushT-v0") == "PushT"


def test_source_labels():
    assert Source().policy_label() == "Random()"
    assert Source(Random(hold=4)).policy_label() == "Random(hold=4)"
    assert Source(Random(), label="noise").policy_label() == "noise"


def test_the_default_recipe_is_what_it_says():
    recipe = yaml.safe_load((CONFIGS / "record.yaml").read_text())
    counts = Counter()
    for source in recipe["sources"]:
        for env in source.get("env", recipe["env"]):
            counts.update({(env, split): n for split, n in source["episodes"].items()})
    assert set(counts.values()) == {180, 24}
    assert len(counts) == 6


def test_no_two_recordings_share_a_seed():
    used: list[int] = []
    for name in ("record", "record_videos", "record_validation", "record_test"):
        recipe = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
        first = recipe.get("seed", 0)
        counts = [
            len(source.get("env", recipe["env"])) * total(source["episodes"])
            for source in recipe["sources"]
        ]
        used += range(first, first + sum(counts))
    assert len(used) == 612 + 60 + 60 + 360
    assert len(set(used)) == len(used)


def total(episodes: int | dict[str, int]) -> int:
    return episodes if isinstance(episodes, int) else sum(episodes.values())


def test_the_validation_recording_is_like_the_default_one():
    default, validation = (
        describe(open_dataset(CONFIGS.parent / "video" / "datasets" / name))
        for name in ("metaworld", "metaworld_validation")
    )
    for name in ("fps", "cameras", "columns", "longest", "labelled"):
        assert validation[name] == default[name], name
    assert validation["splits"] == {"validation": 60}
    assert {counts["episodes"] for counts in validation["tasks"].values()} == {20}
    assert validation["tasks"].keys() == default["tasks"].keys()
    assert validation["success_rate"] == pytest.approx(default["success_rate"], abs=0.05)


@pytest.mark.simulator
def test_pusht_can_be_recorded(tmp_path):
    pytest.importorskip("gym_pusht")
    out = tmp_path / "out"
    kwargs = {"obs_type": "environment_state_agent_pos"}
    kwargs |= {"visualization_width": 128, "visualization_height": 128}
    record(out, "gym_pusht/PushT-v0", kwargs, episodes=1, length=4, workers=1)
    dataset = open_dataset(out)
    assert dataset.columns["actions"].shape == (4, 2)
    assert dataset.columns["state"].shape == (4, 2)
    assert dataset.columns["environment_state"].shape == (4, 16)
    assert dataset.frame_shape("main") == (128, 128)
    assert dataset.columns["success"].sum() == 0
