import io
import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from video.episodes import EpisodeDataset, open_dataset
from video.errors import DatasetError
from video.lerobot import LeRobotDataset
from video.video_file import write_video

DATA = "data/chunk-000/file-{:03d}.parquet"
VIDEO = "videos/observation.images.top/chunk-000/file-{:03d}.mp4"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"


@pytest.fixture
def copy(tiny_dataset, tmp_path) -> Path:
    """A dataset to damage."""
    return Path(shutil.copytree(tiny_dataset, tmp_path / "copy"))


@pytest.fixture
def two_files(square_episodes, tmp_path, monkeypatch) -> Path:
    """The tiny dataset with two episodes in each file."""
    from video import packing
    from video.writer import DatasetWriter

    monkeypatch.setattr(packing, "EPISODES_PER_FILE", 2)
    writer = DatasetWriter(tmp_path / "two", fps=10.0, crf=10)
    for number, episode in enumerate(square_episodes):
        writer.add(number, episode, "test" if number == 3 else "train")
    return writer.finalize()


def change_info(path: Path, **changes) -> None:
    file = path / "meta/info.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def change_table(file: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(file)), file)


def assert_holds(dataset: EpisodeDataset, episodes: list, camera: str = "top") -> None:
    assert list(dataset.lengths) == [len(episode.frames["top"]) for episode in episodes]
    for number, episode in enumerate(episodes):
        rows = slice(dataset.starts[number], dataset.starts[number] + dataset.lengths[number])
        np.testing.assert_array_equal(dataset.columns["actions"][rows], episode.actions)
        frames = dataset.read_frames(number, np.arange(dataset.lengths[number]), camera)
        assert np.abs(frames.astype(float) - episode.frames["top"]).mean() < 2


def test_satisfies_the_protocol_and_travels_to_workers(tiny_dataset, square_episodes):
    dataset = LeRobotDataset(tiny_dataset)
    assert isinstance(dataset, EpisodeDataset)
    again = pickle.loads(pickle.dumps(dataset))
    assert_holds(again, square_episodes)
    assert again.fingerprint == dataset.fingerprint


def test_frames_in_any_order(tiny_dataset):
    dataset = LeRobotDataset(tiny_dataset)
    whole = dataset.read_frames(2, np.arange(18), "top")
    wanted = np.array([17, 0, 3, 3, 16])
    np.testing.assert_array_equal(dataset.read_frames(2, wanted, "top"), whole[wanted])
    for wrong in ([18], [-1], [0, 99]):
        with pytest.raises(IndexError, match="episode 2 has frames 0 to 17"):
            dataset.read_frames(2, np.array(wrong), "top")
    with pytest.raises(DatasetError, match="no camera 'side'; it has top"):
        dataset.read_frames(2, np.array([0]), "side")
    with pytest.raises(DatasetError, match="no camera 'side'; it has top"):
        dataset.frame_shape("side")


def test_the_fingerprint_follows_the_data(tiny_dataset, copy):
    first = LeRobotDataset(tiny_dataset).fingerprint
    assert LeRobotDataset(copy).fingerprint == first
    change_table(
        copy / DATA.format(0),
        lambda table: table.set_column(
            table.column_names.index("next.reward"), "next.reward", pa.array(np.ones(80, "f4"))
        ),
    )
    assert LeRobotDataset(copy).fingerprint != first
    shutil.copy(tiny_dataset / DATA.format(0), copy / DATA.format(0))
    assert LeRobotDataset(copy).fingerprint == first
    change_info(copy, fps=10.05)
    assert LeRobotDataset(copy).fingerprint != first


def test_another_frame_rate_is_refused(tiny_dataset):
    assert open_dataset(tiny_dataset, fps=10.0).fps == 10
    with pytest.raises(DatasetError, match=r"has 10 fps, 25 fps are asked for; .* Set fps to 10"):
        open_dataset(tiny_dataset, fps=25.0)


# Foreign datasets


