"""The movement kernel, fitted to the training data of a network that is trained."""

from collections.abc import Callable

import torch
from torch import Tensor

from inverse_dynamics.heads import Head
from inverse_dynamics.model import pictures_of
from inverse_dynamics.movement_kernel import MovementKernel, movements, to_targets
from video.datamodule import ClipDataModule


@torch.inference_mode()
def fit_kernel(
    tell_states: Callable[[Tensor], Tensor], data: ClipDataModule, head: Head, most: int
) -> MovementKernel:
    """Fit it to all known actions of an embodiment, and to the states that a model tells.

    The states are the model's, not the recorded ones, because of other video there are no others:
    the kernel gets used to how exactly they are told.

    Args:
        tell_states: of that embodiment, normalised, in videos of any length.
        data: the training clips.
        head: the embodiment's.
        most: steps of the kernel's basis, at most.
    """
    assert data.action_normalizer is not None
    own = list(data.embodiments).index(head.embodiment)
    features, targets, weights = [], [], []
    for number in data.train_clips.labelled_episodes():
        clip = data.on_after_batch_transfer(data.train_clips.whole(int(number)), 0)
        if clip["embodiment"].item() != own:
            continue
        states = tell_states(pictures_of(clip))
        actions = data.action_normalizer.denormalize(clip["actions"])[..., head.embodiment.actions]
        known = clip["action_mask"]
        features.append(movements(states)[known])
        targets.append(to_targets(head.normalizer.normalize(actions), head.kinds)[known])
        weights.append(clip["action_weight"][known])
    return MovementKernel.fit(torch.cat(features), torch.cat(targets), torch.cat(weights), most)
