import multiprocessing
import shutil
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from video import video_file
from video.errors import DatasetError
from video.video_file import (
    concatenate_videos,
    outline,
    read_video,
    video_header,
    write_video,
)


def psnr(found: np.ndarray, expected: np.ndarray) -> float:
    error = np.mean((found.astype(float) - expected) ** 2)
    return float(10 * np.log10(255**2 / error))


def numbered_frames(count: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Frames that tell their number: a dark and a bright block of 8 by 8 pixels for every bit."""
    frames = np.full((count, height, width, 3), 60, np.uint8)
    for t in range(count):
        for bit in range(6):
            frames[t, 8:16, 8 * bit : 8 * bit + 8] = 220 if t >> bit & 1 else 20
    return frames


def numbers_of(frames: np.ndarray) -> list[int]:
    bits = [frames[:, 11:13, 8 * bit + 3 : 8 * bit + 5].mean(axis=(1, 2, 3)) for bit in range(6)]
    return sum((bits[bit] > 120).astype(int) << bit for bit in range(6)).tolist()


def encode(frames: np.ndarray, path: Path, *options: str, fps: float = 10.0) -> Path:
    """A file of any kind, by ffmpeg."""
    height, width = frames.shape[1:3]
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps)]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", *raw, "-i", "-", *options]
    subprocess.run([*command, path], input=frames.tobytes(), check=True, stderr=subprocess.PIPE)
    return path


@pytest.mark.parametrize("size", [(64, 64), (32, 32), (96, 96), (16, 48), (33, 31), (50, 66)])
def test_frames_come_back_in_any_size(tmp_path, size):
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 255, (9, 4, 4, 3), np.uint8)
    rows, columns = (np.linspace(0, 3.99, length).astype(int) for length in size)
    frames = coarse[:, rows][:, :, columns]
    path = tmp_path / "video.mp4"
    write_video(path, frames, fps=10.0, crf=4)
    header = video_header(path)
    assert (header.frames, header.height, header.width, header.fps) == (9, *size, 10)
    found = read_video(path, np.arange(9))
    assert found.shape == frames.shape
    assert found.dtype == np.uint8
    # sharp colour edges lose to yuv420p: compare where the colour is even
    even = (np.diff(rows, prepend=rows[0]) == 0)[:, None] & (np.diff(columns, prepend=0) == 0)
    assert psnr(found[:, even], frames[:, even]) > 24


def test_colours_are_kept(tmp_path):
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (10, 120, 200)]
    frames = np.broadcast_to(np.array(colours, np.uint8)[:, None, None], (6, 64, 64, 3))
    write_video(tmp_path / "colours.mp4", frames, fps=10.0)
    found = read_video(tmp_path / "colours.mp4", np.arange(6))
    assert np.abs(found.astype(int) - frames).max() <= 3


def test_full_color_keeps_the_colour_of_single_pixels(tmp_path):
    frames = np.zeros((5, 64, 64, 3), np.uint8)
    frames[:, ::2, ::2, 0] = 255
    frames[:, 1::2, 1::2, 2] = 255
    errors = {}
    for full_color in (False, True):
        path = tmp_path / f"{full_color}.mp4"
        write_video(path, frames, fps=10.0, crf=2, full_color=full_color)
        found = read_video(path, np.arange(5))
        errors[full_color] = np.abs(found.astype(float) - frames).mean()
    assert errors[True] < 5 < 30 < errors[False]


def test_frames_come_in_the_order_asked_for(tmp_path):
    path = tmp_path / "video.mp4"
    write_video(path, numbered_frames(60), fps=10.0)
    wanted = [5, 59, 3, 5, 0, 31, 30]
    assert numbers_of(read_video(path, np.array(wanted))) == wanted
    assert read_video(path, np.array([], np.int64)).shape == (0, 48, 64, 3)


def test_small_padded_frames_come_in_the_order_asked_for(tmp_path):
    path = tmp_path / "video.mp4"
    write_video(path, numbered_frames(40, width=96), fps=10.0)
    wanted = [5, 39, 3, 5]
    assert numbers_of(read_video(path, np.array(wanted))) == wanted


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("b_frames.mp4", ["-c:v", "libx264", "-bf", "3", "-g", "12"]),
        ("h265.mp4", ["-c:v", "libx265", "-x265-params", "log-level=error"]),
        ("av1.mp4", ["-c:v", "libsvtav1", "-g", "2", "-crf", "30", "-pix_fmt", "yuv420p"]),
        ("vp9.webm", ["-c:v", "libvpx-vp9", "-deadline", "realtime"]),
        ("video.mkv", ["-c:v", "libx264"]),
        ("video.mov", ["-c:v", "libx264"]),
        ("video.avi", []),
        ("video.gif", []),
        ("fragmented.mp4", ["-movflags", "frag_keyframe+empty_moov", "-g", "12"]),
    ],
)
def test_foreign_files_are_read_frame_by_frame(tmp_path, name, options):
    path = encode(numbered_frames(40), tmp_path / name, *options)
    header = video_header(path)
    assert (header.frames, header.height, header.width) == (40, 48, 64)
    assert header.fps == pytest.approx(10, rel=1e-3)
    assert numbers_of(read_video(path, np.arange(40))) == list(range(40))
    assert numbers_of(read_video(path, np.array([37, 2, 20]))) == [37, 2, 20]


def test_joined_files_keep_every_frame_and_a_key_frame_for_each_part(tmp_path):
    frames = numbered_frames(50)
    parts = [tmp_path / f"it's part {number}.mp4" for number in range(3)]
    for part, span in zip(parts, [slice(0, 33), slice(33, 34), slice(34, 50)], strict=True):
        write_video(part, frames[span], fps=30.0)
    joined = tmp_path / "joined.mp4"
    concatenate_videos(parts, joined)
    assert video_header(joined).frames == 50
    assert video_header(joined).fps == pytest.approx(30)
    assert numbers_of(read_video(joined, np.arange(50))) == list(range(50))
    reader = video_file._open(joined).reader
    assert {0, 33, 34} <= set(reader.get_key_indices())
    ends = reader.get_frame_timestamp(range(50))[:, 0]
    np.testing.assert_allclose(ends, np.arange(50) / 30, atol=1e-4)


def test_joining_files_of_which_one_is_damaged_fails(tmp_path):
    write_video(tmp_path / "good.mp4", numbered_frames(10), fps=10.0)
    (tmp_path / "bad.mp4").write_bytes(b"nothing")
    with pytest.raises(DatasetError, match=r"bad\.mp4 is not an MP4 file"):
        concatenate_videos([tmp_path / "good.mp4", tmp_path / "bad.mp4"], tmp_path / "joined.mp4")


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((3, 8, 8, 3), np.float32),
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((3, 8, 8, 4), np.uint8),
        np.zeros((0, 8, 8, 3), np.uint8),
    ],
)
def test_frames_of_a_wrong_kind_are_refused(tmp_path, frames):
    with pytest.raises(DatasetError, match=r"video\.mp4: frames must be uint8"):
        write_video(tmp_path / "video.mp4", frames, fps=10.0)


def test_a_full_disk_is_named():
    with pytest.raises(DatasetError, match=r"/dev/full could not be written: .*No space left"):
        write_video(Path("/dev/full"), numbered_frames(5), fps=10.0)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"nowhere/video\.mp4 could not be written"):
        write_video(tmp_path / "nowhere" / "video.mp4", numbered_frames(5), fps=10.0)


def test_damage_inside_is_found_when_it_is_decoded(tmp_path):
    path = tmp_path / "video.mp4"
    noise = np.random.default_rng(0).integers(0, 255, (60, 32, 32, 3), np.uint8)
    write_video(path, noise, fps=10.0)
    content = bytearray(path.read_bytes())
    middle = len(content) * 7 // 10
    content[middle:] = np.random.default_rng(1).bytes(len(content) - middle)
    path.write_bytes(content)
    assert video_header(path).frames == 60
    with pytest.raises(DatasetError, match=r"video\.mp4 is damaged"):
        read_video(path, np.array([58, 59]))


def test_frames_that_are_not_there_are_refused(tmp_path):
    path = tmp_path / "video.mp4"
    write_video(path, numbered_frames(5), fps=10.0)
    with pytest.raises(DatasetError, match=r"video\.mp4 has 5 frames; frame 5 was asked for"):
        read_video(path, np.array([0, 5]))
    with pytest.raises(DatasetError, match=r"frame -1 was asked for"):
        read_video(path, np.array([-1]))


def test_missing_and_foreign_files_are_named(tmp_path):
    with pytest.raises(DatasetError, match=r"none\.mp4 does not exist"):
        video_header(tmp_path / "none.mp4")
    with pytest.raises(DatasetError, match=r"none\.mp4 cannot be read"):
        read_video(tmp_path / "none.mp4", np.array([0]))
    (tmp_path / "text.avi").write_text("no video")
    with pytest.raises(DatasetError, match=r"text\.avi is damaged or not a video"):
        video_header(tmp_path / "text.avi")


def test_a_file_that_was_replaced_is_read_anew(tmp_path):
    path = tmp_path / "video.mp4"
    write_video(path, numbered_frames(8), fps=10.0)
    assert numbers_of(read_video(path, np.array([7]))) == [7]
    first = outline(path)
    write_video(path, numbered_frames(8)[::-1], fps=10.0)
    assert numbers_of(read_video(path, np.array([7]))) == [0]
    assert outline(path) != first


def test_few_files_stay_open(tmp_path, monkeypatch):
    monkeypatch.setattr(video_file, "MAX_OPEN_VIDEOS", 3)
    write_video(tmp_path / "0.mp4", numbered_frames(4), fps=10.0)
    for number in range(1, 8):
        shutil.copy(tmp_path / "0.mp4", tmp_path / f"{number}.mp4")
    for number in range(8):
        read_video(tmp_path / f"{number}.mp4", np.array([0]))
    names = [Path(path).name for path, _ in video_file._open_videos]
    assert names == ["5.mp4", "6.mp4", "7.mp4"]


def _numbers_in_worker(path: Path, wanted: list[int]) -> list[int]:
    return numbers_of(read_video(path, np.array(wanted)))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_processes_read_the_same_file_beside_each_other(tmp_path):
    path = tmp_path / "video.mp4"
    write_video(path, numbered_frames(60), fps=10.0)
    read_video(path, np.array([30]))
    wanted = [[start, start + 7, start + 1] for start in range(0, 50, 2)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        results = [pool.apply_async(_numbers_in_worker, (path, each)) for each in wanted]
        assert [_numbers_in_worker(path, each) for each in wanted] == wanted
        assert [result.get(timeout=30) for result in results] == wanted
