"""A tiny network whose every weight matters, and blocks to put through it."""

import pytest
import torch

from worldmodel.blocks import Blocks
from worldmodel.uwm import UWM


def build(history_blocks=0, **sizes) -> UWM:
    """A tiny network with random weights everywhere, the zero-initialised ones included."""
    sizes = {
        "latent_channels": 3,
        "action_dim": 2,
        "width": 48,
        "depth": 2,
        "heads": 2,
        "condition_width": 16,
        **sizes,
    }
    torch.manual_seed(0)
    network = UWM(**sizes, history_blocks=history_blocks)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return network.eval()


@pytest.fixture
def build_network():
    return build


@pytest.fixture
def network() -> UWM:
    return build()


@pytest.fixture
def blocks() -> Blocks:
    """Six rows of two blocks: two rows are action-free, and one more action is unknown."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(6, 2, 4, dtype=torch.bool)
    mask[4:] = False
    mask[0, 1, 2] = False
    return Blocks(
        anchor=torch.randn(6, 2, 2, 1, 3, 4, 4, generator=generator),
        latents=torch.randn(6, 2, 4, 1, 3, 4, 4, generator=generator),
        actions=torch.rand(6, 2, 4, 2, generator=generator) * 2 - 1,
        action_mask=mask,
        action_weight=mask.float(),
        robot=torch.zeros(6, 2, 0),
        states=torch.zeros(6, 2, 4, 0),
    )


@pytest.fixture
def actions() -> torch.Tensor:
    """Twelve actions of two numbers for each of two rows."""
    return torch.rand(2, 12, 2, generator=torch.Generator().manual_seed(1)) * 2 - 1
