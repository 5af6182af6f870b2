"""Training of the success classifier, on frames of everything that was imagined for the heads.

Batch by batch it would learn the latest clips by heart and forget those before. So it learns when
all is imagined, from frames of all clips alike.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.optim.lr_scheduler import OneCycleLR
from tqdm import tqdm

from worldmodel.heads_objective import cross_entropy
from worldmodel.success_classifier import SuccessClassifier


@dataclass
class SuccessLearning:
    """How the success classifier learns.

    Attributes:
        updates: steps of AdamW.
        frames: single frames in each.
        learning_rate: the peak, a third of the way.
        weight_decay: AdamW's.
        success_weight: what a missed success costs beside a false one. The threshold is fitted
            afterwards in any case.
        true_frames: share of the frames that are shown as recorded.
        noise: standard deviation of the noise on a frame, times a normal number of its own.
    """

    updates: int = 500
    frames: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    success_weight: float = 1.0
    true_frames: float = 0.2
    noise: float = 0.15

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: one that cannot be, by name.
        """
        if self.updates < 1 or self.frames < 1:
            raise ValueError(f"updates={self.updates} and frames={self.frames} must be at least 1")
        if not 0 <= self.true_frames <= 1:
            raise ValueError(f"true_frames={self.true_frames} is a share, from 0 to 1")
        if self.noise < 0:
            raise ValueError(f"noise={self.noise} must not be negative")


class Frames(NamedTuple):
    """The frames of R imagined blocks.

    Attributes:
        imagined: by the world model.
        recorded: what they should be.
        success: whether they show success.
        mask: where that is known.
    """

    imagined: Float[Tensor, "rows frames views channels h w"]
    recorded: Float[Tensor, "rows frames views channels h w"]
    success: Bool[Tensor, "rows frames"]
    mask: Bool[Tensor, "rows frames"]


class Glances(NamedTuple):
    """Single frames, as the classifier is shown them, and whether they show success."""

    frames: Float[Tensor, "rows 1 views channels h w"]
    success: Bool[Tensor, "rows 1"]
    mask: Bool[Tensor, "rows 1"]


class FrameMemory:
    """The frames of all blocks so far, on the CPU in half precision.

    Some 4 MB for a batch of 64 clips of 34 frames of 64x64 pixels.

    Attributes:
        kept: all of them; None before there are any.
    """

    def __init__(self) -> None:
        self.kept: Frames | None = None

    def add(self, frames: Frames) -> None:
        """Remember some more."""
        new = frames._replace(imagined=frames.imagined.half(), recorded=frames.recorded.half())
        new = Frames(*(value.cpu() for value in new))
        if self.kept is not None:
            with torch.autocast("cpu", enabled=False):  # which refuses to join float16
                new = Frames(*(torch.cat(pair) for pair in zip(self.kept, new, strict=True)))
        self.kept = new

    def glance(self, options: SuccessLearning, generator: torch.Generator) -> Glances:
        """Draw frames of any block: mostly as imagined, some as recorded, all with a little noise.

        Args:
            options: how many, and how they are shown.
            generator: on the CPU.
        """
        assert self.kept is not None, "nothing was imagined yet"
        count, (blocks, size) = options.frames, self.kept.mask.shape
        block = torch.randint(blocks, (count, 1), generator=generator)
        place = torch.randint(size, (count, 1), generator=generator)
        imagined, recorded, success, mask = (values[block, place] for values in self.kept)
        true = torch.rand(count, generator=generator) < options.true_frames
        scale = options.noise * torch.randn(count, generator=generator)
        noise = torch.randn(imagined.shape, generator=generator)
        wide = (..., *(None,) * (imagined.ndim - 1))
        frames = torch.where(true[wide], recorded, imagined) + scale[wide] * noise
        return Glances(frames, success, mask)


def learn_success(
    classifier: SuccessClassifier, memory: FrameMemory, options: SuccessLearning, seed: int = 0
) -> None:
    """Learn to tell success from single frames.

    The members see the same frames and begin at different weights, which is what makes ensembles
    disagree (Lakshminarayanan et al., arXiv 1612.01474).

    Args:
        classifier: to be trained, on the device where it is.
        memory: what was imagined.
        options: how to learn.
        seed: of the frames and of dropout.
    """
    device = next(classifier.parameters()).device
    optimizer = torch.optim.AdamW(
        classifier.parameters(), options.learning_rate, weight_decay=options.weight_decay
    )
    schedule = OneCycleLR(optimizer, options.learning_rate, max(options.updates, 2))
    generator = torch.Generator().manual_seed(seed)
    was_training = classifier.training
    classifier.train()
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(seed)
        for _ in tqdm(range(options.updates), "Learning success", unit=" updates", mininterval=5):
            shown = Glances(*(value.to(device) for value in memory.glance(options, generator)))
            logits = classifier(shown.frames)
            alike = torch.ones(logits.shape[:2], device=device)
            loss = cross_entropy(logits, shown.success, shown.mask, alike, options.success_weight)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    classifier.train(was_training)
