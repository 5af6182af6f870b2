"""The transformer: layers of attention over blocks, modulated by times and actions.

It sees tokens and one condition vector a block; what they mean is the business of `uwm.py`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from worldmodel.attention import Backend, attend
from worldmodel.rotary import Rotation, rotate


@dataclass
class LayerCache:
    """Keys (not yet rotated) and values of finished blocks, oldest first, for one layer."""

    keys: Float[Tensor, "batch heads tokens width"]
    values: Float[Tensor, "batch heads tokens width"]

    def append(self, newer: "LayerCache", keep: int) -> "LayerCache":
        """Add a block's tokens behind the others and let all but the last `keep` tokens go."""
        keys = torch.cat((self.keys, newer.keys), dim=2)
        values = torch.cat((self.values, newer.values), dim=2)
        start = max(0, keys.shape[2] - keep)
        return LayerCache(keys[:, :, start:], values[:, :, start:])


def modulate(
    x: Float[Tensor, "batch blocks tokens width"],
    shift: Float[Tensor, "batch blocks 1 width"],
    scale: Float[Tensor, "batch blocks 1 width"],
) -> Float[Tensor, "batch blocks tokens width"]:
    """Shift and scale (adaLN): x * (1 + scale) + shift.

    Source: Peebles & Xie, Scalable Diffusion Models with Transformers, arXiv 2212.09748.
    """
    return torch.addcmul(shift, x.to(shift.dtype), 1 + scale)


class Attention(nn.Module):
    """Multi-head self-attention with normalised queries and keys and rotary positions."""

    def __init__(self, width: int, heads: int, backend: Backend):
        super().__init__()
        self.heads = heads
        self.backend: Backend = backend
        self.project_in = nn.Linear(width, 3 * width, bias=False)
        self.project_out = nn.Linear(width, width, bias=False)
        self.norm = nn.LayerNorm(width // heads, eps=1e-6, elementwise_affine=False)
        self.sharpness = nn.Parameter(torch.ones(heads, 1, 1))

    def forward(
        self,
        x: Float[Tensor, "batch tokens width"],
        rotation: Rotation,
        mask: Bool[Tensor, "... #rows columns"] | None,
        past: LayerCache | None,
    ) -> tuple[Float[Tensor, "batch tokens width"], LayerCache]:
        """Attend to these tokens and, where there are some, to those of finished blocks.

        `rotation` is that of the past tokens followed by these.
        """
        batch, tokens, width = x.shape
        parts = self.project_in(x).view(batch, tokens, 3, self.heads, width // self.heads)
        queries_keys, values = parts.permute(2, 0, 3, 1, 4).split((2, 1))
        queries_keys, values = self.norm(queries_keys).to(values.dtype), values[0]
        own = LayerCache(queries_keys[1], values)
        queries, keys = rotate(queries_keys, rotation.last(tokens))
        if past is not None:
            before = rotation.first(past.keys.shape[2])
            keys = torch.cat((rotate(past.keys, before), keys), dim=2)
            values = torch.cat((past.values, values), dim=2)
        queries = queries * self.sharpness.to(queries.dtype)
        result = attend(queries, keys, values, mask, self.backend)
        return self.project_out(result.transpose(1, 2).reshape(batch, tokens, width)), own


class FeedForward(nn.Module):
    """SwiGLU: W_out (silu(W_gate x) * W_in x). Source: Shazeer, arXiv 2002.05202."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.project_in = nn.Linear(width, 2 * hidden, bias=False)
        self.project_out = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """Transform every token by itself."""
        gate, value = self.project_in(x).chunk(2, dim=-1)
        return self.project_out(F.silu(gate) * value)


class Layer(nn.Module):
    """Attention and feed-forward, each shifted, scaled and gated by the block's condition."""

    def __init__(self, width: int, heads: int, condition_width: int, backend: Backend):
        super().__init__()
        hidden = 64 * round(width * 8 / 3 / 64)  # SwiGLU's usual 8/3, in multiples the CPU likes
        self.attention_norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.attention = Attention(width, heads, backend)
        self.feed_forward_norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.feed_forward = FeedForward(width, hidden)
        self.modulation = nn.Linear(condition_width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(
        self,
        x: Float[Tensor, "batch blocks tokens width"],
        condition: Float[Tensor, "batch blocks condition_width"],
        rotation: Rotation,
        mask: Bool[Tensor, "... #rows columns"] | None = None,
        past: LayerCache | None = None,
    ) -> tuple[Float[Tensor, "batch blocks tokens width"], LayerCache]:
        """One layer; also returns this layer's keys and values of the tokens in `x`."""
        shift1, scale1, gate1, shift2, scale2, gate2 = (
            self.modulation(condition).unsqueeze(2).chunk(6, dim=-1)
        )
        inner = modulate(self.attention_norm(x), shift1, scale1)
        result, own = self.attention(inner.flatten(1, 2), rotation, mask, past)
        x = torch.addcmul(x, gate1, result.view_as(x))
        inner = modulate(self.feed_forward_norm(x), shift2, scale2)
        return torch.addcmul(x, gate2, self.feed_forward(inner)), own


class Transformer(nn.Module):
    """A stack of layers that ends in a normalisation modulated like the layers' own."""

    def __init__(
        self, width: int, depth: int, heads: int, condition_width: int, backend: Backend = "sdpa"
    ):
        super().__init__()
        self.layers = nn.ModuleList(
            Layer(width, heads, condition_width, backend) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Linear(condition_width, 2 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(
        self,
        x: Float[Tensor, "batch blocks tokens width"],
        condition: Float[Tensor, "batch blocks condition_width"],
        rotation: Rotation,
        mask: Bool[Tensor, "... #rows columns"] | None = None,
        past: list[LayerCache] | None = None,
    ) -> tuple[Float[Tensor, "batch blocks tokens width"], list[LayerCache]]:
        """Run all layers.

        Args:
            x: tokens.
            condition: one vector a block.
            rotation: rotary positions of the past tokens followed by those of `x`.
            mask: which token of `x` (row) sees which of the past and `x` (column); None: all do.
            past: for each layer, keys and values of finished blocks.

        Returns:
            The tokens, and for each layer their keys and values.
        """
        condition = F.silu(condition)
        own = []
        for index, layer in enumerate(self.layers):
            x, cache = layer(x, condition, rotation, mask, past[index] if past else None)
            own.append(cache)
        shift, scale = self.modulation(condition).unsqueeze(2).chunk(2, dim=-1)
        return modulate(self.norm(x), shift, scale), own
