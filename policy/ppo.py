"""Proximal policy optimisation: what one rollout teaches a stochastic actor and its critic.

Collecting is `rollout.py`'s business, and the formulas are in `returns.py` and `losses.py`. Source:
Schulman et al., arXiv 1707.06347.
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from policy.actors.actor import StochasticActor
from policy.critic import Critic
from policy.losses import (
    anchor_kl,
    approximate_kl,
    clip_fraction,
    clipped_surrogate,
    clipped_value_loss,
    entropy_of,
    standardized,
)
from policy.returns import above_average, advantages_of, explained_variance, penalized
from policy.rollout import Rollout


@dataclass
class PPOOptions:
    """What PPO may do with a rollout.

    Attributes:
        learning_rate: Adam's, of the actor.
        critic_learning_rate: Adam's, of the critic.
        anneal: let both fall linearly to zero over the run.
        epochs: times that every step is looked at.
        minibatches: updates an epoch.
        discount: of one step, that is of one chunk of actions.
        deadline: the time limit is part of the task: an episode that it ends is worth nothing more,
            and the critic sees how old an episode is. With a discount of 1, what is maximised is
            the rate of success within the limit, and being faster than that is worth nothing.
            Otherwise what comes after the limit counts as if the episode had gone on.
        lambda_: of the advantages: 0 trusts the critic, 1 the rewards alone.
        clip: how far the ratio of probabilities may leave 1.
        value_clip: how far a value may move in one update; infinity: as far as it wants.
        anchor_weight: of KL(policy || anchor), the actor as it was at the start.
        entropy_weight: of the entropy, which is to stay high.
        uncertainty_penalty: of a reward, for one unit of `info["uncertainty"]` above what other
            episodes have at the same age: what it is anyway must not pay for haste.
        critic_warmup: rollouts from which only the critic learns, before the actor moves.
        gradient_clip: largest norm of the gradients of actor and critic, each.
    """

    learning_rate: float = 3e-4
    critic_learning_rate: float = 1e-3
    anneal: bool = False
    epochs: int = 4
    minibatches: int = 4
    discount: float = 0.95
    deadline: bool = False
    lambda_: float = 0.95
    clip: float = 0.2
    value_clip: float = math.inf
    anchor_weight: float = 0.0
    entropy_weight: float = 0.0
    uncertainty_penalty: float = 0.0
    critic_warmup: int = 0
    gradient_clip: float = 0.5

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("discount", "lambda_"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must lie in [0, 1]")
        for name in ("learning_rate", "critic_learning_rate", "clip", "value_clip"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be positive")
        for name in ("epochs", "minibatches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("anchor_weight", "uncertainty_penalty", "critic_warmup"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")


@dataclass
class Lesson:
    """The steps of a rollout in one row, and what they were worth.

    Attributes:
        observations: what each step started from.
        age: steps that the episode was old.
        drawn: what the actor drew.
        log_prob: its log-probability then.
        values: what the critic said then.
        advantages: by how much it was better than that.
        returns: what it was worth.
    """

    observations: dict[str, Tensor]
    age: Float[Tensor, " steps"]
    drawn: Float[Tensor, "steps chunk action_dim"]
    log_prob: Float[Tensor, " steps"]
    values: Float[Tensor, " steps"]
    advantages: Float[Tensor, " steps"]
    returns: Float[Tensor, " steps"]

    def __len__(self) -> int:
        """How many steps."""
        return len(self.drawn)

    def take(self, rows: Int64[Tensor, " rows"]) -> "Lesson":
        """Some of the steps."""
        return Lesson(
            {key: values[rows] for key, values in self.observations.items()},
            self.age[rows],
            self.drawn[rows],
            self.log_prob[rows],
            self.values[rows],
            self.advantages[rows],
            self.returns[rows],
        )


class PPO:
    """Trains an actor and a critic, rollout by rollout.

    Example:
        >>> collector = Collector(envs, actor)  # doctest: +SKIP
        >>> collector.restart(seed=0)  # doctest: +SKIP
        >>> learner, generator = PPO(actor, critic), torch.Generator()  # doctest: +SKIP
        >>> for _ in range(100):  # doctest: +SKIP
        ...     figures = learner.update(collector.collect(128, generator), generator)

    Args:
        actor: an `nn.Module`.
        critic: looks at the same observations.
        options: see there.

    Raises:
        ValueError: a deadline, and a critic without a clock.

    Attributes:
        anchor: the actor as it was at the start, frozen; None where nothing is anchored to it.
        optimizer: Adam over both.
        updates: rollouts learned from so far.
    """

    def __init__(
        self,
        actor: StochasticActor,
        critic: Critic,
        options: PPOOptions = PPOOptions(),  # noqa: B008 - never changed
    ):
        assert isinstance(actor, nn.Module)
        if options.deadline and critic.clock is None:
            raise ValueError("with a deadline the critic needs a clock: critic_beside(clock=steps)")
        self.actor, self.critic, self.options = actor, critic, options
        self.anchor: Any = None
        if options.anchor_weight:
            self.anchor = copy.deepcopy(actor).requires_grad_(False)
        self.weights = [
            [weight for weight in network.parameters() if weight.requires_grad]
            for network in (actor, critic)
        ]
        rates = (options.learning_rate, options.critic_learning_rate)
        groups = [
            {"params": weights, "lr": rate}
            for weights, rate in zip(self.weights, rates, strict=True)
        ]
        self.optimizer = torch.optim.Adam(groups, eps=1e-5)
        self.updates = 0

    def update(
        self, rollout: Rollout, generator: torch.Generator, progress: float = 0.0
    ) -> dict[str, float]:
        """Learn from a rollout.

        Args:
            rollout: of the actor as it is now.
            generator: shuffles the steps.
            progress: share of the run that is done, for annealing.

        Returns:
            What the updates looked like: losses, KL, entropy and so on, means over them.
        """
        options = self.options
        frozen = self.updates < options.critic_warmup
        factor = 1 - progress if options.anneal else 1.0
        rates = (0.0 if frozen else options.learning_rate, options.critic_learning_rate)
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        lesson = self.lesson(rollout)
        history = []
        for batch in self._minibatches(lesson, generator):
            loss, figures = self.loss(batch)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            for weights in self.weights:
                nn.utils.clip_grad_norm_(weights, options.gradient_clip)
            if frozen:
                for weight in self.weights[0]:
                    weight.grad = None  # Adam must not gather momentum either
            self.optimizer.step()
            history.append(figures)
        self.optimizer.zero_grad(set_to_none=True)
        self.updates += 1
        means = {name: torch.stack([figures[name] for figures in history]) for name in history[0]}
        means["explained_variance"] = explained_variance(lesson.values, lesson.returns)[None]
        names, columns = list(means), torch.stack([values.mean() for values in means.values()])
        return dict(zip(names, columns.tolist(), strict=True))

    @torch.no_grad()
    def lesson(self, rollout: Rollout) -> Lesson:
        """What every valid step was worth, by the critic as it is now."""
        options, shape = self.options, rollout.rewards.shape
        observations = {key: x.flatten(0, 1) for key, x in rollout.observations.items()}
        reached = {key: x.flatten(0, 1) for key, x in rollout.reached.items()}
        age = rollout.age.flatten()
        values, next_values = self.critic(observations, age), self.critic(reached, age + 1)
        over = rollout.terminated
        if options.deadline:
            over = over | rollout.truncated
        advantages = advantages_of(
            penalized(
                rollout.rewards,
                above_average(rollout.uncertainty, rollout.age, rollout.valid),
                options.uncertainty_penalty,
            ),
            options.discount * ~over,
            values.view(shape),
            next_values.view(shape),
            rollout.ends,
            options.lambda_,
        ).flatten()
        drawn = rollout.drawn.flatten(0, 1)
        log_prob = self.actor.distribution(observations).log_prob(drawn)
        returns = advantages + values
        every = Lesson(observations, age, drawn, log_prob, values, advantages, returns)
        return every.take(rollout.valid.flatten().nonzero()[:, 0])

    def loss(self, batch: Lesson) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Of some steps: what is to be lowered, and what it consists of."""
        options = self.options
        policy = self.actor.distribution(batch.observations)
        log_prob = policy.log_prob(batch.drawn)
        advantages = standardized(batch.advantages)
        policy_loss = clipped_surrogate(log_prob, batch.log_prob, advantages, options.clip)
        values = self.critic(batch.observations, batch.age)
        value_loss = clipped_value_loss(values, batch.values, batch.returns, options.value_clip)
        entropy = entropy_of(policy)
        loss = policy_loss + value_loss - options.entropy_weight * entropy
        figures = {
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "entropy": entropy,
            "update_kl": approximate_kl(log_prob, batch.log_prob),
            "clip_fraction": clip_fraction(log_prob, batch.log_prob, options.clip),
        }
        if self.anchor is not None:
            with torch.no_grad():
                anchor = self.anchor.distribution(batch.observations)
            figures["anchor_kl"] = anchor_kl(policy, anchor).mean()
            loss = loss + options.anchor_weight * figures["anchor_kl"]
        return loss, {name: value.detach() for name, value in figures.items()}

    def _minibatches(self, lesson: Lesson, generator: torch.Generator) -> Iterator[Lesson]:
        """All steps in a new order, epoch by epoch."""
        for _ in range(self.options.epochs):
            order = torch.randperm(len(lesson), generator=generator, device=generator.device)
            for rows in order.chunk(self.options.minibatches):
                yield lesson.take(rows)
