"""Actions read off how a robot's state moves, by kernel regression."""

import json
import math

import numpy as np
import pytest
import torch

from inverse_dynamics.model import InverseDynamicsModel
from inverse_dynamics.movement_kernel import (
    BANDWIDTH,
    JITTER,
    KERNEL_FILE,
    RIDGE,
    MovementKernel,
    from_targets,
    movements,
    to_targets,
)
from inverse_dynamics.network import ActionReader
from inverse_dynamics.windows import read_video
from video.errors import DatasetError
from video.statistics import Normalizer


def test_movements_are_the_differences_around_a_step_and_the_state_before_it():
    states = torch.tensor([0.0, 1.0, 3.0, 6.0, 10.0])[None, :, None]
    expected = [
        # d_{t-2} d_{t-1} d_t d_{t+1} d_{t+2} d_{t+3}   s_t
        [1, 1, 1, 2, 3, 4, 0],
        [1, 1, 2, 3, 4, 4, 1],
        [1, 2, 3, 4, 4, 4, 3],
        [2, 3, 4, 4, 4, 4, 6],
    ]
    assert movements(states)[0].tolist() == expected


def test_movements_keep_the_dimensions_of_a_state_apart():
    states = torch.randn(2, 6, 3)
    both = movements(states).unflatten(-1, (7, 3))
    for dimension in range(3):
        alone = movements(states[..., dimension : dimension + 1])
        assert both[..., dimension].equal(alone)


def test_with_all_steps_in_the_basis_it_is_kernel_ridge_regression():
    features, targets = torch.randn(30, 3).double(), torch.randn(30, 2).double()
    weight = torch.rand(30).double() + 0.1
    kernel = MovementKernel.fit(features, targets, weight, most=30)

    steps = (features - features.mean(0)) / features.std(0, correction=0)
    distances = torch.cdist(steps, steps)
    apart = distances[~torch.eye(30, dtype=torch.bool)]
    gram = (-distances / (BANDWIDTH * apart.median())).exp() + JITTER * torch.eye(30)
    mean = (weight[:, None] * targets).sum(0) / weight.sum()
    expected = torch.linalg.solve(gram + RIDGE * (1 / weight).diag(), targets - mean)
    torch.testing.assert_close(kernel.coefficients, expected.float(), rtol=1e-3, atol=1e-4)
    near = gram @ expected + mean
    torch.testing.assert_close(
        kernel.predict(features.float()[None])[0], near.float(), rtol=1e-3, atol=1e-3
    )


def test_what_weighs_nothing_is_as_if_it_were_not_there():
    features, targets = torch.randn(40, 3), torch.randn(40, 1)
    weight = torch.ones(40)
    weight[::2] = 1e-9
    without = MovementKernel.fit(features, targets, weight, most=40)
    changed = torch.where((weight < 1)[:, None], targets + 5, targets)
    kernel = MovementKernel.fit(features, changed, weight, most=40)
    questions = torch.randn(1, 20, 3)
    torch.testing.assert_close(
        kernel.predict(questions), without.predict(questions), rtol=1e-4, atol=1e-4
    )


def test_a_robot_that_cannot_follow_large_commands_is_read_from_few_examples():
    actions, states = driven(40)
    features = torch.cat(list(movements(states)))
    kernel = MovementKernel.fit(
        features, to_targets(actions.flatten(0, 1), ["number"]), torch.ones(len(features)), 500
    )
    unseen, driven_states = driven(20, seed=1)
    error = (kernel.read(driven_states, ["number"]) - unseen).square().mean()
    assert error < 0.2 * unseen.var()
    late = (kernel.read(driven_states, ["number"])[:, 1:] - unseen[:, :-1]).square().mean()
    assert late > 3 * error  # each step's own action, not the one before


