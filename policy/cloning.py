"""Behaviour cloning: `lightning fit -c configs/behaviour_cloning.yaml`.

A clip of k + 1 frames is one example: what is seen in its first frame, and the k actions behind it.
How far an actor is from a demonstration it knows itself (`cloning_error`); here is only what a
step is made of. Which demonstrations are used, the fields of `ClipSource` say.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from policy.actors.actor import ActorNetwork, Cloneable
from policy.actors.gaussian import GaussianActor
from policy.cloning_examples import clip_shapes, observation_of
from policy.encoder import ObservationEncoder
from policy.model import Policy
from policy.observations import Shapes
from video.datamodule import ClipDataModule
from video.errors import DatasetError
from video.step_seeds import seed_of_step


@dataclass
class CloningOptimization:
    """AdamW, its schedule, and what makes the examples more than they are.

    Attributes:
        learning_rate: the peak, behind a linear warm-up; it falls to zero along a cosine.
        warmup_steps: of the learning rate.
        weight_decay: of the weights.
        noise: standard deviation of noise on latents, which have unit variance.
    """

    learning_rate: float = 1e-3
    warmup_steps: int = 20
    weight_decay: float = 1e-2
    noise: float = 0.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.learning_rate <= 0 or self.warmup_steps < 1:
            raise ValueError(
                f"need learning_rate > 0 and warmup_steps >= 1, got {self.learning_rate} and "
                f"{self.warmup_steps}"
            )
        if self.weight_decay < 0 or self.noise < 0:
            raise ValueError(
                f"weight_decay={self.weight_decay} and noise={self.noise} must not be negative"
            )


class BehaviourCloning(L.LightningModule):
    """Teach an actor to do what the clips of a `ClipDataModule` show.

    At the end the policy is written to `<default_root_dir>/policy`. How many actions it chooses at
    a time, the length of the clips says: one less than `data.clip_frames`. A step counts by its
    `action_weight`, and not at all where the action is unknown.

    Args:
        actor: class and arguments of an `ActorNetwork` that can be cloned; shapes, action size and
            chunk come from the data.
        observations: what it sees: "latents" or "pixels", "state". None: the pictures, and the
            robot's state where all data have it.
        optimization: optimiser and schedule.
        seed: of weights and noise.
    """

    def __init__(
        self,
        actor: Callable[[Shapes, int, int], ActorNetwork] = GaussianActor,
        observations: list[str] | None = None,
        optimization: CloningOptimization = CloningOptimization(),  # noqa: B008 - never changed
        seed: int = 0,
    ):
        super().__init__()
        self.make_actor = actor
        self.observations = observations
        self.optimization = optimization
        self.seed = seed
        self.actor: ActorNetwork | None = None

    @property
    def data(self) -> ClipDataModule:
        """The data module of this run."""
        return self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]

    def configure_model(self) -> None:
        """Build the actor, once the data are known.

        Raises:
            DatasetError: data without actions, clips of a single frame, an observation that the
                data do not have, an actor that cannot be cloned, or arguments that it refuses.
        """
        if self.actor is not None:
            return
        data = self.data
        if data.clip_frames < 2 or data.stride != 1 or data.pad_start:
            raise DatasetError(
                f"data.clip_frames={data.clip_frames}, stride={data.stride}, pad_start="
                f"{data.pad_start}: cloning takes clips of a frame and the k actions behind it. "
                "Set clip_frames to k + 1, stride to 1 and pad_start to 0."
            )
        if data.action_normalizer is None:
            paths = ", ".join(source.path for source in data.sources)
            raise DatasetError(
                f"{paths}: no actions are known, so there is nothing to clone. Label the video "
                "first: python -m inverse_dynamics label."
            )
        self.shapes = clip_shapes(data, self.observations)
        torch.manual_seed(self.seed)
        try:
            actor = self.make_actor(self.shapes, data.action_dim, data.clip_frames - 1)
        except ValueError as error:
            raise DatasetError(f"model.actor: {error}") from error
        if not isinstance(actor, Cloneable):
            raise DatasetError(
                f"a {type(actor).__name__} cannot be cloned: it has no cloning_error. Choose "
                "policy.actors.gaussian.GaussianActor or policy.actors.flow.FlowActor."
            )
        for module in actor.modules():
            if isinstance(module, ObservationEncoder) and "state" in module.shapes:
                assert data.state_normalizer is not None
                module.normalize_by("state", data.state_normalizer)
        self.actor = actor

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Compare the actor with the demonstrations."""
        seed = seed_of_step(self.trainer, self.seed, batch_idx)
        generator = torch.Generator(self.device).manual_seed(seed)
        loss = self._error(batch, generator, self.optimization.noise)
        self.log("loss", loss, prog_bar=True, sync_dist=True)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log the loss, and how far the likeliest actions are from those that were taken."""
        generator = torch.Generator(self.device).manual_seed(batch_idx)
        self.log("val_loss", self._error(batch, generator), sync_dist=True)
        assert self.actor is not None
        observation = observation_of(batch, self.data, self.shapes)
        chosen = self.actor.act(observation, deterministic=True)
        distance = (chosen - batch["actions"]).abs().mean(-1)
        error = weighted_mean(distance, step_weights(batch))
        self.log("val_mae", error, prog_bar=True, sync_dist=True)

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and a cosine to zero."""
        settings, total = self.optimization, int(self.trainer.estimated_stepping_batches)
        optimizer = torch.optim.AdamW(
            self.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
        )

        def factor(step: int) -> float:
            done = min(1.0, step / total)
            return min(1.0, (step + 1) / settings.warmup_steps) * (1 + math.cos(math.pi * done)) / 2

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_train_end(self) -> None:
        """Write the policy's folder; a trial run leaves nothing behind."""
        if self.trainer.is_global_zero and not getattr(self.trainer, "fast_dev_run", False):
            folder = Path(self.trainer.default_root_dir) / "policy"
            self.policy().save_pretrained(folder)
            print(f"\nwrote {folder}")

    def policy(self) -> Policy:
        """The policy as it stands now."""
        assert self.actor is not None
        data = self.data
        assert data.action_normalizer is not None
        episodes = [len(part.episodes) for part in data.train_clips.parts]
        return Policy(
            actor=self.actor,
            shapes=self.shapes,
            action_normalizer=data.action_normalizer,
            autoencoder=None if data.autoencoder is None else data.autoencoder.fingerprint,
            fps=data.fps,
            cameras=tuple(data.cameras),
            frame_size=(data.frame_size[0], data.frame_size[1]),
            notes={"cloned_from": [source.path for source in data.sources], "episodes": episodes},
        )

    def _error(
        self, batch: dict[str, Tensor], generator: torch.Generator, noise: float = 0.0
    ) -> Tensor:
        """The weighted mean of what the actor makes of the batch."""
        assert isinstance(self.actor, Cloneable)
        observation = observation_of(batch, self.data, self.shapes)
        if noise and "latents" in observation:
            latents = observation["latents"]
            disturbed = torch.randn(latents.shape, generator=generator, device=latents.device)
            observation["latents"] = latents + noise * disturbed
        error = self.actor.cloning_error(
            observation, batch["actions"], batch["action_mask"], generator
        )
        return weighted_mean(error, step_weights(batch))


def step_weights(batch: dict[str, Tensor]) -> Float[Tensor, "clips steps"]:
    """How much each action counts: by how sure it is, and not at all where it is unknown."""
    return torch.where(batch["action_mask"], batch["action_weight"], 0)


def weighted_mean(
    values: Float[Tensor, "clips steps"], weights: Float[Tensor, "clips steps"]
) -> Float[Tensor, ""]:
    """sum(w x) / sum(w); 0 where nothing counts, and no value without weight matters."""
    counted: Bool[Tensor, "clips steps"] = weights > 0
    total = torch.where(counted, values * weights, 0).sum()
    return total / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)
