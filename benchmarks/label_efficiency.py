"""What are action labels worth, and what is video worth that has none?

Trains world models on a share of the default dataset's labels in three ways:

    labels      the labelled episodes alone
    video       and all other video, action-free
    pseudo      and all other video, with the actions that an inverse dynamics model reads which
                was trained on the same labels

    python benchmarks/label_efficiency.py --out runs/label_efficiency [--shares 0.01 0.1 1]

Every model sees as many clips with actions in every step; bare video comes on top. Every stage is a
public command in a folder of its own; one whose result is there is not done again, so a stopped
benchmark goes on. Writes table.json, prints a table and one JSON line.

With `--real-episodes 90` policies are cloned as well, and evaluated in the simulator: from ten
episodes a task in which an expert succeeds, seen by the camera alone. Which they are is taken as
known, whether their actions are or not. Video without actions is of no use for cloning, so that way
has no policy; nor has a share that shows less than one of the ten.
"""

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

from public_commands import fit, keep_apart, python, side_by_side

from video.safe_files import write_json

WAYS = ("labels", "video", "pseudo")
HORIZON = "8"
LABELLED_CLIPS = 48
"""Clips with actions in every batch of a world model."""
RECORDED_CLIPS = 16
"""Of these, where actions are read: those whose actions were recorded."""
HIDDEN_CLIPS = 24
"""Clips without actions from the episodes whose labels are hidden."""
VIDEO_CLIPS = 6
"""Likewise from the recording that has no actions at all."""
REDRAW = 16
"""What readers learn from bare video: their tokens redraw the frames, so many pixels small."""
SHIFT = 3
"""Pixels by which the clips of readers of few labels are shifted at most."""
AUTOENCODER = "video/autoencoders/metaworld"
UNSURE = 10.0
"""Doubt up to which the reader's actions are taken: all, since they count by their confidence."""
DEMONSTRATIONS = {"episodes": 10, "notes": {"policy": "Expert()"}, "successful": True}
"""What is cloned: so many episodes of each task, of which the share shows its actions."""
CLONING_STEPS = 1000


