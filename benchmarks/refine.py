"""From nothing to a policy that was refined inside a learned model, and how good it really is.

    python benchmarks/refine.py --size cpu --seeds 0 1 2 --out runs/refine_cpu

    record       the expert, its near misses and play, in every task of the size
    autoencoder  frames to latents
    clone        weak policies from few demonstrations, for every seed
    rollouts     what they do, with and without noise: failures of the kind to be judged
    world_model  on both recordings
    heads        reward, success, state and uncertainty, on both
    refine       the clones, by PPO inside the frozen world model, behind the gate
                 (these four again in every further round: what the refined policies really do, a
                 world model that goes on with that from the last one, and the clones refined in it)
    evaluate     the policies before, halfway through and after, on the same episodes, imagined and
                 real
    simulator    the same PPO in the simulator: what does the gain cost there?
    compare      imagined with real success over all policies of the last round

Every stage is made of the project's public commands and leaves files in a folder of its own; what
is there is not done again, so a stopped benchmark goes on, and `--only` can spread it over
machines. `OUT/results` gets curves, videos and a result.json, which is also the last line printed.

Seeds of episodes, none of which is in two of these: the recording's own from 0 on, validation from
200000, rollouts of the clones from 600000, of the refined policies from 640000, from 680000 and so
on, the exploitation curve's from 800000, the gate's from 900000, evaluation from 500000, used for
nothing else.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from public_commands import fit, keep_apart, python, write
from refine_layout import (
    BEFORE,
    COMPARED,
    COMPARED_SNAPSHOTS,
    DEMONSTRATIONS,
    SAMPLER_STEPS,
    SIMULATOR,
    SIZES,
    TIMES,
    Run,
    by_round,
)
from refine_results import summary, table

VALIDATION_SEED, EVALUATION_SEED = 200000, 500000
ROLLOUT_SEED, BETWEEN_ROUNDS = 600000, 40000
ROUNDS = range(1, 6)
"""As many as have seeds of their own."""
VALIDATION_SHARE, CLONES_SHARE = 1 / 9, 1 / 4
"""Episodes that are kept from training, over those that are not; of the clones' rollouts, twice."""
EXPERTS = {"policy": ["Expert()", "Expert(noise=0.3)"]}
"""Whose successful episodes are demonstrations."""
FURTHER_RATE = 0.7
"""Learning rates of a world model that goes on, over those that the first one began with."""
HEAD_SIZES = {"maps": 32, "success_channels": 32}
"""Of what looks at every frame by itself: a button is small."""
HEAD_ROLLOUTS = {"prefix": 0.0, "sampler_steps": [SAMPLER_STEPS], "sampler_shares": [1.0]}
"""What heads learn from: what the environments here ask for, whole blocks by so many steps."""
GAUSSIAN = {"init_args": {"correlation": 0.8}}
"""The actor, and how much alike is what it tries out within a chunk of actions."""


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
        "--demonstrations",
        type=int,
        choices=DEMONSTRATIONS,
        default=DEMONSTRATIONS[0],
        help="of each task, which the policies that are refined were cloned from",
    )
    parser.add_argument(
        "--ablation", action="store_true", help="refine with and without anchor and penalty, too"
    )
    parser.add_argument("--rounds", type=int, choices=ROUNDS, help="by default those of the size")
    parser.add_argument(
        "--jobs", type=int, default=3, help="policies side by side, which share the cores"
    )
    parser.add_argument(
        "--simulator-iterations",
        type=int,
        default=0,
        help="of the same PPO in the simulator, from the first seed's clone; 0: leave it out",
    )
    options = parser.parse_args()
    rounds = options.rounds or SIZES[options.size].rounds
    run = Run(
        options.size,
        options.out,
        options.seeds,
        options.demonstrations,
        options.ablation,
        options.simulator_iterations,
        options.jobs,
        rounds,
    )
    keep_apart(options.out, {"size": options.size})
    for number, name in in_order(options.only, rounds):
        run.round = number
        began = time.monotonic()
        try:
            STAGES[name](run)
        finally:  # what a stopped stage has done is not done again
            count_time(run.out / TIMES, run.of_round(name), time.monotonic() - began)
    if "compare" in options.only:
        result = {"size": options.size}
        result |= summary(run)
        (run.results / run.start / "result.json").write_text(json.dumps(result, indent=2) + "\n")
        print(table(result), file=sys.stderr)
        print(json.dumps(result))


