"""Training of the inverse dynamics model: `lightning fit -c configs/idm.yaml`.

The losses are in `losses.py`; here is only what a step is made of. The clips are those of a
`ClipDataModule`; those without any known action only teach the robot's state, if they have it.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from jaxtyping import Bool
from torch import Tensor, nn

from inverse_dynamics.estimate import estimate
from inverse_dynamics.heads import Settings, fit_head
from inverse_dynamics.kernel_fitting import fit_kernel
from inverse_dynamics.kinds import signed_error
from inverse_dynamics.losses import (
    action_loss,
    masked_mean,
    movement_loss,
    redraw_loss,
    state_loss,
)
from inverse_dynamics.model import InverseDynamicsModel, pictures_of
from inverse_dynamics.network import ActionReader
from inverse_dynamics.shifts import shifted
from inverse_dynamics.state_fitting import fit_state_reader
from inverse_dynamics.state_reader import StateReader
from video.datamodule import ClipDataModule
from video.embodiments import Embodiment, joined, part_of
from video.errors import DatasetError
from video.muon import Muon
from video.statistics import Normalizer
from video.step_seeds import seed_of_step


@dataclass
class ReaderSizes:
    """The network's sizes; what is missing here the data decide.

    The fields are those of `ActionReader`.
    """

    width: int = 192
    depth: int = 3
    heads: int = 4
    channels: int = 48
    dropout: float = 0.1
    patch: int = 1
    masked: bool = False
    redraw: int = 0


@dataclass
class ReaderOptimization:
    """Muon, its schedule, and what the loss consists of.

    Attributes:
        learning_rate: the peak, of matrices.
        vector_learning_rate: the peak, of everything else.
        weight_decay: of matrices.
        warmup_steps: linear warm-up.
        cooldown: share of the run, at its end, over which the learning rates fall to zero.
        state_weight: weight of the robot's state in the loss, where the data have it.
        state_movement_weight: weight of how that state moves from frame to frame, which is little
            of the state but all of the actions.
        noise: standard deviation of noise on the latents or frames, at most; every clip has its
            own share.
        mask_weight: weight, in the loss, of the share of the picture that a learned mask shows.
        redraw_weight: weight of redrawing the frames, if `sizes.redraw` says so.
        movement_weight: weight of redrawing how they differ from the frames before, which is little
            of the frames but all of the actions.
        shift: places (pixels or latents) by which a clip is shifted each way, at most: with few
            labels, what a movement looks like is then learned wherever it is.
    """

    learning_rate: float = 0.02
    vector_learning_rate: float = 2e-3
    weight_decay: float = 0.0
    warmup_steps: int = 50
    cooldown: float = 0.6
    state_weight: float = 1.0
    state_movement_weight: float = 0.0
    noise: float = 0.0
    mask_weight: float = 0.1
    redraw_weight: float = 1.0
    movement_weight: float = 0.0
    shift: int = 0

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 0 < self.cooldown <= 1 or self.warmup_steps < 1:
            raise ValueError(
                f"need 0 < cooldown <= 1 and warmup_steps >= 1, got {self.cooldown} and "
                f"{self.warmup_steps}"
            )
        states = ("state_weight", "state_movement_weight")
        pictures = ("mask_weight", "redraw_weight", "movement_weight")
        for name in ("noise", *states, *pictures, "shift"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")


class InverseDynamicsTraining(L.LightningModule):
    """Train an `ActionReader` on the clips of a `ClipDataModule`.

    At the end the model is written to `<default_root_dir>/model`, not calibrated yet. Where the
    datasets name embodiments, one network learns them all, with a head for each, and every
    embodiment's model is a folder of its own, `<default_root_dir>/model-NAME`.

    Args:
        sizes: the network's sizes.
        optimization: optimiser, schedule and loss.
        kinds: kind of each action dimension: 'number', 'angle' (radians) or 'binary', by
            embodiment if there are several; None takes all for numbers.
        action_names: one for each dimension, by embodiment if there are several; None counts them.
        kernel_steps: steps of the basis of a `MovementKernel`, at most, which reads beside the
            network if the data have the robot's state; 0: the network reads alone.
        state_steps: steps of a `StateReader` of the same sizes, which tells the state better than
            the network does; 0: there is none.
        seed: of weights, noise and dropout.

    Raises:
        ValueError: movement to be redrawn, but no frames, or a negative number of steps.
    """

    def __init__(
        self,
        sizes: ReaderSizes = ReaderSizes(),  # noqa: B008 - never changed
        optimization: ReaderOptimization = ReaderOptimization(),  # noqa: B008
        kinds: Settings = None,
        action_names: Settings = None,
        kernel_steps: int = 0,
        state_steps: int = 0,
        seed: int = 0,
    ):
        super().__init__()
        for name, count in (("kernel_steps", kernel_steps), ("state_steps", state_steps)):
            if count < 0:
                raise ValueError(f"{name}={count} must not be negative")
        if optimization.movement_weight and not sizes.redraw:
            raise ValueError(
                f"movement_weight={optimization.movement_weight} is for frames that are redrawn: "
                "set sizes.redraw to their size, such as 16"
            )
        self.sizes = sizes
        self.optimization = optimization
        self.wanted_kinds = kinds
        self.wanted_names = action_names
        self.kernel_steps = kernel_steps
        self.state_steps = state_steps
        self.seed = seed
        self.network: ActionReader | None = None

    @property
    def data(self) -> ClipDataModule:
        """The data module of this run."""
        return self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]

    def configure_model(self) -> None:
        """Build the network, once the data are known.

        Raises:
            DatasetError: data without actions, clips of a single frame, or kinds or names that do
                not fit the actions.
        """
        if self.network is not None:
            return
        data = self.data
        if data.clip_frames < 2:
            raise DatasetError(
                f"data.clip_frames is {data.clip_frames}, but an action lies between two frames. "
                "Set data.clip_frames to about 16."
            )
        if data.stride != 1:
            raise DatasetError(
                f"data.stride is {data.stride}, but every frame's action is to be read. Set it to "
                "1, and data.fps to what the datasets have."
            )
        if data.action_normalizer is None:
            paths = ", ".join(source.path for source in data.sources)
            raise DatasetError(
                f"{paths}: no actions are known in the training data, so there is nothing to "
                "learn. Name a dataset with actions, without 'action_free' and 'labels: 0'."
            )
        heads = [
            fit_head(own, data.action_normalizer, self.wanted_kinds, self.wanted_names)
            for own in data.embodiments
            if own.actions.start < own.actions.stop
        ]
        self.heads = {head.embodiment.name: head for head in heads}
        self.normalizer = joined([head.normalizer for head in heads])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.network = ActionReader(
                frame_shape=[len(data.cameras), *(data.latent_shape or (3, *data.frame_size))],
                kinds=[kind for head in heads for kind in head.kinds],
                state_dim=data.state_dim,
                **asdict(self.sizes),
            )

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Read the clips, compare with what was recorded."""
        assert self.network is not None
        torch.manual_seed(seed_of_step(self.trainer, self.seed, batch_idx))  # noise and dropout
        frames = shifted(pictures_of(batch), self.optimization.shift)
        share = torch.rand(len(frames), 1, 1, 1, 1, 1, device=frames.device)
        noise = self.optimization.noise * share * torch.randn_like(frames)
        actions, state, shown, redrawn = self.network(frames + noise)
        known = self._known(batch, "actions")
        loss = action_loss(
            actions, self._actions(batch), known, self.network.kinds, batch["action_weight"]
        )
        known = self._known(batch, "state")
        state_error = state_loss(state, batch["state"], known)
        moved = state.diff(dim=1), batch["state"].diff(dim=1), known[:, 1:] & known[:, :-1]
        state_movement_error = state_loss(*moved)
        self.log("loss", loss, prog_bar=True, sync_dist=True)
        self.log("state_loss", state_error, sync_dist=True)
        self.log("state_movement_loss", state_movement_error, sync_dist=True)
        total = loss + self.optimization.state_weight * state_error
        total = total + self.optimization.state_movement_weight * state_movement_error
        if shown is not None:
            self.log("shown", shown.mean(), prog_bar=True, sync_dist=True)
            total = total + self.optimization.mask_weight * shown.mean()
        if redrawn is not None:
            redraw_error = redraw_loss(redrawn, frames)
            self.log("redraw_loss", redraw_error, sync_dist=True)
            movement_error = movement_loss(redrawn, frames)
            self.log("movement_loss", movement_error, sync_dist=True)
            total = total + self.optimization.redraw_weight * redraw_error
            total = total + self.optimization.movement_weight * movement_error
        return total

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log the loss and the mean absolute error on held-out clips."""
        assert self.network is not None
        readout, true = self.network(pictures_of(batch)).actions, self._actions(batch)
        mask, kinds = self._known(batch, "actions"), self.network.kinds
        error = signed_error(estimate(readout, kinds).mean, true, kinds).abs()
        self.log("val_loss", action_loss(readout, true, mask, kinds), sync_dist=True)
        self.log("val_mae", masked_mean(error, mask), prog_bar=True, sync_dist=True)

    def configure_optimizers(self) -> Any:
        """Muon with warm-up, a plateau, and a linear fall to zero."""
        settings, total = self.optimization, int(self.trainer.estimated_stepping_batches)
        optimizer = Muon(
            self.parameters(),
            settings.learning_rate,
            settings.vector_learning_rate,
            weight_decay=settings.weight_decay,
        )

        def factor(step: int) -> float:
            falling = (total - step) / (settings.cooldown * total)
            return max(0.0, min(1.0, (step + 1) / settings.warmup_steps, falling))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_train_end(self) -> None:
        """Write the model folders; a trial run leaves nothing behind."""
        if self.trainer.is_global_zero and not getattr(self.trainer, "fast_dev_run", False):
            for name in self.heads:
                folder = f"model-{name}" if name else "model"
                model = self.model(name)
                if self.state_steps and model.network.config["state_dim"]:
                    model.state_reader = self._fit_state_reader(self.heads[name].embodiment)
                if self.kernel_steps and model.network.config["state_dim"]:
                    model.kernel = fit_kernel(
                        model.tell_states, self.data, self.heads[name], self.kernel_steps
                    )
                model.save_pretrained(Path(self.trainer.default_root_dir) / folder)

    def model(self, embodiment: str = "") -> InverseDynamicsModel:
        """The model of an embodiment as it stands now, without a calibration."""
        assert self.network is not None
        head = self.heads[embodiment]
        network = self.network.narrowed(head.embodiment.actions, head.embodiment.state)
        nn.Module.to(network, "cpu")
        state: Normalizer | None = self.data.state_normalizer
        if state is not None:
            state = part_of(state, head.embodiment.state)
        return InverseDynamicsModel(
            network=network.eval().requires_grad_(False),
            autoencoder=self.data.autoencoder,
            fps=self.data.fps,
            cameras=tuple(self.data.cameras),
            frame_size=(self.data.frame_size[0], self.data.frame_size[1]),
            window=self.data.clip_frames,
            action_normalizer=head.normalizer,
            action_names=tuple(head.names),
            state_normalizer=state if state is not None and state.dim else None,
        )

    def _fit_state_reader(self, embodiment: Embodiment) -> StateReader:
        """A network that tells the state of this embodiment alone."""
        assert self.network is not None
        sizes = self.sizes
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            reader = StateReader(
                list(self.network.frame_shape),
                embodiment.state.stop - embodiment.state.start,
                sizes.width,
                sizes.channels,
                sizes.dropout,
                sizes.patch,
            )
        nn.Module.to(reader, self.device)
        precision = self.trainer.precision_plugin.forward_context
        fit_state_reader(reader, self.data, embodiment, self.state_steps, self.seed, precision)
        nn.Module.to(reader, "cpu")
        return reader

    def _known(self, batch: dict[str, Tensor], column: str) -> Bool[Tensor, "batch steps size"]:
        """Which of the 'actions' or the 'state' are known, and of each clip's own embodiment."""
        mask = batch["action_mask" if column == "actions" else "state_mask"]
        own = torch.zeros(len(self.data.embodiments), batch[column].shape[-1], dtype=torch.bool)
        for row, embodiment in zip(own, self.data.embodiments, strict=True):
            row[getattr(embodiment, column)] = True
        return mask[..., None] & own.to(mask.device)[batch["embodiment"], None]

    def _actions(self, batch: dict[str, Tensor]) -> Tensor:
        """The batch's actions by this model's own range, which differs for angles."""
        own: Normalizer | None = self.data.action_normalizer
        assert own is not None
        assert self.normalizer is not None
        return self.normalizer.normalize(own.denormalize(batch["actions"]))
