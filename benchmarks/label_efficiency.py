"""What are action labels worth, and what is video worth that has none?

Trains world models on a share of the default dataset's labels in three ways:

    labels      the labelled episodes alone
    video       and all other video, action-free
    pseudo      and all other video, with the actions that an inverse dynamics model reads which
                was trained on the same labels

    python benchmarks/label_efficiency.py --out runs/label_efficiency [--shares 0.01 0.1 1]

Every stage is a public command in a folder of its own; one whose result is there is not done again,
so a stopped benchmark goes on. Writes table.json, prints a table and one JSON line.

With `--real-episodes 90` policies are cloned as well, and evaluated in the simulator: from ten
episodes a task in which an expert succeeds, seen by the camera alone. Which they are is taken as
known, whether their actions are or not. Video without actions is of no use for cloning, so that way
has no policy.
"""

import argparse
import json
import sys
from pathlib import Path

from public_commands import fit, python

WAYS = ("labels", "video", "pseudo")
HORIZON = "8"
VIDEO_WEIGHT = 0.1
"""Share of every batch of the recording that has no actions at all."""
HIDDEN_WEIGHT = 0.3
"""Likewise of the episodes whose labels are hidden."""
DEMONSTRATIONS = {"episodes": 10, "notes": {"policy": "Expert()"}, "successful": True}
"""What is cloned: so many episodes of each task, of which the share shows its actions."""
CLONING_STEPS = 1000


def main() -> None:
    """Run every stage that has no result yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/label_efficiency"))
    parser.add_argument("--shares", type=float, nargs="+", default=[0.01, 0.1, 1.0])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--steps", type=int, default=1500, help="of every world model")
    parser.add_argument(
        "--idm-steps", type=int, default=1200, help="of every inverse dynamics model"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the labels and of the training")
    parser.add_argument("--split", default="test", help="split of the data that is reported")
    parser.add_argument("--data", type=Path, default=Path("video/datasets/metaworld"))
    parser.add_argument("--videos", type=Path, default=Path("video/datasets/metaworld_videos"))
    parser.add_argument(
        "--validation", type=Path, default=Path("video/datasets/metaworld_validation")
    )
    parser.add_argument("--device", default="cpu", help="where labels and figures are computed")
    parser.add_argument(
        "--config", action="append", default=[], help="further YAML of the training"
    )
    parser.add_argument(
        "--real-episodes", type=int, default=0, help="of every cloned policy; 0: clone none"
    )
    parser.add_argument("--real-seed", type=int, default=400000, help="of the first of them")
    options = parser.parse_args()
    rows = []
    for share in options.shares:
        folder = options.out / f"{share:g}"
        reader = train_reader(folder / "idm", share, options)
        for way in options.ways:
            row = {"share": share, "way": way, "idm_r2": reader["mean_r2_translation"]}
            row |= train_world_model(folder / way, share, way, options)
            rows.append(row | {"real_success": clone(folder / way, share, way, options)})
    result = {
        "steps": options.steps,
        "idm_steps": options.idm_steps,
        "seed": options.seed,
        "split": options.split,
        "real_episodes": options.real_episodes,
        "real_seed": options.real_seed,
        "rows": rows,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "table.json").write_text(json.dumps(result, indent=2) + "\n")
    print(table(rows), file=sys.stderr)
    print(json.dumps(result))


def train_reader(folder: Path, share: float, options: argparse.Namespace) -> dict:
    """An inverse dynamics model that saw a share of the labels; its figures."""
    result = folder / "evaluation.json"
    if not result.exists():
        source = {"path": str(options.data), "labels": share, "drop_unlabelled": True}
        train("configs/idm.yaml", folder, [source], options.idm_steps, options)
        model = folder / "model"
        python("inverse_dynamics", "calibrate", model, options.validation, "--split", "validation")
        arguments = ("--split", options.split, "--out", result, "--device", options.device)
        python("inverse_dynamics", "evaluate", model, options.data, *arguments)
    return json.loads(result.read_text())


def train_world_model(folder: Path, share: float, way: str, options: argparse.Namespace) -> dict:
    """A world model trained in one of the ways; its figures at the horizon."""
    result = folder / "evaluation.json"
    if not result.exists():
        data, videos = str(options.data), str(options.videos)
        if way == "pseudo":
            data, videos = (str(folder.parent / f"pseudo_{name}") for name in ("data", "videos"))
            label(options.data, Path(data), share, options)
            label(options.videos, Path(videos), 1.0, options)
        sources = mixture(way, share, data, videos)
        train("configs/uwm.yaml", folder, sources, options.steps, options)
        arguments = ("--split", options.split, "--out", result, "--device", options.device)
        python("worldmodel", "evaluate", folder / "model", options.data, *arguments)
    figures = json.loads(result.read_text())
    return {
        "psnr": figures["psnr"][HORIZON],
        "action_following_ratio": figures["action_following_ratio"][HORIZON],
    }


def mixture(way: str, share: float, data: str, videos: str) -> list[dict]:
    """Sources and their shares of every batch.

    Clips without actions teach nothing of what actions do. However many there are, labelled ones
    keep most of the batch, or the model learns to do without.
    """
    bare = {"path": videos, "weight": VIDEO_WEIGHT}
    if way == "pseudo":
        return [{"path": data, "weight": 1 - VIDEO_WEIGHT}, bare]
    labelled = {"path": data, "labels": share, "drop_unlabelled": True}
    if way == "labels":
        return [labelled]
    hidden = HIDDEN_WEIGHT if share < 1 else 0.0
    sources = [labelled | {"weight": 1 - VIDEO_WEIGHT - hidden}]
    if hidden:
        sources.append({"path": data, "action_free": True, "weight": hidden})
    return [*sources, bare]


def clone(folder: Path, share: float, way: str, options: argparse.Namespace) -> float | None:
    """Real success of a policy that is cloned from the data of a world model."""
    result = folder / "policy.json"
    if not options.real_episodes or way == "video":
        return None
    if not result.exists():
        source: dict = {"path": str(options.data), "labels": share}
        if way == "pseudo":
            source = {"path": str(folder.parent / "pseudo_data")}
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
    return json.loads(result.read_text())["real"]["success"]


def label(data: Path, out: Path, share: float, options: argparse.Namespace) -> None:
    """Read the actions that the share does not show; nothing to do where that is finished."""
    arguments = ("--labels", share, "--seed", options.seed, "--device", options.device)
    python("inverse_dynamics", "label", out.parent / "idm" / "model", data, out, *arguments)


def train(
    config: str,
    folder: Path,
    sources: list[dict],
    steps: int,
    options: argparse.Namespace,
    model: dict | None = None,
) -> None:
    """Train by a configuration of the project on other data."""
    fit(
        folder,
        [config, *options.config],
        {"seed": options.seed} | (model or {}),
        {
            "datasets": [*sources, {"path": str(options.validation), "split": None}],
            "seed": options.seed,
        },
        {"max_steps": steps, "callbacks": None},
        options.seed,
    )


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