def in_order(chosen: list[str], rounds: int) -> Iterator[tuple[int, str]]:
    """Stages and the round of each: those that are made once come before or after all rounds."""
    names = list(STAGES)
    begin = names.index(REPEATED[0])
    end = begin + len(REPEATED)
    every = [(1, name) for name in names[:begin]]
    every += [(number, name) for number in range(1, rounds + 1) for name in REPEATED]
    every += [(rounds, name) for name in names[end:]]
    return ((number, name) for number, name in every if name in chosen)


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
        data = {"datasets": run.datasets()}
        trainer = training(run.size.autoencoder)
        fit(run.autoencoder.parent, ["configs/autoencoder.yaml"], {}, data, trainer)


def clone_all(run: Run) -> None:
    """Clone policies that fail now and then, each in its own way."""
    run.side_by_side(
        partial(clone, run, folder, demonstrations, seed)
        for folder, demonstrations, seed in run.clones()
    )


def record_rollouts(run: Run) -> None:
    """Record what the clones do, or what the policies do that the last round refined."""
    count, kept = run.size.rollouts, CLONES_SHARE
    if run.round > 1:
        count, kept = run.size.further_rollouts, VALIDATION_SHARE
    held_out = scaled(count, kept)  # to fit the threshold of success to, and for the gate
    episodes = {"train": count, "validation": held_out, "test": held_out}
    sources = []
    for label, folder, noises in run.rolled_out():
        for noise in noises:
            arguments = {"path": str(folder / "policy"), "autoencoder": str(run.autoencoder)}
            policy = {
                "class_path": "policy.recording.SavedPolicy",
                "init_args": arguments | {"noise": noise},
            }
            source = {"policy": policy, "episodes": episodes, "label": f"{label}, noise {noise:g}"}
            sources.append(source)
    seed = ROLLOUT_SEED + BETWEEN_ROUNDS * (run.round - 1)
    record_into(run, run.rollouts[0], sources, seed)


def train_world_model(run: Run) -> None:
    """Learn from all recordings what actions lead to; in a further round, more of it."""
    if run.world_model.exists():
        return
    report = callback("worldmodel.report.RolloutReport", data=str(run.data("mix")))
    objective = {"late_start": 0.0}  # all episodes here begin at a first frame
    model: dict[str, Any] = {"objective": objective, "architecture": {"first_frame": True}}
    if run.round > 1:
        last = str(run.world_model_of(run.round - 1))
        model |= {"start_from": last, "optimization": further_rates(run)}
    fit(
        run.world_model.parent,
        ["configs/uwm.yaml", "configs/uwm/environment.yaml", *run.size.overlays],
        model,
        {"datasets": run.datasets(rollouts=True), "autoencoder": str(run.autoencoder)},
        training(by_round(run.size.world_model, run.round)) | {"callbacks": [report]},
    )


def further_rates(run: Run) -> dict[str, float]:
    """Learning rates of a world model that goes on from another one."""
    config = yaml.safe_load((run.world_model_of(1).parent / "config.yaml").read_text())
    optimization = config["model"]["init_args"]["optimization"]
    rates = {name: optimization[name] for name in ("learning_rate", "matrix_learning_rate")}
    return {name: FURTHER_RATE * rate for name, rate in rates.items() if rate is not None}


def train_heads(run: Run) -> None:
    """Learn from all recordings to judge what the world model imagines."""
    folder = run.out / run.of_round("heads")
    if not (folder / "heads.json").exists():  # which comes last, behind the threshold
        place = {"world_model": str(run.world_model)}
        data = str(run.data("mix"))
        report = callback("worldmodel.heads_report.HeadsReport", **place, data=data)
        model = place | {"sizes": HEAD_SIZES, "rollouts": HEAD_ROLLOUTS}
        fit(
            folder,
            ["configs/reward.yaml"],
            model,
            {"datasets": run.datasets(rollouts=True), "autoencoder": str(run.autoencoder)},
            training(by_round(run.size.heads, run.round)) | {"callbacks": [report]},
        )


