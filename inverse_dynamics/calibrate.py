"""`python -m inverse_dynamics calibrate`: measure how far any action model can be trusted."""

from pathlib import Path

from inverse_dynamics.calibration import fit_calibration
from inverse_dynamics.held_out import known_steps, read_split
from inverse_dynamics.scores import cross_coverage
from video.action_model import load_action_model
from video.calibration import Calibration
from video.errors import DatasetError

LEVEL = 0.9
"""The level that is checked."""


def calibrate(
    model: Path,
    data: Path,
    split: str = "validation",
    episodes: int | None = None,
    device: str = "cpu",
) -> Calibration:
    """Measure how far the spread of an action model can be trusted, on video it was not trained on.

    The intervals then cover what they promise on video of the same kind. `calibration.json` in the
    model's folder takes the place of an earlier one; nothing else there changes.

    Args:
        model: folder of a saved inverse dynamics model, or of a world model.
        data: dataset with actions.
        split: split that the model was neither trained nor will be evaluated on.
        episodes: how many episodes, spread evenly; all by default.
        device: where to compute.

    Returns:
        What the file holds.

    Raises:
        DatasetError: too few episodes or steps with known actions; nothing is written then.
    """
    loaded = load_action_model(model, device)
    readings = [one for one in read_split(loaded, data, split, episodes) if one.mask.any()]
    if len(readings) < 2:
        raise DatasetError(
            f"{data}: {len(readings)} episodes with known actions in split {split!r}, but a "
            "calibration is tried on other episodes than it was measured on. Record more."
        )
    steps = known_steps(readings)
    calibration = fit_calibration(steps.estimate, steps.actions, loaded.kinds)
    check = cross_coverage(readings, LEVEL, loaded.kinds).mean()
    path = calibration.save(model)
    print(
        f"calibrated on {len(steps.actions)} steps of split {split!r} of {data}; set on one half "
        f"of its episodes, the {LEVEL:.0%} intervals cover {check:.1%} of the other"
    )
    print(f"wrote {path}")
    return calibration
