"""`python -m policy compare`: does imagined success foretell real success?

It reads what `evaluate` wrote for several policies: checkpoints of one, policies of several
demonstrations or noise levels, before and after a refinement.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from policy.described import name_of
from policy.evaluate import IMAGINED, REAL
from policy.scatter import write_scatter
from policy.truth import bootstrap, mean_rank_violation, pearson, spearman
from video.errors import DatasetError
from video.safe_files import write_json

STATISTICS = {
    "pearson": pearson,
    "spearman": spearman,
    "mean_rank_violation": mean_rank_violation,
}


def compare(
    evaluations: list[Path],
    names: list[str] | None = None,
    out: Path = Path("comparison.json"),
) -> dict[str, Any]:
    """Compare imagined with real success over several policies.

    Args:
        evaluations: files that `python -m policy evaluate` wrote, in both environments and with
            the same seeds; or folders that hold an evaluation.json.
        names: of the policies, for the picture; by default their folders' or files'.
        out: JSON file to write; a scatter plot lies beside it, as PNG.

    Returns:
        What the JSON file holds: `policies`, and for `all` episodes and each of `tasks` the
        correlations of Pearson and Spearman and the mean rank violation, each with the 95 %
        interval of drawing the episodes again.

    Raises:
        DatasetError: fewer than two evaluations, or some on different episodes.
    """
    read = [_read(path) for path in evaluations]
    names = names or [name_of(result["policy"]) for result in read]
    if len(read) < 2 or len(names) != len(read):
        raise DatasetError(
            f"{len(read)} evaluations and {len(names)} names: a comparison needs two policies or "
            "more, and six to say much"
        )
    seeds = [[episode["seed"] for episode in result[REAL]["each"]] for result in read]
    if any(s != seeds[0] for s in seeds):
        raise DatasetError(
            f"{', '.join(str(path) for path in evaluations)} were evaluated on different seeds. "
            "Evaluate all policies with the same --seed and --episodes."
        )
    tasks = [episode["task"] for episode in read[0][REAL]["each"]]
    for path, found in zip(evaluations, read, strict=True):
        if [episode["task"] for episode in found[REAL]["each"]] != tasks:
            raise DatasetError(
                f"{path} was evaluated on other tasks than {evaluations[0]}. Evaluate all policies "
                "in the same environments."
            )
    result: dict[str, Any] = {
        "policies": [
            {
                "name": name,
                **{
                    env: {k: r[env][k] for k in ("success", "interval")} for env in (IMAGINED, REAL)
                },
                "difference": r[IMAGINED]["success"] - r[REAL]["success"],
            }
            for name, r in zip(names, read, strict=True)
        ],
        "seed": seeds[0][0],
        "episodes": len(tasks),
        "all": _statistics(read, np.ones(len(tasks), bool)),
        "tasks": {
            task: _statistics(read, np.array([t == task for t in tasks]))
            for task in sorted(set(tasks))
            if task
        },
    }
    write_json(out, result)
    picture = out.with_suffix(".png")
    write_scatter(
        picture,
        [(p["name"], p[IMAGINED]["success"], p[REAL]["success"]) for p in result["policies"]],
        [(p[IMAGINED]["interval"], p[REAL]["interval"]) for p in result["policies"]],
    )
    print(table(result))
    print(f"wrote {out}")
    print(f"wrote {picture}")
    return result


def table(result: dict[str, Any]) -> str:
    """The figures as text for a terminal."""
    lines = [f"{'policy':<32}{'imagined':>9}{'real':>9}{'difference':>12}"]
    for policy in result["policies"]:
        lines.append(
            f"{policy['name'][:31]:<32}{policy[IMAGINED]['success']:>9.1%}"
            f"{policy[REAL]['success']:>9.1%}{policy['difference']:>+12.1%}"
        )
    lines.append("")
    lines.append(f"{'':<32}" + "".join(f"{name.replace('_', ' '):>26}" for name in STATISTICS))
    for title, figures in (("all", result["all"]), *result["tasks"].items()):
        cells = (as_text(figures[name]) for name in STATISTICS)
        lines.append(f"{title[:31]:<32}" + "".join(f"{cell:>26}" for cell in cells))
    lines.append(f"{result['episodes']} episodes from seed {result['seed']} on, 95 % intervals")
    return "\n".join(lines)


def as_text(figure: dict[str, Any]) -> str:
    """A statistic and its interval; policies that all succeed alike have none."""
    if figure["value"] is None:
        return "-"
    low, high = figure["interval"]
    return f"{figure['value']:.2f} ({low:.2f} to {high:.2f})"


def _statistics(read: Sequence[dict[str, Any]], mask: np.ndarray) -> dict[str, Any]:
    imagined, real = (
        np.array([[e["success"] for e in r[env]["each"]] for r in read], bool)[:, mask]
        for env in (IMAGINED, REAL)
    )
    found = {}
    for name, statistic in STATISTICS.items():
        value = statistic(imagined.mean(1), real.mean(1))
        known = not math.isnan(value)  # JSON has no such number
        found[name] = {
            "value": value if known else None,
            "interval": list(bootstrap(statistic, imagined, real)) if known else None,
        }
    return found


def _read(path: Path) -> dict[str, Any]:
    """One evaluation, in both environments."""
    path = Path(path)
    path = path / "evaluation.json" if path.is_dir() else path
    if not path.is_file():
        raise DatasetError(f"{path} does not exist. Write it by `python -m policy evaluate`.")
    try:
        result = json.loads(path.read_text())
    except ValueError as error:  # no JSON, or no text at all
        raise DatasetError(
            f"{path} is damaged ({error}). Write it again by `python -m policy evaluate`."
        ) from error
    missing = [env for env in (REAL, IMAGINED) if env not in result]
    if missing:
        raise DatasetError(
            f"{path} holds no {' and no '.join(missing)} episodes. Evaluate the policy in both "
            "environments: python -m policy evaluate POLICY --config configs/evaluate.yaml"
        )
    return result
