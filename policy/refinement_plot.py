"""A picture of a run: one small chart for each number that was logged, from its metrics.csv."""

import csv
from collections.abc import Mapping
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from video.pictures import GAP, INK, PAPER, RED, TEXT
from video.safe_files import write_safely

WIDTH, HEIGHT, ACROSS = 300, 160, 3  # pixels of a chart, charts in a row
GREY = (200, 200, 200)


def write_curve(path: Path, table: Path, columns: Mapping[str, str]) -> None:
    """Write a PNG with a chart for each column, iterations to the right.

    A chart reaches from its smallest to its largest value, which are written beside its title.

    Args:
        path: the file.
        table: a metrics.csv with a column `step`.
        columns: of the table, and their titles; those that it lacks are left out.
    """
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    charts = []
    for name, title in columns.items():
        points = [(float(row["step"]), float(row[name])) for row in rows if row.get(name)]
        if points:
            charts.append((title, points))
    across = max(1, min(ACROSS, len(charts)))
    down = max(1, -(-len(charts) // across))
    cell = WIDTH + GAP, HEIGHT + TEXT + 3 * GAP
    canvas = Image.new("RGB", (GAP + across * cell[0], GAP + down * cell[1]), PAPER)
    for n, (title, points) in enumerate(charts):
        left, top = GAP + n % across * cell[0], GAP + n // across * cell[1]
        _draw_chart(ImageDraw.Draw(canvas), left, top, title, points)
    write_safely(path, lambda unfinished: canvas.save(unfinished, "PNG"))


def _draw_chart(
    draw: ImageDraw.ImageDraw, left: int, top: int, title: str, points: list[tuple[float, float]]
) -> None:
    """A title with the range, a frame, and the line."""
    steps, values = zip(*points, strict=True)
    low, high = min(values), max(values)
    font = ImageFont.load_default(TEXT)
    draw.text((left, top), f"{title}: {low:.3g} to {high:.3g}", INK, font, anchor="lt")
    top += TEXT + GAP
    draw.rectangle((left, top, left + WIDTH - 1, top + HEIGHT - 1), outline=GREY)
    across, up = (max(steps) - min(steps)) or 1, (high - low) or 1
    line = [
        (
            left + (step - min(steps)) / across * (WIDTH - 1),
            top + (high - value) / up * (HEIGHT - 1) if high > low else top + HEIGHT / 2,
        )
        for step, value in points
    ]
    draw.line(line, RED, width=2)
