import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from video import lerobot_format, packing, writer
from video.episodes import Episode, open_dataset
from video.errors import DatasetError
from video.video_file import concatenate_videos, write_video
from video.writer import DatasetWriter


def psnr(found: np.ndarray, expected: np.ndarray) -> float:
    error = np.mean((found.astype(float) - expected) ** 2)
    return float(10 * np.log10(255**2 / error))


def assert_same(path: Path, episodes: list[Episode]) -> None:
    """The dataset holds exactly these episodes, in this order."""
    dataset = open_dataset(path)
    assert dataset.damaged == []
    assert dataset.tasks == [episode.task for episode in episodes]
    assert dataset.notes == [episode.notes for episode in episodes]
    assert len(dataset.lengths) == len(episodes)
    for number, episode in enumerate(episodes):
        for camera, frames in episode.frames.items():
            assert dataset.lengths[number] == len(frames)
            assert psnr(dataset.read_frames(number, np.arange(len(frames)), camera), frames) > 35
        rows = slice(dataset.starts[number], dataset.starts[number] + dataset.lengths[number])
        for name in ("actions", "state", "environment_state", "reward", "success"):
            expected = getattr(episode, name)
            if expected is not None:
                np.testing.assert_array_equal(dataset.columns[name][rows], expected, strict=True)


def test_what_was_written_comes_back(tiny_dataset, square_episodes):
    assert_same(tiny_dataset, square_episodes)
    dataset = open_dataset(tiny_dataset)
    assert dataset.fps == 10
    assert dataset.cameras == ("top",)
    assert dataset.frame_shape("top") == (32, 32)
    assert {name: list(episodes) for name, episodes in dataset.splits.items()} == {
        "train": [0, 1, 2],
        "test": [3],
    }
    assert "action_mask" not in dataset.columns
    assert not (tiny_dataset / ".staging").exists()


def test_episodes_are_ordered_by_split_and_id(tmp_path, square_episodes):
    recorder = DatasetWriter(tmp_path / "data", fps=10.0, crf=10)
    order = [(7, "test"), (3, "train"), (5, "test"), (4, "train")]
    for (number, split), episode in zip(order, square_episodes, strict=True):
        recorder.add(number, episode, split)
    assert recorder.finished == {3, 4, 5, 7}
    assert_same(recorder.finalize(), [square_episodes[place] for place in (1, 3, 2, 0)])
    splits = open_dataset(tmp_path / "data").splits
    assert {name: list(value) for name, value in splits.items()} == {
        "train": [0, 1],
        "test": [2, 3],
    }


def test_many_episodes_are_spread_over_files(tmp_path, square_episodes, monkeypatch):
    monkeypatch.setattr(packing, "EPISODES_PER_FILE", 3)
    monkeypatch.setattr(lerobot_format, "FILES_PER_CHUNK", 2)
    recorder = DatasetWriter(tmp_path / "data", fps=10.0, crf=10)
    episodes = [square_episodes[number % 4] for number in range(8)]
    for number, episode in enumerate(episodes):
        recorder.add(number, episode)
    path = recorder.finalize()
    files = sorted(str(file.relative_to(path)) for file in path.rglob("*.mp4"))
    folder = "videos/observation.images.top"
    assert files == [
        f"{folder}/chunk-000/file-000.mp4",
        f"{folder}/chunk-000/file-001.mp4",
        f"{folder}/chunk-001/file-000.mp4",
    ]
    assert_same(path, episodes)


def test_large_videos_get_files_of_their_own(tmp_path, square_episodes, monkeypatch):
    monkeypatch.setattr(packing, "MEGABYTES_PER_FILE", 1e-6)
    recorder = DatasetWriter(tmp_path / "data", fps=10.0, crf=10)
    for number, episode in enumerate(square_episodes):
        recorder.add(number, episode)
    assert len(list(recorder.finalize().rglob("*.mp4"))) == 4
    assert_same(tmp_path / "data", square_episodes)


