"""`python -m inverse_dynamics evaluate`: a model's figures on held-out video, table, JSON, plot."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from inverse_dynamics.calibrate import LEVEL
from inverse_dynamics.ensemble import Ensemble
from inverse_dynamics.held_out import Reading, Steps, known_steps, read_split
from inverse_dynamics.horizons import split_by_horizon
from inverse_dynamics.kinds import signed_error
from inverse_dynamics.model import InverseDynamicsModel
from inverse_dynamics.plot import write_plot
from inverse_dynamics.scores import abstention_curve, coverage, r2
from video.action_model import ActionModel, load_action_model
from video.episodes import open_dataset
from video.errors import DatasetError
from video.safe_files import write_json


def evaluate(
    model: Path,
    data: Path,
    split: str | None = None,
    translation: list[str] | None = None,
    episodes: int | None = None,
    out: Path | None = None,
    device: str = "cpu",
) -> dict:
    """Measure what a model reads off held-out video, recorded or imagined.

    For imagined video, have the world model make a dataset of it from recorded actions first:
    `python -m worldmodel imagine MODEL DATA --query forward_dynamics --dataset OUT`.

    Args:
        model: folder of a saved inverse dynamics model, or of a world model.
        data: dataset with actions.
        split: split that the model was neither trained nor calibrated on; by default test, or the
            dataset's only one.
        translation: names of the action dimensions that move the hand; the first three by default.
        episodes: how many episodes, spread evenly; all by default.
        out: JSON file to write; by default evaluation.json beside the folder of an inverse
            dynamics model or an ensemble, inverse_dynamics.json beside that of a world model.
            The plot of predicted against true actions lies beside it, as PNG.
        device: where to compute.

    Returns:
        What the JSON file holds.
    """
    loaded = load_action_model(model, device)
    split = split or _default_split(data)
    readings = read_split(loaded, data, split, episodes)
    result = measure(loaded, readings, translation) | {"data": str(data), "split": split}
    is_own = isinstance(loaded, InverseDynamicsModel | Ensemble)
    own = "evaluation.json" if is_own else "inverse_dynamics.json"
    out = out or Path(model).parent / own
    write_report(loaded, readings, result, out)
    return result


def measure(
    model: ActionModel,
    readings: Sequence[Reading],
    translation: Sequence[str] | None = None,
) -> dict:
    """The figures of `evaluate`, without printing or writing.

    Returns:
        `r2`, `mae` (data's units) and `coverage_90_by_dimension` by name, `mean_r2_translation`
        and `coverage_90` (mean of all dimensions); the same `by_horizon` (steps since the episode's
        first frame); `r2` `by_task`; `state_mae` of the robot's state (data's units) where the
        model tells one; `abstention`, `steps` and `episodes`. What needs a calibration is missing
        without one.

    Raises:
        DatasetError: a translation that is no action dimension.
    """
    names = model.action_names
    translation = list(names[:3] if translation is None else translation)
    unknown = [name for name in translation if name not in names]
    if unknown or not translation:
        raise DatasetError(
            f"translation={translation}, but this model's action dimensions are {list(names)}."
        )
    chosen = [names.index(name) for name in translation]
    steps = known_steps(readings)
    result = {
        **_figures(model, steps, chosen),
        "episodes": len(readings),
        "by_horizon": {
            name: _figures(model, known_steps(parts), chosen)
            for name, parts in split_by_horizon(readings).items()
        },
        "by_task": {
            task: _by_name(names, _r2_of_task(readings, task, model.kinds))
            for task in sorted({reading.task for reading in readings if reading.mask.any()})
        },
    }
    states = [one.state_error for one in readings if one.state_error is not None]
    if states:
        result["state_mae"] = torch.cat(states).mean(0).tolist()
    if model.calibration is not None:
        result["abstention"] = abstention_curve(steps, model.calibration, model.kinds)
    return result


def write_report(model: ActionModel, readings: Sequence[Reading], result: dict, out: Path) -> None:
    """Print the table; write the figures as JSON and the plot as PNG beside it."""
    write_json(out, result)
    plot = out.with_suffix(".png")
    steps = known_steps(readings)
    denormalize = model.action_normalizer.denormalize
    write_plot(
        plot,
        denormalize(steps.estimate.mean).numpy(),
        denormalize(steps.actions).numpy(),
        [f"{name}  R2 {result['r2'][name]:.2f}" for name in model.action_names],
    )
    print(table(result))
    print(f"wrote {out}")
    print(f"wrote {plot}")


def table(result: dict) -> str:
    """The figures as text for a terminal."""
    names = list(result["r2"])
    lines = [f"{'':<26}" + "".join(f"{name:>10}" for name in names)]
    rows = [("R2", result["r2"], ".3f"), ("mean absolute error", result["mae"], ".3f")]
    if "coverage_90" in result:
        rows.append(("in the 90 % interval", result["coverage_90_by_dimension"], ".1%"))
    rows += [(f"R2, {task}"[:25], values, ".3f") for task, values in result["by_task"].items()]
    for name, form in (("r2", ".3f"), ("mae", ".3f"), ("coverage_90_by_dimension", ".1%")):
        title = {"r2": "R2", "mae": "error"}.get(name, "in 90 %")
        for horizon, figures in result["by_horizon"].items():
            if name in figures:
                rows.append((f"{title}, steps {horizon}", figures[name], form))
    for title, values, form in rows:
        cells = ("-" if math.isnan(values[name]) else f"{values[name]:{form}}" for name in names)
        lines.append(f"{title:<26}" + "".join(f"{cell:>10}" for cell in cells))
    lines.append(f"{'mean R2 of translation':<26}{result['mean_r2_translation']:>10.3f}")
    if "state_mae" in result:
        cells = "".join(f"{error:>10.4f}" for error in result["state_mae"])
        lines.append(f"{'error of the state':<26}{cells}")
    if "abstention" in result:
        curve = result["abstention"]
        lines.append(f"{'share labelled':<26}" + "".join(f"{p['share']:>7.0%}" for p in curve))
        lines.append(f"{'  error (normalised)':<26}" + "".join(f"{p['mae']:>7.3f}" for p in curve))
    lines.append(
        f"{result['steps']} steps of {result['episodes']} episodes of split {result['split']!r} of "
        f"{result['data']}"
    )
    return "\n".join(lines)


def _figures(model: ActionModel, steps: Steps, translation: list[int]) -> dict:
    """What is measured of any collection of steps."""
    names, kinds = model.action_names, model.kinds
    explained = r2(steps.estimate.mean, steps.actions, kinds)
    error = signed_error(steps.estimate.mean, steps.actions, kinds).abs().mean(0)
    half = torch.from_numpy((model.action_normalizer.high - model.action_normalizer.low) / 2)
    figures = {
        "r2": _by_name(names, explained),
        "mean_r2_translation": explained[translation].nanmean().item(),
        "mae": _by_name(names, error * half),
        "steps": len(steps.actions),
    }
    if model.calibration is not None:
        inside = coverage(steps, model.calibration, LEVEL, kinds)
        figures["coverage_90"] = inside.mean().item()
        figures["coverage_90_by_dimension"] = _by_name(names, inside)
    return figures


def _default_split(data: Path) -> str:
    """The dataset's only split, or test."""
    splits = [name for name, episodes in open_dataset(data).splits.items() if len(episodes)]
    return splits[0] if len(splits) == 1 else "test"


def _by_name(names: Sequence[str], values: torch.Tensor) -> dict[str, float]:
    return dict(zip(names, values.tolist(), strict=True))


def _r2_of_task(readings: Sequence[Reading], task: str, kinds: Sequence[str]) -> torch.Tensor:
    steps = known_steps([reading for reading in readings if reading.task == task])
    return r2(steps.estimate.mean, steps.actions, kinds)
