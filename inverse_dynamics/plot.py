"""A picture of predicted against true values, one square for each dimension."""

from collections.abc import Sequence
from math import ceil
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

from video.pictures import GAP, INK, PAPER, RED, TEXT
from video.safe_files import write_safely

SIDE = 240  # pixels of a square
DARKEST = 12  # so many steps on a pixel are quite dark


def write_plot(
    path: Path | str,
    predicted: Float[np.ndarray, "steps size"],
    true: Float[np.ndarray, "steps size"],
    labels: Sequence[str],
) -> None:
    """Write a PNG: true values to the right, predicted ones upwards, the red line where they agree.

    Both axes of a square reach from its dimension's smallest true value to its largest; what was
    predicted beyond lies on the edge.

    Args:
        path: the file.
        predicted: in the data's units.
        true: likewise.
        labels: one for each dimension.
    """
    font = ImageFont.load_default(TEXT)
    header = TEXT + GAP
    width = GAP + len(labels) * (SIDE + GAP)
    canvas = Image.new("RGB", (width, header + SIDE + 2 * GAP + TEXT), PAPER)
    draw = ImageDraw.Draw(canvas)
    for dimension, label in enumerate(labels):
        low, high = float(true[:, dimension].min()), float(true[:, dimension].max())
        left = GAP + dimension * (SIDE + GAP)
        square = Image.fromarray(_density(predicted[:, dimension], true[:, dimension], low, high))
        canvas.paste(square, (left, header))
        draw.line((left, header + SIDE - 1, left + SIDE - 1, header), RED)
        draw.text((left + SIDE // 2, header // 2), label, INK, font, anchor="mm")
        below = header + SIDE + GAP
        draw.text((left, below), f"{low:.3g}", INK, font, anchor="lt")
        draw.text((left + SIDE, below), f"{high:.3g}", INK, font, anchor="rt")
    write_safely(Path(path), lambda unfinished: canvas.save(unfinished, "PNG"))


def _density(predicted: np.ndarray, true: np.ndarray, low: float, high: float) -> np.ndarray:
    """Grey values `(SIDE, SIDE, 3)`: the darker, the more steps; each is two pixels wide."""
    reach = (high - low) or 1.0
    cells = ceil(SIDE / 2)

    def cell(values: np.ndarray) -> np.ndarray:
        return np.clip((values - low) / reach * cells, 0, cells - 1).astype(int)

    count = np.zeros((cells, cells))
    np.add.at(count, (cells - 1 - cell(predicted), cell(true)), 1)
    shade = 235 - 205 * np.minimum(1, np.log1p(count) / np.log1p(DARKEST))
    grey = np.where(count > 0, shade, 250).astype(np.uint8)
    grey = grey.repeat(2, 0).repeat(2, 1)[:SIDE, :SIDE]
    return np.repeat(grey[..., None], 3, axis=2)
