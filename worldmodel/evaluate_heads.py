"""`python -m worldmodel evaluate_heads`: how far a model's heads can be trusted, table and JSON."""

from pathlib import Path
from typing import Any

from torch import Tensor

from video.errors import DatasetError
from video.safe_files import write_json
from worldmodel.heads_replay import FRAMES, Replay, TrueLabels, read_labels, replay
from worldmodel.heads_scores import (
    episode_figures,
    reward_figures,
    state_figures,
    success_figures,
    uncertainty_figures,
)
from worldmodel.held_out import HeldOut, open_split, read_held_out
from worldmodel.world_model import WorldModel


def evaluate_heads(
    model: Path,
    data: Path,
    split: str = "test",
    steps: int = 1,
    episodes: int | None = None,
    seed: int = 0,
    out: Path | None = None,
    device: str = "cpu",
) -> dict:
    """Measure the heads of a world model on imagined replays of held-out episodes.

    Args:
        model: folder of a saved world model with heads.
        data: labelled dataset.
        split: split that neither the model nor its heads were trained on.
        steps: sampler steps.
        episodes: how many episodes, spread evenly; all by default.
        seed: of the noise.
        out: JSON file to write; heads.json beside the model folder by default.
        device: where to compute.

    Returns:
        What the JSON file holds.
    """
    world_model = WorldModel.from_pretrained(model, device)
    result = measure_heads(world_model, data, split, steps, episodes, seed)
    out = out or Path(model).parent / "heads.json"
    write_json(out, result)
    print(heads_table(result))
    print(f"written to {out}")
    return result


def measure_heads(
    model: WorldModel,
    data: Path | str,
    split: str = "test",
    steps: int = 1,
    episodes: int | None = None,
    seed: int = 0,
) -> dict:
    """The figures of `evaluate_heads`, without printing or writing.

    Episodes are imagined from their first frame with the recorded actions: a block's at once, and
    one by one.

    Raises:
        DatasetError: a model without heads, or data without actions.
    """
    if model.heads is None:
        raise DatasetError(
            "this world model has no heads. Train them with `lightning fit -c configs/reward.yaml`."
        )
    dataset, chosen, _ = open_split(model, data, split)
    frames = min(FRAMES, int(dataset.lengths[chosen].max()))
    held_out = read_held_out(model, data, split, frames, episodes)
    if not held_out.action_mask[:, 0].any():
        raise DatasetError(f"{data} has no actions in split {split!r}, so nothing can be replayed.")
    labels = read_labels(model, data, split, held_out)
    size = model.network.block_frames
    return {
        "whole_blocks": _figures(model, held_out, labels, size, steps, seed),
        "one_action_at_a_time": _figures(model, held_out, labels, 1, steps, seed),
        "block_frames": size,
        "episodes": len(held_out.tasks),
        "data": str(data),
        "split": split,
        "steps": steps,
        "seed": seed,
    }


