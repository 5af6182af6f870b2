"""From nothing to a policy that was refined inside a learned model, and how good it really is.

    python benchmarks/refine.py --size cpu --seeds 0 1 2 --out runs/refine_cpu

    record       the expert, its near misses and play, in every task of the size
    autoencoder  frames to latents
    weak         weak policies, cloned from few demonstrations
    rollouts     what they do, with and without noise: failures of the kind to be judged
    world_model  on both recordings
    heads        reward, success, state and uncertainty, on both
    clone        the policies to be refined, one for every seed
    refine       them, by PPO inside the frozen world model, behind the gate
    evaluate     all policies, imagined and real, before and after, on the same episodes
    compare      imagined with real success over all of them

Every stage is made of the project's public commands and leaves files in a folder of its own; what
is there is not done again, so a stopped benchmark goes on, and `--only` can spread it over
machines. `OUT/results` gets curves, videos and a result.json, which is also the last line printed.

Seeds of episodes, none of which is in two of these: the recording's own from 0 on, validation from
200000, rollouts of weak policies from 600000, the gate's from 900000, evaluation from 500000, which
are used for nothing else.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from refine_results import AFTER, BEFORE, TIMES, summary, table

VALIDATION_SEED, ROLLOUT_SEED, EVALUATION_SEED = 200000, 600000, 500000
VALIDATION_SHARE = 1 / 9
EXPERTS = {"policy": ["Expert()", "Expert(noise=0.3)"]}
"""Whose successful episodes are demonstrations."""
WEAK_DEMONSTRATIONS, WEAK_SEEDS = (1, 2, 3), (10, 11)
ROLLOUT_NOISE = (0.0, 0.3)
ROLLOUT_WEIGHT = 0.3
"""Share of every batch that shows what weak policies do."""
UNCERTAINTY_PENALTY = 0.1
ABLATIONS = {
    "no_anchor": {"anchor_weight": 0.0},
    "no_penalty": {"uncertainty_penalty": 0.0},
    "neither": {"anchor_weight": 0.0, "uncertainty_penalty": 0.0},
}


@dataclass(frozen=True)
class Size:
    """What a size consists of.

    Attributes:
        recording: configuration of the recording, which names the tasks.
        overlays: further configurations of the world model.
        autoencoder, world_model, heads, cloning, refinement: steps of each training.
        rollouts: recorded episodes of each weak policy with each noise, in every task.
        episodes: of an evaluation, in every task.
        gate_episodes: of the gate, in all.
        share: of the recording's episodes that is recorded.
        num_envs: imagined episodes side by side in a refinement.
        device: of the imagined environments.
    """

    recording: str = "configs/record.yaml"
    overlays: tuple[str, ...] = ()
    autoencoder: int = 2800
    world_model: int = 4200
    heads: int = 80
    cloning: int = 600
    refinement: int = 45
    rollouts: int = 4
    episodes: int = 100
    gate_episodes: int = 90
    share: float = 1.0
    num_envs: int = 128
    device: str = "cpu"


SIZES = {
    "cpu": Size(),
    "gpu": Size(
        recording="configs/record_world4rl.yaml",
        overlays=("configs/size/small.yaml",),
        world_model=12000,
        num_envs=512,
        device="cuda",
    ),
    "toy": Size(  # to see every stage run; its figures mean nothing
        autoencoder=30,
        world_model=30,
        heads=4,
        cloning=30,
        refinement=2,
        rollouts=1,
        episodes=2,
        gate_episodes=6,
        share=0.25,
        num_envs=12,
    ),
}


class Run:
    """A benchmark, and where in its folder everything lies.

    Args:
        size: by name.
        out: the folder.
        seeds: of the policies that are refined.
        demonstrations: of each task, which those are cloned from.
        ablation: whether they are refined in further ways.
    """

    def __init__(self, size: str, out: Path, seeds: list[int], demonstrations: int, ablation: bool):
        self.size, self.out, self.seeds = SIZES[size], out, seeds
        self.demonstrations = demonstrations
        self.start = f"{demonstrations}_demonstrations"
        self.ablations = ABLATIONS if ablation else {}
        self.recipe = yaml.safe_load(Path(self.size.recording).read_text())
        self.data = {name: out / "data" / name for name in ("mix", "validation", "rollouts")}
        self.autoencoder = out / "autoencoder" / "model"
        self.world_model = out / "uwm" / "model"
        self.results = out / "results"

    def weak(self) -> Iterator[tuple[Path, int, int]]:
        """Folder, demonstrations and seed of every weak policy."""
        for demonstrations in WEAK_DEMONSTRATIONS:
            for seed in WEAK_SEEDS:
                yield self.out / "weak" / f"{demonstrations}_seed_{seed}", demonstrations, seed

    def started(self) -> Iterator[tuple[Path, int]]:
        """Folder and seed of every policy that is refined."""
        for seed in self.seeds:
            yield self.out / self.start / f"seed_{seed}", seed

    def evaluated(self) -> Iterator[tuple[Path, Path]]:
        """Every run that leaves a policy, and the folder of its evaluation."""
        for folder, _, _ in self.weak():
            yield folder, self.results / "weak" / folder.name
        for folder, seed in self.started():
            for name in (BEFORE, AFTER, *self.ablations):
                yield folder / name, self.results / self.start / f"seed_{seed}" / name

    def datasets(self, *names: str) -> list[dict[str, Any]]:
        """Recordings to train on, and the one to validate on."""
        weights = {"mix": 1 - ROLLOUT_WEIGHT, "rollouts": ROLLOUT_WEIGHT}
        trained_on = [{"path": str(self.data[name]), "weight": weights[name]} for name in names]
        return [*trained_on, {"path": str(self.data["validation"]), "split": None}]

    def environments(self) -> dict[str, Any]:
        """The real and the imagined environment of the evaluation."""
        config = yaml.safe_load(Path("configs/evaluate.yaml").read_text())
        chosen = {name: config[name] for name in ("real", "imagined")}
        real, imagined = (environment["init_args"] for environment in chosen.values())
        real |= {"env": self.recipe["env"], "autoencoder": str(self.autoencoder)}
        imagined |= {"checkpoint": str(self.world_model), "device": self.size.device}
        real["horizon"] = imagined["horizon"] = self.recipe["length"]
        return chosen


def main() -> None:
    """Run every stage that has no result yet, and print what came out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="cpu")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the policies")
    parser.add_argument("--out", type=Path, default=Path("runs/refine_benchmark"))
    parser.add_argument("--only", choices=STAGES, nargs="+", default=list(STAGES), metavar="STAGE")
    parser.add_argument(
        "--demonstrations", type=int, default=3, help="of each task, to clone the policies from"
    )
    parser.add_argument(
        "--ablation", action="store_true", help="refine without anchor, penalty, and both, too"
    )
    options = parser.parse_args()
    run = Run(options.size, options.out, options.seeds, options.demonstrations, options.ablation)
    for name in options.only:
        began = time.monotonic()
        STAGES[name](run)
        count_time(run.out / TIMES, name, time.monotonic() - began)
    if "compare" in options.only:
        result = {"size": options.size}
        result |= summary(run.out, run.start, run.seeds, list(run.ablations))
        (run.results / run.start / "result.json").write_text(json.dumps(result, indent=2) + "\n")
        print(table(result), file=sys.stderr)
        print(json.dumps(result))


