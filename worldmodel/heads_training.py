"""Training of the heads: a frozen world model imagines, the heads learn to judge what it imagined.

The losses are in `heads_objective.py`, the imagining in `heads_rollouts.py`. Imagining costs far
more than judging, so every batch of clips is imagined once and then looked at several times.
"""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from video.clips import labelled_rows
from video.datamodule import ClipDataModule
from video.errors import DatasetError
from video.statistics import renormalized
from video.step_seeds import seed_of_step
from worldmodel.blocks import cut
from worldmodel.draws import RowDraws, step_generator
from worldmodel.heads import FrameHeads, Grid
from worldmodel.heads_objective import (
    FrameLabels,
    HeadsLosses,
    HeadsObjective,
    bootstrap_weights,
    heads_losses,
)
from worldmodel.heads_rollouts import HeadsRollouts, imagine_clips
from worldmodel.schedule import learning_rate_factor
from worldmodel.set_point import HISTORY, clip_set_points
from worldmodel.success_classifier import GROUPS
from worldmodel.success_learning import FrameMemory, Frames, SuccessLearning, learn_success
from worldmodel.success_threshold import fit_threshold
from worldmodel.uwm import ANCHOR_FRAMES
from worldmodel.world_model import WorldModel, require_world_model

log = logging.getLogger(__name__)


@dataclass
class HeadSizes:
    """Sizes of the heads; the rest the world model and the data decide.

    The fields are those of `FrameHeads`.
    """

    members: int = 5
    channels: int = 128
    pools: int = 4
    hidden: int = 64
    maps: int = 0
    success_channels: int = 0

    def __post_init__(self) -> None:
        """Check what the heads would refuse, before any data are encoded.

        Raises:
            ValueError: channels that do not divide, by name.
        """
        if self.channels % self.pools:
            raise ValueError(f"channels={self.channels} is not a multiple of pools={self.pools}")
        if self.success_channels % GROUPS:
            raise ValueError(
                f"success_channels={self.success_channels} is not a multiple of {GROUPS}"
            )


@dataclass
class HeadsOptimization:
    """AdamW on what one batch of clips let the world model imagine.

    Attributes:
        learning_rate: the peak.
        weight_decay: AdamW's.
        warmup_steps: batches of linear warm-up.
        updates: optimiser steps a batch of clips.
        blocks: blocks in such a step.
    """

    learning_rate: float = 2e-3
    weight_decay: float = 0.1
    warmup_steps: int = 4
    updates: int = 12
    blocks: int = 256