def test_several_cameras(tmp_path, square_episodes):
    episode = square_episodes[0]
    wide = np.repeat(episode.frames["top"], 3, axis=2)
    episode = replace(episode, frames={"top": episode.frames["top"], "wide": wide})
    recorder = DatasetWriter(tmp_path / "data", fps=10.0, crf=10)
    recorder.add(0, episode)
    assert_same(recorder.finalize(), [episode])
    assert open_dataset(tmp_path / "data").frame_shape("wide") == (32, 96)


def test_unknown_actions_are_masked_zeros(tmp_path, square_episodes):
    known = np.arange(20) % 3 > 0
    actions = np.where(known[:, None], square_episodes[0].actions, np.nan)
    partly = replace(square_episodes[0], actions=actions, action_mask=known)
    unlabelled = replace(square_episodes[1], actions=None)
    recorder = DatasetWriter(tmp_path / "data", fps=10.0)
    for number, episode in enumerate([partly, unlabelled, square_episodes[2]]):
        recorder.add(number, episode)
    columns = open_dataset(recorder.finalize()).columns
    expected = np.concatenate([known, np.zeros(22, bool), np.ones(18, bool)])
    np.testing.assert_array_equal(columns["action_mask"], expected, strict=True)
    assert not columns["actions"][~expected].any()
    np.testing.assert_array_equal(columns["actions"][:20][known], square_episodes[0].actions[known])
    np.testing.assert_array_equal(columns["actions"][42:], square_episodes[2].actions)


def test_where_actions_come_from_is_kept(tmp_path, square_episodes):
    known = np.arange(20) < 15
    source = np.where(np.arange(20) < 4, 1, 2 * known).astype(np.int8)
    spread = np.where(source == 2, 0.25, np.nan)[:, None].repeat(2, axis=1).astype(np.float32)
    spread[:4] = 0
    labels = {"action_mask": known, "action_source": source, "action_spread": spread}
    recorder = DatasetWriter(tmp_path / "data", fps=10.0)
    recorder.add(0, square_episodes[2])  # the others are recorded, or bare video
    recorder.add(1, replace(square_episodes[0], **labels))
    recorder.add(2, replace(square_episodes[1], actions=None))
    columns = open_dataset(recorder.finalize()).columns
    expected = np.concatenate([np.ones(18), source, np.zeros(22)]).astype(np.int8)
    np.testing.assert_array_equal(columns["action_source"], expected, strict=True)
    np.testing.assert_array_equal(columns["action_mask"], expected > 0)
    spreads = np.repeat(np.where(expected == 2, 0.25, 0)[:, None], 2, axis=1).astype(np.float32)
    np.testing.assert_array_equal(columns["action_spread"], spreads, strict=True)


def test_a_mask_that_hides_nothing_is_left_out(tmp_path, square_episodes):
    recorder = DatasetWriter(tmp_path / "data", fps=10.0)
    recorder.add(0, replace(square_episodes[0], action_mask=np.ones(20, bool)))
    assert "action_mask" not in open_dataset(recorder.finalize()).columns


def test_bare_video_can_be_recorded(tmp_path, square_episodes):
    recorder = DatasetWriter(tmp_path / "data", fps=12.5)
    recorder.add(0, Episode(frames=square_episodes[0].frames))
    dataset = open_dataset(recorder.finalize())
    assert dataset.columns == {}
    assert dataset.fps == 12.5
    assert dataset.tasks == [""]


def test_vectors_of_one_number_stay_vectors(tmp_path, square_episodes):
    episode = square_episodes[0]
    recorder = DatasetWriter(tmp_path / "data", fps=10.0)
    recorder.add(0, replace(episode, actions=episode.actions[:, :1], state=episode.state[:, :1]))
    columns = open_dataset(recorder.finalize()).columns
    np.testing.assert_array_equal(columns["actions"], episode.actions[:, :1], strict=True)
    np.testing.assert_array_equal(columns["state"], episode.state[:, :1], strict=True)


