"""Training of the world model: a LightningModule that feeds blocks to the objective.

The maths are in `objective.py` and `noise.py`; here is only what a step is made of, and what has to
survive a restart. Every random number of step s is drawn for the whole global batch from a
generator seeded with (seed, s), and a process takes its rows: so the loss curve does not depend on
the number of processes, nor on where a run was stopped and resumed.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from diffusers.training_utils import EMAModel
from torch import Tensor

from video.datamodule import ClipDataModule
from video.errors import DatasetError
from video.statistics import renormalized
from worldmodel.attention import Backend
from worldmodel.blocks import Blocks, cut
from worldmodel.contexts import Contexts, first_frames
from worldmodel.draws import RowDraws, step_generator
from worldmodel.kinematics import KinematicsSizes, state_loss
from worldmodel.kinematics_fitting import fit_kinematics
from worldmodel.objective import (
    Objective,
    block_losses,
    draw_depths,
    draw_times,
    finish_history,
)
from worldmodel.optimization import Optimization, optimizer_of
from worldmodel.pretrained import load_weights, other_sizes, sizes_of
from worldmodel.queries import BlockNoise, draw_noise, forward_dynamics, imagine_block
from worldmodel.rollout_state import next_anchor
from worldmodel.schedule import learning_rate_factor
from worldmodel.set_point import HISTORY, clip_set_points
from worldmodel.uwm import ANCHOR_FRAMES, UWM
from worldmodel.world_model import WorldModel, require_world_model


@dataclass
class Architecture:
    """The network's sizes; what is missing here (channels, actions, views) the data decide.

    The fields are those of `UWM`. `past_actions: null` tells a block's worth of them to a network
    that is told no state, and none to one that is: kinematics know the last one, and more did not
    help. `kinematics_sizes: null` takes the defaults of `KinematicsSizes`.
    """

    block_frames: int = 4
    patch: int = 2
    width: int = 256
    depth: int = 6
    heads: int = 4
    condition_width: int = 128
    history_blocks: int = 0
    attention: Backend = "sdpa"
    first_frame: bool = False
    past_actions: int | None = None
    kinematics_sizes: KinematicsSizes | None = None


class WorldModelTraining(L.LightningModule):
    """Pretrain a UWM on the clips of a `ClipDataModule`.

    A clip holds two context frames and `self_rollout_blocks + history_blocks + 1` blocks. Every row
    trains on some of them; in a share of the rows those before are imagined with the current
    weights first.

    At the end the averaged weights are written to `<default_root_dir>/model`.

    Args:
        architecture: the network's sizes.
        objective: the loss.
        optimization: optimiser, schedule, averaging.
        contexts: how many start contexts the model folder stores.
        start_from: folder of a saved world model to go on from, such as with more data; None: new
            weights.
        robot_state: whether it learns to go by the robot's state, where the data have it.
        seed: of all noise and times.
    """

    def __init__(
        self,
        architecture: Architecture = Architecture(),  # noqa: B008 - never changed
        objective: Objective = Objective(),  # noqa: B008
        optimization: Optimization = Optimization(),  # noqa: B008
        contexts: int = 64,
        start_from: str | None = None,
        robot_state: bool = True,
        seed: int = 0,
    ):
        super().__init__()
        self.start_from = None if start_from is None else require_world_model(Path(start_from))
        self.architecture = architecture
        self.objective = objective
        self.optimization = optimization
        self.contexts = contexts
        self.robot_state = robot_state
        self.seed = seed
        self.network: UWM | None = None
        self.ema: EMAModel | None = None

    @property
    def clip_frames(self) -> int:
        """Frames T that a clip must have."""
        blocks = self.objective.self_rollout_blocks + self.architecture.history_blocks + 1
        return ANCHOR_FRAMES + blocks * self.architecture.block_frames

    @property
    def data(self) -> ClipDataModule:
        """The data module of this run."""
        return self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]

    def configure_model(self) -> None:
        """Build the network, once the data are known.

        Raises:
            DatasetError: clips of another length than a step needs, data without latents, sizes
                that do not fit together, or a model to start from that does not fit them.
        """
        if self.network is not None:
            return
        if self.data.clip_frames != self.clip_frames:
            raise DatasetError(
                f"data.clip_frames is {self.data.clip_frames}, but this model trains on clips of "
                f"{self.clip_frames} frames ({ANCHOR_FRAMES} of context and blocks of "
                f"{self.architecture.block_frames}). Set data.clip_frames to {self.clip_frames}."
            )
        if self.data.autoencoder is None or self.data.latent_shape is None:
            raise DatasetError(
                "the world model works on latents: set data.autoencoder to its folder, "
                "such as video/autoencoders/metaworld"
            )
        self._check_data(self.data.latent_shape)
        self.data.show_first_frames(self.architecture.first_frame, self.objective.late_start)
        kinematics = self.architecture.kinematics_sizes or KinematicsSizes()
        if kinematics.set_point:
            if not self.optimization.kinematics_steps:
                raise DatasetError(
                    "kinematics that keep a set-point are fitted beforehand: set "
                    "model.optimization.kinematics_steps, as in configs/uwm/fitted_kinematics.yaml"
                )
            self.data.show_history(HISTORY)
        sizes = asdict(self.architecture)
        sizes["state_dim"] = self.data.state_dim if self.robot_state else 0
        if sizes["past_actions"] is None:
            sizes["past_actions"] = 0 if sizes["state_dim"] else sizes["block_frames"]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            try:
                self.network = UWM(
                    latent_channels=self.data.latent_shape[0],
                    action_dim=self.data.action_dim,
                    views=len(self.data.cameras),
                    **sizes,
                )
            except ValueError as error:
                raise DatasetError(f"model.architecture: {error}") from error
        self.state_normalizer = self.data.state_normalizer
        if self.start_from is not None:
            earlier = load_weights(self.network, self.start_from, self.data)
            self.state_normalizer = earlier or self.state_normalizer
        if self.network.kinematics is not None and self.optimization.kinematics_steps:
            self.network.kinematics.requires_grad_(False)  # before processes share the rest
        self._begin_average()
        if self.optimization.compile:
            self.network.compile()

    def _begin_average(self) -> None:
        """Of the weights as they are now."""
        assert self.network is not None
        decay = self.optimization.ema_decay
        self.ema = EMAModel(self.network.parameters(), decay=decay, foreach=True)

    def _fit_kinematics(self) -> None:
        """If that is wanted; those of a run that goes on came with its checkpoint."""
        assert self.network is not None
        steps, kinematics = self.optimization.kinematics_steps, self.network.kinematics
        if not steps or kinematics is None or self.trainer.ckpt_path is not None:
            return
        fit_kinematics(
            kinematics.to("cpu"),
            self.data.train_clips,
            self._to_network,
            self.network.robot_actions,
            self.network.block_frames,
            steps,
            self.seed,
        )
        kinematics.to(self.device)
        self._begin_average()

    def _to_network(self, state: Tensor) -> Tensor:
        """States as the data have them, normalised, as the network has them."""
        return renormalized(state, self.data.state_normalizer, self.state_normalizer)

    def _check_data(self, latent_shape: tuple[int, int, int]) -> None:
        """Refuse data that the network would take, and that it could not imagine later.

        Raises:
            DatasetError: says what has to change.
        """
        data, patch = self.data, self.architecture.patch
        if data.stride != 1:
            raise DatasetError(
                f"data.stride is {data.stride}, but the world model imagines frame after frame, an "
                "action between two of them. Set it to 1; data.fps leaves out frames."
            )
        if len(data.embodiments) > 1:
            names = ", ".join(repr(own.name) for own in data.embodiments)
            raise DatasetError(
                f"these data are of several embodiments ({names}), but a world model imagines one "
                "robot. Train on one of them, and on the others with 'action_free: true'."
            )
        if any(size % patch for size in latent_shape[1:]):
            height, width = data.frame_size
            raise DatasetError(
                f"frames of {height}x{width} have latents of {latent_shape[1]}x{latent_shape[2]}, "
                f"which cannot be cut into patches of {patch}x{patch}. Choose another data.size, "
                "or set model.architecture.patch to 1."
            )

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """One step: cut the clips, choose and disturb anchors, draw times, compare."""
        assert self.network is not None
        draws = self._draws(len(batch["action_mask"]), batch_idx)
        blocks = self._cut(batch)
        kinematics = self._kinematics_loss(blocks)
        blocks = self._roll_out(blocks, draws)
        if self.objective.single_frame:
            alone = draws.uniform(blocks.anchor.shape[1]) < self.objective.single_frame
            before, last = blocks.anchor[:, :, -ANCHOR_FRAMES], blocks.anchor[:, :, -1]
            before[alone] = last[alone]
        spread = self.objective.anchor_noise * draws.uniform(blocks.anchor.shape[1])
        noise = draws.normal(*blocks.anchor.shape[1:])
        noise[:, :, :-ANCHOR_FRAMES] = 0  # the first frame is never imagined
        anchor = blocks.anchor + spread[..., None, None, None, None, None] * noise
        blocks = blocks._replace(anchor=anchor)

        times = draw_times(blocks.action_mask, self.objective.mix, draws)
        times = finish_history(times, blocks.action_mask, self.objective.finished_history, draws)
        if self.network.state_dim or self.network.past_actions:
            untold = draws.uniform(blocks.robot.shape[1]) < self.objective.state_dropout
            blocks = blocks._replace(robot=torch.where(untold[..., None], torch.nan, blocks.robot))
        losses = block_losses(self.network, blocks, times, self.objective, draws)
        loss = losses.latent + self.objective.action_weight * losses.action
        loss = loss + self.objective.state_weight * losses.state
        if self.network.state_dim:
            self.log("state_loss", losses.state, sync_dist=True)
        if kinematics is not None:
            loss = loss + self.objective.kinematics_weight * kinematics
            self.log("kinematics_loss", kinematics, sync_dist=True)
        self.log("loss", loss, prog_bar=True, sync_dist=True)
        self.log_dict({"latent_loss": losses.latent, "action_loss": losses.action}, sync_dist=True)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log the error of forward dynamics on single held-out blocks, with the current weights."""
        assert self.network is not None
        blocks = Blocks(*(part.flatten(0, 1) for part in self._cut(batch)))
        anchor, actions, mask = blocks.anchor, blocks.actions, blocks.action_mask
        noise = draw_noise(self.network, anchor, torch.Generator().manual_seed(batch_idx))
        imagined = forward_dynamics(self.network, anchor, actions, mask, noise, robot=blocks.robot)
        error = (imagined.float() - blocks.latents).square().mean()
        self.log("val_latent_mse", error, prog_bar=True, sync_dist=True)

    def on_train_start(self) -> None:
        """Bring the averaged weights to where the network is; a checkpoint's lie in main memory."""
        assert self.ema is not None
        self.ema.to(self.device)

    def on_before_zero_grad(self, optimizer: torch.optim.Optimizer) -> None:
        """Average the weights after every optimiser step; `on_train_end` does it for the last."""
        self._average()

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradients' norm.

        Lightning refuses to do this for a fused optimiser under mixed precision, because such an
        optimiser undoes float16's loss scaling by itself; bfloat16 has no scaling.

        Raises:
            DatasetError: float16, or clipping by value.
        """
        if self.trainer.precision == "16-mixed" or gradient_clip_algorithm == "value":
            raise DatasetError(
                f"precision {self.trainer.precision} with gradient_clip_algorithm "
                f"{gradient_clip_algorithm}: only clipping by norm in bf16-mixed or 32-true is "
                "supported. Set trainer.precision to bf16-mixed."
            )
        if gradient_clip_val:
            torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)

    def configure_optimizers(self) -> Any:
        """Muon or AdamW with warm-up, a plateau, and a linear fall to zero.

        It leaves out what is frozen; and only by now is it known whether the run goes on.
        """
        settings, total = self.optimization, self.trainer.estimated_stepping_batches
        assert self.network is not None
        self._fit_kinematics()
        optimizer = optimizer_of(self.network, settings)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: learning_rate_factor(
                step, int(total), settings.warmup_steps, settings.cooldown
            ),
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the averaged weights, and the configuration that they belong to."""
        assert self.network is not None
        assert self.ema is not None
        checkpoint["ema"] = self.ema.state_dict()
        checkpoint["network_config"] = sizes_of(self.network)
        checkpoint["by_muon"] = self.optimization.matrix_learning_rate is not None

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the averaged weights back.

        Raises:
            DatasetError: the checkpoint belongs to another configuration.
        """
        assert self.network is not None
        assert self.ema is not None
        different = other_sizes(checkpoint.get("network_config", {}), self.network)
        names, muon = ("AdamW", "Muon"), self.optimization.matrix_learning_rate is not None
        if checkpoint.get("by_muon", muon) != muon:
            different.append(f"the optimiser is {names[not muon]} there and {names[muon]} here")
        if different:
            raise DatasetError(
                f"{self.trainer.ckpt_path}: this checkpoint is from another configuration: "
                f"{'; '.join(different)}. Resume with the configuration it was made with, or start "
                "without --ckpt_path."
            )
        self.ema.load_state_dict(checkpoint["ema"])

    def on_train_end(self) -> None:
        """Write the model folder from the averaged weights; a trial run leaves nothing behind."""
        self._average()
        if self.trainer.is_global_zero and not getattr(self.trainer, "fast_dev_run", False):
            self.world_model().save_pretrained(Path(self.trainer.default_root_dir) / "model")

    def _average(self) -> None:
        """Add the weights to their average, unless those of this step are in it."""
        assert self.network is not None
        assert self.ema is not None
        if self.trainer.global_step > self.ema.optimization_step:
            self.ema.step(self.network.parameters())

    def world_model(self) -> WorldModel:
        """The world model with the averaged weights, as it stands now."""
        assert self.network is not None
        assert self.ema is not None
        network = UWM.from_config(self.network.config)
        assert isinstance(network, UWM)
        assert self.data.autoencoder is not None
        network.load_state_dict(self.network.state_dict())
        self.ema.copy_to(network.parameters())
        return WorldModel(
            network=network.eval().requires_grad_(False),
            autoencoder=self.data.autoencoder,
            fps=self.data.fps,
            cameras=tuple(self.data.cameras),
            frame_size=self.data.frame_size,
            action_normalizer=self.data.action_normalizer,
            state_normalizer=self.state_normalizer,
            task_names=list(self.data.task_names),
            contexts=start_contexts(self.data, self.contexts),
        )

    def _cut(self, batch: dict[str, Tensor]) -> Blocks:
        """A batch of clips as blocks, with states if the network goes by any."""
        assert self.network is not None
        states: Tensor | None = None
        if self.network.state_dim:
            state = self._to_network(batch["state"])
            states = torch.where(batch["state_mask"][..., None], state, torch.nan)
        return cut(
            batch["latents"],
            batch["actions"],
            batch["action_mask"],
            self.architecture.block_frames,
            batch["action_weight"],
            states,
            batch.get("first_latents"),
            self.network.robot_actions,
            self._set_points(batch, states),
        )

    def _set_points(self, batch: dict[str, Tensor], states: Tensor | None) -> Tensor | None:
        """Those of the clips, if the kinematics keep any."""
        assert self.network is not None
        if self.network.set_point is None or states is None:
            return None
        begin, known = self._to_network(batch["past_state"]), batch["past_state_mask"]
        begin = torch.where(known[..., None], begin, torch.nan)
        parts = batch["actions"], states, batch["past_actions"], begin
        return clip_set_points(self.network.set_point, batch, *parts)

    def _kinematics_loss(self, blocks: Blocks) -> Tensor | None:
        """How far off the states are that are foretold from the clip's beginning."""
        assert self.network is not None
        if self.network.kinematics is None or self.optimization.kinematics_steps:
            return None
        parts = blocks.actions, blocks.action_mask, blocks.states
        actions, mask, states = (part.flatten(1, 2) for part in parts)
        return state_loss(self.network.kinematics(blocks.robot[:, 0], actions, mask), states)

    def _roll_out(self, blocks: Blocks, draws: RowDraws) -> Blocks:
        """Pick the blocks to train on, and imagine what some of them begin with."""
        assert self.network is not None
        lead, count = self.objective.self_rollout_blocks, self.architecture.history_blocks + 1
        depth, first = draw_depths(self.objective.self_rollout, lead, draws)
        begin = blocks.pick(first, 1)
        anchor, robot = begin.anchor[:, 0], begin.robot[:, 0]
        with torch.no_grad():
            for index in range(lead):
                latent_noise = draws.normal(*blocks.latents.shape[2:])
                action_noise = draws.normal(*blocks.actions.shape[2:])
                rows = (depth > index).nonzero()[:, 0]
                if not len(rows):
                    continue
                block = first[rows] + index
                actions, mask = blocks.actions[rows, block], blocks.action_mask[rows, block]
                imagined = imagine_block(
                    self.network,
                    anchor[rows],
                    actions,
                    mask,
                    BlockNoise(latent_noise[rows], action_noise[rows]),
                    robot=robot[rows],
                )
                anchor[rows] = next_anchor(anchor[rows], imagined.latents).to(anchor.dtype)
                behind = self.network.next_robot(robot[rows], imagined.states, actions, mask)
                robot[rows] = behind.to(robot.dtype)
        torch.clear_autocast_cache()  # weights that were cast without gradients must not be reused
        picked = blocks.pick(first + depth, count)
        read = picked.were_read().any(-1, keepdim=True)  # what follows there is not foretold
        picked.anchor[:, 0] = anchor
        picked.robot[:, 0] = torch.where(read, picked.robot[:, 0], robot)
        return picked

    def _draws(self, rows: int, batch_idx: int) -> RowDraws:
        """This process's rows of the step's random numbers."""
        micro = batch_idx % self.trainer.accumulate_grad_batches
        generator = step_generator(self.seed, self.trainer.global_step, micro)
        first, total = rows * self.trainer.global_rank, rows * self.trainer.world_size
        return RowDraws(generator, rows, first, total, self.device)


def start_contexts(data: ClipDataModule, count: int) -> Contexts:
    """First frames of training episodes, spread evenly over all datasets.

    Args:
        data: a data module that is set up.
        count: how many, at most.
    """
    episodes = [
        (part.dataset, int(episode), part.cameras, bool(part.labelled[episode]))
        for part in data.train_clips.parts
        for episode in part.episodes
    ]
    chosen = np.linspace(0, len(episodes) - 1, min(count, len(episodes))).round().astype(int)
    return first_frames([episodes[row] for row in chosen], data.frame_size, data.state_dim)
