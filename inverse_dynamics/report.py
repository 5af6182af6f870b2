"""What a training run ends with: the model calibrated, and its figures on held-out video."""

from pathlib import Path

import lightning as L
from lightning.fabric.utilities.rank_zero import rank_zero_only

from inverse_dynamics.calibration import calibrate
from inverse_dynamics.evaluate import LEVEL, measure, write_report
from inverse_dynamics.held_out import known_steps, read_split
from inverse_dynamics.model import InverseDynamicsModel
from inverse_dynamics.scores import cross_coverage


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
    """

    def __init__(
        self,
        validation: str,
        data: str,
        validation_split: str = "validation",
        split: str = "test",
        translation: list[str] | None = None,
    ):
        self.validation = validation
        self.data = data
        self.validation_split = validation_split
        self.split = split
        self.translation = translation

    @rank_zero_only
    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Calibrate and evaluate what the run wrote; by now the model folder is there."""
        if getattr(trainer, "fast_dev_run", False):
            return
        folder = Path(trainer.default_root_dir)
        model = InverseDynamicsModel.from_pretrained(folder / "model")
        readings = read_split(model, self.validation, self.validation_split)
        steps = known_steps(readings)
        model.calibration = calibrate(steps.estimate, steps.actions, model.kinds)
        model.save_pretrained(folder / "model")
        check = cross_coverage(readings, LEVEL, model.kinds).mean()
        print(f"\nwrote {folder / 'model'}")
        print(
            f"calibrated on {len(steps.actions)} validation steps; set on one half of them, the "
            f"{LEVEL:.0%} intervals cover {check:.1%} of the other\n"
        )
        readings = read_split(model, self.data, self.split)
        result = measure(model, readings, self.translation)
        result |= {"data": self.data, "split": self.split}
        write_report(model, readings, result, folder / "evaluation.json")