def record(run: Run) -> None:
    """Record the size's mix of policies, and a smaller one to validate on."""
    share = run.size.share
    mix, validation = [], []
    for source in run.recipe["sources"]:
        counts = {split: scaled(count, share) for split, count in source["episodes"].items()}
        mix.append(source | {"episodes": counts})
        held_out = scaled(source["episodes"]["train"], share * VALIDATION_SHARE)
        validation.append(source | {"episodes": {"validation": held_out}})
    record_into(run, "mix", mix, 0)
    record_into(run, "validation", validation, VALIDATION_SEED)


def train_autoencoder(run: Run) -> None:
    """Learn to turn frames into latents."""
    if not run.autoencoder.exists():
        data = {"datasets": run.datasets("mix")}
        trainer = training(run.size.autoencoder)
        fit(run.autoencoder.parent, ["configs/autoencoder.yaml"], {}, data, trainer)


def clone_weak(run: Run) -> None:
    """Clone policies that fail now and then, each in its own way."""
    for folder, demonstrations, seed in run.weak():
        clone(run, folder, demonstrations, seed)


def record_rollouts(run: Run) -> None:
    """Record what the weak policies do."""
    sources = []
    for folder, _, _ in run.weak():
        for noise in ROLLOUT_NOISE:
            arguments = {"path": str(folder / "policy"), "autoencoder": str(run.autoencoder)}
            policy = {
                "class_path": "policy.recording.SavedPolicy",
                "init_args": arguments | {"noise": noise},
            }
            label = f"{folder.name}, noise {noise:g}"
            sources.append({"policy": policy, "episodes": run.size.rollouts, "label": label})
    record_into(run, "rollouts", sources, ROLLOUT_SEED)


