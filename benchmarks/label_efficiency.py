"""What are action labels worth, and what is video worth that has none?

Trains world models on a share of the default dataset's labels in three ways:

    labels      the labelled episodes alone
    video       and all other video, action-free
    pseudo      and all other video, with the actions that an inverse dynamics model reads which
                was trained on the same labels

    python benchmarks/label_efficiency.py --out runs/label_efficiency [--rows 0.1:pseudo 1:labels]

Every model sees as many clips with actions in every step; bare video comes on top. With
`--robot-state` they go by the robot's state, which is hidden and read along with the actions;
without, by what the camera sees. Every stage is a
public command in a folder of its own; one whose result is there is not done again, so a stopped
benchmark goes on. Writes table.json, prints a table, what the labels that were read recover of what
all labels give, and one JSON line.

With `--real-episodes 90` policies are cloned as well, and evaluated in the simulator: from ten
episodes a task in which an expert succeeds, seen by the camera alone. Which they are is taken as
known, whether their actions are or not. Video without actions is of no use for cloning, so that way
has no policy; nor has a share that shows less than one of the ten.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from jaxtyping import Float
from public_commands import fit, keep_apart, python, side_by_side

from video.safe_files import write_json
from worldmodel.bootstrap import interval, resampled

LABELS, VIDEO, PSEUDO = WAYS = ("labels", "video", "pseudo")
SHARES = (0.01, 0.1, 1.0)
HORIZON = "8"
"""Of the printed table; table.json has all horizons."""
LABELLED_CLIPS = 48
"""Clips with actions in every batch of a world model."""
RECORDED_CLIPS = 16
"""Of these, where actions are read: those whose actions were recorded."""
RECORDED_WITH_STATE = 8
"""The same where the state is read, too: most of what actions do is then told by kinematics."""
HIDDEN_CLIPS = 24
"""Clips without actions from the episodes whose labels are hidden."""
VIDEO_CLIPS = 6
"""Likewise from the recording that has no actions at all."""
REDRAW = 16
"""What readers learn from bare video: their tokens redraw the frames, so many pixels small."""
MOVEMENT = 3.0
"""How much it counts, against the frames, that they tell how the frames move."""
STATE_STEPS = 900
"""Of the network by which each of them tells the robot's state, where that is read."""
SHIFT = 3
"""Pixels by which the clips of readers of few labels are shifted at most."""
COPIES, REACH = 16, 4
"""Of few labelled episodes for world models, and by how many pixels they are shifted at most."""
AUTOENCODER = "video/autoencoders/metaworld"
UNSURE = 10.0
"""Doubt up to which the reader's actions are taken: all, since they count by their confidence."""
DEMONSTRATIONS = {"episodes": 10, "notes": {"policy": "Expert()"}, "successful": True}
"""What is cloned: so many episodes of each task, of which the share shows its actions."""
CLONING_STEPS = 1000


@dataclass(frozen=True)
class Row:
    """A share of the labels, and what becomes of the other episodes."""

    share: float
    way: str

    def __post_init__(self) -> None:
        """Check both."""
        if self.way not in WAYS or not 0 < self.share <= 1:
            raise ValueError(f"{self} is neither of {WAYS} nor of a share from 0 to 1")

    @classmethod
    def parsed(cls, text: str) -> "Row":
        """A row from the command line, such as 0.1:pseudo."""
        share, _, way = text.partition(":")
        try:
            return cls(float(share), way)
        except ValueError as error:
            known = ", ".join(f"{share:g}:{way}" for share, way in product(SHARES, WAYS))
            message = f"{text} is no SHARE:WAY such as {known}"
            raise argparse.ArgumentTypeError(message) from error


