import logging
import pickle
import shutil
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from video.episodes import EpisodeDataset, open_dataset
from video.errors import DatasetError
from video.video_file import write_video
from video.video_folder import VideoFolder


def clock(count: int, size: int = 48) -> np.ndarray:
    """Frames whose brightness is 7 times their number."""
    levels = np.arange(count, dtype=np.uint8)[:, None, None, None] * 7
    return np.broadcast_to(levels, (count, size, size, 3))


def times_of(frames: np.ndarray) -> list[int]:
    return np.rint(frames.mean(axis=(1, 2, 3)) / 7).astype(int).tolist()


def test_every_file_is_an_episode_without_labels(tiny_videos):
    dataset = open_dataset(tiny_videos)
    assert isinstance(dataset, EpisodeDataset)
    assert dataset.fps == 10
    assert list(dataset.lengths) == [20, 20, 20]
    assert list(dataset.starts) == [0, 20, 40]
    assert dataset.columns == {}
    assert dataset.cameras == ("video",)
    assert dataset.frame_shape("video") == (32, 32)
    assert [note["file"] for note in dataset.notes] == ["10.mp4", "11.mp4", "12.mp4"]
    assert list(dataset.splits["train"]) == [0, 1, 2]
    again = pickle.loads(pickle.dumps(dataset))
    np.testing.assert_array_equal(
        again.read_frames(1, np.array([4]), "video"), dataset.read_frames(1, np.array([4]), "video")
    )


@pytest.mark.parametrize("suffix", ["mp4", "webm", "mkv", "avi", "mov", "gif", "MP4"])
def test_every_kind_of_file_is_read(tmp_path, suffix):
    write_video(tmp_path / "source.mp4", clock(30), fps=10.0, crf=5)
    folder = tmp_path / "videos"
    folder.mkdir()
    path = folder / f"video.{suffix}"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", tmp_path / "source.mp4"]
    subprocess.run([*command, path], check=True, stderr=subprocess.PIPE)
    dataset = open_dataset(folder)
    assert dataset.fps == pytest.approx(10)
    assert list(dataset.lengths) == [30]
    wanted = [29, 0, 7, 7, 15]
    assert times_of(dataset.read_frames(0, np.array(wanted), "video")) == wanted


@pytest.mark.parametrize(
    ("source", "fps", "expected"),
    [
        (30.0, 10.0, [0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 33]),
        (10.0, 25.0, [0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4, 4, 5, 5, 6, 6]),
        (24.0, 10.0, [0, 2, 5, 7, 10, 12, 14, 17, 19, 22, 24, 26]),
        (30.0, 29.97, list(range(12))),
    ],
)
def test_resampling_takes_the_nearest_frame_in_time(tmp_path, source, fps, expected):
    write_video(tmp_path / "video.mp4", clock(36), fps=source, crf=5)
    dataset = VideoFolder(tmp_path, fps=fps)
    assert dataset.fps == fps
    assert dataset.lengths[0] == int(35 / source * fps + 1e-6) + 1
    found = times_of(dataset.read_frames(0, np.arange(len(expected)), "video"))
    assert found == expected
    last = dataset.read_frames(0, dataset.lengths - 1, "video")
    assert abs(times_of(last)[0] - 35) <= source / fps


def test_no_frame_is_lost_to_rounding(tmp_path):
    # 29 / 25 * 25 is a little less than 29
    write_video(tmp_path / "video.mp4", clock(30), fps=25.0, crf=5)
    dataset = VideoFolder(tmp_path)
    assert list(dataset.lengths) == [30]
    assert times_of(dataset.read_frames(0, np.arange(30), "video")) == list(range(30))


def test_files_of_several_rates_are_read_at_the_commonest(tmp_path):
    for name, fps in (("a", 20.0), ("b", 10.0), ("c", 10.0)):
        write_video(tmp_path / f"{name}.mp4", clock(21), fps=fps, crf=5)
    dataset = VideoFolder(tmp_path)
    assert dataset.fps == 10
    assert list(dataset.lengths) == [11, 21, 21]
    assert times_of(dataset.read_frames(0, np.array([3]), "video")) == [6]
    fast = VideoFolder(tmp_path, fps=20.0)
    assert list(fast.lengths) == [21, 41, 41]
    assert fast.fingerprint != dataset.fingerprint


def test_files_of_several_sizes_keep_their_own(tmp_path):
    for name, size in (("a", 48), ("b", 32), ("c", 32)):
        write_video(tmp_path / f"{name}.mp4", clock(4, size), fps=10.0)
    dataset = VideoFolder(tmp_path)
    assert dataset.frame_shape("video") == (32, 32)
    assert dataset.read_frames(0, np.array([0]), "video").shape == (1, 48, 48, 3)


def test_folders_below_name_the_task(tmp_path, tiny_videos):
    for task in ("open", "close"):
        shutil.copytree(tiny_videos, tmp_path / task)
    shutil.copy(tiny_videos / "10.mp4", tmp_path / "10.mp4")
    (tmp_path / ".trash").mkdir()
    shutil.copy(tiny_videos / "10.mp4", tmp_path / ".trash" / "10.mp4")
    (tmp_path / "notes.txt").write_text("not a video")
    dataset = open_dataset(tmp_path)
    assert dataset.tasks == ["", "close", "close", "close", "open", "open", "open"]


def test_damaged_files_are_named_skipped_and_counted(tmp_path, tiny_videos, caplog):
    folder = Path(shutil.copytree(tiny_videos, tmp_path / "videos"))
    content = (folder / "11.mp4").read_bytes()
    (folder / "11.mp4").write_bytes(content[: len(content) // 2])
    (folder / "empty.webm").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        dataset = open_dataset(folder)
    assert list(dataset.lengths) == [20, 20]
    assert len(dataset.damaged) == 2
    assert "11.mp4 is cut off" in dataset.damaged[0]
    assert "empty.webm is damaged or not a video" in dataset.damaged[1]
    assert "2 of 4 files skipped" in caplog.text
    assert dataset.fingerprint != open_dataset(tiny_videos).fingerprint


def test_nothing_usable_is_an_error(tmp_path):
    with pytest.raises(DatasetError, match=r"holds no \.mp4, \.webm, .* file"):
        open_dataset(tmp_path)
    (tmp_path / "bad.mp4").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"no usable video file(.|\n)*bad\.mp4"):
        open_dataset(tmp_path)


def test_wrong_questions(tiny_videos):
    dataset = open_dataset(tiny_videos)
    with pytest.raises(IndexError, match=r"10\.mp4 at 10 fps has frames 0 to 19; 3 to 20"):
        dataset.read_frames(0, np.array([3, 20]), "video")
    with pytest.raises(DatasetError, match="no camera 'top'; it has 'video'"):
        dataset.frame_shape("top")
    with pytest.raises(DatasetError, match=r"fps must be positive, got -1\.0"):
        open_dataset(tiny_videos, fps=-1.0)