def refine(run: Run) -> None:
    """Refine every clone inside the frozen world model, if that is the last one there is."""
    if run.round < run.rounds and run.world_model_of(run.round + 1).exists():
        return  # it has seen what came of this, be it of other clones
    real = run.environments()["real"]
    frozen = callback("policy.frozen.FrozenFolder", folder=str(run.world_model))
    gate = callback(
        "policy.gate.Gate",
        failures=[str(run.data(name)) for name in run.rollouts],
        real_environment=real,
        episodes=run.size.gate_episodes,
    )
    every = run.halfway(run.round)
    on_the_way = callback("policy.snapshots.Snapshots", every=every)
    if run.round == run.rounds:  # earlier rounds only find out what is wrong
        on_the_way = callback(
            "policy.exploitation.ExploitationCurve",
            real_environment=real,
            every=every,
            episodes=run.size.curve_episodes,
        )
    work = []
    for folder, seed in run.started():
        for name, options in {run.after: run.ppo, **run.ablations}.items():
            # the gate speaks of the clone, which is the same in all of them
            callbacks = [frozen, gate, on_the_way] if name == run.after else [frozen]
            inside = folder, name, seed, run.imagination(), options, callbacks
            work.append(partial(ppo, run, *inside, run.iterations(run.round)))
    run.side_by_side(work)


def refine_in_simulator(run: Run) -> None:
    """Refine the first seed's clone by the same PPO in the simulator, and look at it on the way."""
    if not run.simulator_iterations:
        return
    folder, seed = next(iter(run.started()))
    environment = run.environments()["real"]
    changes = {"num_envs": run.size.num_envs, "autoreset_mode": "same_step", "render_mode": None}
    environment["init_args"] |= changes
    callbacks = [callback("policy.snapshots.Snapshots", every=run.halfway(run.round))]
    ppo(run, folder, SIMULATOR, seed, environment, run.ppo, callbacks, run.simulator_iterations)
    for snapshot in sorted((folder / SIMULATOR / "snapshots").iterdir()):
        out = snapshot / "evaluation.json"
        if not out.exists():
            arguments = ("--config", evaluation(run), "--imagined", "null", "--out", out)
            python("policy", "evaluate", snapshot / "policy", *arguments)


def ppo(
    run: Run,
    folder: Path,
    name: str,
    seed: int,
    environment: dict[str, Any],
    options: dict[str, float],
    callbacks: list[dict[str, Any]],
    iterations: int,
    actor: dict[str, Any] | None = None,
) -> None:
    """Refine the clone in a folder, in an environment, with options of PPO; or an actor on it."""
    measured = name == run.after and run.round == run.rounds
    if not (folder / name / (COMPARED if measured else "policy")).exists():  # which comes last
        model = {
            "policy": str(folder / BEFORE / "policy"),
            "actor": actor,
            "environment": environment,
            "steps": run.recipe["length"] // 4,
            "ppo": options,
            "seed": seed,
        }
        if name != SIMULATOR:  # which has no stored start states
            model["curriculum"] = {"class_path": "policy.curriculum.Curriculum"}
        trainer = {"max_steps": iterations, "callbacks": callbacks}
        fit(folder / name, ["configs/refine.yaml"], model, {}, trainer, seed)


def evaluate(run: Run) -> None:
    """Play the same episodes with every policy of the last round, imagined and real."""
    config = evaluation(run)
    run.side_by_side(
        partial(evaluate_one, folder, results, episodes, config)
        for folder, results, episodes in run.evaluated()
    )


def evaluate_one(folder: Path, results: Path, episodes: int, config: Path) -> None:
    """Play the episodes with one policy, and gather what its run left."""
    out = results / "evaluation.json"
    if not out.exists():
        arguments = ("--config", config, "--episodes", episodes, "--out", out)
        python("policy", "evaluate", folder / "policy", *arguments)
    for name in ("refinement.png", "exploitation.png", "exploitation.csv"):
        if (folder / name).exists():
            shutil.copy(folder / name, results)


