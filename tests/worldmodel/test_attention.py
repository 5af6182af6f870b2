import importlib.util

import pytest
import torch
import torch.nn.functional as F

from worldmodel import attention
from worldmodel.attention import attend, block_causal_mask


def test_mask_by_hand():
    mask = block_causal_mask(blocks=3, tokens=1, history=1)
    assert mask.tolist() == [[True, False, False], [True, True, False], [False, True, True]]


def test_a_block_sees_all_of_itself():
    mask = block_causal_mask(blocks=2, tokens=2, history=0)
    expected = torch.block_diag(torch.ones(2, 2), torch.ones(2, 2)).bool()
    assert mask.equal(expected)


@pytest.mark.parametrize("masked", [False, True])
def test_short_and_long_sequences_attend_alike(masked, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, 8, 16, generator=generator)
    mask = block_causal_mask(2, 4, 0) if masked else None
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(attend(q, k, v, mask), expected, atol=1e-5, rtol=1e-5)
    monkeypatch.setattr(attention, "CPU_PLAIN_TOKENS", 0)
    assert attend(q, k, v, mask).equal(expected)


def test_xformers_says_what_it_needs():
    q = torch.zeros(1, 1, 2, 8)
    installed = importlib.util.find_spec("xformers") is not None
    error = ValueError if installed else ImportError
    with pytest.raises(error, match="sdpa"):
        attend(q, q, q, backend="xformers")
