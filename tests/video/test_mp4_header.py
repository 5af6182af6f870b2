import struct
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from video.errors import DatasetError
from video.mp4_header import VideoHeader, read_mp4_header
from video.video_file import write_video


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "video.mp4"
    write_video(path, np.full((7, 24, 40, 3), 100, np.uint8), fps=12.5)
    return path


def test_reads_count_size_and_rate(video):
    assert read_mp4_header(video) == VideoHeader(frames=7, height=24, width=40, fps=12.5)


def test_reads_a_header_at_the_end_of_the_file(video, tmp_path):
    boxes = {}
    content = video.read_bytes()
    while content:
        size, kind = struct.unpack(">I4s", content[:8])
        boxes[kind] = content[:size]
        content = content[size:]
    assert list(boxes)[:2] == [b"ftyp", b"moov"]
    path = tmp_path / "late.mp4"
    path.write_bytes(boxes[b"ftyp"] + boxes[b"mdat"] + boxes[b"moov"])
    assert read_mp4_header(path) == read_mp4_header(video)


def test_reads_64_bit_box_sizes(video, tmp_path):
    path = tmp_path / "large.mp4"
    large = struct.pack(">I4sQ", 1, b"free", 16 + 5) + bytes(5)
    path.write_bytes(video.read_bytes() + large)
    assert read_mp4_header(path) == read_mp4_header(video)
    path.write_bytes(video.read_bytes() + large[:-1])
    with pytest.raises(DatasetError, match=r"large\.mp4 is cut off"):
        read_mp4_header(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
def test_a_cut_is_noticed_wherever_it_is(video, share):
    content = video.read_bytes()
    video.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DatasetError, match=r"video\.mp4 is cut off"):
        read_mp4_header(video)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cut off or empty"),
        (b"hello", "not an MP4"),
        (b"no video, but a longer text", "not an MP4"),
        (box(b"ftyp", b"isom") + struct.pack(">I4s", 3, b"moov"), "a box of 3 bytes"),
        (box(b"ftyp", b"isom") + box(b"moov", b""), "no picture track"),
    ],
)
def test_what_is_no_video_is_named(tmp_path, content, message):
    path = tmp_path / "other.mp4"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=message) as caught:
        read_mp4_header(path)
    assert str(path) in str(caught.value)


def test_fragmented_files_are_left_to_the_decoder(video, tmp_path):
    import subprocess

    path = tmp_path / "fragmented.mp4"
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    options = ["-c", "copy", "-movflags", "frag_keyframe+empty_moov"]
    subprocess.run([ffmpeg, "-loglevel", "error", "-i", video, *options, path], check=True)
    assert read_mp4_header(path) is None
