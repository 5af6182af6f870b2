"""Proof that a folder is the same after a run as it was before."""

import hashlib
from pathlib import Path
from typing import Any

import lightning as L

from video.errors import DatasetError


class FrozenFolder(L.Callback):
    """Refuses to call a run a success in which a folder has changed, such as the world model's.

    Args:
        folder: of which every byte has to stay as it is.

    Raises:
        DatasetError: it is not there.
    """

    def __init__(self, folder: str):
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise DatasetError(f"{folder} is no folder. Name that of the model that stays frozen.")
        self._before = self._resumed = ""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at it.

        Raises:
            DatasetError: it has changed since the run that is resumed.
        """
        self._before, resumed, self._resumed = folder_hash(self.folder), self._resumed, ""
        if resumed not in ("", self._before):
            raise self._changed()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at it again.

        Raises:
            DatasetError: it has changed.
        """
        if folder_hash(self.folder) != self._before:
            raise self._changed()

    def state_dict(self) -> dict[str, Any]:
        """What the folder was at the start."""
        return {"before": self._before}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Of the run that is resumed."""
        self._resumed = state_dict.get("before", "")

    def _changed(self) -> DatasetError:
        return DatasetError(
            f"{self.folder} changed while it had to stay frozen: what this run reports is not "
            "about one model. Keep other programs from writing there, and run it again from the "
            "start, without --ckpt_path."
        )


def folder_hash(folder: Path) -> str:
    """SHA-256 of the names and bytes of all files in a folder."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            total.update(f"{name}\0{path.stat().st_size}\0".encode())
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()