def heads_table(result: dict) -> str:
    """The figures as text for a terminal."""
    parts = [result["whole_blocks"], result["one_action_at_a_time"]]
    lines = [f"{'':<42}{'a block at once':>22}{'one action at a time':>24}"]

    def row(name: str, path: tuple[str, ...], form: str, interval: tuple[str, ...] = ()) -> None:
        values = [_at(part, path) for part in parts]
        if any(value is None for value in values):
            return
        cells = [f"{value:{form}}" for value in values]
        if interval:
            bounds = [_at(part, interval) for part in parts]
            cells = [
                f"{cell} [{low:{form}}, {high:{form}}]"
                for cell, (low, high) in zip(cells, bounds, strict=True)
            ]
        lines.append(f"{name:<42}{cells[0]:>22}{cells[1]:>24}")

    row("success: threshold", ("success", "threshold"), ".2f")
    row("success, frames: precision", ("success", "precision"), ".2f")
    row("success, frames: recall", ("success", "recall"), ".2f")
    for rule in ("every_member", "mean", "two_frames"):
        path = ("success", "episodes", rule)
        for name, key in (("false-success rate", "false_success_rate"), ("recall", "recall")):
            row(f"success, {rule}: {name}", (*path, key), ".2f", (*path, f"{key}_interval"))
        for rate in (
            result["whole_blocks"]
            .get("success", {})
            .get("episodes", {})
            .get(rule, {})
            .get("at_false_success_rate", {})
        ):
            at = (*path, "at_false_success_rate", rate)
            row(f"  threshold for a rate of {rate}", (*at, "threshold"), ".2f")
            row("  recall there", (*at, "recall"), ".2f")
    for task in sorted(result["whole_blocks"].get("success", {}).get("by_task", {})):
        path = ("success", "by_task", task)
        for name, key in (("false-success rate", "false_success_rate"), ("recall", "recall")):
            row(f"{task}: {name}", (*path, key), ".2f", (*path, f"{key}_interval"))
    row("reward: R2", ("reward", "r2"), ".2f")
    row("reward: RMSE", ("reward", "rmse"), ".2f")
    for score in ("predicted_error", "disagreement", "step"):
        path = ("uncertainty", score)
        row(f"{score}: AUROC", (*path, "auroc"), ".2f", (*path, "auroc_interval"))
        row(f"{score}: AUROC within a step", (*path, "auroc_within_step"), ".2f")
        row(f"{score}: Spearman", (*path, "spearman"), ".2f")
    if "state" in parts[0]:
        for name in ("rmse", "standard_deviation"):
            numbers = " ".join(f"{value:.3f}" for value in parts[0]["state"][name])
            lines.append(f"state: {name.replace('_', ' ')} by dimension  {numbers}")
        for name in ("median_error", "ninth_decile_error"):
            for horizon, errors in parts[0]["state"][name].items():
                numbers = " ".join(f"{value:.4f}" for value in errors)
                lines.append(f"state: {name.replace('_', ' ')} {horizon} steps on  {numbers}")
    lines.append(
        f"{result['episodes']} episodes of split {result['split']!r} of {result['data']}, "
        f"{result['steps']} sampler step(s), seed {result['seed']}"
    )
    return "\n".join(lines)


def _figures(
    model: WorldModel, held_out: HeldOut, labels: TrueLabels, chunk: int, steps: int, seed: int
) -> dict:
    """All figures of one way of stepping the model; those that nothing is known of are missing."""
    assert model.heads is not None
    imagined = replay(model, held_out, chunk, steps, seed)
    figures: dict = {"uncertainty": uncertainty_figures(imagined, seed)}
    if model.heads.config["has_success"] and labels.success_mask.any():
        threshold = model.heads.config["success_threshold"]
        figures["success"] = success_figures(imagined, labels, seed, threshold)
        figures["success"]["by_task"] = {
            task: _of_task(task, held_out, imagined, labels, seed, threshold)
            for task in sorted(set(held_out.tasks))
        }
    if model.heads.config["has_reward"] and labels.reward_mask.any():
        figures["reward"] = reward_figures(imagined, labels)
    if model.state_dim and labels.state_mask.any():
        figures["state"] = state_figures(_state(model, imagined), imagined, labels)
    return figures


def _state(model: WorldModel, imagined: Replay) -> Tensor:
    """The predicted state in the data's units."""
    assert model.state_normalizer is not None
    return model.state_normalizer.denormalize(imagined.state)


def _of_task(
    task: str,
    held_out: HeldOut,
    imagined: Replay,
    labels: TrueLabels,
    seed: int,
    threshold: float,
) -> dict:
    """The episodes of one task by the environment's rule, every member."""
    rows = [row for row, name in enumerate(held_out.tasks) if name == task]
    mask = imagined.known & labels.success_mask
    lowest = imagined.outputs.lowest_success_logit.sigmoid().masked_fill(~mask, 0.0)
    succeeded = (labels.success & mask).any(dim=1)
    figures = episode_figures(lowest[rows].amax(dim=1), succeeded[rows], seed, threshold)
    return {name: value for name, value in figures.items() if name != "curve"}


def _at(figures: dict, path: tuple[str, ...]) -> Any:
    """What stands at a path, None where something on the way is missing."""
    found = figures
    for name in path:
        if name not in found:
            return None
        found = found[name]
    return found