def train_world_model(run: Run) -> None:
    """Learn from both recordings what actions lead to."""
    if not run.world_model.exists():
        report = {
            "class_path": "worldmodel.report.RolloutReport",
            "init_args": {"data": str(run.data["mix"])},
        }
        fit(
            run.world_model.parent,
            ["configs/uwm.yaml", *run.size.overlays],
            {},
            {"datasets": run.datasets("mix", "rollouts"), "autoencoder": str(run.autoencoder)},
            training(run.size.world_model) | {"callbacks": [report]},
        )


def train_heads(run: Run) -> None:
    """Learn from both recordings to judge what the world model imagines."""
    if not (run.world_model / "heads").exists():
        model = {"world_model": str(run.world_model)}
        report = {
            "class_path": "worldmodel.heads_report.HeadsReport",
            "init_args": model | {"data": str(run.data["mix"])},
        }
        fit(
            run.out / "heads",
            ["configs/reward.yaml"],
            model,
            {"datasets": run.datasets("mix", "rollouts"), "autoencoder": str(run.autoencoder)},
            training(run.size.heads) | {"callbacks": [report]},
        )


def clone_starts(run: Run) -> None:
    """Clone the policies that will be refined."""
    for folder, seed in run.started():
        clone(run, folder / BEFORE, run.demonstrations, seed)


def refine(run: Run) -> None:
    """Refine every clone inside the frozen world model."""
    frozen = {
        "class_path": "policy.frozen.FrozenFolder",
        "init_args": {"folder": str(run.world_model)},
    }
    gate = {
        "class_path": "policy.gate.Gate",
        "init_args": {
            "failures": str(run.data["validation"]),
            "real_environment": run.environments()["real"],
            "episodes": run.size.gate_episodes,
        },
    }
    environment = {
        "checkpoint": str(run.world_model),
        "contexts": str(run.data["mix"]),
        "horizon": run.recipe["length"],
        "num_envs": run.size.num_envs,
        "device": run.size.device,
    }
    for folder, seed in run.started():
        for name, changes in {AFTER: {}, **run.ablations}.items():
            if (folder / name / "policy").exists():
                continue
            model = {
                "policy": str(folder / BEFORE / "policy"),
                "environment": {"init_args": environment},
                "steps": run.recipe["length"] // 4,
                "ppo": {"uncertainty_penalty": UNCERTAINTY_PENALTY} | changes,
                "seed": seed,
            }
            # the gate speaks of the clone, which is the same in all of them
            callbacks = [frozen, gate] if name == AFTER else [frozen]
            trainer = {"max_steps": run.size.refinement, "callbacks": callbacks}
            fit(folder / name, ["configs/refine.yaml"], model, None, trainer, seed)


def evaluate(run: Run) -> None:
    """Play the same episodes with every policy, imagined and real."""
    config = run.out / "evaluate.yaml"
    episodes = run.size.episodes * len(run.recipe["env"])
    write(config, run.environments() | {"episodes": episodes, "seed": EVALUATION_SEED})
    for folder, results in run.evaluated():
        out = results / "evaluation.json"
        if not out.exists():
            python("policy", "evaluate", folder / "policy", "--config", config, "--out", out)
        if (folder / "refinement.png").exists():
            shutil.copy(folder / "refinement.png", results)


