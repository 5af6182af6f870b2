"""By how much an action model's spread must be widened: radii of intervals, in a file of their own.

They lie in the folder of the model, whichever class it is. How they are measured is the business of
`inverse_dynamics/calibration.py`.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from video.safe_files import reading_model, write_json

CALIBRATION = "calibration.json"


@dataclass(frozen=True, eq=False)
class Calibration:
    """Radii of intervals, in spreads of the model.

    Attributes:
        levels: shares of the steps that the intervals cover.
        radii: for every level, one for each action dimension.
        steps: how many steps they were measured on.
    """

    levels: tuple[float, ...]
    radii: Float[Tensor, "levels size"]
    steps: int

    def radius(self, level: float) -> Float[Tensor, " size"]:
        """The radii of a level.

        Raises:
            ValueError: a level that was not measured.
        """
        if level not in self.levels:
            raise ValueError(f"level={level} was not calibrated, only {self.levels}")
        return self.radii[self.levels.index(level)]

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any of the numbers."""
        return hashlib.sha256(json.dumps(self.to_json()).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """Plain lists."""
        return {"levels": list(self.levels), "radii": self.radii.tolist(), "steps": self.steps}

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> "Calibration":
        """The inverse of `to_json`."""
        return cls(tuple(saved["levels"]), torch.tensor(saved["radii"]), saved["steps"])

    def save(self, folder: Path | str) -> Path:
        """Write `calibration.json` into a model's folder.

        Returns:
            The file.

        Raises:
            DatasetError: the disk does not take it; what stood there before is untouched.
        """
        path = Path(folder) / CALIBRATION
        write_json(path, self.to_json())
        return path

    @classmethod
    def load(cls, folder: Path | str) -> "Calibration | None":
        """Read that of a model's folder; None where it has none.

        Raises:
            DatasetError: a damaged file.
        """
        path = Path(folder) / CALIBRATION
        if not path.is_file():
            return None
        with reading_model(Path(folder)):
            return cls.from_json(json.loads(path.read_text()))
