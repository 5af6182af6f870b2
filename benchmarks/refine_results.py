"""What `refine.py` found: success before and after, imagined and real, over all seeds."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from refine_layout import AFTER, BEFORE, COMPARED, COMPARED_SNAPSHOTS, SIMULATOR, TIMES, Run

from policy.compare import as_text
from policy.evaluate import IMAGINED, REAL, agreement_as_text
from policy.intervals import effective_trials, fixed_and_broken, wilson
from policy.truth import agreement


def summary(run: Run) -> dict[str, Any]:
    """All figures: over the seeds together, by task, by seed, and what the world model is worth."""

    def evaluations(name: str) -> list[dict[str, Any]]:
        folders = [run.results / run.start / f"seed_{seed}" / name for seed in run.seeds]
        return [_read(folder / "evaluation.json") for folder in folders]

    before, after = evaluations(run.before), evaluations(run.after)
    refined = [folder / run.after for folder, _ in run.started()]
    each = zip(run.seeds, before, after, strict=True)
    tasks = sorted(before[0][REAL]["tasks"])
    seconds = _read(run.out / TIMES)
    return {
        "start": run.start,
        "seeds": run.seeds,
        "evaluation_seed": before[0]["seed"],
        **figures(before, after),
        "tasks": {task: figures(before, after, task) for task in tasks},
        "by_seed": {str(seed): figures([was], [now]) for seed, was, now in each},
        "ablation": {name: figures(before, evaluations(name)) for name in run.ablations},
        "gate": [_read(folder / "gate.json") for folder in refined],
        "exploitation": exploitation(refined),
        "simulator": in_simulator(run),
        "imagined_against_real": truth(run.results / run.start / COMPARED),
        "snapshots_against_real": truth(run.results / run.start / COMPARED_SNAPSHOTS),
        "imagined_steps_per_second": float(np.mean([_speed(folder) for folder in refined])),
        "wall_minutes": round(sum(seconds.values()) / 60, 2),
        "wall_minutes_by_stage": {name: round(value / 60, 2) for name, value in seconds.items()},
    }


def truth(path: Path) -> dict[str, Any]:
    """How well imagined success foretold the real one."""
    compared = _read(path)
    return {"policies": len(compared["policies"]), **compared["all"]}


def exploitation(refined: list[Path]) -> list[dict[str, float]]:
    """Imagined and real success along the refinements, means over the seeds."""
    tables = [
        {row["step"]: row for row in _table(folder / "exploitation.csv")} for folder in refined
    ]
    steps = sorted(set.intersection(*(set(table) for table in tables)))
    names = ("step", "environment_steps", IMAGINED, REAL)
    return [
        {name: float(np.mean([table[step][name] for table in tables])) for name in names}
        for step in steps
    ]


def in_simulator(run: Run) -> list[dict[str, float]]:
    """Real success along a refinement in the simulator; nothing where there was none."""
    folder, _ = next(iter(run.started()))
    cost = run.size.num_envs * run.recipe["length"]
    return [
        {
            "step": int(snapshot.name),
            "environment_steps": cost * int(snapshot.name),
            REAL: _read(snapshot / "evaluation.json")[REAL]["success"],
        }
        for snapshot in sorted((folder / SIMULATOR).glob("snapshots/*"))
    ]


def figures(
    before: list[dict[str, Any]], after: list[dict[str, Any]], task: str | None = None
) -> dict[str, Any]:
    """Success before and after, real and imagined, how far the two agree, and what changed.

    Where fewer episodes were played after than before, those are the first of them. Intervals count
    episodes that several policies begin alike for as many as they are worth.

    Args:
        before: evaluations of the policies that were refined, one a seed.
        after: of the refined ones, on the same episodes.
        task: of this task only.
    """
    found: dict[str, Any] = {}
    successes = {}
    played = min(len(evaluation[REAL]["each"]) for evaluation in after)
    for when, evaluations in ((BEFORE, before), (AFTER, after)):
        for env in (REAL, IMAGINED):
            chosen = [
                [
                    (episode["seed"], episode["success"])
                    for episode in evaluation[env]["each"][:played]
                    if task in (None, episode["task"])
                ]
                for evaluation in evaluations
            ]
            every = np.array([success for one in chosen for _, success in one], bool)
            rate, trials = float(every.mean()), float(len(every))
            if len({tuple(seed for seed, _ in one) for one in chosen}) == 1:
                trials = effective_trials(every.reshape(len(chosen), -1))
            successes[env, when] = every
            found[f"{env}_success_{when}"] = rate
            found[f"{env}_interval_{when}"] = wilson(rate * trials, trials)
        found[f"agreement_{when}"] = agreement(successes[IMAGINED, when], successes[REAL, when])
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
    for name in ("imagined_against_real", "snapshots_against_real"):
        found = result[name]
        lines.append(
            f"{name}: Spearman {as_text(found['spearman'])} over {found['policies']} policies"
        )
    for when in (BEFORE, AFTER):
        lines.append(f"{when}: {agreement_as_text(result[f'agreement_{when}'])}")
    for name in ("exploitation", "simulator"):
        for row in result[name]:
            imagined = f", imagined {row[IMAGINED]:.0%}" if IMAGINED in row else ""
            lines.append(
                f"{name}, {row['environment_steps']:.0f} steps: real {row[REAL]:.0%}{imagined}"
            )
    lines.append(
        "Imagined steps/s: {imagined_steps_per_second:.0f}; minutes: {wall_minutes}, of which "
        "{wall_minutes_by_stage}".format(**result)
    )
    return "\n".join(lines)


def _speed(run: Path) -> float:
    """Imagined steps a second of a refinement, by its metrics."""
    return float(np.nanmean(_table(run / "metrics.csv")["steps_per_second"]))


def _table(path: Path) -> np.ndarray:
    return np.atleast_1d(np.genfromtxt(path, delimiter=",", names=True))


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())
