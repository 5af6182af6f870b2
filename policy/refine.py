"""Refinement of a policy by PPO: `lightning fit -c configs/refine.yaml`.

A saved policy in, a refined one out. The environment is any `gymnasium.vector.VectorEnv`; which,
the YAML says. A step of the training is an iteration: collect a rollout, learn from it. What PPO
does is in `ppo.py`.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from gymnasium.vector import VectorEnv
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import nn
from torch.utils.data import DataLoader, Sampler

from policy.actors.actor import ActorNetwork, StochasticActor
from policy.critic import critic_beside
from policy.curriculum import Curriculum
from policy.model import Policy, steps_of
from policy.observations import Shapes
from policy.ppo import PPO, PPOOptions
from policy.refinement_plot import write_curve
from policy.rollout import Collector
from video.errors import DatasetError
from video.seeds import mixed_seed

CURVE = {
    "success": "success",
    "return": "return",
    "anchor_kl": "KL to the start",
    "uncertainty": "uncertainty",
    "explained_variance": "explained variance",
    "clip_fraction": "clip fraction",
}
"""What the picture of a run shows, of what is logged."""


class Refinement(L.LightningModule):
    """Refine a policy in an environment.

    `<default_root_dir>` gets `policy`, the refined one, `metrics.csv` with a row an iteration, and
    `refinement.png`, which shows it.

    Args:
        policy: folder of the policy to begin with.
        environment: where it is refined.
        actor: what is trained: None trains the policy's own actor, which has to be stochastic;
            `policy.actors.residual.ResidualActor` corrects it,
            `policy.actors.steering.SteeringActor` chooses the noise of a flow.
        ppo: what PPO does with a rollout.
        steps: of every environment in a rollout.
        restart: begin new episodes with every rollout, and report only on the first of each
            environment; `steps` then have to reach the horizon, and a resumed run goes on exactly
            as it would have. Otherwise episodes go on over the ends of rollouts.
        uncertainty_limit: early truncation behind a step with more `info["uncertainty"]` than this.
        curriculum: which tasks episodes begin with; None: as the environment likes. With one,
            `success` in the metrics is the mean over tasks, whose own rates stand beside it.
        seed: of the networks, of episodes and of all that is drawn.

    Raises:
        DatasetError: the folder is no policy, or its actor cannot be trained by itself.
        ValueError: an environment that the policy cannot act in, steps that end before its
            episodes do, a deadline without `restart`, or a curriculum for an environment without
            stored contexts.
    """

    def __init__(
        self,
        policy: str,
        environment: VectorEnv,
        actor: Callable[[ActorNetwork, Shapes], ActorNetwork] | None = None,
        ppo: PPOOptions = PPOOptions(),  # noqa: B008 - never changed
        steps: int = 7,
        restart: bool = True,
        uncertainty_limit: float | None = None,
        curriculum: Curriculum | None = None,
        seed: int = 0,
    ):
        super().__init__()
        if steps < 1:
            raise ValueError(f"steps={steps} must be at least 1")
        if ppo.deadline and not restart:
            raise ValueError("ppo.deadline needs restart: true, and steps as long as the horizon")
        self.automatic_optimization = False
        self.environment = environment
        self.steps, self.restart, self.seed = steps, restart, seed
        self.cloned = Policy.from_pretrained(policy)
        self.cloned.check(environment)
        chunk = steps_of(environment)
        if chunk != self.cloned.chunk:
            raise ValueError(
                f"the environment takes {chunk} actions at a time, the policy chooses "
                f"{self.cloned.chunk}, and what is not carried out cannot be learned from. Set "
                f"the environment's chunk to {self.cloned.chunk}."
            )
        horizon = getattr(environment, "horizon", None)
        if restart and horizon is not None and steps * chunk < horizon:
            raise ValueError(
                f"steps={steps} of {chunk} actions end before the horizon of {horizon}, and what "
                "is cut off would be missing among the failures. Set model.steps to "
                f"{-(-horizon // chunk)}, or restart to false."
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            trained = _trainable(self.cloned, actor)
            clock = steps if ppo.deadline else None
            self.critic = critic_beside(trained, self.cloned.shapes, clock=clock)
        self.actor = trained
        self.curriculum = curriculum
        if curriculum is not None:
            curriculum.begin(_context_tasks(environment, restart))
        assert isinstance(trained, StochasticActor)
        self.learner = PPO(trained, self.critic, ppo)
        self.collector = Collector(
            environment,
            trained,
            self.cloned.action_normalizer,
            self.cloned.shapes,
            uncertainty_limit,
        )

    @property
    def steps_per_iteration(self) -> int:
        """Steps of the environments, that is actions, in one rollout."""
        return self.environment.num_envs * self.steps * self.cloned.chunk

    def on_fit_start(self) -> None:
        """Bring what is no part of this module to where the actor is.

        Raises:
            DatasetError: no number of iterations, or more than one process.
        """
        if self.trainer.max_steps < 1 or self.trainer.world_size > 1:
            raise DatasetError(
                f"trainer.max_steps={self.trainer.max_steps} and {self.trainer.world_size} "
                "processes: set max_steps to the number of iterations, and trainer.devices to 1."
            )
        self.collector.device = self.device
        if self.learner.anchor is not None:
            self.learner.anchor.to(self.device)

    def train_dataloader(self) -> DataLoader:
        """Numbers of the iterations that are left."""
        iterations = Iterations(self.trainer.global_step, self.trainer.max_steps)
        return DataLoader(range(self.trainer.max_steps), sampler=iterations, batch_size=None)  # pyright: ignore[reportArgumentType]

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Collect a rollout, learn from it."""
        iteration = self.trainer.global_step
        seed = mixed_seed(self.seed, iteration)
        generator = torch.Generator(self.device).manual_seed(seed)
        began = time.perf_counter()
        if self.restart or not self.collector.playing:
            self.collector.restart(seed % 2**31, self._reset_options())
        rollout = self.collector.collect(self.steps, generator, only_first=self.restart)
        collected = time.perf_counter()
        self.learner.updates = iteration
        figures = self.learner.update(rollout, generator, iteration / self.trainer.max_steps)
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        optimizer.step()  # there are no gradients left: only counts an iteration
        figures |= rollout.episodes.figures()
        if self.curriculum is not None:
            figures |= self.curriculum.learn(rollout.episodes)
        figures |= {
            "uncertainty": float(rollout.uncertainty[rollout.valid].mean()),
            "used": float(rollout.valid.float().mean()),
            "steps_per_second": rollout.rewards.numel() * self.cloned.chunk / (collected - began),
            "seconds": time.perf_counter() - began,
        }
        shown = {"success", "return", "anchor_kl"}
        for name, value in figures.items():
            self.log(name, value, prog_bar=name in shown)

    def _reset_options(self) -> dict[str, Any] | None:
        if self.curriculum is None:
            return None
        return {"context_weights": self.curriculum.context_weights()}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The learner's own."""
        return self.learner.optimizer

    def on_train_end(self) -> None:
        """Write the policy and the curve; a trial run leaves nothing behind."""
        if not self.trainer.is_global_zero or getattr(self.trainer, "fast_dev_run", False):
            return
        folder = Path(self.trainer.default_root_dir)
        self.refined().save_pretrained(folder / "policy")
        if (folder / "metrics.csv").is_file():
            tasks = [] if self.curriculum is None else self.curriculum.tasks
            of_tasks = {f"success_{task}": task for task in tasks}
            write_curve(folder / "refinement.png", folder / "metrics.csv", CURVE | of_tasks)

    def refined(self) -> Policy:
        """The policy as it stands now."""
        notes = self.cloned.notes | {"refined_iterations": int(self.trainer.global_step)}
        return replace(self.cloned, actor=self.actor, notes=notes)


