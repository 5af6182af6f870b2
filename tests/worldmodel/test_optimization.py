import pytest
import torch
from tiny_world_models import tiny_world_model

from video.muon import Muon
from worldmodel.optimization import KINEMATICS_RATE, Optimization, optimizer_of
from worldmodel.uwm import UWM


@pytest.fixture
def network() -> UWM:
    return tiny_world_model().network.requires_grad_(True)


def rates(network: UWM, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """The learning rate of every weight, by name."""
    names = {id(weight): name for name, weight in network.named_parameters()}
    return {
        names[id(weight)]: group["lr"]
        for group in optimizer.param_groups
        for weight in group["params"]
    }


@pytest.mark.parametrize("matrix_learning_rate", [None, 0.02])
def test_every_weight_is_optimised_once_and_kinematics_faster(network, matrix_learning_rate):
    settings = Optimization(learning_rate=0.001, matrix_learning_rate=matrix_learning_rate)
    optimizer = optimizer_of(network, settings)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(
        list(network.parameters())
    )
    found = rates(network, optimizer)
    assert found.keys() == dict(network.named_parameters()).keys()
    for name, rate in found.items():
        of_kinematics = name.startswith("kinematics.")
        inner = name.startswith("transformer.layers.") and name.endswith(".weight")
        if of_kinematics:
            assert rate == KINEMATICS_RATE * 0.001
        elif inner and matrix_learning_rate is not None:
            assert rate == matrix_learning_rate
        else:
            assert rate == 0.001


def test_muon_steps_the_matrices_of_the_layers_and_adam_all_others(network):
    optimizer = optimizer_of(network, Optimization(matrix_learning_rate=0.5, weight_decay=0.0))
    assert isinstance(optimizer, Muon)
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    for weight in network.parameters():
        weight.grad = torch.randn(weight.shape, generator=generator)
    optimizer.step()
    for name, weight in network.named_parameters():
        moved = (weight.detach() - before[name]).abs()
        if name.startswith("transformer.layers.") and weight.ndim == 2:
            assert torch.linalg.matrix_norm(weight - before[name], 2) > 0.3  # an orthogonal step
        else:  # Adam's first step: as large as its learning rate, everywhere
            size = 0.003 if name.startswith("kinematics.") else 0.001
            torch.testing.assert_close(moved, torch.full_like(moved, size), rtol=1e-3, atol=1e-6)


def test_a_network_without_state_has_no_group_of_kinematics():
    network = tiny_world_model(told=False).network.requires_grad_(True)
    assert network.kinematics is None
    for rate in (None, 0.02):
        groups = optimizer_of(network, Optimization(matrix_learning_rate=rate)).param_groups
        assert all(group["params"] for group in groups)


@pytest.mark.parametrize(
    "wrong", [{"learning_rate": 0.0}, {"matrix_learning_rate": -1.0}, {"ema_decay": 1.0}]
)
def test_numbers_that_cannot_train_are_refused(wrong):
    (name, value), *_ = wrong.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        Optimization(**wrong)
