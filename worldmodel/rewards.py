"""Rewards and successes of imagined steps, behind one small protocol.

A reward model is any callable from an `ImaginedStep` to a `Verdict`: one of those below, or the
user's own.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import imageio.v3 as imageio
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from video.errors import DatasetError
from video.resizing import resize_frames
from worldmodel.heads import FrameOutputs
from worldmodel.imagination import ImaginedStep
from worldmodel.world_model import WorldModel


class Verdict(NamedTuple):
    """What a step is worth, frame by frame of its chunk."""

    reward: Float[Tensor, "rows chunk"]
    success: Bool[Tensor, "rows chunk"]


RewardModel = Callable[[ImaginedStep], Verdict]


class LearnedReward:
    """The data's own reward, as the world model's heads learned it.

    Args:
        threshold: probability from which a frame counts as success, where the heads know success;
            None: the one that was fitted with the heads.
        unanimous: whether every member of the ensemble must believe in it, or their mean.
    """

    needs = "has_reward"

    def __init__(self, threshold: float | None = None, unanimous: bool = True):
        self.threshold = threshold
        self.unanimous = unanimous

    def __call__(self, step: ImaginedStep) -> Verdict:
        """Judge the frames."""
        outputs, heads = _outputs(step), step.model.heads
        success = _success(step, self.threshold, self.unanimous)
        if heads is not None and not heads.config["has_success"]:
            success = torch.zeros_like(success)
        return Verdict(outputs.reward, success)


class LearnedSuccess:
    """1 for a frame that the world model's success classifier accepts, else 0.

    Args:
        threshold: probability from which a frame counts as success; None: the one that was fitted
            with the heads, at which success is as frequent as it is true.
        unanimous: whether every member of the ensemble must believe in it, or their mean. RL looks
            for the frames that fool the classifier; it has to fool all of them.
    """

    needs = "has_success"

    def __init__(self, threshold: float | None = None, unanimous: bool = True):
        self.threshold = threshold
        self.unanimous = unanimous

    def __call__(self, step: ImaginedStep) -> Verdict:
        """Judge the frames."""
        success = _success(step, self.threshold, self.unanimous)
        return Verdict(success.float(), success)


class GoalImage:
    """How near a frame is to a goal image: minus their root-mean-square distance in latents.

    Args:
        goal: a picture file, or frames uint8 `(H, W, 3)` or `(V, H, W, 3)`.
        threshold: distance up to which a frame counts as success; None: never.

    Raises:
        DatasetError: a goal of another shape.
    """

    def __init__(self, goal: str | Path | UInt8[np.ndarray, "..."], threshold: float | None = None):
        pixels = imageio.imread(goal) if isinstance(goal, str | Path) else np.asarray(goal)
        pixels = pixels[None] if pixels.ndim == 3 else pixels
        if pixels.ndim != 4 or pixels.shape[-1] < 3 or pixels.dtype != np.uint8:
            raise DatasetError(
                f"the goal is {pixels.dtype} {pixels.shape}; give uint8 (H, W, 3), or "
                "(V, H, W, 3) for V cameras"
            )
        self.frames = pixels[..., :3]
        self.threshold = threshold
        self._latents: Tensor | None = None

    def __call__(self, step: ImaginedStep) -> Verdict:
        """Judge the frames."""
        if self._latents is None:
            frames = torch.from_numpy(resize_frames(self.frames, step.model.frame_size))
            self._latents = step.model.encode(frames.to(step.frames.device)).float()
        if self._latents.shape != step.frames.shape[2:]:
            raise DatasetError(
                f"the goal shows {len(self.frames)} cameras, the world model has "
                f"{step.frames.shape[2]}; give uint8 (V, H, W, 3)"
            )
        distance = (step.frames - self._latents).square().mean((2, 3, 4, 5)).sqrt()
        success = torch.zeros_like(distance, dtype=torch.bool)
        if self.threshold is not None:
            success = distance <= self.threshold
        return Verdict(-distance, success)


def reward_model(choice: str | RewardModel, model: WorldModel) -> RewardModel:
    """A reward model by name ("success", "dense"), or the callable itself.

    Raises:
        ValueError: another name.
        DatasetError: one that the world model's heads have not learned.
    """
    named = {"success": LearnedSuccess, "dense": LearnedReward}
    if not isinstance(choice, str):
        chosen = choice
    elif choice in named:
        chosen = named[choice]()
    else:
        raise ValueError(
            f"reward={choice!r}: use one of {sorted(named)}, or a callable from an ImaginedStep to "
            "a Verdict, such as worldmodel.rewards.GoalImage(picture)"
        )
    if isinstance(chosen, LearnedSuccess | LearnedReward):
        if model.heads is None:
            raise DatasetError(
                "this world model has no heads to judge its frames by. Train them with `lightning "
                "fit -c configs/reward.yaml`, or pass a reward of your own."
            )
        if not model.heads.config[chosen.needs]:
            raise DatasetError(
                f"the heads of this world model were trained on data without what "
                f"{type(chosen).__name__} needs ({chosen.needs} is false). Train them on data that "
                "have it, or choose another reward."
            )
    return chosen


def _outputs(step: ImaginedStep) -> FrameOutputs:
    assert step.outputs is not None, "reward_model() refuses models without heads"
    return step.outputs


def _success(
    step: ImaginedStep, threshold: float | None, unanimous: bool
) -> Bool[Tensor, "rows chunk"]:
    outputs, heads = _outputs(step), step.model.heads
    if threshold is None:
        threshold = 0.5 if heads is None else float(heads.config["success_threshold"])
    logit = outputs.lowest_success_logit if unanimous else outputs.success_logit
    return logit.sigmoid() >= threshold
