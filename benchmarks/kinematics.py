"""How well do kinematics foretell the robot's state, and what is a set-point worth to them?

Fits kinematics of `configs/uwm/fitted_kinematics.yaml`, with and without set-point, to the recorded
actions of a share of the default dataset's episodes, and measures how far off the states are that
they foretell over four steps, from true states of the validation episodes.

    python benchmarks/kinematics.py --shares 0.1 1 [--out runs/kinematics.json]

Prints a table and one JSON line. Errors are normalised: 1 is half a workspace.
"""

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from video.clips import ClipDataset, ClipPart
from video.episodes import open_dataset
from video.safe_files import write_json
from video.splits import keep_labels
from video.statistics import Normalizer
from worldmodel.kinematics import Kinematics, KinematicsSizes
from worldmodel.kinematics_fitting import (
    fit_kinematics,
    recorded_windows,
    set_points,
    with_set_point,
)

CONFIG = Path("configs/uwm/fitted_kinematics.yaml")
FRAMES = 4
"""Of a block, which are foretold."""
FAR = (0.08, 0.15)
"""Shares of the windows that are off by more are told."""
HAND = 3
"""Dimensions of the state that are a place: x, y, z."""


def main() -> None:
    """Fit them one by one, and print what they are worth."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shares", type=float, nargs="+", default=[0.1, 1.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--data", type=Path, default=Path("video/datasets/metaworld"))
    parser.add_argument(
        "--validation", type=Path, default=Path("video/datasets/metaworld_validation")
    )
    parser.add_argument("--validation-split", default="validation", help="its split")
    parser.add_argument("--out", type=Path, help="JSON of the result")
    options = parser.parse_args()
    if wrong := [share for share in options.shares if not 0 < share <= 1]:
        parser.error(f"--shares {wrong[0]}: from above 0 to 1")
    for path in (options.data, options.validation):
        if not path.is_dir():
            parser.error(f"{path} is not a folder")
    settings = yaml.safe_load(CONFIG.read_text())["model"]["init_args"]
    architecture = settings["architecture"]
    sizes = KinematicsSizes(**architecture["kinematics_sizes"])
    steps = settings["optimization"]["kinematics_steps"]
    rows = []
    for share in options.shares:
        for keeps in (False, True):
            for seed in options.seeds:
                own = replace(sizes, set_point=keeps)
                scores = score(options, share, own, architecture["past_actions"], steps, seed)
                rows.append({"share": share, "set_point": keeps, "seed": seed, **scores})
                print(json.dumps(rows[-1]), file=sys.stderr)
    result = {"steps": steps, "sizes": asdict(sizes), "rows": rows}
    if options.out:
        write_json(options.out, result)
    print(table(rows), file=sys.stderr)
    print(json.dumps(result))


def score(
    options: argparse.Namespace,
    share: float,
    sizes: KinematicsSizes,
    past_actions: int,
    steps: int,
    seed: int,
) -> dict[str, Any]:
    """Fit kinematics to a share of the episodes; their errors on all validation episodes."""
    clips = episodes(options.data, "train", share)
    normalizers = clips_normalizers(options.data)
    train = cut_clips(clips, *normalizers)
    held_out = cut_clips(episodes(options.validation, options.validation_split, 1.0), *normalizers)
    torch.manual_seed(seed)
    kinematics = Kinematics(train.state_dim, train.action_dim, past_actions, sizes)
    fit_kinematics(kinematics, train, torch.clone, past_actions, FRAMES, steps, seed)
    windows = recorded_windows(held_out, torch.clone, past_actions, FRAMES)
    robot = windows.robot
    with torch.no_grad():
        if kinematics.set_point is not None:
            every = torch.arange(len(windows.frame))
            robot = with_set_point(robot, set_points(kinematics.set_point, windows, every))
        known = torch.ones(windows.actions.shape[:2], dtype=torch.bool)
        found = kinematics(robot, windows.actions, known)
    error = (found - windows.states).abs()[..., :HAND]
    largest = error.amax((1, 2))
    return {
        "episodes": len(clips.episodes),
        "mean_absolute_error": error.mean().item(),
        "root_mean_square": error.square().mean().sqrt().item(),
        "far": {str(far): (largest > far).float().mean().item() for far in FAR},
    }


def episodes(path: Path, split: str, share: float) -> ClipPart:
    """A share of a dataset's episodes, that which `labels: share` shows."""
    dataset = open_dataset(path)
    chosen = keep_labels(np.asarray(dataset.splits[split]), share, 0)
    labelled = np.ones(len(dataset.lengths), bool)
    return ClipPart(dataset, chosen, labelled, (dataset.cameras[0],))


def clips_normalizers(path: Path) -> tuple[Normalizer, Normalizer]:
    """Of all the dataset's actions and states: the errors of all shares have the same unit."""
    columns = open_dataset(path).columns
    return Normalizer.fit(columns["actions"]), Normalizer.fit(columns["state"])


def cut_clips(part: ClipPart, actions: Normalizer, state: Normalizer) -> ClipDataset:
    """Clips whose pictures nobody asks for."""
    return ClipDataset([part], FRAMES, (8, 8), action_normalizer=actions, state_normalizer=state)


def table(rows: list[dict[str, Any]]) -> str:
    """One row a fit."""
    lines = ["episodes  set-point  seed  mean error  root mean square  off by more than 0.08, 0.15"]
    for row in rows:
        keeps = "yes" if row["set_point"] else "no"
        far = ", ".join(f"{100 * share:.0f} %" for share in row["far"].values())
        lines.append(
            f"{row['episodes']:8}  {keeps:9}  {row['seed']:4}  {row['mean_absolute_error']:10.4f}"
            f"  {row['root_mean_square']:16.4f}  {far}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
