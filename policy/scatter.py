"""A picture of imagined against real success, a numbered point for every policy."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from video.safe_files import write_safely

SIDE, MARGIN, TEXT, RADIUS, LINE = 480, 64, 14, 4, 20
PAPER, INK, FAINT, POINT = (255, 255, 255), (30, 30, 30), (200, 200, 200), (30, 90, 200)

Interval = Sequence[float]


def write_scatter(
    path: Path,
    points: Sequence[tuple[str, float, float]],
    intervals: Sequence[tuple[Interval, Interval]],
) -> None:
    """Write a square from 0 to 1 with the line on which imagined and real success are the same.

    Names stand below it: beside the points they would hide each other.

    Args:
        path: PNG file.
        points: name, imagined and real success of each policy.
        intervals: of both, drawn as a cross.
    """
    size = SIDE + 2 * MARGIN
    canvas = Image.new("RGB", (size, size + LINE * (len(points) + 1)), PAPER)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(TEXT)
    draw.line((*_place(0, 0), *_place(1, 1)), FAINT)
    draw.rectangle((*_place(0, 1), *_place(1, 0)), outline=INK)
    for tick in (0, 0.25, 0.5, 0.75, 1):
        x, y = _place(tick, tick)
        draw.text((x, size - MARGIN + 6), f"{tick:.0%}", INK, font, anchor="mt")
        draw.text((MARGIN - 6, y), f"{tick:.0%}", INK, font, anchor="rm")
    draw.text((size // 2, size - 12), "imagined success", INK, font, anchor="mb")
    draw.text((MARGIN, MARGIN - 10), "real success", INK, font, anchor="lb")
    crosses = zip(points, intervals, strict=True)
    for number, ((name, imagined, real), (across, up)) in enumerate(crosses, start=1):
        x, y = _place(imagined, real)
        draw.line((_place(across[0], 0)[0], y, _place(across[1], 0)[0], y), FAINT)
        draw.line((x, _place(0, up[0])[1], x, _place(0, up[1])[1]), FAINT)
        draw.ellipse((x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS), POINT)
        draw.text((x + 6, y - 4), str(number), INK, font, anchor="lb")
        row = size + LINE * (number - 1)
        draw.text((MARGIN - 8, row), str(number), POINT, font, anchor="rt")
        told = f"{name}: {imagined:.0%} imagined, {real:.0%} real"
        draw.text((MARGIN, row), told, INK, font, anchor="lt")
    write_safely(path, lambda unfinished: canvas.save(unfinished, "PNG"))


def _place(imagined: float, real: float) -> tuple[int, int]:
    return round(MARGIN + imagined * SIDE), round(MARGIN + (1 - real) * SIDE)