class HeadsTraining(L.LightningModule):
    """Train a world model's heads on its own rollouts of the clips of a `ClipDataModule`.

    A clip holds two context frames and any number of blocks. At the end the heads are put into
    `heads/` of the world model's folder; nothing else in it changes.

    Args:
        world_model: folder of the saved world model.
        sizes: the heads' sizes.
        objective: the loss.
        rollouts: how the recorded actions are replayed.
        optimization: optimiser and schedule.
        success: how the classifier learns that looks at frames, if `sizes.success_channels` make
            one; the success loss that is logged is that of the other heads, as without it.
        seed: of all noise, and of the members' samples.

    Raises:
        DatasetError: the folder is no world model; said before any data are encoded.
    """

    def __init__(
        self,
        world_model: str,
        sizes: HeadSizes = HeadSizes(),  # noqa: B008 - never changed
        objective: HeadsObjective = HeadsObjective(),  # noqa: B008
        rollouts: HeadsRollouts = HeadsRollouts(),  # noqa: B008
        optimization: HeadsOptimization = HeadsOptimization(),  # noqa: B008
        success: SuccessLearning = SuccessLearning(),  # noqa: B008
        seed: int = 0,
    ):
        super().__init__()
        self.folder = require_world_model(Path(world_model))
        self.sizes = sizes
        self.objective = objective
        self.rollouts = rollouts
        self.optimization = optimization
        self.success = success
        self.seed = seed
        self.automatic_optimization = False
        self.world_model: WorldModel | None = None
        self.heads: FrameHeads | None = None
        self.memory = FrameMemory()
        self._success_learned = False

    @property
    def data(self) -> ClipDataModule:
        """The data module of this run."""
        return self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]

    def configure_model(self) -> None:
        """Load the world model and build its heads, once the data are known.

        Raises:
            DatasetError: data that the world model was not made for or that have no labels, or
                more than one process.
        """
        if self.heads is not None:
            return
        if self.trainer.world_size > 1:
            raise DatasetError(
                f"the heads train on one device within minutes, not on {self.trainer.world_size}. "
                "Set trainer.devices to 1."
            )
        self.world_model = WorldModel.from_pretrained(self.folder)
        has = {
            name: any(labelled_rows(part, name).any() for part in self.data.train_clips.parts)
            for name in ("reward", "success", "state")
        }
        has["state"] &= self.world_model.state_normalizer is not None  # else it means nothing there
        if not any(has.values()):
            paths = ", ".join(str(part.dataset.path) for part in self.data.train_clips.parts)
            raise DatasetError(
                f"{paths}: no reward, success or robot state is recorded there, so there is "
                "nothing that heads could learn. Train on labelled data."
            )
        _check_fit(self.world_model, self.data)
        self.data.show_first_frames(self.world_model.network.first_frame)
        if self.world_model.network.set_point is not None:
            self.data.show_history(HISTORY)
        mean, std = _reward_scale(self.data) if has["reward"] else (0.0, 1.0)
        network = self.world_model.network
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.heads = FrameHeads(
                width=network.config["width"],
                frames=network.block_frames,
                state_dim=self.data.state_dim if has["state"] else 0,
                views=network.views,
                patch=network.patch,
                latent_channels=network.config["latent_channels"],
                has_reward=has["reward"],
                has_success=has["success"],
                reward_mean=mean,
                reward_std=std,
                **asdict(self.sizes) | ({} if has["success"] else {"success_channels": 0}),
            )

    def on_fit_start(self) -> None:
        """Bring the world model to where the clips will be; it is no part of this module."""
        assert self.world_model is not None
        for part in (self.world_model.network, self.world_model.autoencoder):
            nn.Module.to(part, self.device)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Imagine a batch of clips, then judge its blocks several times, in parts."""
        assert self.heads is not None
        torch.manual_seed(seed_of_step(self.trainer, self.seed, batch_idx))  # dropout
        generator = step_generator(self.seed, self.trainer.global_step)
        imagined = self._imagine(batch, generator)
        if self.heads.see_success is not None:
            self.memory.add(imagined.frames)
            if self.trainer.global_step == self.trainer.estimated_stepping_batches - 1:
                self._learn_success()  # within the last step: cut off here, it is done again
        optimizer, raw = self.optimizers(), self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, LightningOptimizer)
        assert isinstance(raw, torch.optim.Optimizer)
        factor = learning_rate_factor(
            self.trainer.global_step,
            int(self.trainer.estimated_stepping_batches),
            self.optimization.warmup_steps,
            cooldown=1.0,
        )
        for group in raw.param_groups:
            group["lr"] = self.optimization.learning_rate * factor
        size = min(self.optimization.blocks, len(imagined.features))
        order = torch.empty(0, dtype=torch.long)
        for update in range(self.optimization.updates):
            if len(order) < size:
                order = torch.randperm(len(imagined.features), generator=generator)
            rows, order = order[:size].to(self.device), order[size:]
            losses = self._losses(
                imagined.features[rows],
                imagined.labels.take(rows),
                imagined.weights[:, rows],
                imagined.grid,
            )
            raw.zero_grad()
            self.manual_backward(losses.total(self.objective))
            last = update == self.optimization.updates - 1
            (optimizer if last else raw).step()  # Lightning counts one step a batch
        self.log("loss", losses.total(self.objective).detach(), prog_bar=True)
        self.log_dict({f"{name}_loss": value.detach() for name, value in losses._asdict().items()})

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log the losses on held-out clips, imagined in the same way."""
        generator = step_generator(self.seed, batch_idx)
        imagined = self._imagine(batch, generator)
        losses = self._losses(
            imagined.features,
            imagined.labels,
            torch.ones_like(imagined.weights),
            imagined.grid,
        )
        self.log("val_loss", losses.total(self.objective), prog_bar=True)
        self.log_dict({f"val_{name}_loss": value for name, value in losses._asdict().items()})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the memory, so that a resumed run goes on as it would have."""
        checkpoint["frame_memory"] = None if self.memory.kept is None else tuple(self.memory.kept)
        checkpoint["success_learned"] = self._success_learned

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The inverse."""
        kept = checkpoint.get("frame_memory")  # older ones have none
        self.memory.kept = None if kept is None else Frames(*kept)
        self._success_learned = checkpoint.get("success_learned", False)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; its learning rate is set batch by batch."""
        return torch.optim.AdamW(
            self.parameters(),
            lr=self.optimization.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=self.optimization.weight_decay,
            fused=True,
        )

    def on_train_end(self) -> None:
        """Put the heads into the model folder; a trial run leaves nothing behind."""
        if getattr(self.trainer, "fast_dev_run", False):
            return
        assert self.world_model is not None
        assert self.heads is not None
        self.world_model.heads = self.heads
        if self.heads.see_success is not None and not self._success_learned:
            self._learn_success()  # the run was ended before its last step, by max_time say
        self.world_model.save_heads(self.folder)  # before anything that may fail
        if self.heads.config["has_success"]:
            self._fit_threshold(self.world_model, self.heads)
            self.world_model.save_heads(self.folder)

    def _learn_success(self) -> None:
        """Let the success classifier learn from all that was imagined; a trial run does without."""
        assert self.heads is not None
        assert self.heads.see_success is not None
        if not getattr(self.trainer, "fast_dev_run", False):
            with torch.autocast(self.device.type, enabled=False):
                learn_success(self.heads.see_success, self.memory, self.success, self.seed)
        self._success_learned = True

    def _fit_threshold(self, model: WorldModel, heads: FrameHeads) -> None:
        """Let imagined successes be as frequent as true ones, on the validation episodes."""
        was_training = heads.training
        heads.eval()
        threshold = fit_threshold(model, self.data.sources, self.seed)
        heads.train(was_training)
        if threshold is None:
            log.warning(
                "too few validation episodes with and without success: a frame counts as success "
                "from a probability of %s, and nobody knows whether that is right",
                heads.config["success_threshold"],
            )
        else:
            heads.register_to_config(success_threshold=threshold)

    def _imagine(self, batch: dict[str, Tensor], generator: torch.Generator) -> "Imagined":
        """The blocks of labelled clips, imagined."""
        assert self.world_model is not None
        assert self.heads is not None
        labelled = batch["reward_mask"].any(1) | batch["success_mask"].any(1)
        labelled = labelled | batch["state_mask"].any(1)
        if labelled.any():
            batch = {name: value[labelled] for name, value in batch.items()}
        network, size = self.world_model.network, self.world_model.network.block_frames
        model, data = self.world_model, self.data
        actions = renormalized(batch["actions"], data.action_normalizer, model.action_normalizer)
        state = renormalized(batch["state"], data.state_normalizer, model.state_normalizer)
        robot = torch.where(batch["state_mask"][..., None], state, torch.nan)
        if state.shape[-1] != network.state_dim:  # data without any, or a model that asks for none
            robot = state.new_full((*state.shape[:2], network.state_dim), torch.nan)
        batch = batch | {"state": state[..., : self.heads.state_dim]}
        mask, first = batch["action_mask"], batch.get("first_latents")
        blocks = cut(
            batch["latents"],
            actions,
            mask,
            size,
            states=robot,
            first=first,
            past_actions=network.robot_actions,
            set_points=_set_points(model, data, batch, actions, robot),
        )
        draws = RowDraws(generator, len(actions), device=self.device)
        imagined = imagine_clips(network, blocks, self.rollouts, draws)

        def by_block(name: str, first: int) -> Tensor:
            return rearrange(batch[name][:, first:], "b (n k) ... -> (b n) k ...", k=size)

        known = imagined.known.flatten(0, 1)
        reward = by_block("reward", 1) - self.heads.config["reward_mean"]
        labels = FrameLabels(
            reward=reward / self.heads.config["reward_std"],
            reward_mask=by_block("reward_mask", 1) & known,
            success=by_block("success", 1),
            success_mask=by_block("success_mask", 1) & known,
            state=by_block("state", ANCHOR_FRAMES),
            state_mask=by_block("state_mask", ANCHOR_FRAMES) & known,
            error=imagined.error.flatten(0, 1),
            error_mask=known,
        )
        weights = bootstrap_weights(batch["episode"], self.sizes.members, self.seed)
        weights = weights.repeat_interleave(blocks.latents.shape[1], dim=1)
        views, _, height, width = batch["latents"].shape[2:]
        return Imagined(
            features=imagined.features.flatten(0, 1).float(),
            frames=Frames(
                imagined=imagined.frames.flatten(0, 1),
                recorded=blocks.latents.flatten(0, 1),
                success=labels.success,
                mask=labels.success_mask,
            ),
            labels=labels,
            weights=weights,
            grid=(views, height // network.patch, width // network.patch),
        )

    def _losses(
        self, features: Tensor, labels: FrameLabels, weights: Tensor, grid: Grid
    ) -> HeadsLosses:
        assert self.heads is not None
        with torch.autocast(self.device.type, enabled=False):
            predicted = self.heads.judge_block(features, grid)
            return heads_losses(predicted, labels, weights, self.objective)


class Imagined(NamedTuple):
    """R blocks that the world model imagined.

    Attributes:
        features: of each block's tokens.
        frames: what it imagined, and what was recorded.
        labels: of its frames.
        weights: what it counts for each member.
        grid: views, rows and columns of the video tokens.
    """

    features: Float[Tensor, "rows tokens width"]
    frames: Frames
    labels: FrameLabels
    weights: Float[Tensor, "members rows"]
    grid: Grid


def _check_fit(model: WorldModel, data: ClipDataModule) -> None:
    """Refuse data that the world model was not made for.

    Raises:
        DatasetError: says which of both has to change.
    """
    size = model.network.block_frames
    blocks, rest = divmod(data.clip_frames - ANCHOR_FRAMES, size)
    if rest or blocks < 1:
        raise DatasetError(
            f"data.clip_frames is {data.clip_frames}, but a clip is {ANCHOR_FRAMES} frames and "
            f"blocks of {size}. Set data.clip_frames to {ANCHOR_FRAMES + max(blocks, 1) * size}."
        )
    if data.autoencoder is None or data.autoencoder.fingerprint != model.autoencoder.fingerprint:
        raise DatasetError(
            f"data.autoencoder ({data.autoencoder_folder}) is not the one that the world model was "
            "trained with. Set it to the folder 'autoencoder' within the world model's."
        )
    pairs = {
        "fps": (data.fps, model.fps),
        "cameras": (list(data.cameras), list(model.cameras)),
        "frame size": (tuple(data.frame_size), tuple(model.frame_size)),
        "action size": (data.action_dim, model.network.action_dim),
    }
    if data.state_normalizer is not None and model.state_normalizer is not None:
        pairs["state size"] = (data.state_normalizer.dim, model.state_normalizer.dim)
    different = [f"{name} {own}, not {its}" for name, (own, its) in pairs.items() if own != its]
    if different:
        raise DatasetError(
            f"the data do not fit the world model: they have {'; '.join(different)}. Use data "
            "like those it was trained on."
        )


def _reward_scale(data: ClipDataModule) -> tuple[float, float]:
    """Mean and standard deviation of the labelled training rewards."""
    values = []
    for part in data.train_clips.parts:
        known = labelled_rows(part, "reward")
        if known.any():
            values.append(part.dataset.columns["reward"][known])
    rewards = np.concatenate(values).astype(np.float64) * data.stride
    return float(rewards.mean()), float(rewards.std()) or 1.0


def _set_points(
    model: WorldModel,
    data: ClipDataModule,
    batch: dict[str, Tensor],
    actions: Tensor,
    states: Tensor,
) -> Tensor | None:
    """Those of the clips, if the model's kinematics keep any."""
    if model.network.set_point is None:
        return None
    past = renormalized(batch["past_actions"], data.action_normalizer, model.action_normalizer)
    begin = renormalized(batch["past_state"], data.state_normalizer, model.state_normalizer)
    known = batch["past_state_mask"][..., None]
    if begin.shape[-1] != states.shape[-1]:  # data without any
        begin, known = states[:, 0], known & False
    begin = torch.where(known, begin, torch.nan)
    return clip_set_points(model.network.set_point, batch, actions, states, past, begin)