def main() -> None:
    """Run every stage that has no result yet, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/label_efficiency"))
    parser.add_argument("--shares", type=float, nargs="+", default=[0.01, 0.1, 1.0])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
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
    parser.add_argument("--seed", type=int, default=0, help="of the labels and of the training")
    parser.add_argument("--split", default="test", help="split of the data that is reported")
    parser.add_argument("--data", type=Path, default=Path("video/datasets/metaworld"))
    parser.add_argument("--videos", type=Path, default=Path("video/datasets/metaworld_videos"))
    parser.add_argument(
        "--validation", type=Path, default=Path("video/datasets/metaworld_validation")
    )
    parser.add_argument("--device", default="cpu", help="where labels and figures are computed")
    parser.add_argument("--jobs", type=int, default=1, help="models side by side")
    parser.add_argument(
        "--config", action="append", default=[], help="further YAML of the training"
    )
    parser.add_argument(
        "--real-episodes", type=int, default=0, help="of every cloned policy; 0: clone none"
    )
    parser.add_argument("--real-seed", type=int, default=400000, help="of the first of them")
    options = parser.parse_args()
    free = ("out", "shares", "ways", "device", "jobs", "real_episodes")
    decisive = {name: value for name, value in vars(options).items() if name not in free}
    keep_apart(options.out, decisive)
    shares = [(share,) for share in options.shares]
    rows = [(share, way) for share in options.shares for way in options.ways]
    for data in (options.data, options.videos, options.validation):
        encode(data, options)  # before several trainings want to do it at once
    for stage, work in (
        (train_reader, shares),
        (label_all, shares if "pseudo" in options.ways else []),
        (train_world_model, rows),
        (clone, rows),
    ):
        side_by_side((partial(stage, options, *which) for which in work), options.jobs)
    figures = [row(options, *which) for which in rows]
    result = {
        "steps": options.steps,
        "idm_steps": options.idm_steps,
        "seed": options.seed,
        "split": options.split,
        "real_episodes": options.real_episodes,
        "real_seed": options.real_seed,
        "rows": figures,
    }
    write_json(options.out / "table.json", result)
    print(table(figures), file=sys.stderr)
    print(json.dumps(result))


def train_reader(options: argparse.Namespace, share: float) -> None:
    """Inverse dynamics models that saw a share of the labels, and the other episodes bare."""
    folder = folder_of(options, share, "idm")
    result = folder / f"{options.split}.json"
    model = folder / "model"
    if options.readers == 1:
        train_member(options, share, folder, options.seed)
    elif not model.exists():
        members = [folder / f"member_{number}" for number in range(options.readers)]
        for number, member in enumerate(members):
            train_member(options, share, member, options.seed + number)
        paths = [str(member / "model") for member in members]
        python("inverse_dynamics", "ensemble", json.dumps(paths), model)
    if not result.exists():
        python("inverse_dynamics", "calibrate", model, options.validation, "--split", "validation")
        arguments = ("--split", options.split, "--out", result, "--device", options.device)
        python("inverse_dynamics", "evaluate", model, options.data, *arguments)


def train_member(options: argparse.Namespace, share: float, folder: Path, seed: int) -> None:
    """One of the models; the labels are the same for all of them."""
    if (folder / "model").exists():
        return
    data, steps = str(options.data), options.idm_steps
    changes: dict[str, Any] = {"seed": seed}
    sources = [{"path": data, "labels": share, "drop_unlabelled": True}]
    if share < 1:
        sources.append({"path": data, "action_free": True})
        steps //= 2  # few labels are soon known by heart
        changes |= {"sizes": {"redraw": REDRAW}, "optimization": {"shift": SHIFT}}
    train("configs/idm.yaml", folder, sources, steps, options, changes)


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


def encode(data: Path, options: argparse.Namespace) -> None:
    """Latents for the world models; nothing to do where they are."""
    python("video", "encode", data, AUTOENCODER, "--device", options.device)


def train_world_model(options: argparse.Namespace, share: float, way: str) -> None:
    """A world model trained in one of the ways."""
    folder = folder_of(options, share, way)
    result = folder / f"{options.split}.json"
    if not (folder / "model").exists():
        clips = mixture(options, share, way)
        batch = {"batch_size": sum(source["weight"] for source in clips)}
        # the robot's state would tell of the actions that are not to be seen
        actions_alone = {"robot_state": False}
        train("configs/uwm.yaml", folder, clips, options.steps, options, actions_alone, batch)
    if not result.exists():
        arguments = ("--split", options.split, "--out", result, "--device", options.device)
        python("worldmodel", "evaluate", folder / "model", options.data, *arguments)


def mixture(options: argparse.Namespace, share: float, way: str) -> list[dict[str, Any]]:
    """Where a batch's clips come from; the weights are how many from where.

    Clips without actions teach nothing of what actions do: however many there are, they come on
    top, or the model learns to do without.
    """
    recorded = {"path": str(options.data), "labels": share, "drop_unlabelled": True}
    hidden = {"path": str(options.data), "action_free": True, "weight": HIDDEN_CLIPS}
    bare = {"path": str(options.videos), "weight": VIDEO_CLIPS}
    if way == "labels":
        return [recorded | {"weight": LABELLED_CLIPS}]
    if way == "video":
        others = [hidden, bare] if share < 1 else [bare]
        return [recorded | {"weight": LABELLED_CLIPS}, *others]
    data, videos = (str(folder_of(options, share, f"pseudo_{name}")) for name in ("data", "videos"))
    count = LABELLED_CLIPS - VIDEO_CLIPS
    of_data = [recorded | {"weight": count}]
    if share < 1:
        read = {"path": data, "weight": count - RECORDED_CLIPS}
        of_data = [recorded | {"weight": RECORDED_CLIPS}, read]
    return [*of_data, {"path": videos, "weight": VIDEO_CLIPS}]


def clone(options: argparse.Namespace, share: float, way: str) -> None:
    """A policy that is cloned from the data of a world model, and its real success."""
    folder = folder_of(options, share, way)
    result = folder / "policy.json"
    shown = share * DEMONSTRATIONS["episodes"]
    if not options.real_episodes or way == "video" or (way == "labels" and shown < 1):
        return
    if not result.exists():
        source: dict[str, Any] = {"path": str(options.data), "labels": share}
        if way == "pseudo":
            source = {"path": str(folder_of(options, share, "pseudo_data"))}
        train(
            "configs/behaviour_cloning.yaml",
            folder / "cloning",
            [source | DEMONSTRATIONS],
            CLONING_STEPS,
            options,
            {"observations": ["latents"]},
        )
        python(
            *("policy", "evaluate", folder / "cloning" / "policy"),
            *("--config", "configs/evaluate.yaml", "--real.init_args.state", "false"),
            *("--imagined", "null", "--out", result),
            *("--episodes", options.real_episodes, "--seed", options.real_seed),
        )


def train(
    config: str,
    folder: Path,
    sources: list[dict],
    steps: int,
    options: argparse.Namespace,
    model: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
) -> None:
    """Train by a configuration of the project on other data."""
    fit(
        folder,
        [config, *options.config],
        {"seed": options.seed} | (model or {}),
        {
            "datasets": [*sources, {"path": str(options.validation), "split": None}],
            "seed": options.seed,
            **(data or {}),
        },
        {"max_steps": steps, "callbacks": None},
        options.seed,
    )


def row(options: argparse.Namespace, share: float, way: str) -> dict[str, Any]:
    """The figures of one way."""
    figures = read(folder_of(options, share, way) / f"{options.split}.json")
    reader = read(folder_of(options, share, "idm") / f"{options.split}.json")
    policy = folder_of(options, share, way) / "policy.json"
    return {
        "share": share,
        "way": way,
        "idm_r2": reader["mean_r2_translation"],
        "psnr": figures["psnr"][HORIZON],
        "action_following_ratio": figures["action_following_ratio"][HORIZON],
        "real_success": read(policy)["real"]["success"] if policy.exists() else None,
    }


def folder_of(options: argparse.Namespace, share: float, name: str) -> Path:
    """Where a stage of a share of the labels has its files."""
    return options.out / f"{share:g}" / name


def read(path: Path) -> dict[str, Any]:
    """A JSON file."""
    return json.loads(path.read_text())


def table(rows: list[dict]) -> str:
    """The figures as text for a terminal."""
    lines = [
        f"{'labels':>7} {'way':<8}{'PSNR':>8}{'ratio':>8}{'IDM R2':>8}{'success':>9}"
        f"   (horizon {HORIZON})"
    ]
    for row in rows:
        success = "-" if row["real_success"] is None else f"{row['real_success']:.0%}"
        lines.append(
            f"{row['share']:>7.0%} {row['way']:<8}{row['psnr']:>8.2f}"
            f"{row['action_following_ratio']:>8.2f}{row['idm_r2']:>8.2f}{success:>9}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