def compare(run: Run) -> None:
    """Set imagined against real success: of policies on the same episodes, and of snapshots."""
    most = max(episodes for *_, episodes in run.evaluated())
    played = [results for _, results, episodes in run.evaluated() if episodes == most]
    of_policies = [results / "evaluation.json" for results in played]
    on_the_way = run.out.glob(f"{run.start}/*/{run.after}/snapshots/*/evaluation.json")
    for name, found in ((COMPARED, of_policies), (COMPARED_SNAPSHOTS, on_the_way)):
        paths = sorted(found)
        home = run.results if name == COMPARED else run.out
        names = [short_name(path.parent.relative_to(home)) for path in paths]
        arguments = json.dumps([str(path) for path in paths]), "--names", json.dumps(names)
        python("policy", "compare", *arguments, "--out", run.results / run.start / name)


STAGES: dict[str, Callable[[Run], None]] = {
    "record": record,
    "autoencoder": train_autoencoder,
    "clone": clone_all,
    "rollouts": record_rollouts,
    "world_model": train_world_model,
    "heads": train_heads,
    "refine": refine,
    "evaluate": evaluate,
    "simulator": refine_in_simulator,
    "compare": compare,
}


REPEATED = ("rollouts", "world_model", "heads", "refine")
"""Stages of every round."""


def record_into(run: Run, name: str, sources: list[dict[str, Any]], seed: int) -> None:
    """Record a dataset; a finished one is left as it is, an unfinished one goes on."""
    folder = run.data(name)
    if not (folder / "meta" / "info.json").exists():
        config = folder.with_suffix(".yaml")
        write(config, run.recipe | {"out": str(folder), "sources": sources, "seed": seed})
        python("video", "record", "--config", config)


def clone(
    run: Run, folder: Path, demonstrations: int, seed: int, actor: dict[str, Any] = GAUSSIAN
) -> None:
    """Clone a policy from so many demonstrations of every task."""
    if not (folder / "policy").exists():
        expert = {"notes": EXPERTS, "successful": True}
        source, held_out = run.datasets()
        datasets = [source | expert | {"episodes": demonstrations}, held_out | expert]
        data = {"datasets": datasets, "autoencoder": str(run.autoencoder), "seed": seed}
        trainer = training(run.size.cloning)
        model = {"seed": seed, "actor": actor}
        fit(folder, ["configs/behaviour_cloning.yaml"], model, data, trainer, seed)


def evaluation(run: Run) -> Path:
    """The configuration of all evaluations."""
    config = run.out / "evaluate.yaml"
    episodes = run.size.episodes * len(run.recipe["env"])
    write(config, run.environments() | {"episodes": episodes, "seed": EVALUATION_SEED})
    return config


def callback(class_path: str, **init_args: Any) -> dict[str, Any]:
    """A callback as YAML describes it."""
    return {"class_path": class_path, "init_args": init_args}


def short_name(path: Path) -> str:
    """Of 2_demonstrations/seed_0/after/snapshots/000040: seed 0, after 40 (2 demonstrations)."""
    start, seed, *rest = (part.replace("_", " ") for part in path.parts)
    words = [part.lstrip("0") or "0" for part in rest if part != "snapshots"]
    return f"{seed}, {' '.join(words)} ({start})"


def training(steps: int) -> dict[str, Any]:
    """So many steps, validated at their end alone: that takes heads as long as ten steps."""
    return {
        "max_steps": steps,
        "val_check_interval": steps,
        "check_val_every_n_epoch": None,
        "num_sanity_val_steps": 0,
    }


def scaled(count: int, share: float) -> int:
    """A share of some episodes, at least one."""
    return max(1, round(share * count))


def count_time(path: Path, stage: str, seconds: float) -> None:
    """Add to the seconds that a stage took, over all calls."""
    times = json.loads(path.read_text()) if path.exists() else {}
    times[stage] = times.get(stage, 0.0) + seconds
    path.write_text(json.dumps(times, indent=2) + "\n")


if __name__ == "__main__":
    main()
