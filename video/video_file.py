"""One video file: encode frames into it, read its header, decode frames out of it.

Encoding runs the ffmpeg binary that comes with imageio-ffmpeg, decoding is decord. What an episode
is, and where it lies in which file, is the business of `lerobot.py` and `video_folder.py`.
"""

import os
import subprocess
from collections import OrderedDict
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import decord
import imageio_ffmpeg
import numpy as np

from video.errors import DatasetError
from video.mp4_header import VideoHeader, read_mp4_header

MAX_OPEN_VIDEOS = 32
KEYFRAME_INTERVAL = 64

decord.logging.set_level(decord.logging.QUIET)


def pixel_format(height: int, width: int, full_color: bool = False) -> str:
    """How `write_video` stores pixels: with a quarter of the colour samples, or with all of them.

    yuv420p has no odd sizes, so those become yuv444p.
    """
    return "yuv444p" if full_color or height % 2 or width % 2 else "yuv420p"


def write_video(
    path: Path, frames: np.ndarray, fps: float, crf: int = 20, full_color: bool = False
) -> None:
    """Encode frames as H.264 in an MP4 file, with the pixels of `pixel_format`.

    There are no B-frames, and a keyframe at the first frame and at least every 64 frames, so files
    of equal settings can be joined by `concatenate_videos`.

    Args:
        path: file to write; an existing one is replaced.
        frames: uint8 `(T, H, W, 3)`.
        fps: frames per second.
        crf: x264's constant rate factor; 0 is nearly lossless, 23 its own default.
        full_color: keep the colour of every pixel, not of every block of 2x2. Small pictures are
            then both sharper and smaller at an equal error, but browsers do not play them.

    Raises:
        DatasetError: frames of another type or shape, or the file could not be written (disk
            full). What is left at `path` is then not a usable video.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
        raise DatasetError(
            f"{path}: frames must be uint8 (T, H, W, 3) with T > 0, "
            f"got {frames.dtype} {frames.shape}."
        )
    height, width = frames.shape[1:3]
    pixels = pixel_format(height, width, full_color)
    _run_ffmpeg(
        path,
        *("-f", "rawvideo", "-pix_fmt", "rgb24", "-video_size", f"{width}x{height}"),
        *("-framerate", str(Fraction(fps).limit_denominator(1001)), "-i", "pipe:0"),
        *("-vf", "scale=out_color_matrix=bt601:out_range=tv"),
        *("-c:v", "libx264", "-threads", "1", "-crf", str(crf), "-pix_fmt", pixels),
        *("-g", str(KEYFRAME_INTERVAL), "-bf", "0", "-colorspace", "smpte170m"),
        # x264 writes its settings into every file: 700 bytes, a tenth of a small episode
        *("-bsf:v", "filter_units=remove_types=6"),
        stdin=np.ascontiguousarray(frames).data.cast("B"),
    )


def concatenate_videos(parts: Sequence[Path], path: Path) -> None:
    """Join files that `write_video` wrote, one behind the other, without encoding them again.

    Raises:
        DatasetError: the file could not be written, or has not as many frames as its parts.
    """
    quoted = (str(part.resolve()).replace("'", r"'\''") for part in parts)
    listing = "".join(f"file 'file:{part}'\n" for part in quoted)
    _run_ffmpeg(
        path,
        *("-f", "concat", "-safe", "0", "-protocol_whitelist", "file,pipe,fd", "-i", "pipe:0"),
        *("-c", "copy"),
        stdin=listing.encode(),
    )
    expected = sum(video_header(part).frames for part in parts)
    found = video_header(path).frames
    if found != expected:
        raise DatasetError(
            f"{path} has {found} frames, its {len(parts)} parts have {expected}. "
            "They were not written with the same settings."
        )


def video_header(path: Path) -> VideoHeader:
    """Frame count, size and rate of a video file of any kind.

    Raises:
        DatasetError: the file is missing, cut off, or no video.
    """
    if not path.is_file():
        raise DatasetError(f"{path} does not exist.")
    header = read_mp4_header(path) if path.suffix.lower() in (".mp4", ".mov") else None
    if header is not None:
        return header
    video = _open(path)
    return VideoHeader(video.frames, video.height, video.width, float(video.reader.get_avg_fps()))


def read_video(path: Path, indices: np.ndarray) -> np.ndarray:
    """Decode frames by their number in the file, in any order, repeats allowed.

    Files stay open, at most 32 in each process, so that further frames come faster.

    Returns:
        uint8 `(len(indices), H, W, 3)`.

    Raises:
        DatasetError: the file is missing or no video, has too few frames, or is damaged at one of
            the frames asked for.
    """
    video = _open(path)
    wanted, inverse = np.unique(np.asarray(indices, dtype=np.int64), return_inverse=True)
    if len(wanted) and (wanted[0] < 0 or wanted[-1] >= video.frames):
        raise DatasetError(f"{path} has {video.frames} frames; frame {wanted[-1]} was asked for.")
    try:
        frames = _decode(video, wanted)
    except _DECODER_ERRORS as error:
        _forget(path)
        raise DatasetError(
            f"{path} is damaged: frames {wanted[0]} to {wanted[-1]} cannot be decoded "
            f"({_reason(error)}). Replace the file or delete it."
        ) from None
    return frames if np.array_equal(inverse, np.arange(len(frames))) else frames[inverse]


def outline(path: Path) -> bytes:
    """Size, beginning and end of a file: enough to tell one encoding from another."""
    size = path.stat().st_size
    with path.open("rb") as file:
        beginning = file.read(65536)
        file.seek(max(0, size - 65536))
        return str(size).encode() + beginning + file.read()


class _OpenVideo(NamedTuple):
    reader: decord.VideoReader
    frames: int
    height: int
    width: int
    padded_rows: bool


_DECODER_ERRORS = (decord.DECORDError, RuntimeError, IndexError)
_open_videos: OrderedDict[tuple[str, int], _OpenVideo] = OrderedDict()
_videos_of_parents: list[OrderedDict] = []


def _open(path: Path) -> _OpenVideo:
    try:
        key = (str(path), path.stat().st_mtime_ns)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}.") from None
    if key in _open_videos:
        _open_videos.move_to_end(key)
        return _open_videos[key]
    try:
        reader = decord.VideoReader(str(path), num_threads=1)
        height, width, channels = reader[0].shape
    except _DECODER_ERRORS as error:
        raise DatasetError(f"{path} is damaged or not a video ({_reason(error)}).") from None
    video = _OpenVideo(reader, len(reader), height, width, padded_rows=channels != 3)
    _open_videos[key] = video
    while len(_open_videos) > MAX_OPEN_VIDEOS:
        _open_videos.popitem(last=False)
    return video


def _decode(video: _OpenVideo, indices: np.ndarray) -> np.ndarray:
    """Frames by number, around a fault of decord's.

    The decoder pads a row of pixels to the processor's liking. Where the padded row is a multiple
    of the width (32 and 96 pixels do that, 64 do not), decord takes the padding for further colour
    channels, and refuses to make a batch of such frames.
    """
    if not video.padded_rows:
        return video.reader.get_batch(indices).asnumpy()
    rows = np.stack([video.reader[int(i)].asnumpy().reshape(video.height, -1) for i in indices])
    rows = rows[:, :, : 3 * video.width]
    return rows.reshape(len(rows), video.height, video.width, 3)


def _forget(path: Path) -> None:
    for key in [key for key in _open_videos if key[0] == str(path)]:
        del _open_videos[key]


def _set_aside_open_videos() -> None:
    """A forked process must neither use its parent's readers nor close them.

    They share the file position with the parent, and their threads exist there only.
    """
    global _open_videos
    _videos_of_parents.append(_open_videos)
    _open_videos = OrderedDict()


os.register_at_fork(after_in_child=_set_aside_open_videos)


def _reason(error: Exception) -> str:
    """Last line that says something of decord's multi-line stack reports."""
    lines = [line.strip() for line in str(error).splitlines() if "rror" in line or "failed" in line]
    return (lines[-1] if lines else str(error).strip() or type(error).__name__)[-200:]


def _run_ffmpeg(path: Path, *arguments: str, stdin: bytes | memoryview) -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", *arguments]
    command += ["-an", "-fflags", "+bitexact", "-movflags", "+faststart", "-f", "mp4", str(path)]
    result = subprocess.run(command, input=stdin, capture_output=True)
    if result.returncode:
        reason = result.stderr.decode(errors="replace").strip().splitlines()
        raise DatasetError(f"{path} could not be written: {'; '.join(reason[:2])}")
