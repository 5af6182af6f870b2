"""A learned mask: which parts of a frame the actions are read off, with nobody having drawn one.

A small network shows or hides every pixel (or place of the latents); what is hidden is zero for
all that follows. The loss asks for showing little (`ReaderOptimization.mask_weight`), so what
remains is what moves as the actions say, and a background that was never seen does not matter.

Source: Feng et al., Vidar, arXiv 2507.12898: m = U(x), a = R(round(m) * x), the loss of a plus
lambda |m|_1, the rounding passed over in the backward pass.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

OPENNESS = 2.0
"""At the start everything is shown: the logit before anything is learned."""


class PictureMask(nn.Module):
    """Shows parts of frames, and hides the others.

    Args:
        inputs: channels of a frame.
        channels: feature maps of the network that decides.
        patch: pixels that it looks at as one place, each way; it decides for every single one.
    """

    def __init__(self, inputs: int, channels: int, patch: int = 1):
        super().__init__()
        self.patch = patch
        self.decide = nn.Sequential(
            nn.Conv2d(inputs * patch**2, channels, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(channels, patch**2, 1),
        )
        last = self.decide[-1]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        nn.init.zeros_(last.weight)
        nn.init.constant_(last.bias, OPENNESS)

    def forward(
        self, frames: Float[Tensor, "batch views channels height width"]
    ) -> tuple[
        Float[Tensor, "batch views channels height width"],
        Float[Tensor, "batch views height width"],
    ]:
        """Frames without what is hidden, and how much is shown before rounding, 0 to 1."""
        folded = F.pixel_unshuffle(frames.flatten(0, 1), self.patch)
        logits = self.decide(folded.contiguous(memory_format=torch.channels_last)).float()
        shown = F.pixel_shuffle(logits, self.patch).sigmoid().unflatten(0, frames.shape[:2])
        rounded = shown + (shown.round() - shown).detach()
        return frames * rounded, shown.squeeze(2)
