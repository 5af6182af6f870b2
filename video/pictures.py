"""Pictures for people: strips of frames as PNG, real beside imagined video as mp4.

Only drawing happens here; what is drawn, and how it was imagined, the callers know.
"""

from collections.abc import Sequence
from math import ceil, sqrt
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from video.safe_files import write_safely
from video.video_file import write_video

Frames = UInt8[Tensor, "_ 3 height width"]

PAPER, INK, RED = (255, 255, 255), (30, 30, 30), (220, 40, 40)
GAP, BORDER, TEXT = 6, 3, 13  # pixels: between pictures, round an imagined one, height of letters
LEAST_HEIGHT = 128  # pixels that a frame is enlarged to at least, so that 64x64 can be seen


def write_strip(
    path: Path | str,
    rows: Sequence[tuple[str, Frames]],
    columns: Sequence[int],
    upscale: int | None = None,
) -> None:
    """Write frames of several videos as one PNG, a video in every row.

    Args:
        path: the file.
        rows: a label and its frames, uint8 `(T, 3, H, W)`, all of one size. Labels that end in
            "imagined" are red.
        columns: which frames; a video that is shorter leaves its place empty.
        upscale: how many times to enlarge every pixel; by default so that a frame is at least 128
            pixels high.

    Raises:
        ValueError: no rows or no columns, or frames of several sizes.
    """
    height, width, upscale = _layout([frames for _, frames in rows], upscale)
    if not columns:
        raise ValueError("a strip needs at least one column; columns is empty.")
    font = ImageFont.load_default(TEXT)
    left = GAP + max(ceil(font.getlength(label)) for label, _ in rows) + GAP
    top = TEXT + 2 * GAP
    size = (left + len(columns) * (width + GAP), top + len(rows) * (height + GAP))
    canvas = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(canvas)
    for n, column in enumerate(columns):
        x = left + n * (width + GAP)
        draw.text((x + width // 2, top // 2), str(column), INK, font, anchor="mm")
        for m, (_, frames) in enumerate(rows):
            if column < len(frames):
                picture = Image.fromarray(_enlarged(frames[column], upscale))
                canvas.paste(picture, (x, top + m * (height + GAP)))
    for m, (label, _) in enumerate(rows):
        y = top + m * (height + GAP) + height // 2
        ink = RED if label.endswith("imagined") else INK
        draw.text((left - GAP, y), label, ink, font, anchor="rm")
    write_safely(Path(path), lambda unfinished: canvas.save(unfinished, "PNG"))


def write_side_by_side(
    path: Path | str,
    real: Sequence[Frames],
    imagined: Sequence[Frames],
    fps: float,
    labels: Sequence[str] | None = None,
    given: int = 1,
    upscale: int | None = None,
) -> None:
    """Write episodes as one mp4, real on the left, imagined on the right, several pairs in a grid.

    The video is H.264 with yuv420p, which every browser plays. Imagined frames have a red border.
    An episode that ends before the others stands still on its last frame.

    Args:
        path: the file.
        real: per episode, uint8 `(T, 3, H, W)`, all of one height and width.
        imagined: the same episodes; the lengths may differ.
        fps: frames per second.
        labels: one for every episode, or none.
        given: how many first frames of `imagined` were not imagined but given, hence no border.
        upscale: how many times to enlarge every pixel; by default so that a frame is at least 128
            pixels high.

    Raises:
        ValueError: no episodes, not as many imagined as real, or frames of several sizes.
    """
    if len(real) != len(imagined):
        raise ValueError(f"{len(real)} real episodes, but {len(imagined)} imagined ones.")
    height, width, upscale = _layout([*real, *imagined], upscale)
    header = TEXT + GAP
    cell_height = header + height + 2 * BORDER + GAP
    cell_width = 2 * (width + 2 * BORDER) + 3 * GAP
    across = max(1, round(sqrt(len(real) * cell_height / cell_width * 16 / 9)))
    across = min(across, len(real))
    shape = (ceil(len(real) / across) * cell_height, across * cell_width)
    template = Image.new("RGB", (shape[1] + shape[1] % 2, shape[0] + shape[0] % 2), PAPER)
    corners = [(n // across * cell_height, n % across * cell_width) for n in range(len(real))]
    for n, (y, x) in enumerate(corners):
        _draw_header(template, y, x, cell_width, labels[n] if labels else "")

    length = max(len(frames) for frames in [*real, *imagined])
    video = np.repeat(np.asarray(template)[None], length, axis=0)
    for (y, x), true, guess in zip(corners, real, imagined, strict=True):
        y, x = y + header, x + GAP
        for t in range(length):
            _paste(video[t], true[min(t, len(true) - 1)], y, x, upscale, PAPER)
            shown = min(t, len(guess) - 1)
            border = PAPER if shown < given else RED
            _paste(video[t], guess[shown], y, x + width + 2 * BORDER + GAP, upscale, border)
    write_safely(Path(path), lambda unfinished: write_video(unfinished, video, fps))


def _layout(videos: Sequence[Frames], upscale: int | None) -> tuple[int, int, int]:
    """Height and width in pixels of an enlarged frame, and how much it is enlarged."""
    if not videos:
        raise ValueError("there is nothing to draw: no episodes were given.")
    sizes = {tuple(frames.shape[-2:]) for frames in videos}
    if len(sizes) > 1:
        raise ValueError(f"frames must be of one size, these are {sorted(sizes)}.")
    height, width = sizes.pop()
    upscale = upscale or ceil(LEAST_HEIGHT / height)
    return height * upscale, width * upscale, upscale


def _enlarged(frame: UInt8[Tensor, "3 height width"], upscale: int) -> np.ndarray:
    """The frame as height, width, color, with sharp pixels."""
    pixels = frame.permute(1, 2, 0)
    return pixels.repeat_interleave(upscale, 0).repeat_interleave(upscale, 1).cpu().numpy()


def _draw_header(template: Image.Image, y: int, x: int, cell_width: int, label: str) -> None:
    draw = ImageDraw.Draw(template)
    font = ImageFont.load_default(TEXT)
    middle = y + (TEXT + GAP) // 2
    left, right = x + GAP + BORDER, x + cell_width - GAP - BORDER
    room = right - left - font.getlength("  real  imagined")
    while label and font.getlength(label) > room:
        label = label[:-2] + "…" if len(label) > 1 else ""
    draw.text((left, middle), f"{label}  real" if label else "real", INK, font, anchor="lm")
    draw.text((right, middle), "imagined", RED, font, anchor="rm")


def _paste(
    canvas: np.ndarray,
    frame: UInt8[Tensor, "3 height width"],
    y: int,
    x: int,
    upscale: int,
    border: tuple[int, int, int],
) -> None:
    pixels = _enlarged(frame, upscale)
    height, width, _ = pixels.shape
    canvas[y : y + height + 2 * BORDER, x : x + width + 2 * BORDER] = border
    canvas[y + BORDER : y + BORDER + height, x + BORDER : x + BORDER + width] = pixels
