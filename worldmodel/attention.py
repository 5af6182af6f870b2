"""Attention over blocks: which token may look at which, and the kernel that does it."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

Backend = Literal["sdpa", "xformers"]

CPU_PLAIN_TOKENS = 128
"""Up to this many tokens the CPU takes plain matrix products: the backward pass of its fused kernel
costs 7.4 ms a layer at 20 tokens, these 0.6 (batch 32, 4 heads, bf16, 2 cores)."""


def block_causal_mask(
    blocks: int, tokens: int, history: int, device: torch.device | None = None
) -> Bool[Tensor, "sequence sequence"]:
    """True where a token (row) may look at another (column).

    Everything within a block, and the `history` blocks before it; never a later one.
    """
    block = torch.arange(blocks, device=device).repeat_interleave(tokens)
    age = block[:, None] - block[None, :]
    return (age >= 0) & (age <= history)


def attend(
    queries: Float[Tensor, "batch heads rows width"],
    keys: Float[Tensor, "batch heads columns width"],
    values: Float[Tensor, "batch heads columns width"],
    mask: Bool[Tensor, "... #rows columns"] | None = None,
    backend: Backend = "sdpa",
) -> Float[Tensor, "batch heads rows width"]:
    """Scaled dot-product attention.

    Raises:
        ImportError: the xformers backend is asked for where it is not installed.
        ValueError: the xformers backend is asked for on a CPU, where it has no kernel.
    """
    if backend == "sdpa" and queries.device.type == "cpu" and keys.shape[2] <= CPU_PLAIN_TOKENS:
        return _plain(queries, keys, values, mask)
    if backend == "sdpa":
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    try:
        from xformers.ops import memory_efficient_attention  # pyright: ignore
    except ImportError as error:
        raise ImportError(
            "attention='xformers' needs the xformers package: pip install -e '.[xformers]', "
            "or use attention='sdpa'"
        ) from error
    if queries.device.type != "cuda":
        raise ValueError(
            f"attention='xformers' has no kernel for {queries.device.type}; use attention='sdpa'"
        )
    bias = None
    if mask is not None:
        bias = torch.zeros(mask.shape, dtype=queries.dtype, device=mask.device)
        bias = bias.masked_fill(~mask, float("-inf")).expand(*queries.shape[:3], keys.shape[2])
    # xformers wants batch, tokens, heads, width
    q, k, v = (x.transpose(1, 2) for x in (queries, keys, values))
    return memory_efficient_attention(q, k, v, attn_bias=bias).transpose(1, 2)


def _plain(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    scores = (queries * queries.shape[-1] ** -0.5) @ keys.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(-1).to(values.dtype) @ values