def driven(episodes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Actions, and positions of what follows them late and at a limited speed."""
    generator = torch.Generator().manual_seed(seed)
    actions = torch.rand(episodes, 20, 1, generator=generator) * 2 - 1
    speed, place, places = torch.zeros(episodes, 1), torch.zeros(episodes, 1), []
    for step in range(20):
        places.append(place)
        speed = (0.5 * speed + actions[:, step]).clamp(-1.2, 1.2)
        place = place + speed
    return actions, torch.stack([*places, place], dim=1)


def test_targets_come_back_as_actions():
    kinds = ["number", "angle", "binary"]
    actions = torch.tensor([[0.25, 0.75, 1.0], [-1.0, -0.5, -1.0]])
    targets = to_targets(actions, kinds)
    root = math.sqrt(0.5)
    expected = [[0.25, -root, 1, 0, root, 0], [-1, 0, -1, 0, -1, 0]]
    torch.testing.assert_close(targets, torch.tensor(expected), atol=1e-6, rtol=0)
    torch.testing.assert_close(from_targets(targets, kinds), actions)
    assert from_targets(torch.tensor([[1.5, 0.0]]), ["number"]).tolist() == [[1.0]]
    # halfway between 0.9 and -0.9 of half a turn lies 1, not 0
    both = to_targets(torch.tensor([[0.9], [-0.9]]), ["angle"]).mean(0, keepdim=True)
    assert abs(from_targets(both, ["angle"]).item()) == pytest.approx(1.0)


@pytest.mark.parametrize("episodes", [1, 3])
def test_one_step_or_steps_that_are_all_alike_are_fitted(episodes):
    features, targets = torch.ones(episodes, 7), torch.full((episodes, 2), 0.5)
    kernel = MovementKernel.fit(features, targets, torch.ones(episodes), 10)
    assert kernel.predict(torch.randn(1, 4, 7)).allclose(torch.tensor(0.5))


def build(kernel: MovementKernel | None) -> InverseDynamicsModel:
    torch.manual_seed(0)
    network = ActionReader([1, 3, 8, 8], ["number", "binary"], 2, 16, 1, 2, 4)
    torch.nn.init.normal_(network.read_actions.weight)
    return InverseDynamicsModel(
        network=network.eval(),
        autoencoder=None,
        fps=10.0,
        cameras=("top",),
        frame_size=(8, 8),
        window=5,
        action_normalizer=Normalizer(np.array([-2.0, 0.0]), np.array([2.0, 10.0])),
        action_names=("x", "grip"),
        kernel=kernel,
    )


def fitted() -> MovementKernel:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(50, 14, generator=generator)
    return MovementKernel.fit(
        features, to_targets(features[:, :2].clamp(-1, 1), ["number", "binary"]), torch.ones(50), 20
    )


def test_a_model_reads_by_its_network_and_its_kernel():
    model = build(fitted())
    frames = torch.randn(2, 13, 1, 3, 8, 8)
    by_network = read_video(model.network.read, frames, 5, model.kinds)
    assert model.kernel is not None
    by_kernel = model.kernel.read(model.network.states(model.network.tokens(frames)), model.kinds)
    both = model.read(frames)
    torch.testing.assert_close(both.mean, (by_network.mean + by_kernel) / 2)
    apart = (by_network.mean - by_kernel)[..., 0]
    expected = (by_network.spread[..., 0].square() + apart.square() / 8).sqrt()
    torch.testing.assert_close(both.spread[..., 0], expected)
    for row in range(2):
        torch.testing.assert_close(model.read(frames[row : row + 1]).mean[0], both.mean[row])


def test_a_saved_kernel_comes_back_and_belongs_to_its_model(tmp_path):
    model = build(fitted())
    model.save_pretrained(tmp_path / "model")
    loaded = InverseDynamicsModel.from_pretrained(tmp_path / "model")
    frames = torch.randn(1, 6, 1, 3, 8, 8)
    assert loaded.actions(frames).equal(model.actions(frames))
    assert loaded.fingerprint == model.fingerprint != build(None).fingerprint

    other = MovementKernel.fit(torch.randn(9, 14), torch.randn(9, 4), torch.ones(9), 9)
    other.save(tmp_path / "model")
    with pytest.raises(DatasetError, match="Put that one back"):
        InverseDynamicsModel.from_pretrained(tmp_path / "model")
    (tmp_path / "model" / KERNEL_FILE).unlink()
    with pytest.raises(DatasetError, match=KERNEL_FILE):
        InverseDynamicsModel.from_pretrained(tmp_path / "model")


def test_a_model_without_a_kernel_is_saved_as_before_there_were_any(tmp_path):
    build(None).save_pretrained(tmp_path / "model")
    assert "kernel" not in json.loads((tmp_path / "model" / "inverse_dynamics.json").read_text())
    assert not (tmp_path / "model" / KERNEL_FILE).exists()
    assert InverseDynamicsModel.from_pretrained(tmp_path / "model").kernel is None
