"""Frame count, size and rate of an MP4 or MOV file from its header alone, without a decoder.

A decoder walks a whole file before it can say how many frames there are, and calls a file that
was cut off merely shorter. Reading the boxes (ISO/IEC 14496-12) takes under a millisecond at any
length and notices the cut. Decoding is the business of `video_file.py`.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from video.errors import DatasetError


@dataclass(frozen=True)
class VideoHeader:
    """What a video file says about its picture track; sizes in pixels."""

    frames: int
    height: int
    width: int
    fps: float


def read_mp4_header(path: Path) -> VideoHeader | None:
    """Read the boxes of an MP4 or MOV file.

    Returns:
        None where the frames are not listed in the header (fragmented files), which only a
        decoder can count.

    Raises:
        DatasetError: the file is no MP4, is cut off, or has no picture track.
    """
    movie = _movie_box(path)
    for track in _children(movie, b"trak"):
        media = _child(track, b"mdia")
        if media is None:
            continue
        handler = _child(media, b"hdlr")
        if handler is not None and bytes(handler[8:12]) == b"vide":
            return _picture_track(path, media)
    raise DatasetError(f"{path} has no picture track.")


def _picture_track(path: Path, media: memoryview) -> VideoHeader | None:
    timing = _child(media, b"mdhd")
    information = _child(media, b"minf")
    table = _child(information, b"stbl") if information is not None else None
    sizes = _child(table, b"stsz") if table is not None else None
    entries = _child(table, b"stsd") if table is not None else None
    if timing is None or sizes is None or entries is None:
        raise DatasetError(f"{path} has a damaged header: its picture track lists no frames.")
    frames = struct.unpack(">I", sizes[8:12])[0]
    if frames == 0:
        return None
    timescale, duration = struct.unpack(
        *((">IQ", timing[20:32]) if timing[0] == 1 else (">II", timing[12:20]))
    )
    # 8 bytes of list header, 8 of box header, 24 before a picture entry's width and height
    width, height = struct.unpack(">HH", entries[40:44])
    return VideoHeader(frames, height, width, frames * timescale / max(duration, 1))


def _movie_box(path: Path) -> memoryview:
    """Content of the file's `moov` box; every top-level box must lie inside the file."""
    movie = None
    with path.open("rb") as file:
        end = file.seek(0, 2)
        offset = 0
        while offset < end:
            file.seek(offset)
            head = file.read(16)
            if len(head) < 8 or not (offset or head[4:8] in _FIRST_BOXES):
                raise DatasetError(f"{path} is not an MP4 file, or is damaged at byte {offset}.")
            size, kind = struct.unpack(">I4s", head[:8])
            header = 8
            if size == 1 and len(head) == 16:
                size, header = struct.unpack(">Q", head[8:])[0], 16
            elif size == 0:
                size = end - offset
            if size < header:
                raise DatasetError(f"{path} is damaged at byte {offset}: a box of {size} bytes.")
            if offset + size > end:
                raise DatasetError(
                    f"{path} is cut off: it ends at byte {end}, its header announces "
                    f"{offset + size}."
                )
            if kind == b"moov":
                file.seek(offset + header)
                movie = memoryview(file.read(size - header))
            offset += size
    if movie is None:
        raise DatasetError(f"{path} is cut off or empty: no list of frames ('moov') in it.")
    return movie


_FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp")


def _boxes(content: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    offset = 0
    while offset + 8 <= len(content):
        size, kind = struct.unpack(">I4s", content[offset : offset + 8])
        if size < 8:
            return
        yield kind, content[offset + 8 : offset + size]
        offset += size


def _children(content: memoryview, kind: bytes) -> list[memoryview]:
    return [body for found, body in _boxes(content) if found == kind]


def _child(content: memoryview, kind: bytes) -> memoryview | None:
    return next(iter(_children(content, kind)), None)