def main() -> None:
    """Run every stage that has no result yet, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/label_efficiency"))
    parser.add_argument(
        "--rows",
        type=Row.parsed,
        nargs="+",
        default=[Row(*row) for row in product(SHARES, WAYS)],
        metavar="SHARE:WAY",
        help=f"shares of the labels from 0 to 1, each with one of {', '.join(WAYS)}; default: all",
    )
    parser.add_argument("--steps", type=int, default=4200, help="of every world model")
    parser.add_argument(
        "--idm-steps",
        type=int,
        default=1800,
        help="of the inverse dynamics model of all labels; others have half as many",
    )
    parser.add_argument(
        "--readers", type=int, default=2, help="inverse dynamics models that read together"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the labels and their readers")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0], help="of the world models, and of the policies"
    )
    parser.add_argument(
        "--robot-state", action="store_true", help="world models go by it; it is hidden and read"
    )
    parser.add_argument(
        "--test", type=Path, help="dataset whose split is reported; default: that of --data"
    )
    parser.add_argument("--split", default="test", help="split of the data that is reported")
    parser.add_argument("--data", type=Path, default=Path("video/datasets/metaworld"))
    parser.add_argument("--videos", type=Path, default=Path("video/datasets/metaworld_videos"))
    parser.add_argument(
        "--validation", type=Path, default=Path("video/datasets/metaworld_validation")
    )
    parser.add_argument("--device", default="cpu", help="where labels and figures are computed")
    parser.add_argument("--jobs", type=int, default=1, help="models side by side")
    parser.add_argument(
        "--config", action="append", default=[], help="further YAML of every training"
    )
    parser.add_argument(
        "--world-model-config",
        action="append",
        default=[],
        help="further YAML of the world models alone, such as configs/uwm/adamw.yaml",
    )
    parser.add_argument(
        "--real-episodes", type=int, default=0, help="of every cloned policy; 0: clone none"
    )
    parser.add_argument("--real-seed", type=int, default=400000, help="of the first of them")
    options = parser.parse_args()
    for path in (*options.config, *options.world_model_config):
        if not Path(path).is_file():  # or it would be found after the readers have been trained
            parser.error(f"{path} is no file")
    if options.test is not None and not options.test.is_dir():
        parser.error(f"{options.test} is no folder. Record it, or leave --test out")
    free = ("out", "rows", "seeds", "test", "split", "device", "jobs", "real_episodes")
    decisive = {name: value for name, value in vars(options).items() if name not in free}
    keep_apart(options.out, decisive)
    rows, seeds = options.rows, options.seeds
    shares = dict.fromkeys(row.share for row in rows if row.way == PSEUDO)
    few = dict.fromkeys(row.share for row in rows if row.share < 1 and not options.robot_state)
    given = (options.data, options.videos, options.validation, options.test or options.data)
    for data in dict.fromkeys(given):
        encode(data, options)  # before several trainings want to do it at once
    for stage, work in (
        (train_member, product(shares, range(options.readers))),
        (join_readers, product(shares)),
        (label_all, product(shares)),
        (shift_recorded, product(few)),
        (train_world_model, product(rows, seeds)),
        (clone, product(rows, seeds)),
    ):
        side_by_side((partial(stage, options, *which) for which in work), options.jobs)
    all_figures = [figures(options, row, seed) for row, seed in product(rows, seeds)]
    result = {
        "steps": options.steps,
        "idm_steps": options.idm_steps,
        "readers": options.readers,
        "seed": options.seed,
        "robot_state": options.robot_state,
        "test": str(options.test or options.data),
        "split": options.split,
        "real_episodes": options.real_episodes,
        "real_seed": options.real_seed,
        "rows": all_figures,
        "recovered": recovered(all_figures),
        "recovered_interval": recovered_interval(options, rows, seeds),
    }
    write_json(options.out / "table.json", result)
    print(table(result), file=sys.stderr)
    print(json.dumps(result))


def train_member(options: argparse.Namespace, share: float, number: int) -> None:
    """One of the readers of a share of the labels, which is the same for all of them."""
    folder = member(options, share, number)
    if (folder / "model").exists():
        return
    data, steps = str(options.data), options.idm_steps
    changes: dict[str, Any] = {"seed": options.seed + number}
    if options.robot_state:
        changes["state_steps"] = STATE_STEPS
    sources = [{"path": data, "labels": share, "drop_unlabelled": True}]
    if share < 1:
        sources.append({"path": data, "action_free": True})
        steps //= 2  # few labels are soon known by heart
        changes |= {
            "sizes": {"redraw": REDRAW},
            "optimization": {"movement_weight": MOVEMENT, "shift": SHIFT},
        }
    train(("configs/idm.yaml",), folder, sources, steps, options, changes, seed=options.seed)


def join_readers(options: argparse.Namespace, share: float) -> None:
    """Let the members read together; calibrate what comes of it, and evaluate it."""
    folder = folder_of(options, share, "idm")
    result = report(options, folder)
    model = folder / "model"
    if not model.exists():
        members = [member(options, share, number) for number in range(options.readers)]
        paths = [str(one / "model") for one in members]
        python("inverse_dynamics", "ensemble", json.dumps(paths), model)
    if not (model / "calibration.json").exists():
        python("inverse_dynamics", "calibrate", model, options.validation, "--split", "validation")
    if not result.exists():
        arguments = ("--split", options.split, "--out", result, "--device", options.device)
        python("inverse_dynamics", "evaluate", model, options.test or options.data, *arguments)


def label_all(options: argparse.Namespace, share: float) -> None:
    """Read the actions that the share does not show; nothing to do where that is finished."""
    for name, data, kept in (("data", options.data, share), ("videos", options.videos, 1.0)):
        out = folder_of(options, share, f"pseudo_{name}")
        python(
            *("inverse_dynamics", "label", folder_of(options, share, "idm") / "model", data, out),
            *("--labels", kept, "--seed", options.seed, "--threshold", UNSURE),
            *("--device", options.device),
        )
        encode(out, options)


def shift_recorded(options: argparse.Namespace, share: float) -> None:
    """Shifted copies of the labelled episodes, or they are learned by heart; goes on if stopped."""
    out = folder_of(options, share, "shifted")
    python(
        *("video", "shift", options.data, out, "--copies", COPIES, "--reach", REACH),
        *("--labels", share, "--seed", options.seed),
    )
    encode(out, options)


def encode(data: Path, options: argparse.Namespace) -> None:
    """Latents for the world models; nothing to do where they are."""
    python("video", "encode", data, AUTOENCODER, "--device", options.device)


def train_world_model(options: argparse.Namespace, row: Row, seed: int) -> None:
    """A world model trained in one of the ways."""
    folder = folder_of_row(options, row, seed)
    result = report(options, folder)
    if not (folder / "model").exists():
        clips = mixture(options, row)
        batch = {"batch_size": sum(source["weight"] for source in clips)}
        changes = {"robot_state": options.robot_state, "seed": seed}
        configs = ("configs/uwm.yaml", *options.world_model_config)
        train(configs, folder, clips, options.steps, options, changes, batch, seed)
    if not result.exists() or "error_by_episode" not in read(result):  # as before 1 December
        arguments = ("--split", options.split, "--out", result, "--device", options.device)
        python("worldmodel", "evaluate", folder / "model", options.test or options.data, *arguments)


def mixture(options: argparse.Namespace, row: Row) -> list[dict[str, Any]]:
    """Where a batch's clips come from; the weights are how many from where.

    Clips without actions teach nothing of what actions do: however many there are, they come on
    top, or the model learns to do without.
    """
    share, way = row.share, row.way
    recorded: dict[str, Any] = {"path": str(options.data)}
    if share < 1 and options.robot_state:  # which would not say where a shifted hand is
        recorded |= {"labels": share, "drop_unlabelled": True}
    elif share < 1:
        recorded = {"path": str(folder_of(options, share, "shifted"))}
    hidden = {"path": str(options.data), "action_free": True, "weight": HIDDEN_CLIPS}
    bare = {"path": str(options.videos), "weight": VIDEO_CLIPS}
    if way == LABELS:
        return [recorded | {"weight": LABELLED_CLIPS}]
    if way == VIDEO:
        others = [hidden, bare] if share < 1 else [bare]
        return [recorded | {"weight": LABELLED_CLIPS}, *others]
    data, videos = (str(folder_of(options, share, f"pseudo_{name}")) for name in ("data", "videos"))
    count = LABELLED_CLIPS - VIDEO_CLIPS
    of_data = [recorded | {"weight": count}]
    if share < 1:
        own = RECORDED_WITH_STATE if options.robot_state else RECORDED_CLIPS
        of_data = [recorded | {"weight": own}, {"path": data, "weight": count - own}]
    return [*of_data, {"path": videos, "weight": VIDEO_CLIPS}]


def clone(options: argparse.Namespace, row: Row, seed: int) -> None:
    """A policy that is cloned from the data of a world model, and its real success."""
    folder = folder_of_row(options, row, seed)
    result = folder / "policy.json"
    shown = row.share * DEMONSTRATIONS["episodes"]
    if not options.real_episodes or row.way == VIDEO or (row.way == LABELS and shown < 1):
        return
    if not result.exists():
        source: dict[str, Any] = {"path": str(options.data), "labels": row.share}
        if row.way == PSEUDO:
            source = {"path": str(folder_of(options, row.share, "pseudo_data"))}
        train(
            ("configs/behaviour_cloning.yaml",),
            folder / "cloning",
            [source | DEMONSTRATIONS],
            CLONING_STEPS,
            options,
            {"observations": ["latents"], "seed": seed},
            seed=seed,
        )
        python(
            *("policy", "evaluate", folder / "cloning" / "policy"),
            *("--config", "configs/evaluate.yaml", "--real.init_args.state", "false"),
            *("--imagined", "null", "--out", result),
            *("--episodes", options.real_episodes, "--seed", options.real_seed),
        )


def train(
    configs: Sequence[str],
    folder: Path,
    sources: list[dict],
    steps: int,
    options: argparse.Namespace,
    model: dict[str, Any],
    data: dict[str, Any] | None = None,
    seed: int = 0,
) -> None:
    """Train by configurations of the project on other data; `options.seed` tells which labels."""
    fit(
        folder,
        [*configs, *options.config],
        model,
        {
            "datasets": [*sources, {"path": str(options.validation), "split": None}],
            "seed": options.seed,
            **(data or {}),
        },
        {"max_steps": steps, "callbacks": None},
        seed,
    )


def figures(options: argparse.Namespace, row: Row, seed: int) -> dict[str, Any]:
    """The figures of one world model, by horizon, and of what belongs to it."""
    folder = folder_of_row(options, row, seed)
    evaluation = read(report(options, folder))
    reader = report(options, folder_of(options, row.share, "idm"))
    policy = folder / "policy.json"
    return {
        "share": row.share,
        "way": row.way,
        "seed": seed,
        "idm_r2": read(reader)["mean_r2_translation"] if reader.exists() else None,
        "psnr": evaluation["psnr"],
        "action_following_ratio": evaluation["action_following_ratio"],
        "real_success": read(policy)["real"]["success"] if policy.exists() else None,
    }


def recovered(all_figures: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """What every way gives of the action-following ratio of all labels, by horizon.

    Ratios are means over the seeds. Empty where no model learned from all labels.
    """
    by_row: dict[tuple[float, str], list[dict[str, float]]] = {}
    for one in all_figures:
        ratios = one["action_following_ratio"]
        by_row.setdefault((one["share"], one["way"]), []).append(ratios)
    means = {
        row: {horizon: fmean(one[horizon] for one in ratios) for horizon in ratios[0]}
        for row, ratios in by_row.items()
    }
    best = means.pop((1.0, LABELS), None)
    if best is None:
        return {}
    return {
        f"{share:g}:{way}": {horizon: mean[horizon] / best[horizon] for horizon in mean}
        for (share, way), mean in means.items()
    }


def recovered_interval(
    options: argparse.Namespace, rows: Sequence[Row], seeds: Sequence[int]
) -> dict[str, dict[str, list[float]]]:
    """Between which that share lies, by horizon, in 95 % of the bootstraps over the episodes.

    All models are compared on the same episodes, and their seeds are as they are.
    """
    best = Row(1.0, LABELS)
    if best not in rows:
        return {}

    def ratios(row: Row, horizon: str) -> Float[np.ndarray, " resamples"]:
        """Means over the seeds."""
        of_seeds = []
        for seed in seeds:
            evaluation = read(report(options, folder_of_row(options, row, seed)))
            names = ("swapped_error_by_episode", "error_by_episode")
            swapped, own = (np.asarray(evaluation[name][horizon]) for name in names)
            drawn = resampled(len(own))
            of_seeds.append(swapped[drawn].sum(1) / own[drawn].sum(1))
        return np.mean(of_seeds, axis=0)

    first = read(report(options, folder_of_row(options, best, seeds[0])))
    horizons = list(first["action_following_ratio"])
    of_all = {horizon: ratios(best, horizon) for horizon in horizons}
    return {
        f"{row.share:g}:{row.way}": {
            horizon: interval(ratios(row, horizon) / of_all[horizon]) for horizon in horizons
        }
        for row in rows
        if row != best
    }


def folder_of_row(options: argparse.Namespace, row: Row, seed: int) -> Path:
    """Where a world model has its files."""
    return folder_of(options, row.share, f"{row.way}_seed_{seed}")


def member(options: argparse.Namespace, share: float, number: int) -> Path:
    """Where one of the readers has its files; a single one has no others beside it."""
    folder = folder_of(options, share, "idm")
    return folder if options.readers == 1 else folder / f"member_{number}"


def folder_of(options: argparse.Namespace, share: float, name: str) -> Path:
    """Where a stage of a share of the labels has its files."""
    return options.out / f"{share:g}" / name


def report(options: argparse.Namespace, folder: Path) -> Path:
    """Where a model's figures on the held-out episodes are; those of other data are elsewhere."""
    name = f"{options.split}.json"
    return folder / (name if options.test is None else f"{options.test.name}_{name}")


