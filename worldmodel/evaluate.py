"""`python -m worldmodel evaluate`: a model's figures on held-out episodes, as a table and JSON."""

from pathlib import Path

from torch import Tensor

from video.errors import DatasetError
from video.safe_files import write_json
from worldmodel.held_out import HeldOut, open_split, read_held_out
from worldmodel.scores import (
    HORIZONS,
    action_following,
    action_following_ratio,
    copy_last,
    forward_dynamics_latents,
    mean_frame,
    score_frames,
    score_queries,
    usable_horizons,
)
from worldmodel.world_model import WorldModel

TRAIN_EPISODES = 120
"""Training episodes that the mean-frame baseline looks at."""


def evaluate(
    model: Path,
    data: Path,
    split: str = "test",
    train_split: str = "train",
    steps: int = 1,
    episodes: int | None = None,
    seed: int = 0,
    out: Path | None = None,
    device: str = "cpu",
) -> dict:
    """Measure a world model on held-out episodes.

    Args:
        model: folder of a saved world model.
        data: dataset with actions.
        split: split that the model was not trained on.
        train_split: split for the mean-frame baseline, which is left out where there is none.
        steps: sampler steps of forward dynamics.
        episodes: how many episodes, spread evenly; all by default.
        seed: of the noise.
        out: JSON file to write; evaluation.json beside the model folder by default.
        device: where to compute.

    Returns:
        What the JSON file holds.
    """
    world_model = WorldModel.from_pretrained(model, device)
    print(f"Imagining the episodes of split {split!r} of {data}", flush=True)
    result = measure(world_model, data, split, train_split, steps, episodes, seed)
    out = out or Path(model).parent / "evaluation.json"
    write_json(out, result)
    print(table(result))
    print(f"written to {out}")
    return result


def measure(
    model: WorldModel,
    data: Path | str,
    split: str = "test",
    train_split: str = "train",
    steps: int = 1,
    episodes: int | None = None,
    seed: int = 0,
) -> dict:
    """The figures of `evaluate`, without printing or writing.

    Raises:
        DatasetError: data without actions, or episodes too short.
    """
    held_out = read_held_out(model, data, split, max(HORIZONS) + 1, episodes)
    horizons = usable_horizons(held_out)
    if not horizons:
        raise DatasetError(f"{data}: split {split!r} needs two episodes of two frames or more")
    if not held_out.action_mask.any():
        raise DatasetError(
            f"{data} has no actions in split {split!r}, so there is nothing to follow. To look at "
            "generated video, use `python -m worldmodel imagine`."
        )
    baselines = {"copy_last": copy_last(held_out)}
    if len(open_split(model, data, split)[0].splits.get(train_split, ())):
        seen = read_held_out(model, data, train_split, max(HORIZONS) + 1, TRAIN_EPISODES)
        baselines["mean_frame"] = mean_frame(held_out, seen)
    latents = forward_dynamics_latents(model, held_out, seed, steps)
    stepped = forward_dynamics_latents(model, held_out, seed, steps, chunk=1)
    swapped = forward_dynamics_latents(model, held_out, seed, steps, swap_actions=True)
    scores = score_frames(model.decode(latents), held_out, horizons, latents)
    return {
        **scores.to_json(),
        **vars(action_following(latents, swapped, held_out, horizons)),
        "one_action_at_a_time": score_frames(
            model.decode(stepped), held_out, horizons, stepped
        ).to_json(),
        "baselines": {
            name: score_frames(frames, held_out, horizons).to_json()
            for name, frames in baselines.items()
        },
        "autoencoder": score_frames(
            model.decode(held_out.latents[:, 1:]), held_out, horizons
        ).to_json(),
        "queries": score_queries(model, held_out, seed),
        "episodes": len(held_out.tasks),
        "data": str(data),
        "split": split,
        "steps": steps,
        "seed": seed,
        "by_task": {
            task: _of_task(task, latents, swapped, held_out, model)
            for task in sorted(set(held_out.tasks))
        },
    }


def table(result: dict) -> str:
    """The figures as text for a terminal."""
    horizons = list(result["psnr"])
    stepped, copied = result["one_action_at_a_time"], result["baselines"]["copy_last"]
    mean = result["baselines"].get("mean_frame", {"psnr": {}, "foreground_psnr": {}})
    rows = [
        ("PSNR (dB)", result["psnr"], ".1f"),
        ("  one action at a time", stepped["psnr"], ".1f"),
        ("  autoencoder alone", result["autoencoder"]["psnr"], ".1f"),
        ("  copy the last frame", copied["psnr"], ".1f"),
        ("  mean frame", mean["psnr"], ".1f"),
        ("foreground PSNR (dB)", result["foreground_psnr"], ".1f"),
        ("  copy the last frame", copied["foreground_psnr"], ".1f"),
        ("  mean frame", mean["foreground_psnr"], ".1f"),
        ("SSIM", result["ssim"], ".3f"),
        ("latent MSE", result["latent_mse"], ".3f"),
        ("action-following ratio", result["action_following_ratio"], ".2f"),
    ]
    lines = [f"{'horizon':<24}" + "".join(f"{horizon:>10}" for horizon in horizons)]
    for name, values, form in rows:
        cells = (f"{values[h]:{form}}" if h in values else "-" for h in horizons)
        lines.append(f"{name:<24}" + "".join(f"{cell:>10}" for cell in cells))
    intervals = result["action_following_interval"]
    cells = ("{:.1f}-{:.1f}".format(*intervals[horizon]) for horizon in horizons)
    lines.append(f"{'  95 % interval':<24}" + "".join(f"{cell:>10}" for cell in cells))
    for name, value in result["queries"].items():
        numbers = value if isinstance(value, list) else [value]
        lines.append(f"{name:<32}" + " ".join(f"{number:6.2f}" for number in numbers))
    lines.append(
        f"{result['episodes']} episodes of split {result['split']!r} of {result['data']}, "
        f"{result['steps']} sampler step(s), seed {result['seed']}"
    )
    return "\n".join(lines)


def _of_task(
    task: str, latents: Tensor, swapped: Tensor, held_out: HeldOut, model: WorldModel
) -> dict:
    """PSNR and action-following ratio of one task's episodes."""
    rows = [row for row, name in enumerate(held_out.tasks) if name == task]
    part = held_out.subset(rows)
    horizons = usable_horizons(part)
    return {
        "psnr": score_frames(model.decode(latents[rows]), part, horizons).psnr,
        "action_following_ratio": action_following_ratio(
            latents[rows], swapped[rows], part, horizons
        ),
        "episodes": len(rows),
    }