class Iterations(Sampler[int]):
    """From the run's iteration `first` to its last; its length is that of the whole run.

    Args:
        first: where it was resumed.
        last: of the whole run.
    """

    def __init__(self, first: int, last: int):
        self.first, self.last = first, last

    def __len__(self) -> int:
        """Iterations of the whole run: Lightning counts on from where it was."""
        return self.last

    def __iter__(self) -> Iterator[int]:
        """The numbers."""
        yield from range(self.first, self.last)


def _context_tasks(environment: VectorEnv, restart: bool) -> list[str]:
    """Task of every stored context that episodes may begin from.

    Raises:
        ValueError: there are none, or episodes go on over the ends of rollouts.
    """
    tasks = getattr(environment, "context_tasks", None)
    if tasks is None:
        raise ValueError(
            f"a {type(environment).__name__} has no stored contexts for a curriculum to choose "
            "from. Set model.curriculum to null."
        )
    if not restart:
        raise ValueError("a curriculum needs restart: true; it chooses where episodes begin")
    return tasks


def _trainable(
    policy: Policy, make: Callable[[ActorNetwork, Shapes], ActorNetwork] | None
) -> nn.Module:
    """The actor that PPO trains.

    Raises:
        DatasetError: an actor that does not know how likely its actions are.
    """
    base = policy.actor
    assert isinstance(base, ActorNetwork)
    if make is not None:
        return make(base, policy.shapes)
    if not isinstance(base, StochasticActor):
        raise DatasetError(
            f"a {type(base).__name__} does not know how likely its actions are, so PPO cannot "
            "train it. Set model.actor to policy.actors.residual.ResidualActor, which corrects it, "
            "or to policy.actors.steering.SteeringActor."
        )
    return base.requires_grad_(True)
