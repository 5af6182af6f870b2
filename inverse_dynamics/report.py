"""What a training run ends with: the model calibrated, and its figures on held-out video."""

from pathlib import Path

import lightning as L
from lightning.fabric.utilities.rank_zero import rank_zero_only

from inverse_dynamics.calibrate import calibrate
from inverse_dynamics.evaluate import measure, write_report
from inverse_dynamics.held_out import read_split
from inverse_dynamics.model import InverseDynamicsModel


class CalibrationReport(L.Callback):
    """After training, calibrate the saved model, then evaluate it.

    The validation split sets the intervals; how well they keep their word is checked by setting
    them on every second of its episodes and counting on the others, both ways round. The test split
    is read once, for `evaluation.json` and `evaluation.png` in the run's folder.

    Args:
        validation: dataset for the calibration, with actions.
        data: dataset to evaluate on, with actions.
        validation_split: split of the first.
        split: split of the second, neither trained on nor chosen by.
        translation: names of the action dimensions that move the hand; the first three by default.
        embodiment: of a run with several, whose model `model-NAME` is meant; its figures are
            `evaluation-NAME.json` and `.png`.
    """

    def __init__(
        self,
        validation: str,
        data: str,
        validation_split: str = "validation",
        split: str = "test",
        translation: list[str] | None = None,
        embodiment: str | None = None,
    ):
        self.validation = validation
        self.data = data
        self.validation_split = validation_split
        self.split = split
        self.translation = translation
        self.ending = "" if embodiment is None else f"-{embodiment}"

    @rank_zero_only
    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Calibrate and evaluate what the run wrote; by now the model folder is there."""
        if getattr(trainer, "fast_dev_run", False):
            return
        run = Path(trainer.default_root_dir)
        folder = run / f"model{self.ending}"
        print(f"\nwrote {folder}")
        calibrate(folder, Path(self.validation), self.validation_split)
        model = InverseDynamicsModel.from_pretrained(folder)
        readings = read_split(model, self.data, self.split)
        result = measure(model, readings, self.translation)
        result |= {"data": self.data, "split": self.split}
        write_report(model, readings, result, run / f"evaluation{self.ending}.json")