def compare(run: Run) -> None:
    """Set imagined against real success, over all evaluations that are there."""
    found = sorted(run.results.glob("**/evaluation.json"))
    names = json.dumps([str(path.parent.relative_to(run.results)) for path in found])
    paths = json.dumps([str(path) for path in found])
    out = run.results / "comparison.json"
    python("policy", "compare", paths, "--names", names, "--out", out)


STAGES: dict[str, Callable[[Run], None]] = {
    "record": record,
    "autoencoder": train_autoencoder,
    "weak": clone_weak,
    "rollouts": record_rollouts,
    "world_model": train_world_model,
    "heads": train_heads,
    "clone": clone_starts,
    "refine": refine,
    "evaluate": evaluate,
    "compare": compare,
}


def record_into(run: Run, name: str, sources: list[dict[str, Any]], seed: int) -> None:
    """Record a dataset; a finished one is left as it is, an unfinished one goes on."""
    folder = run.data[name]
    if not (folder / "meta" / "info.json").exists():
        config = folder.with_suffix(".yaml")
        write(config, run.recipe | {"out": str(folder), "sources": sources, "seed": seed})
        python("video", "record", "--config", config)


def clone(run: Run, folder: Path, demonstrations: int, seed: int) -> None:
    """Clone a policy from so many demonstrations of every task."""
    if not (folder / "policy").exists():
        expert = {"notes": EXPERTS, "successful": True}
        source, held_out = run.datasets("mix")
        datasets = [source | expert | {"episodes": demonstrations}, held_out | expert]
        data = {"datasets": datasets, "autoencoder": str(run.autoencoder), "seed": seed}
        trainer = training(run.size.cloning)
        fit(folder, ["configs/behaviour_cloning.yaml"], {"seed": seed}, data, trainer, seed)


def training(steps: int) -> dict[str, Any]:
    """So many steps, validated a few times on the way."""
    return {
        "max_steps": steps,
        "val_check_interval": max(1, steps // 4),
        "check_val_every_n_epoch": None,
    }


def scaled(count: int, share: float) -> int:
    """A share of some episodes, at least one."""
    return max(1, round(share * count))


def fit(
    folder: Path,
    configs: list[str],
    model: dict[str, Any],
    data: dict[str, Any] | None,
    trainer: dict[str, Any],
    seed: int = 0,
) -> None:
    """Train by configurations of the project with changes; goes on with a stopped run.

    Args:
        folder: of the run.
        configs: later ones win.
        model: changes of the model's arguments.
        data: changes of the data's, if there are any.
        trainer: changes of the trainer's.
        seed: of the run.
    """
    changes: dict[str, Any] = {
        "seed_everything": seed,
        "trainer": trainer | {"default_root_dir": str(folder)},
    }
    changes |= {"model": {"init_args": model}} if model else {}
    changes |= {"data": {"init_args": data}} if data else {}
    overlay = folder / "changes.yaml"
    write(overlay, changes)
    words = [word for path in (*configs, overlay) for word in ("-c", path)]
    call(Path(sys.executable).with_name("lightning"), "fit", *words, "--ckpt_path", "last")


def python(package: str, *words: object) -> None:
    """One of the packages' own commands."""
    call(sys.executable, "-m", package, *words)


def call(*words: object) -> None:
    """Show a command and wait for it; what it prints goes to the error stream."""
    command = [str(word) for word in words]
    print("$", *command, file=sys.stderr, flush=True)
    subprocess.run(command, check=True, stdout=sys.stderr)


def write(path: Path, content: dict[str, Any]) -> None:
    """Write a YAML file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content))


def count_time(path: Path, stage: str, seconds: float) -> None:
    """Add to the seconds that a stage took, over all calls."""
    times = json.loads(path.read_text()) if path.exists() else {}
    times[stage] = times.get(stage, 0.0) + seconds
    path.write_text(json.dumps(times, indent=2) + "\n")


if __name__ == "__main__":
    main()