def test_metadata_has_the_layout_of_lerobot(tiny_dataset, square_episodes):
    info = json.loads((tiny_dataset / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0"
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (4, 80, 2)
    assert info["fps"] == 10
    assert info["splits"] == {"train": "0:3", "test": "3:4"}
    assert info["features"]["action"] == {"dtype": "float32", "shape": [2], "names": None}
    assert info["features"]["observation.images.top"]["shape"] == [32, 32, 3]

    rows = pq.read_table(tiny_dataset / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    video = "videos/observation.images.top"
    assert [row["dataset_from_index"] for row in rows] == [0, 20, 42, 60]
    assert [row["dataset_to_index"] for row in rows] == [20, 42, 60, 80]
    assert [row[f"{video}/from_timestamp"] for row in rows] == [0, 2, 4.2, 6]
    assert [row[f"{video}/to_timestamp"] for row in rows] == [2, 4.2, 6, 8]
    assert rows[1]["tasks"] == ["left"]
    assert rows[3]["noise"] == 1.5
    np.testing.assert_allclose(
        rows[2]["stats/action/mean"], square_episodes[2].actions.mean(0), rtol=1e-5
    )

    table = pq.read_table(tiny_dataset / "data/chunk-000/file-000.parquet")
    assert set(table.column_names) == {name for name in info["features"] if "images" not in name}
    assert table["index"].to_pylist() == list(range(80))
    assert table["frame_index"].to_pylist()[18:22] == [18, 19, 0, 1]
    assert table["next.done"].to_pylist()[18:22] == [False, True, False, False]
    assert table["task_index"].to_pylist()[:1] + table["task_index"].to_pylist()[-1:] == [0, 1]
    np.testing.assert_allclose(table["timestamp"].to_numpy()[20:23], [0, 0.1, 0.2], rtol=1e-6)

    stats = json.loads((tiny_dataset / "meta/stats.json").read_text())
    actions = np.concatenate([episode.actions for episode in square_episodes])
    np.testing.assert_allclose(stats["action"]["mean"], actions.mean(0), rtol=1e-5)
    np.testing.assert_allclose(stats["action"]["std"], actions.std(0), rtol=1e-5)
    assert stats["action"]["count"] == [80]
    pixels = np.concatenate([episode.frames["top"] for episode in square_episodes]) / 255
    stored = stats["observation.images.top"]
    np.testing.assert_allclose(stored["mean"], pixels.mean((0, 1, 2))[:, None, None], rtol=1e-5)
    np.testing.assert_allclose(stored["max"], np.full((3, 1, 1), 230 / 255))


def test_task_table_is_indexed_by_name_in_pandas(tiny_dataset):
    pandas = pytest.importorskip("pandas")
    table = pandas.read_parquet(tiny_dataset / "meta/tasks.parquet")
    assert table.loc["right"].task_index == 1
    assert table.iloc[0].name == "left"


def with_notes(episode: Episode, **notes) -> Episode:
    """A copy with notes of any type, as nothing keeps a user from giving them."""
    changed = replace(episode)
    changed.notes = notes
    return changed


BAD_EPISODES = {
    "no camera": (lambda e: replace(e, frames={}), "has no camera"),
    "float frames": (
        lambda e: replace(e, frames={"top": e.frames["top"] / 255.0}),
        r"frames of camera 'top' are float64 \(20, 32, 32, 3\)",
    ),
    "camera lengths": (
        lambda e: replace(e, frames={**e.frames, "side": e.frames["top"][:-1]}),
        "camera 'side' has 19 frames, the first camera 20",
    ),
    "camera name": (
        lambda e: replace(e, frames={"a/b": e.frames["top"]}),
        "camera name 'a/b'",
    ),
    "too few actions": (
        lambda e: replace(e, actions=e.actions[:-1]),
        r"actions has shape \(19, 2\), not \(T, D\) with T = 20",
    ),
    "flat actions": (lambda e: replace(e, actions=e.actions[:, 0]), r"actions has shape \(20,\)"),
    "NaN action": (
        lambda e: replace(e, actions=np.full((20, 2), np.nan, np.float32)),
        "actions holds NaN",
    ),
    "mask alone": (
        lambda e: replace(e, actions=None, action_mask=np.zeros(20, bool)),
        "action_mask but no actions",
    ),
    "number mask": (
        lambda e: replace(e, action_mask=np.zeros(20)),
        "action_mask is float64, not bool",
    ),
    "spread alone": (
        lambda e: replace(e, action_spread=np.zeros((20, 2))),
        "only one of action_spread and action_source",
    ),
    "spread of another size": (
        lambda e: replace(e, action_spread=np.zeros((20, 3)), action_source=np.ones(20, np.int8)),
        r"action_spread is \(20, 3\), the actions are \(20, 2\)",
    ),
    "source against mask": (
        lambda e: replace(e, action_spread=np.zeros((20, 2)), action_source=np.zeros(20, np.int8)),
        "action_source must be 1 .* and 0 where action_mask is False",
    ),
    "negative spread": (
        lambda e: replace(
            e, action_spread=np.full((20, 2), -1.0), action_source=np.full(20, 2, np.int8)
        ),
        "action_spread is negative",
    ),
    "infinite reward": (
        lambda e: replace(e, reward=np.full(20, np.inf, np.float32)),
        "reward holds NaN or infinity",
    ),
    "note": (lambda e: with_notes(e, pose=[1, 2]), r"note 'pose' is \[1, 2\]"),
    "note name": (lambda e: replace(e, notes={"length": 3}), "'length' cannot be the name"),
}


@pytest.mark.parametrize("name", BAD_EPISODES)
def test_bad_episodes_are_refused_by_name(tmp_path, square_episodes, name):
    spoil, message = BAD_EPISODES[name]
    recorder = DatasetWriter(tmp_path / "data", fps=10.0)
    with pytest.raises(DatasetError, match=message) as caught:
        recorder.add(4, spoil(square_episodes[0]))
    assert f"{tmp_path / 'data'}, episode 4" in str(caught.value)
    assert recorder.finished == set()


def test_episodes_must_have_the_same_sizes(tmp_path, square_episodes):
    first = square_episodes[0]
    recorder = DatasetWriter(tmp_path / "data", fps=10.0)
    recorder.add(0, first)
    wider = np.concatenate([first.actions, first.actions], axis=1)
    with pytest.raises(DatasetError, match=r"episode 1 has columns of sizes .*'actions': 4"):
        recorder.add(1, replace(first, actions=wider))
    with pytest.raises(DatasetError, match=r"the episodes before have .*'state': 2"):
        recorder.add(1, replace(first, state=None))
    with pytest.raises(DatasetError, match=r"episode 1 has cameras .*\[32, 64\]"):
        recorder.add(1, replace(first, frames={"top": np.repeat(first.frames["top"], 2, axis=2)}))
    assert recorder.finished == {0}


def test_notes_of_one_name_must_have_one_type(tmp_path, square_episodes):
    recorder = DatasetWriter(tmp_path / "data", fps=10.0)
    recorder.add(0, replace(square_episodes[0], notes={"noise": 0.5}))
    recorder.add(1, replace(square_episodes[1], notes={"noise": "much"}))
    with pytest.raises(DatasetError, match="note 'noise' do not fit into one column"):
        recorder.finalize()
    assert recorder.finished == {0, 1}


def test_notes_may_differ_between_episodes(tmp_path, square_episodes):
    recorder = DatasetWriter(tmp_path / "data", fps=10.0)
    recorder.add(0, with_notes(square_episodes[0], seed=np.int64(3), noise=1))
    recorder.add(1, replace(square_episodes[1], notes={"policy": "expert", "noise": 0.5}))
    notes = open_dataset(recorder.finalize()).notes
    assert notes == [{"seed": 3, "noise": 1}, {"policy": "expert", "noise": 0.5}]


def test_an_id_is_recorded_once(tmp_path, square_episodes):
    recorder = DatasetWriter(tmp_path / "data", fps=10.0)
    recorder.add(0, square_episodes[0])
    with pytest.raises(DatasetError, match="episode 0 was recorded already"):
        recorder.add(0, square_episodes[1])


def test_a_finished_dataset_takes_no_more(tmp_path, square_episodes):
    first = DatasetWriter(tmp_path / "data", fps=10.0, crf=10)
    first.add(5, square_episodes[0])
    first.finalize()
    again = DatasetWriter(tmp_path / "data", fps=10.0)
    assert again.finished == {5}
    assert again.finalize() == tmp_path / "data"
    with pytest.raises(DatasetError, match="the dataset is finished, nothing can be added"):
        again.add(6, square_episodes[1])
    assert_same(tmp_path / "data", square_episodes[:1])


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("important")
    with pytest.raises(DatasetError, match="not empty and holds no recording"):
        DatasetWriter(tmp_path, fps=10.0)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_a_recording_goes_on_at_its_own_rate(tmp_path):
    DatasetWriter(tmp_path / "data", fps=10.0)
    with pytest.raises(DatasetError, match="unfinished recording at 10 fps, this one has 20"):
        DatasetWriter(tmp_path / "data", fps=20.0)
    with pytest.raises(DatasetError, match="fps must be positive, got 0"):
        DatasetWriter(tmp_path / "other", fps=0.0)


def test_a_recording_goes_on_with_its_own_pixels(tmp_path, square_episodes):
    recorder = DatasetWriter(tmp_path / "data", fps=10.0, crf=10, full_color=True)
    recorder.add(0, square_episodes[0])
    with pytest.raises(DatasetError, match="unfinished recording with full_color=True"):
        DatasetWriter(tmp_path / "data", fps=10.0)
    assert_same(recorder.finalize(), square_episodes[:1])
    features = json.loads((tmp_path / "data/meta/info.json").read_text())["features"]
    assert features["observation.images.top"]["info"]["video.pix_fmt"] == "yuv444p"


def test_nothing_recorded_cannot_be_finalized(tmp_path):
    with pytest.raises(DatasetError, match="no episode was recorded"):
        DatasetWriter(tmp_path / "data", fps=10.0).finalize()
    with pytest.raises(DatasetError, match="holds an unfinished recording"):
        open_dataset(tmp_path / "data")


KILLED = """
import os, signal, sys
import numpy as np
from pathlib import Path
from video import safe_files, writer
from video.episodes import Episode
from video.writer import DatasetWriter

path, point, calls = sys.argv[1], sys.argv[2], int(sys.argv[3])

def killed_at_call(function):
    def counted(*arguments, **options):
        global calls
        calls -= 1
        if calls < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return counted

recorder = DatasetWriter(path, fps=10.0)
if point in ("save", "rename"):
    if point == "save":
        np.save = killed_at_call(np.save)
    else:
        os.rename = killed_at_call(os.rename)
    for number in range(3):
        frames = np.full((6, 32, 32, 3), 40 * number, np.uint8)
        recorder.add(number, Episode({"top": frames}, actions=np.full((6, 1), number, float)))
else:
    os.replace = killed_at_call(os.replace)
    writer.shutil.rmtree = killed_at_call(writer.shutil.rmtree)
    recorder.finalize()
"""


def run_until_killed(path: Path, point: str, calls: int) -> None:
    command = [sys.executable, "-c", KILLED, str(path), point, str(calls)]
    assert subprocess.run(command).returncode == -signal.SIGKILL


@pytest.mark.parametrize("point", ["save", "rename"])
def test_a_killed_recording_keeps_what_was_finished(tmp_path, point):
    path = tmp_path / "data"
    run_until_killed(path, point, 2)
    recorder = DatasetWriter(path, fps=10.0)
    assert recorder.finished == {0, 1}
    assert any(folder.name.startswith("unfinished") for folder in (path / ".staging").iterdir())
    frames = np.full((6, 32, 32, 3), 80, np.uint8)
    recorder.add(2, Episode({"top": frames}, actions=np.full((6, 1), 2.0)))
    assert recorder.finished == {0, 1, 2}
    assert list(open_dataset(recorder.finalize()).lengths) == [6, 6, 6]


def test_a_killed_finalize_is_made_again(tmp_path):
    path = tmp_path / "data"
    recorder = DatasetWriter(path, fps=10.0)
    for number in range(3):
        frames = np.full((6, 32, 32, 3), 40 * number, np.uint8)
        recorder.add(number, Episode({"top": frames}, actions=np.full((6, 1), float(number))))

    # three folders are cleared, then data, video, episodes, tasks, statistics and info written
    for calls in (3, 4, 8):
        run_until_killed(path, "finalize", calls)
        assert DatasetWriter(path, fps=10.0).finished == {0, 1, 2}
        with pytest.raises(DatasetError, match="unfinished recording"):
            open_dataset(path)
    run_until_killed(path, "finalize", 9)
    assert (path / ".staging").exists()
    assert DatasetWriter(path, fps=10.0).finished == {0, 1, 2}
    DatasetWriter(path, fps=10.0).finalize()
    assert not (path / ".staging").exists()
    dataset = open_dataset(path)
    np.testing.assert_array_equal(dataset.columns["actions"][:, 0], np.repeat([0.0, 1, 2], 6))
    assert abs(dataset.read_frames(2, np.array([5]), "top").mean() - 80) < 2


def full_disk(*arguments, **options):
    raise OSError(28, "No space left on device")


def test_a_full_disk_loses_nothing_that_was_added(tmp_path, square_episodes, monkeypatch):
    recorder = DatasetWriter(tmp_path / "data", fps=10.0, crf=10)
    recorder.add(0, square_episodes[0])
    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full_disk)
        with pytest.raises(DatasetError, match=r"data, episode 1 could .*No space left"):
            recorder.add(1, square_episodes[1])
    with monkeypatch.context() as patch:
        patch.setattr(
            writer, "write_video", lambda path, *rest: write_video(Path("/dev/full"), *rest)
        )
        with pytest.raises(DatasetError, match="No space left on device"):
            recorder.add(1, square_episodes[1])
    assert [folder.name for folder in (tmp_path / "data/.staging").glob("*0*")] == [
        "episode_000000"
    ]
    recorder.add(1, square_episodes[1])
    for name in ("pq.write_table", "os.replace"):
        with monkeypatch.context() as patch:
            patch.setattr(f"video.safe_files.{name}", full_disk)
            with pytest.raises(DatasetError, match=r"parquet could .*No space left"):
                recorder.finalize()
        assert recorder.finished == {0, 1}
    with monkeypatch.context() as patch:
        patch.setattr(
            packing,
            "concatenate_videos",
            lambda parts, path: concatenate_videos(parts, Path("/dev/full")),
        )
        with pytest.raises(DatasetError, match="No space left on device"):
            recorder.finalize()
    assert_same(recorder.finalize(), square_episodes[:2])


def test_damaged_staged_episodes_are_named(tmp_path, square_episodes):
    recorder = DatasetWriter(tmp_path / "data", fps=10.0)
    recorder.add(3, square_episodes[0])
    (tmp_path / "data/.staging/episode_000003/episode.json").write_text("{")
    with pytest.raises(
        DatasetError, match=r"episode_000003 is damaged .* record the episode again"
    ):
        recorder.finalize()
