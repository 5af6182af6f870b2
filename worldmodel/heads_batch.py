"""What the heads learn from at once: imagined blocks, what was recorded there, and labels."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from worldmodel.heads import Grid
from worldmodel.heads_objective import FrameLabels
from worldmodel.heads_rollouts import HeadsRollouts


class HeadsBatch(NamedTuple):
    """R blocks.

    Attributes:
        features: of each block's tokens.
        imagined: its frames, as the world model imagined them.
        recorded: as they were.
        labels: of its frames.
        weights: what it counts for each member.
        grid: views, rows and columns of the video tokens.
    """

    features: Float[Tensor, "rows tokens width"]
    imagined: Float[Tensor, "rows frames views channels h w"]
    recorded: Float[Tensor, "rows frames views channels h w"]
    labels: FrameLabels
    weights: Float[Tensor, "members rows"]
    grid: Grid

    def take(self, rows: Int64[Tensor, " chosen"]) -> "HeadsBatch":
        """Some of the blocks."""
        return HeadsBatch(
            self.features[rows],
            self.imagined[rows],
            self.recorded[rows],
            self.labels.take(rows),
            self.weights[:, rows],
            self.grid,
        )


class FrameMemory:
    """The frames of all blocks that were imagined so far, for the success classifier.

    Batch by batch it would learn the latest clips by heart and forget those before. So it learns
    when all is imagined, from frames of all clips alike. They are kept in half precision: some 4 MB
    a batch of 64 clips of 64x64 pixels.
    """

    def __init__(self) -> None:
        self.kept: dict[str, Tensor] = {}

    def add(self, batch: HeadsBatch) -> None:
        """Remember a batch's frames and labels."""
        new = {
            "imagined": batch.imagined.half(),
            "recorded": batch.recorded.half(),
            "success": batch.labels.success,
            "mask": batch.labels.success_mask,
        }
        old = self.kept or {name: value[:0].cpu() for name, value in new.items()}
        self.kept = {name: torch.cat((old[name], value.cpu())) for name, value in new.items()}

    def glance(self, count: int, settings: HeadsRollouts, generator: torch.Generator) -> "Glances":
        """Draw frames: mostly as imagined, some as recorded, all with a little noise.

        Args:
            count: how many.
            settings: say how they are shown.
            generator: on the CPU.
        """
        blocks, size = self.kept["mask"].shape
        block = torch.randint(blocks, (count,), generator=generator)
        place = torch.randint(size, (count, 1), generator=generator)
        shown = block[:, None], place
        true = torch.rand(count, generator=generator) < settings.true_frames
        scale = settings.frame_noise * torch.randn(count, generator=generator)
        imagined, recorded = self.kept["imagined"][shown], self.kept["recorded"][shown]
        wide = (..., *(None,) * (imagined.ndim - 1))
        noise = torch.randn(imagined.shape, generator=generator)
        return Glances(
            frames=torch.where(true[wide], recorded, imagined) + scale[wide] * noise,
            success=self.kept["success"][shown],
            mask=self.kept["mask"][shown],
        )


class Glances(NamedTuple):
    """Single frames, as the success classifier is shown them.

    Attributes:
        frames: the frames.
        success: whether they show it.
        mask: where that is known.
    """

    frames: Float[Tensor, "rows 1 views channels h w"]
    success: Bool[Tensor, "rows 1"]
    mask: Bool[Tensor, "rows 1"]

    def to(self, device: torch.device) -> "Glances":
        """The same on a device."""
        return Glances(*(value.to(device) for value in self))
