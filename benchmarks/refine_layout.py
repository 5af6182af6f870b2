"""How large `refine.py` is in each size, and where in its folder everything lies."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from public_commands import side_by_side

from video.precision import is_bfloat16_fast

Number = TypeVar("Number", int, float)

AFTER, BEFORE, HALFWAY, SIMULATOR = "after", "before", "halfway", "simulator"
TIMES = "times.json"
COMPARED, COMPARED_SNAPSHOTS = "comparison.json", "comparison_of_snapshots.json"

DEMONSTRATIONS = (2, 1)
"""Of each task, which policies are cloned from: a mediocre start, and a harder one."""
CLONES_NOISE, HALFWAY_NOISE, REFINED_NOISE = (0.0, 0.3), (0.0,), (0.0, 0.15)
"""Standard deviations of the noise on the actions of policies that are recorded."""
CLONES_WEIGHT, NEWEST_WEIGHT, OLDER_WEIGHT = 0.4, 0.35, 0.25
"""Shares of every batch: of the clones' rollouts in the first round, then of the newest ones and of
all older ones together."""
SAMPLER_STEPS = 1
"""Of the imagined environments: the mean of what may happen, in half the time of a draw."""
ANCHOR, PENALTY = 0.05, 0.1
"""Weights of the anchor and of the uncertainty penalty, where there is one."""
ANCHORS = (ANCHOR, ANCHOR, 0.0)
"""By round; the last number holds for further ones, too. While a world model is easily beaten, the
anchor keeps a policy near to what it knows; in one that is not, it only holds it back."""
ABLATIONS = {
    "both": {"anchor_weight": ANCHOR, "uncertainty_penalty": PENALTY},
    "no_anchor": {"anchor_weight": 0.0, "uncertainty_penalty": PENALTY},
    "no_penalty": {"anchor_weight": ANCHOR, "uncertainty_penalty": 0.0},
    "neither": {"anchor_weight": 0.0, "uncertainty_penalty": 0.0},
}
"""Options of PPO; those of the round are not tried a second time."""


@dataclass(frozen=True)
class Size:
    """What a size consists of.

    Attributes:
        recording: configuration of the recording, which names the tasks.
        overlays: further configurations of the world model.
        autoencoder, cloning: steps of each training.
        world_model: steps by round; a further round goes on from the last one's model. Here and
            below, the last number holds for further rounds, too.
        heads: steps by round, each time from new weights.
        refinement: iterations of PPO by round. Rounds before the last one only find out what is
            wrong with their world model.
        starts: demonstrations of further clones whose rollouts the world model sees, beside those
            of the ones that are refined.
        rollouts: recorded episodes of each cloned policy with each noise, in every task; a quarter
            as many are kept to validate on, and as many for the gate.
        further_rollouts: likewise of each refined policy, and of what it was halfway; of these a
            ninth is kept, twice.
        episodes: of an evaluation, in every task.
        ablation_episodes: likewise, of a policy that is refined in a further way.
        gate_episodes: of the gate, in all.
        curve_episodes: of every snapshot of a refinement, in all.
        share: of the recording's episodes that is recorded.
        num_envs: imagined episodes side by side in a refinement.
        device: of the imagined environments.
        rounds: how often the policies are refined, each time in a model that knows more of them.
    """

    recording: str = "configs/record.yaml"
    overlays: tuple[str, ...] = ()
    autoencoder: int = 700
    world_model: tuple[int, ...] = (3600, 2000)
    heads: tuple[int, ...] = (40,)
    cloning: int = 100
    refinement: tuple[int, ...] = (16, 40)
    starts: tuple[int, ...] = ()
    rollouts: int = 8
    further_rollouts: int = 8
    episodes: int = 34
    ablation_episodes: int = 34
    gate_episodes: int = 45
    curve_episodes: int = 18
    share: float = 0.5
    num_envs: int = 128
    device: str = "cpu"
    rounds: int = 3


SIZES = {
    "cpu": Size(
        overlays=("configs/uwm/adamw.yaml",),
        autoencoder=500,
        world_model=(1800, 900, 900),
        heads=(16, 16, 24),
        refinement=(10, 20, 30),
    ),
    "cpu_long": Size(),
    "gpu": Size(
        recording="configs/record_world4rl.yaml",
        overlays=("configs/size/small.yaml",),
        autoencoder=2800,
        world_model=(12000, 6000),
        heads=(80,),
        cloning=600,
        starts=DEMONSTRATIONS,
        rollouts=6,
        further_rollouts=12,
        episodes=50,
        ablation_episodes=40,
        gate_episodes=90,
        curve_episodes=60,
        share=1.0,
        num_envs=512,
        device="cuda",
        rounds=2,
    ),
    "toy": Size(  # to see every stage run; its figures mean nothing
        autoencoder=30,
        world_model=(30, 10),
        heads=(4,),
        cloning=30,
        refinement=(2,),
        starts=DEMONSTRATIONS,
        rollouts=1,
        further_rollouts=1,
        episodes=2,
        ablation_episodes=1,
        gate_episodes=6,
        curve_episodes=6,
        share=0.25,
        num_envs=12,
        rounds=2,
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
        rounds: how many.

    Attributes:
        round: 1 refines the clones in a model that knows their rollouts. Every further one does so
            again, in one that knows what became of the policies that the last round refined.
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
        rounds: int,
    ):
        self.round, self.rounds = 1, rounds
        self.size, self.out, self.seeds = SIZES[size], out, seeds
        self.simulator_iterations, self.jobs = simulator_iterations, jobs
        self.demonstrations = demonstrations
        self.start = f"{demonstrations}_demonstrations"
        self.ablated = ablation
        self.recipe = yaml.safe_load(Path(self.size.recording).read_text())
        self.autoencoder = out / "autoencoder" / "model"
        self.results = out / "results"

    def data(self, name: str) -> Path:
        """Folder of a recording: `mix`, `validation`, or the `rollouts` of a round."""
        return self.out / "data" / name

    @property
    def rollouts(self) -> list[str]:
        """Names of the rollouts that are known in this round, the newest first."""
        return [self.of_round("rollouts", number) for number in range(self.round, 0, -1)]

    @property
    def world_model(self) -> Path:
        """The world model of this round."""
        return self.world_model_of(self.round)

    def world_model_of(self, number: int) -> Path:
        """The world model of a round."""
        return self.out / self.of_round("uwm", number) / "model"

    @property
    def before(self) -> str:
        """Name of the clones' evaluation in this round's world model."""
        return self.of_round(BEFORE)

    @property
    def after(self) -> str:
        """Name of this round's refinements."""
        return self.of_round(AFTER)

    @property
    def ppo(self) -> dict[str, float]:
        """Options of PPO in this round."""
        return {"anchor_weight": by_round(ANCHORS, self.round), "uncertainty_penalty": PENALTY}

    @property
    def ablations(self) -> dict[str, dict[str, float]]:
        """Further ways to refine in the last round, and the options of PPO in each."""
        if not self.ablated or self.round < self.rounds:
            return {}
        return {name: options for name, options in ABLATIONS.items() if options != self.ppo}

    def of_round(self, name: str, number: int | None = None) -> str:
        """What something is called in a round, by default in this one."""
        number = number or self.round
        return name if number == 1 else f"{name}_{number}"

    def iterations(self, number: int) -> int:
        """Of PPO in a round."""
        return by_round(self.size.refinement, number)

    def halfway(self, number: int) -> int:
        """Iterations between two looks at a round's refinements: one halfway, one at the end."""
        return -(-self.iterations(number) // 2)

    def halfway_refined(self, folder: Path, number: int) -> Path:
        """What a policy was halfway through a round's refinement, by the folder of its seed."""
        return folder / self.of_round(AFTER, number) / "snapshots" / f"{self.halfway(number):06d}"

    def side_by_side(self, work: Iterable[Callable[[], None]]) -> None:
        """Do what does not depend on each other, `jobs` at once."""
        side_by_side(work, self.jobs)

    def clones(self) -> Iterator[tuple[Path, int, int]]:
        """Folder, demonstrations and seed of every policy that is cloned."""
        for demonstrations in dict.fromkeys((*self.size.starts, self.demonstrations)):
            for seed in self.seeds:
                start = self.out / f"{demonstrations}_demonstrations"
                yield start / f"seed_{seed}" / BEFORE, demonstrations, seed

    def rolled_out(self) -> Iterator[tuple[str, Path, tuple[float, ...]]]:
        """Name, folder and noises of every policy whose rollouts this round begins with."""
        if self.round == 1:
            for folder, demonstrations, seed in self.clones():
                yield f"{demonstrations} demonstrations, seed {seed}", folder, CLONES_NOISE
        else:
            for folder, seed in self.started():
                last = self.round - 1
                halfway = self.halfway_refined(folder, last)
                yield f"halfway refined, seed {seed}", halfway, HALFWAY_NOISE
                yield f"refined, seed {seed}", folder / self.of_round(AFTER, last), REFINED_NOISE

    def started(self) -> Iterator[tuple[Path, int]]:
        """Folder and seed of every policy that is refined."""
        for seed in self.seeds:
            yield self.out / self.start / f"seed_{seed}", seed

    def evaluated(self) -> Iterator[tuple[Path, Path, int]]:
        """Folder, results and episodes of every policy of this round from this start."""
        tasks = len(self.recipe["env"])
        for folder, seed in self.started():
            results = self.results / self.start / f"seed_{seed}"
            halfway = self.halfway_refined(folder, self.round)
            yield folder / BEFORE, results / self.before, tasks * self.size.episodes
            yield halfway, results / self.of_round(HALFWAY), tasks * self.size.episodes
            yield folder / self.after, results / self.after, tasks * self.size.episodes
            for name in self.ablations:
                yield folder / name, results / name, tasks * self.size.ablation_episodes

    def datasets(self, rollouts: bool = False) -> list[dict[str, Any]]:
        """Recordings to train on, with or without rollouts, and the one to validate on."""
        weights = {"mix": 1.0}
        if rollouts:
            newest, *older = self.rollouts
            weights = {newest: NEWEST_WEIGHT if older else CLONES_WEIGHT}
            weights |= {name: OLDER_WEIGHT / len(older) for name in older}
            weights = {"mix": round(1 - sum(weights.values()), 6)} | weights
        trained_on = [
            {"path": str(self.data(name)), "weight": weight} for name, weight in weights.items()
        ]
        return [*trained_on, {"path": str(self.data("validation")), "split": None}]

    def imagination(self) -> dict[str, Any]:
        """The environment of a refinement in this round, over that of `configs/refine.yaml`."""
        device = self.size.device
        changes = {
            "checkpoint": str(self.world_model),
            "contexts": [str(self.data(name)) for name in ("mix", "rollouts")],
            "horizon": self.recipe["length"],
            "num_envs": self.size.num_envs,
            "steps": SAMPLER_STEPS,
            "device": device,
            "dtype": "bfloat16" if is_bfloat16_fast(device) else "float32",
        }
        return {"init_args": changes}

    def environments(self) -> dict[str, Any]:
        """The real and the imagined environment of the evaluation."""
        config = yaml.safe_load(Path("configs/evaluate.yaml").read_text())
        chosen = {name: config[name] for name in ("real", "imagined")}
        real, imagined = (environment["init_args"] for environment in chosen.values())
        real |= {"env": self.recipe["env"], "autoencoder": str(self.autoencoder)}
        imagined |= {"checkpoint": str(self.world_model), "device": self.size.device}
        imagined["steps"] = SAMPLER_STEPS
        real["num_envs"] = 2 * len(self.recipe["env"])  # of which each is always in the same task
        imagined["num_envs"] = self.size.episodes  # so that no batch is of fewer
        real["horizon"] = imagined["horizon"] = self.recipe["length"]
        return chosen


def by_round(values: Sequence[Number], number: int) -> Number:
    """What holds in a round, of values for the first ones; the last holds for further ones, too."""
    return values[min(number, len(values)) - 1]
