"""What are a residual actor and a steered noise worth to policies that are flows?

    python benchmarks/flow_refinement.py --refined runs/refine_cpu --out runs/flow_refinement

Goes on from a finished `benchmarks/refine.py`: clones a flow for every seed, from a few of its
recorded demonstrations, refines it inside the last frozen world model by a `ResidualActor` and by a
`SteeringActor`, and plays the same episodes with all of them, imagined and real.

Every stage is a public command whose result is kept, so a stopped benchmark goes on. Writes
result.json, prints a table and one JSON line. Episodes are of seeds from 750000 on, for every seed
of the policies its own, used for nothing else.
"""

import argparse
import json
import sys
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import refine
from public_commands import keep_apart, python, side_by_side, write
from refine_layout import BEFORE, Run
from refine_results import figures

from policy.evaluate import IMAGINED, REAL
from video.safe_files import write_json

FLOW = "policy.actors.flow.FlowActor"
ACTORS = {
    "residual": "policy.actors.residual.ResidualActor",
    "steering": "policy.actors.steering.SteeringActor",
}
EVALUATION_SEED, APART = 750000, 10000
EPISODES = 34
"""Of an evaluation, in every task."""


def main() -> None:
    """Run every stage that has no result yet, and print what came out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--refined", type=Path, default=Path("runs/refine_cpu"))
    parser.add_argument("--out", type=Path, default=Path("runs/flow_refinement"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the policies")
    parser.add_argument("--demonstrations", type=int, default=2, help="of each task")
    parser.add_argument("--actors", choices=ACTORS, nargs="+", default=list(ACTORS))
    parser.add_argument("--iterations", type=int, default=30, help="of PPO")
    parser.add_argument("--jobs", type=int, default=3, help="policies side by side")
    options = parser.parse_args()
    run = last_round(parser, options.refined)
    free = ("out", "seeds", "actors", "jobs")
    keep_apart(options.out, {k: v for k, v in vars(options).items() if k not in free})
    names = [BEFORE, *options.actors]
    for stage, work in (
        (clone, product(options.seeds)),
        (refine_by, product(options.seeds, options.actors)),
        (evaluate, product(options.seeds, names)),
    ):
        side_by_side((partial(stage, run, options, *which) for which in work), options.jobs)
    result = {"demonstrations": options.demonstrations, "iterations": options.iterations}
    result |= {"seeds": options.seeds, "evaluation_seed": EVALUATION_SEED}
    result["actors"] = {name: compared(options, name) for name in options.actors}
    write_json(options.out / "result.json", result)
    print(table(result), file=sys.stderr)
    print(json.dumps(result))


def last_round(parser: argparse.ArgumentParser, folder: Path) -> Run:
    """What `refine.py` left there, in the last round whose heads are finished."""
    path = folder / "options.json"
    if not path.is_file():
        parser.error(f"{path} is no file: --refined wants the folder of a finished refine.py")
    run = Run(json.loads(path.read_text())["size"], folder, [], 2, False, 0, 1, 1)
    rounds = range(1, run.size.rounds + 1)
    finished = [n for n in rounds if (folder / run.of_round("heads", n) / "heads.json").exists()]
    if not finished:
        parser.error(f"{folder} has no finished heads yet: let refine.py run to its end first")
    run.round = run.rounds = finished[-1]
    return run


def clone(run: Run, options: argparse.Namespace, seed: int) -> None:
    """Clone a flow from few demonstrations."""
    folder = policy_folder(options, seed, BEFORE)
    refine.clone(run, folder, options.demonstrations, seed, {"class_path": FLOW, "init_args": {}})


def refine_by(run: Run, options: argparse.Namespace, seed: int, name: str) -> None:
    """Refine the flow by one of the actors that stand in for it."""
    folder = policy_folder(options, seed, name).parent
    frozen = refine.callback("policy.frozen.FrozenFolder", folder=str(run.world_model))
    actor = {"class_path": ACTORS[name]}
    environment, iterations = run.imagination(), options.iterations
    refine.ppo(run, folder, name, seed, environment, run.ppo, [frozen], iterations, actor)


def evaluate(run: Run, options: argparse.Namespace, seed: int, name: str) -> None:
    """Play this seed's episodes, imagined and real."""
    folder = policy_folder(options, seed, name)
    out = folder / "evaluation.json"
    if not out.exists():
        config = folder / "evaluate.yaml"
        first = EVALUATION_SEED + APART * seed
        write(config, run.environments() | {"episodes": EPISODES * len(run.recipe["env"])})
        python(
            *("policy", "evaluate", folder / "policy", "--config", config),
            *("--seed", first, "--out", out),
        )


def compared(options: argparse.Namespace, name: str) -> dict[str, Any]:
    """Success before and after, over the seeds, by task, and by seed."""
    before, after = (
        [json.loads((folder / "evaluation.json").read_text()) for folder in folders]
        for folders in (
            [policy_folder(options, seed, which) for seed in options.seeds]
            for which in (BEFORE, name)
        )
    )
    each = zip(options.seeds, before, after, strict=True)
    return {
        **figures(before, after),
        "tasks": {task: figures(before, after, task) for task in sorted(before[0][REAL]["tasks"])},
        "by_seed": {str(seed): figures([was], [now]) for seed, was, now in each},
    }


def policy_folder(options: argparse.Namespace, seed: int, name: str) -> Path:
    """Where a policy has its files."""
    return options.out / f"seed_{seed}" / name


def table(result: dict[str, Any]) -> str:
    """The figures as text for a terminal."""
    lines = [f"{'':<34}{'real':>16}{'imagined':>16}{'fixed':>7}{'broken':>8}{'episodes':>10}"]
    for actor, found in result["actors"].items():
        rows = {"all": found, **found["tasks"]}
        rows |= {f"seed {seed}": row for seed, row in found["by_seed"].items()}
        for name, row in rows.items():
            rates = "".join(
                f"{row[f'{env}_success_before']:>8.0%} ->{row[f'{env}_success_after']:>5.0%}"
                for env in (REAL, IMAGINED)
            )
            counts = f"{row['fixed']:>7}{row['broken']:>8}{row['episodes']:>10}"
            lines.append(f"{actor + ', ' + name:<34}{rates}{counts}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
