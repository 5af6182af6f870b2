import pytest
import torch
from torch import nn

from video.muon import Muon, newton_schulz, newton_schulz_by_squares, orthogonalize


@pytest.fixture(params=[False, True])
def fast_bfloat16(request, monkeypatch) -> bool:
    monkeypatch.setattr("video.muon.is_bfloat16_fast", lambda device: request.param)
    return request.param


@pytest.mark.parametrize("shape", [(8, 8), (4, 36), (36, 4)])
def test_orthogonalized_singular_values_are_near_one(shape, fast_bfloat16):
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalize(matrices))
    assert values.min() > 0.3
    assert values.max() < 1.3
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    agreement = ((left @ right) * orthogonalize(matrices)).sum((1, 2)) / min(shape)
    assert agreement.min() > 0.6


@pytest.mark.parametrize("shape", [(16, 16), (12, 40), (40, 12)])
def test_the_shorter_way_leads_to_the_same(shape):
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(3, *shape, generator=generator) * torch.logspace(0, -3, shape[1])
    matrices = matrices / matrices.norm(dim=(-2, -1), keepdim=True)
    expected = newton_schulz(matrices.double(), 5)
    assert torch.linalg.svdvals(expected).max() > 0.9
    shorter = newton_schulz_by_squares(matrices, 5)
    torch.testing.assert_close(shorter.double(), expected, rtol=0, atol=1e-3)


def test_one_iteration_by_the_formula():
    wide = torch.diag(torch.tensor([0.5, 0.0, 0.25], dtype=torch.float64))[None, ::2]
    values = torch.linalg.svdvals(newton_schulz(wide, 1))[0]
    # 3.4445 s - 4.775 s^3 + 2.0315 s^5 of 0.5 and 0.25
    assert values.tolist() == pytest.approx([1.188859375, 0.78849951171875])
    torch.testing.assert_close(newton_schulz(wide.mT, 1), newton_schulz(wide, 1).mT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_orthogonalized_keeps_its_precision(dtype, fast_bfloat16):
    assert orthogonalize(torch.eye(4, dtype=dtype)[None]).dtype == dtype


def test_first_step_has_known_size_and_direction():
    weight = nn.Parameter(torch.zeros(2, 2))
    bias = nn.Parameter(torch.zeros(2))
    optimizer = Muon([weight, bias], lr=0.1, vector_lr=0.01)
    weight.grad, bias.grad = torch.tensor([[0.0, 5.0], [5.0, 0.0]]), torch.tensor([3.0, -4.0])
    optimizer.step()
    # both singular values of the gradient are equal, so its direction is kept
    assert weight[0, 0] == weight[1, 1] == 0
    assert weight[0, 1] == weight[1, 0]
    assert -0.12 < weight[0, 1].item() < -0.07
    torch.testing.assert_close(bias.detach(), torch.tensor([-0.01, 0.01]))


def test_two_steps_of_a_tall_matrix_go_by_the_formula():
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.zeros(8, 2))
    optimizer = Muon([weight], lr=0.1, momentum=0.9)
    first, second = torch.randn(2, 8, 2, generator=generator)
    expected = torch.zeros(8, 2)
    average = torch.zeros(8, 2)
    for gradient in (first, second):
        weight.grad = gradient.clone()
        optimizer.step()
        average = 0.9 * average + 0.1 * gradient
        direction = orthogonalize((0.1 * gradient + 0.9 * average)[None])[0]
        expected = expected - 0.1 * 2.0 * direction  # sqrt(8 / 2)
    torch.testing.assert_close(weight.detach(), expected)


def test_weight_decay_shrinks_matrices_only():
    weight, bias = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    optimizer = Muon([weight, bias], lr=0.1, weight_decay=0.5)
    weight.grad, bias.grad = torch.zeros(2, 2), torch.zeros(2)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.full((2, 2), 0.95))
    torch.testing.assert_close(bias.detach(), torch.ones(2))


def test_state_can_be_saved_and_loaded():
    def network() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))

    def train(model: nn.Module, optimizer: Muon, steps: int) -> list[float]:
        inputs = torch.randn(8, 2, 4, 4, generator=torch.Generator().manual_seed(1))
        losses = []
        for _ in range(steps):
            optimizer.zero_grad()
            loss = (model(inputs) - 1).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    model = network()
    whole = train(model, Muon(model.parameters()), 30)
    assert whole[-1] < 0.3 * whole[0]
    model = network()
    optimizer = Muon(model.parameters())
    first = train(model, optimizer, 10)
    other = network()
    other.load_state_dict(model.state_dict())
    resumed = Muon(other.parameters())
    resumed.load_state_dict(optimizer.state_dict())
    assert first + train(other, resumed, 20) == whole


def test_matrices_can_be_left_to_adam():
    inner, outer = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2, 2))
    optimizer = Muon([inner, outer], lr=0.1, vector_lr=0.01, by_adam=[outer])
    for weight in (inner, outer):
        weight.grad = torch.tensor([[0.0, 5.0], [5.0, 0.0]])
    optimizer.step()
    assert inner[0, 1] < -0.07
    torch.testing.assert_close(outer.detach(), torch.tensor([[0.0, -0.01], [-0.01, 0.0]]))
