"""`python -m worldmodel evaluate_round_trip`: does it tell how far an imagined episode is off?

Recorded episodes are imagined again by the environment itself, from their first frame and with
their own actions, so that the truth is known at every step. What the environment tells of its own
doubts is then compared with it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torchmetrics.functional import spearman_corrcoef

from video.action_model import ActionModel, load_action_model
from video.errors import DatasetError
from video.safe_files import write_json
from worldmodel.environment import ImaginedVectorEnv
from worldmodel.held_out import HeldOut, read_held_out
from worldmodel.imagination import ImaginedStep
from worldmodel.rewards import Verdict
from worldmodel.round_trip import InverseDynamics
from worldmodel.world_model import WorldModel

FEWEST_EPISODES = 8
"""A correlation within one step needs as many."""

COLUMNS = 8
"""Steps that the printed table shows, about."""

SIGNS = {
    "elapsed_steps": "step number",
    "uncertainty": "heads' expected error",
    "round_trip_error": "round-trip error",
    "round_trip_drift": "round-trip drift",
}
"""What may tell of the true error, by its name in `info`."""


@dataclass
class Replays:
    """What an environment told at every step, beside the truth.

    Attributes:
        steps: numbers of the steps' last frames, from 1 on.
        error: true error of the imagined frame: root-mean-square, latents.
        known: where there is a recorded frame, and all actions up to it.
        told: what `info` said, nan where it said nothing; by its name there.
    """

    steps: list[int]
    error: Float[Tensor, "episodes steps"]
    known: Bool[Tensor, "episodes steps"]
    told: dict[str, Float[Tensor, "episodes steps"]]


def evaluate_round_trip(
    model: Path,
    data: Path,
    idm: Path,
    split: str = "test",
    horizon: int = 32,
    chunk: int | None = None,
    episodes: int | None = None,
    seed: int = 0,
    out: Path | None = None,
    device: str = "cpu",
) -> dict:
    """Compare the round-trip error with the true error of imagined episodes.

    Args:
        model: folder of a saved world model.
        data: dataset with actions.
        idm: folder of an inverse dynamics model; or of a world model, which reads by its own query.
        split: split that neither model was trained on.
        horizon: steps to imagine.
        chunk: actions of one step of the environment; the model's whole block by default.
        episodes: how many episodes, spread evenly; all by default.
        seed: of the noise.
        out: JSON file to write; round_trip.json beside the model folder by default.
        device: where to compute.

    Returns:
        What the JSON file holds.
    """
    world_model = WorldModel.from_pretrained(model, device)
    reader = load_action_model(idm, device)
    held_out = read_held_out(world_model, data, split, horizon + 1, episodes)
    replays = replay(world_model, held_out, reader, chunk, seed)
    result = {
        **measure(replays),
        "episodes": len(held_out.tasks),
        "data": str(data),
        "split": split,
        "idm": str(idm),
        "chunk": chunk or world_model.network.block_frames,
        "seed": seed,
    }
    out = out or Path(model).parent / "round_trip.json"
    write_json(out, result)
    print(table(result))
    print(f"wrote {out}")
    return result


def replay(
    model: WorldModel,
    held_out: HeldOut,
    idm: InverseDynamics | ActionModel,
    chunk: int | None = None,
    seed: int = 0,
) -> Replays:
    """Imagine recorded episodes by the environment, all side by side.

    Args:
        model: the world model.
        held_out: the recordings.
        idm: as the environment takes it.
        chunk: actions of a step; None: a whole block.
        seed: of the noise.

    Raises:
        DatasetError: no actions in the recordings, or a model that knows none.
    """
    chunk = chunk or model.network.block_frames
    if model.action_normalizer is None or not held_out.action_mask.any():
        raise DatasetError(
            "these episodes have no recorded actions, or the world model was trained without any, "
            "so nothing can be commanded. Give a dataset with actions."
        )
    rows = len(held_out.tasks)
    steps = list(range(chunk, held_out.actions.shape[1] + 1, chunk))
    env = ImaginedVectorEnv(
        model,
        rows,
        horizon=steps[-1] + 1,
        chunk=chunk,
        reward=_indifferent,
        idm=idm,
        autoreset_mode="disabled",
    )
    first = held_out.frames[:, :1].permute(0, 1, 2, 4, 5, 3).cpu().numpy()
    options: dict[str, Any] = {"context": list(first)}
    if model.state_normalizer is not None and held_out.state.shape[1]:
        options["state"] = model.state_normalizer.denormalize(held_out.state).cpu().numpy()
    env.reset(seed=seed, options=options)
    actions = model.action_normalizer.denormalize(held_out.actions).cpu().numpy()
    errors, told = [], []
    for step in steps:
        given = actions[:, step - chunk : step].reshape(env.action_space.shape)
        info = env.step(given)[-1]
        imagined = env.get_state().imagined.frame
        errors.append((imagined - held_out.latents[:, step]).square().mean((1, 2, 3, 4)).sqrt())
        told.append({name: _where_told(info, name) for name in SIGNS if name in info})
    known = held_out.action_mask.long().cumprod(1).bool()
    return Replays(
        steps,
        torch.stack(errors, 1).cpu(),
        torch.stack([known[:, step - 1] for step in steps], 1).cpu(),
        {name: torch.stack([moment[name] for moment in told], 1) for name in told[0]},
    )


def measure(replays: Replays) -> dict:
    """Means by horizon, and rank correlations with the true error.

    Returns:
        `by_horizon`: by step, the mean true error and the mean of every sign. `spearman`: for every
        sign its rank correlation with the true error `pooled` over all steps, and `within` a step:
        the mean over the steps of the correlation over episodes, which growing with time does not
        help. Steps where a sign says nothing yet are left out of its own.
    """
    by_horizon = {}
    for place, step in enumerate(replays.steps):
        here = replays.known[:, place]
        if here.any():
            figures = {"true_error": replays.error[here, place].mean().item()}
            for name, values in replays.told.items():
                if not values[here, place].isnan().any():
                    figures[name] = values[here, place].mean().item()
            by_horizon[str(step)] = figures
    return {
        "by_horizon": by_horizon,
        "spearman": {
            name: _correlations(values, replays.error, replays.known)
            for name, values in replays.told.items()
        },
    }


def table(result: dict) -> str:
    """The figures as text for a terminal."""
    horizons = list(result["by_horizon"])
    every = max(1, len(horizons) // COLUMNS)
    horizons = horizons[(len(horizons) - 1) % every :: every]
    shown = [name for name in SIGNS if name in result["spearman"]]
    lines = [f"{'step':<24}" + "".join(f"{horizon:>8}" for horizon in horizons)]
    for name in ["true_error", *shown[1:]]:
        values = [result["by_horizon"][horizon].get(name) for horizon in horizons]
        cells = ("-" if value is None else f"{value:.3f}" for value in values)
        lines.append(f"{SIGNS.get(name, 'true error'):<24}" + "".join(f"{c:>8}" for c in cells))
    lines.append(f"{'Spearman, true error':<24}{'pooled':>8}{'within a step':>16}")
    for name in shown:
        pooled, within = result["spearman"][name].values()
        cells = f"{pooled:>8.2f}" + (f"{within:>16.2f}" if within is not None else f"{'-':>16}")
        lines.append(f"  {SIGNS[name]:<22}{cells}")
    lines.append(
        f"{result['episodes']} episodes of split {result['split']!r} of {result['data']}, "
        f"{result['chunk']} action(s) a step, seed {result['seed']}"
    )
    return "\n".join(lines)


def _correlations(sign: Tensor, error: Tensor, known: Tensor) -> dict[str, float | None]:
    """Rank correlations of one sign; None where it is the same in every episode of a step."""
    known = known & ~sign.isnan()
    within = []
    for place in range(sign.shape[1]):
        here = known[:, place]
        values = sign[here, place]
        if len(values) >= FEWEST_EPISODES and values.unique().numel() > 1:
            within.append(spearman_corrcoef(values, error[here, place]).item())
    return {
        "pooled": spearman_corrcoef(sign[known], error[known]).item(),
        "within": float(np.mean(within)) if within else None,
    }


def _where_told(info: dict, name: str) -> Float[Tensor, " episodes"]:
    """A figure of `info` as a tensor, nan where its mask is False."""
    return torch.from_numpy(np.where(info[f"_{name}"], info[name], np.nan)).float()


def _indifferent(step: ImaginedStep) -> Verdict:
    """No reward and no success: episodes go on to the end of their recording."""
    nothing = torch.zeros(step.frames.shape[:2], device=step.frames.device)
    return Verdict(nothing, nothing.bool())