def version_2(path: Path, episodes: list) -> Path:
    """The same data as lerobot wrote it before version 3: a file for every episode."""
    features = {
        "observation.image": {
            "dtype": "video",
            "shape": [3, 32, 32],
            "names": ["channels", "height", "width"],
            "video_info": {"video.fps": 10.0, "video.codec": "av1"},
        },
        "action": {"dtype": "float32", "shape": [2], "names": {"motors": ["x", "y"]}},
        "observation.state": {"dtype": "float32", "shape": [2], "names": None},
        "next.success": {"dtype": "bool", "shape": [1], "names": None},
        "observation.effort": {"dtype": "float32", "shape": [1], "names": None},
    }
    info = {
        "codebase_version": "v2.1",
        "robot_type": "square",
        "total_episodes": len(episodes),
        "chunks_size": 3,
        "fps": 10,
        "splits": {"train": f"0:{len(episodes)}"},
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/"
        "episode_{episode_index:06d}.mp4",
        "features": features,
    }
    lines = []
    for index, episode in enumerate(episodes):
        place = {"episode_chunk": index // 3, "episode_index": index}
        data = path / info["data_path"].format(**place)
        video = path / info["video_path"].format(video_key="observation.image", **place)
        for file in (data, video):
            file.parent.mkdir(parents=True, exist_ok=True)
        length = len(episode.actions)
        columns = {
            "action": episode.actions.tolist(),
            "observation.state": pa.array(list(episode.state.astype(np.float64))),
            "next.success": episode.success,
            "observation.effort": np.zeros(length),
            "episode_index": np.full(length, index),
        }
        pq.write_table(pa.table(columns), data)
        write_video(video, episode.frames["top"], fps=10.0, crf=10)
        lines.append({"episode_index": index, "tasks": [episode.task], "length": length})
    (path / "meta").mkdir()
    (path / "meta/info.json").write_text(json.dumps(info))
    (path / "meta/episodes.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    return path


def test_version_2_1_is_read(tmp_path, square_episodes):
    dataset = open_dataset(version_2(tmp_path, square_episodes))
    assert dataset.cameras == ("image",)
    assert dataset.frame_shape("image") == (32, 32)
    assert set(dataset.columns) == {"actions", "state", "success"}
    assert dataset.columns["state"].dtype == np.float32
    assert dataset.tasks == ["left", "left", "right", "right"]
    assert list(dataset.splits["train"]) == [0, 1, 2, 3]
    assert_holds(dataset, square_episodes, "image")


def test_damage_in_version_2_1_is_named(tmp_path, square_episodes):
    path = version_2(tmp_path, square_episodes)
    (path / "videos/chunk-000/observation.image/episode_000001.mp4").unlink()
    lines = (path / "meta/episodes.jsonl").read_text().splitlines()
    lines[2] = lines[2][:20]
    (path / "meta/episodes.jsonl").write_text("\n".join(lines))
    dataset = open_dataset(path)
    assert list(dataset.lengths) == [20, 20]
    assert dataset.tasks == ["left", "right"]
    line, video = sorted(dataset.damaged)
    assert "episodes.jsonl, line 3 is damaged" in line
    assert "episode_000001.mp4 does not exist. Skipped: episode 1." in video
    (path / "meta/episodes.jsonl").unlink()
    with pytest.raises(DatasetError, match=r"episodes\.jsonl cannot be read"):
        open_dataset(path)


def test_pictures_inside_parquet_are_read(tmp_path, copy, square_episodes):
    def with_pictures(table: pa.Table) -> pa.Table:
        pictures = []
        for frame in np.concatenate([episode.frames["top"] for episode in square_episodes]):
            stream = io.BytesIO()
            Image.fromarray(frame).save(stream, format="PNG")
            pictures.append({"bytes": stream.getvalue(), "path": None})
        return table.append_column("observation.images.top", pa.array(pictures))

    change_table(copy / DATA.format(0), with_pictures)
    features = json.loads((copy / "meta/info.json").read_text())["features"]
    features["observation.images.top"]["dtype"] = "image"
    change_info(copy, features=features, video_path=None)
    shutil.rmtree(copy / "videos")
    dataset = open_dataset(copy)
    assert dataset.cameras == ("top",)
    wanted = np.array([17, 0, 3, 3])
    expected = square_episodes[2].frames["top"][wanted]
    np.testing.assert_array_equal(dataset.read_frames(2, wanted, "top"), expected)

    change_table(
        copy / DATA.format(0),
        lambda table: table.set_column(
            table.column_names.index("observation.images.top"),
            "observation.images.top",
            pa.array([{"bytes": b"no picture", "path": None}] * 80),
        ),
    )
    with pytest.raises(DatasetError, match=r"file-000\.parquet, pictures of observation\.images"):
        open_dataset(copy).read_frames(0, np.array([0]), "top")


@pytest.mark.parametrize(
    ("shape", "names"),
    [
        ([32, 48, 3], None),
        ([3, 32, 48], ["channel", "height", "width"]),
        ([3, 32, 48], None),
        ([32, 48, 3], {"axes": ["rows", "columns", "rgb"]}),
    ],
)
def test_any_axis_order_of_a_camera_is_understood(copy, shape, names):
    features = json.loads((copy / "meta/info.json").read_text())["features"]
    features["observation.images.top"] |= {"shape": shape, "names": names}
    change_info(copy, features=features)
    write_video(copy / VIDEO.format(0), np.zeros((80, 32, 48, 3), np.uint8), fps=10.0)
    dataset = open_dataset(copy)
    assert dataset.frame_shape("top") == (32, 48)
    assert dataset.read_frames(0, np.array([3]), "top").shape == (1, 32, 48, 3)


def test_times_that_are_not_exact_still_find_the_frame(copy, square_episodes):
    name = "videos/observation.images.top/from_timestamp"

    def shift(table: pa.Table) -> pa.Table:
        times = np.array(table[name]) + np.array([0, 0.03, -0.03, 0.04])
        return table.set_column(table.column_names.index(name), name, pa.array(times))

    change_table(copy / EPISODES, shift)
    assert_holds(open_dataset(copy), square_episodes)


def test_further_features_and_missing_labels_do_not_matter(copy, square_episodes):
    features = json.loads((copy / "meta/info.json").read_text())["features"]
    for name in ("next.reward", "next.success", "observation.state"):
        del features[name]
    features["observation.temperature"] = {"dtype": "float64", "shape": [1], "names": None}
    features["observation.images.depth"] = {
        "dtype": "video",
        "shape": [32, 32, 1],
        "names": ["height", "width", "channels"],
        "info": {"video.is_depth_map": True},
    }
    change_info(copy, features=features)
    change_table(copy / DATA.format(0), lambda table: table.drop_columns(["next.reward"]))
    dataset = open_dataset(copy)
    assert set(dataset.columns) == {"actions", "environment_state"}
    assert dataset.cameras == ("top",)
    assert_holds(dataset, square_episodes)


# Damage


def keep_half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def drop_rows(table: pa.Table) -> pa.Table:
    return table.slice(0, table.num_rows - 3)


def widen_actions(table: pa.Table) -> pa.Table:
    actions = np.array(table["action"].to_pylist(), np.float32)
    wider = pa.array(np.concatenate([actions, actions], axis=1).tolist())
    return table.set_column(table.column_names.index("action"), "action", wider)


def ragged_actions(table: pa.Table) -> pa.Table:
    actions = table["action"].to_pylist()
    actions[1] = [0.0]
    return table.set_column(table.column_names.index("action"), "action", pa.array(actions))


def empty_reward(table: pa.Table) -> pa.Table:
    reward = [None, *table["next.reward"].to_pylist()[1:]]
    values = pa.array(reward, pa.float32())
    return table.set_column(table.column_names.index("next.reward"), "next.reward", values)


DAMAGE = {
    "truncated mp4": (
        lambda path: keep_half(path / VIDEO.format(1)),
        r"top/chunk-000/file-001\.mp4 is cut off",
    ),
    "missing mp4": (
        lambda path: (path / VIDEO.format(1)).unlink(),
        r"file-001\.mp4 does not exist",
    ),
    "no mp4": (
        lambda path: (path / VIDEO.format(1)).write_text("no video"),
        r"file-001\.mp4 is not an MP4 file",
    ),
    "other size": (
        lambda path: write_video(
            path / VIDEO.format(1), np.zeros((38, 16, 16, 3), np.uint8), fps=10.0
        ),
        r"file-001\.mp4 has 16 x 16 pixels, .*info\.json says \(32, 32\)",
    ),
    "other rate": (
        lambda path: write_video(
            path / VIDEO.format(1), np.zeros((38, 32, 32, 3), np.uint8), fps=25.0
        ),
        r"file-001\.mp4 has 25\.00 fps, meta/info\.json says 10",
    ),
    "missing parquet": (
        lambda path: (path / DATA.format(1)).unlink(),
        r"data/chunk-000/file-001\.parquet does not exist",
    ),
    "truncated parquet": (
        lambda path: keep_half(path / DATA.format(1)),
        r"file-001\.parquet is damaged",
    ),
    "missing column": (
        lambda path: change_table(
            path / DATA.format(1), lambda table: table.drop_columns(["observation.state"])
        ),
        r"file-001\.parquet lacks the column observation\.state",
    ),
    "action of another size": (
        lambda path: change_table(path / DATA.format(1), widen_actions),
        r"file-001\.parquet, column action has 4 dimensions, meta/info\.json says 2",
    ),
    "actions of several sizes": (
        lambda path: change_table(path / DATA.format(1), ragged_actions),
        r"file-001\.parquet, column action: rows of different sizes, \[1, 2\]",
    ),
    "empty value": (
        lambda path: change_table(path / DATA.format(1), empty_reward),
        r"file-001\.parquet, column next\.reward: 1 empty values",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_named_skipped_and_counted(two_files, square_episodes, caplog, name):
    damage, message = DAMAGE[name]
    damage(two_files)
    dataset = open_dataset(two_files)
    assert_holds(dataset, square_episodes[:2])
    assert {split: list(numbers) for split, numbers in dataset.splits.items()} == {
        "train": [0, 1],
        "test": [],
    }
    assert len(dataset.damaged) == 1
    assert re.search(message, dataset.damaged[0]), dataset.damaged
    assert "Skipped: episodes 2, 3." in dataset.damaged[0]
    assert "2 of 4 episodes skipped" in caplog.text
    assert dataset.damaged[0] in caplog.text


@pytest.mark.parametrize("name", ["truncated mp4", "missing parquet"])
def test_nothing_usable_is_an_error_that_names_all_files(two_files, name):
    damage, _ = DAMAGE[name]
    damage(two_files)
    (two_files / (VIDEO if "mp4" in name else DATA).format(0)).write_bytes(b"")
    with pytest.raises(DatasetError, match="no usable episode left") as caught:
        open_dataset(two_files)
    assert "file-000" in str(caught.value)
    assert "file-001" in str(caught.value)


def test_fewer_rows_than_announced_cost_only_their_episode(copy, square_episodes):
    change_table(copy / DATA.format(0), drop_rows)
    dataset = open_dataset(copy)
    assert_holds(dataset, square_episodes[:3])
    (line,) = dataset.damaged
    assert line.endswith("has 17 rows, meta/episodes says 20. Skipped: episode 3.")


def test_fewer_frames_than_announced_cost_only_their_episodes(copy, square_episodes):
    frames = np.concatenate([episode.frames["top"] for episode in square_episodes])
    write_video(copy / VIDEO.format(0), frames[:59], fps=10.0, crf=10)
    dataset = open_dataset(copy)
    assert_holds(dataset, square_episodes[:2])
    (line,) = dataset.damaged
    assert line.endswith("has 59 frames, meta/episodes needs 80. Skipped: episodes 2, 3.")
    assert list(dataset.splits["train"]) == [0, 1]


def test_an_episode_in_the_middle_may_be_lost(copy, square_episodes):
    def without_second(table: pa.Table) -> pa.Table:
        return table.filter(pa.array(np.array(table["episode_index"]) != 1))

    change_table(copy / DATA.format(0), without_second)
    dataset = open_dataset(copy)
    assert_holds(dataset, [square_episodes[0], *square_episodes[2:]])
    assert list(dataset.starts) == [0, 20, 38]
    assert dataset.notes[1]["seed"] == 2
    assert {name: list(numbers) for name, numbers in dataset.splits.items()} == {
        "train": [0, 1],
        "test": [2],
    }


def test_damage_that_only_decoding_finds_is_named(copy):
    file = copy / VIDEO.format(0)
    content = bytearray(file.read_bytes())
    half = len(content) // 2
    content[half:] = np.random.default_rng(0).bytes(len(content) - half)
    file.write_bytes(content)
    dataset = open_dataset(copy)
    with pytest.raises(DatasetError, match=r"file-000\.mp4 is damaged"):
        dataset.read_frames(3, np.arange(20), "top")


def test_damaged_metadata(copy):
    change_table(copy / EPISODES, lambda table: table.drop_columns(["length"]))
    with pytest.raises(DatasetError, match=r"episodes/chunk-000/file-000\.parquet lacks .*length"):
        open_dataset(copy)
    keep_half(copy / EPISODES)
    with pytest.raises(DatasetError, match=r"episodes/chunk-000/file-000\.parquet is damaged"):
        open_dataset(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codebase_version": "v1.6"}, "says version v1.6; versions 2.x and 3.x are read"),
        ({"features": {}}, "lists no camera"),
        ({"fps": "fast"}, r"info\.json is damaged: .*fast"),
        ({"splits": {"train": "all"}}, "split 'train' is 'all', not 'FIRST:END'"),
    ],
)
def test_unusable_info(copy, changes, message):
    change_info(copy, **changes)
    with pytest.raises(DatasetError, match=message):
        open_dataset(copy)


def test_info_without_an_entry(copy):
    content = json.loads((copy / "meta/info.json").read_text())
    del content["data_path"]
    (copy / "meta/info.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"info\.json has no entry 'data_path'"):
        open_dataset(copy)
    (copy / "meta/info.json").write_text("{")
    with pytest.raises(DatasetError, match=r"info\.json is damaged"):
        open_dataset(copy)
    (copy / "meta/info.json").unlink()
    with pytest.raises(DatasetError, match=r"info\.json cannot be read"):
        open_dataset(copy)


def test_no_dataset_at_all(tmp_path):
    with pytest.raises(DatasetError, match="nowhere is not a folder"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"holds no \.mp4"):
        open_dataset(tmp_path)
