"""The network that tells the robot's state alone, fitted once the reader is trained."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from tqdm import tqdm

from inverse_dynamics.losses import state_loss
from inverse_dynamics.model import pictures_of
from inverse_dynamics.shifts import shifted
from inverse_dynamics.state_reader import StateReader
from video.clips import Clips
from video.datamodule import ClipDataModule
from video.embodiments import Embodiment
from video.muon import Muon

LEARNING_RATE = 0.02
"""Of matrices, by Muon."""
VECTOR_LEARNING_RATE = 2e-3
WARMUP = 50
CLIP_GRADIENTS = 1.0
MOVEMENT_WEIGHT = 8.0
"""Of how the state moves from frame to frame, which is little of it."""
FRAMES = 128
"""Of a batch, about."""
SHIFT = 1
"""Places (pixels or latents) by which each frame is shifted each way, at most."""


def fit_state_reader(
    reader: StateReader,
    data: ClipDataModule,
    embodiment: Embodiment,
    steps: int,
    seed: int,
    precision: Callable[[], AbstractContextManager],
) -> None:
    """Fit it to the known states of one embodiment, whether the actions are known or not.

    The loss is the mean absolute error of the states and of their movements. Every frame is shifted
    by a draw of its own, of a pixel at most: that is about what a reader of few labels is off by,
    and makes it look at more than single pixels.

    Args:
        reader: where its weights are is where it is fitted.
        data: the training clips.
        embodiment: whose.
        steps: of the optimiser.
        seed: of shifts and dropout.
        precision: context of the forward pass, such as autocast.
    """
    own = list(data.embodiments).index(embodiment)
    device = next(reader.parameters()).device
    optimizer = Muon(reader.parameters(), LEARNING_RATE, VECTOR_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARMUP, (steps - step) / steps)
    )
    reader.requires_grad_(True).train()
    loader = data.state_dataloader(steps, max(1, FRAMES // data.clip_frames))
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(seed)
        for clips in tqdm(loader, desc="State reader", unit=" steps"):
            batch = data.on_after_batch_transfer(_to(clips, device), 0)
            known = batch["state_mask"] & (batch["embodiment"] == own)[:, None]
            frames = pictures_of(batch)
            moved = shifted(frames.flatten(0, 1)[:, None], SHIFT).view_as(frames)
            with precision():
                told = reader(moved)
            true = batch["state"][..., embodiment.state]
            loss = state_loss(told, true, known[..., None])
            both = (known[:, 1:] & known[:, :-1])[..., None]
            loss = loss + MOVEMENT_WEIGHT * state_loss(told.diff(dim=1), true.diff(dim=1), both)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(reader.parameters(), CLIP_GRADIENTS)
            optimizer.step()
            schedule.step()
    reader.requires_grad_(False).eval()


def _to(clips: Clips, device: torch.device) -> Clips:
    """A batch, on the device."""
    return {name: values.to(device) for name, values in clips.items()}
