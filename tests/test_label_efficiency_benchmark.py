"""The plan of benchmarks/label_efficiency.py, whose stages run for hours: rows, clips, figures."""

import argparse
import importlib
from pathlib import Path

import pytest

from video.safe_files import write_json

ROOT = Path(__file__).parent.parent


@pytest.fixture
def benchmark(monkeypatch):
    """The benchmark as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("label_efficiency")


@pytest.fixture
def options(tmp_path):
    """What decides where its data lie."""
    places = {"out": tmp_path, "data": Path("recorded"), "videos": Path("bare")}
    return argparse.Namespace(**places, robot_state=False, test=None, split="test")


@pytest.mark.parametrize("text", ["0.1", "0:labels", "1.5:labels", "some:labels", "0.1:guesses"])
def test_what_is_no_row_is_refused_by_name(benchmark, text):
    with pytest.raises(argparse.ArgumentTypeError, match=f"{text} is no SHARE:WAY such as"):
        benchmark.Row.parsed(text)


@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("text", ["1:labels", "0.1:labels", "0.1:video", "1:pseudo", "0.1:pseudo"])
def test_every_model_sees_as_many_clips_with_actions(benchmark, options, text, state):
    options.robot_state = state
    row = benchmark.Row.parsed(text)
    clips = benchmark.mixture(options, row)
    bare = [
        source
        for source in clips
        if source.get("action_free") or (row.way == "video" and source["path"] == "bare")
    ]
    shown = sum(source["weight"] for source in clips if source not in bare)
    assert shown == benchmark.LABELLED_CLIPS
    assert bool(bare) == (row.way == "video")


@pytest.mark.parametrize("state", [False, True])
def test_hidden_labels_are_seen_by_no_model(benchmark, options, state):
    options.robot_state = state
    for way in benchmark.WAYS:
        clips = benchmark.mixture(options, benchmark.Row(0.1, way))
        for source in clips:
            if source["path"] == "recorded" and not source.get("action_free"):
                assert source["labels"] == 0.1
                assert source["drop_unlabelled"]
                assert state  # otherwise shifted copies take their place


def test_few_labelled_episodes_are_shifted_all_are_not(benchmark, options, monkeypatch):
    commands = []
    monkeypatch.setattr(benchmark, "python", lambda *words: commands.append(words))
    options.seed, options.device = 3, "cpu"
    benchmark.shift_recorded(options, 0.1)
    made = commands[0]
    assert made[:3] == ("video", "shift", Path("recorded"))
    assert made[made.index("--labels") + 1] == 0.1
    assert made[made.index("--seed") + 1] == 3
    assert commands[1][:3] == ("video", "encode", made[3])
    for way in benchmark.WAYS:
        paths = [clip["path"] for clip in benchmark.mixture(options, benchmark.Row(0.1, way))]
        assert str(made[3]) in paths
        paths = [clip["path"] for clip in benchmark.mixture(options, benchmark.Row(1.0, way))]
        assert not any("shifted" in path for path in paths)


def test_seeds_have_folders_of_their_own(benchmark, options):
    rows = [benchmark.Row(share, way) for share in (0.1, 1.0) for way in benchmark.WAYS]
    folders = {benchmark.folder_of_row(options, row, seed) for row in rows for seed in range(3)}
    assert len(folders) == 18


def figures(share, way, seed, ratio):
    """What one model reached at eight steps."""
    return {"share": share, "way": way, "seed": seed, "action_following_ratio": {"8": ratio}}


def test_what_is_recovered_is_a_share_of_the_mean_over_seeds(benchmark):
    rows = [
        figures(1.0, "labels", 0, 3.0),
        figures(1.0, "labels", 1, 5.0),
        figures(0.1, "pseudo", 0, 3.5),
        figures(0.1, "pseudo", 1, 2.5),
        figures(0.1, "labels", 0, 2.0),
    ]
    assert benchmark.recovered(rows) == {"0.1:pseudo": {"8": 0.75}, "0.1:labels": {"8": 0.5}}
    assert benchmark.recovered(rows[2:]) == {}


def test_the_interval_of_a_share_is_over_the_same_episodes(benchmark, options):
    """A model that is worse by a third in every episode recovers three quarters, however drawn.

    Episodes have ratios of their own, so models on other draws would not.
    """
    rows = [benchmark.Row(1.0, "labels"), benchmark.Row(0.1, "pseudo")]
    errors = [[1.0, 2.0, 9.0], [40.0, 2.0, 36.0]]
    for row, (own, other) in zip(rows, (errors, errors), strict=True):
        worse = 1.0 if row.share == 1 else 4 / 3
        for seed in (0, 1):
            write_json(
                benchmark.report(options, benchmark.folder_of_row(options, row, seed)),
                {
                    "action_following_ratio": {"8": 4.0 / worse},
                    "error_by_episode": {"8": [worse * error for error in own]},
                    "swapped_error_by_episode": {"8": other},
                },
            )
    found = benchmark.recovered_interval(options, rows, [0, 1])
    assert found == {"0.1:pseudo": {"8": pytest.approx([0.75, 0.75])}}
    assert benchmark.recovered_interval(options, rows[1:], [0, 1]) == {}
    options.test = Path("more")
    with pytest.raises(FileNotFoundError):  # figures of other episodes are kept apart
        benchmark.recovered_interval(options, rows, [0, 1])