def read(path: Path) -> dict[str, Any]:
    """A JSON file."""
    return json.loads(path.read_text())


def table(result: dict[str, Any]) -> str:
    """The figures as text for a terminal."""
    lines = [
        f"{'labels':>7} {'way':<8}{'seed':>5}{'PSNR':>8}{'ratio':>8}{'IDM R2':>8}{'success':>9}"
        f"   (horizon {HORIZON})"
    ]
    for row in result["rows"]:
        success = "-" if row["real_success"] is None else f"{row['real_success']:.0%}"
        reader = "-" if row["idm_r2"] is None else f"{row['idm_r2']:.2f}"
        lines.append(
            f"{row['share']:>7.0%} {row['way']:<8}{row['seed']:>5}{row['psnr'][HORIZON]:>8.2f}"
            f"{row['action_following_ratio'][HORIZON]:>8.2f}{reader:>8}{success:>9}"
        )
    for row, shares in result["recovered"].items():
        intervals = result["recovered_interval"][row]
        by_horizon = ", ".join(
            f"{share:.0%} [{low:.0%}, {high:.0%}] at {horizon}"
            for (horizon, share), (low, high) in zip(
                shares.items(), intervals.values(), strict=True
            )
        )
        lines.append(f"{row}: of what all labels give in action-following ratio {by_horizon}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
