"""How large `refine.py` is in each size, and where in its folder everything lies."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

AFTER, BEFORE, SIMULATOR = "after", "before", "simulator"
TIMES = "times.json"
COMPARED, COMPARED_SNAPSHOTS = "comparison.json", "comparison_of_snapshots.json"

DEMONSTRATIONS = (2, 1)
"""Of each task, which policies are cloned from: a mediocre start, and a harder one."""
ROLLOUT_WEIGHT = 0.4
"""Share of every batch that shows what those policies do."""
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
        rollouts: recorded episodes of each cloned policy with each noise, in every task; a third
            as many are kept for the gate.
        episodes: of an evaluation, in every task.
        gate_episodes: of the gate, in all.
        curve_episodes: of every snapshot of a refinement, in all.
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
    refinement: int = 120
    rollouts: int = 6
    episodes: int = 100
    gate_episodes: int = 90
    curve_episodes: int = 60
    share: float = 0.6
    num_envs: int = 128
    device: str = "cpu"


SIZES = {
    "cpu": Size(),
    "gpu": Size(
        recording="configs/record_world4rl.yaml",
        overlays=("configs/size/small.yaml",),
        share=1.0,
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
        curve_episodes=6,
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
        demonstrations: of each task, which the ones that are refined were cloned from.
        ablation: whether they are refined in further ways.
        simulator_iterations: of the same PPO in the simulator.
        jobs: policies that are worked on side by side.
    """

    def __init__(
        self,
        size: str,
        out: Path,
        seeds: list[int],
        demonstrations: int,
        ablation: bool,
        simulator_iterations: int,
        jobs: int,
    ):
        self.size, self.out, self.seeds = SIZES[size], out, seeds
        self.simulator_iterations, self.jobs = simulator_iterations, jobs
        self.demonstrations = demonstrations
        self.start = f"{demonstrations}_demonstrations"
        self.ablations = ABLATIONS if ablation else {}
        self.recipe = yaml.safe_load(Path(self.size.recording).read_text())
        self.data = {name: out / "data" / name for name in ("mix", "validation", "rollouts")}
        self.autoencoder = out / "autoencoder" / "model"
        self.world_model = out / "uwm" / "model"
        self.results = out / "results"

    @property
    def every(self) -> int:
        """Iterations between two looks at a refinement."""
        return max(1, self.size.refinement // 3)

    def side_by_side(self, work: Iterable[Callable[[], None]]) -> None:
        """Do what does not depend on each other, several at once, each on its share of the cores.

        Small networks use one core better than two. All is done, or tried, before an error is told.
        """
        threads = os.environ.get("OMP_NUM_THREADS")
        if self.jobs > 1:
            os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // self.jobs))
        try:
            with ThreadPoolExecutor(self.jobs) as pool:
                running = [pool.submit(task) for task in work]
            for task in running:
                task.result()
        finally:
            os.environ.pop("OMP_NUM_THREADS", None)
            if threads is not None:
                os.environ["OMP_NUM_THREADS"] = threads

    def clones(self) -> Iterator[tuple[Path, int, int]]:
        """Folder, demonstrations and seed of every policy that is cloned."""
        for demonstrations in DEMONSTRATIONS:
            for seed in self.seeds:
                start = self.out / f"{demonstrations}_demonstrations"
                yield start / f"seed_{seed}" / BEFORE, demonstrations, seed

    def started(self) -> Iterator[tuple[Path, int]]:
        """Folder and seed of every policy that is refined."""
        for seed in self.seeds:
            yield self.out / self.start / f"seed_{seed}", seed

    def evaluated(self) -> Iterator[tuple[Path, Path]]:
        """Every run that leaves a policy from this start, and the folder of its evaluation."""
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
