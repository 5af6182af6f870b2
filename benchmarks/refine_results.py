"""What `refine.py` found: success before and after, imagined and real, over all seeds."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from policy.evaluate import IMAGINED, REAL
from policy.intervals import fixed_and_broken, wilson

BEFORE, AFTER = "before", "after"
TIMES = "times.json"


def summary(out: Path, start: str, seeds: list[int], ablations: list[str]) -> dict[str, Any]:
    """All figures: over the seeds together, by task, by seed, and what the world model is worth.

    Args:
        out: the benchmark's folder.
        start: what of its folders are the runs from the same start.
        seeds: of those runs.
        ablations: names of further refinements of each.
    """

    def evaluations(name: str) -> list[dict[str, Any]]:
        folders = [out / "results" / start / f"seed_{seed}" / name for seed in seeds]
        return [_read(folder / "evaluation.json") for folder in folders]

    before, after = evaluations(BEFORE), evaluations(AFTER)
    refined = [out / start / f"seed_{seed}" / AFTER for seed in seeds]
    each = zip(seeds, before, after, strict=True)
    tasks = sorted(before[0][REAL]["tasks"])
    compared = _read(out / "results" / "comparison.json")
    seconds = _read(out / TIMES)
    return {
        "start": start,
        "seeds": seeds,
        "evaluation_seed": before[0]["seed"],
        **figures(before, after),
        "tasks": {task: figures(before, after, task) for task in tasks},
        "by_seed": {str(seed): figures([was], [now]) for seed, was, now in each},
        "ablation": {name: figures(before, evaluations(name)) for name in ablations},
        "gate": [_read(folder / "gate.json") for folder in refined],
        "imagined_against_real": {
            "policies": len(compared["policies"]),
            "pearson": compared["all"]["pearson"],
            "spearman": compared["all"]["spearman"],
        },
        "imagined_steps_per_second": float(np.mean([_speed(folder) for folder in refined])),
        "wall_minutes": round(sum(seconds.values()) / 60, 2),
        "wall_minutes_by_stage": {name: round(value / 60, 2) for name, value in seconds.items()},
    }


def figures(
    before: list[dict[str, Any]], after: list[dict[str, Any]], task: str | None = None
) -> dict[str, Any]:
    """Success before and after, real and imagined, and what changed in the real episodes.

    Args:
        before: evaluations of the policies that were refined, one a seed.
        after: of the refined ones, on the same episodes.
        task: of this task only.
    """
    found: dict[str, Any] = {}
    successes = {}
    for when, evaluations in ((BEFORE, before), (AFTER, after)):
        for env in (REAL, IMAGINED):
            chosen = [
                episode["success"]
                for evaluation in evaluations
                for episode in evaluation[env]["each"]
                if task in (None, episode["task"])
            ]
            successes[env, when] = np.array(chosen, bool)
            found[f"{env}_success_{when}"] = sum(chosen) / len(chosen)
            found[f"{env}_interval_{when}"] = wilson(sum(chosen), len(chosen))
    fixed, broken = fixed_and_broken(successes[REAL, BEFORE], successes[REAL, AFTER])
    return found | {"fixed": fixed, "broken": broken, "episodes": len(successes[REAL, AFTER])}


def table(result: dict[str, Any]) -> str:
    """The figures as text for a terminal."""
    lines = [f"{'':<26}{'real':>16}{'imagined':>16}{'fixed':>7}{'broken':>8}{'episodes':>10}"]
    seeds = {f"seed {seed}": row for seed, row in result["by_seed"].items()}
    for name, row in {"all": result, **result["tasks"], **seeds, **result["ablation"]}.items():
        rates = "".join(
            f"{row[f'{env}_success_{BEFORE}']:>8.0%} ->{row[f'{env}_success_{AFTER}']:>5.0%}"
            for env in (REAL, IMAGINED)
        )
        counts = f"{row['fixed']:>7}{row['broken']:>8}{row['episodes']:>10}"
        lines.append(f"{name[:25]:<26}{rates}{counts}")
    lines.append(
        "Imagined steps/s: {imagined_steps_per_second:.0f}; minutes: {wall_minutes}, of which "
        "{wall_minutes_by_stage}".format(**result)
    )
    return "\n".join(lines)


def _speed(run: Path) -> float:
    """Imagined steps a second of a refinement, by its metrics."""
    rows = np.genfromtxt(run / "metrics.csv", delimiter=",", names=True)
    return float(np.nanmean(rows["steps_per_second"]))


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())
