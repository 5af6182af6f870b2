import pytest
import torch

from policy.actors.actor import Actor, Cloneable, build, describe
from policy.actors.flow import FlowActor, euler, interpolate

SHAPES = {"state": (3,)}


def observation(envs: int = 6) -> dict[str, torch.Tensor]:
    return {"state": torch.randn(envs, 3, generator=torch.Generator().manual_seed(0))}


def actor(**options) -> FlowActor:
    torch.manual_seed(0)
    return FlowActor(SHAPES, 2, chunk=3, **{"width": 32, "depth": 2, **options})


def train(network: FlowActor, actions: torch.Tensor, steps: int) -> None:
    known = torch.ones(actions.shape[:2], dtype=torch.bool)
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        network.cloning_error(observation(), actions, known, generator).mean().backward()
        optimizer.step()


def test_the_path_is_straight():
    actions, noise = torch.full((1, 1, 1), 2.0), torch.full((1, 1, 1), -2.0)
    for tau, x in ((0.0, 2.0), (0.25, 1.0), (1.0, -2.0)):
        assert interpolate(actions, noise, torch.tensor([tau])).item() == x


def test_euler_steps_by_hand():
    # dx/dtau = x: from 1, two steps of -1/2 give (1 - 1/2)^2
    assert euler(lambda x, time: x, torch.ones(1, 1, 1), 2).item() == 0.25
    seen = []
    euler(lambda x, time: seen.append(time.item()) or x, torch.ones(1, 1, 1), 4)
    assert seen == [1.0, 0.75, 0.5, 0.25]


def test_euler_is_exact_on_a_straight_path():
    actions, noise = torch.randn(2, 3, 2), torch.randn(2, 3, 2)
    for steps in (1, 5):
        torch.testing.assert_close(euler(lambda x, t: noise - actions, noise, steps), actions)


def test_the_noise_decides_and_can_be_given():
    network = actor()
    assert isinstance(network, Actor)
    assert isinstance(network, Cloneable)
    draw = [network.act(observation(), torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(draw[0], draw[1])
    assert not torch.equal(draw[0], draw[2])
    noise = torch.empty(6, 3, 2).normal_(generator=torch.Generator().manual_seed(1))
    assert torch.equal(network.act(observation(), noise=noise), draw[0])
    still = network.act(observation(), deterministic=True)
    assert torch.equal(network.act(observation(), noise=torch.zeros(6, 3, 2)), still)


def test_actions_that_are_not_known_change_nothing():
    network = actor()
    actions = torch.rand(6, 3, 2)
    known = torch.ones(6, 3, dtype=torch.bool)
    known[:, 1] = False
    errors = []
    for value in (0.0, torch.nan):
        actions[:, 1] = value
        generator = torch.Generator().manual_seed(1)
        errors.append(network.cloning_error(observation(), actions, known, generator)[known])
    assert torch.equal(*errors)


def test_it_learns_one_batch_by_heart():
    network = actor()
    actions = torch.rand(6, 3, 2, generator=torch.Generator().manual_seed(1)) * 2 - 1
    train(network, actions, 400)
    made = network.act(observation(), torch.Generator().manual_seed(2))
    assert (made - actions).abs().mean() < 0.1


def test_it_keeps_two_ways_apart():
    """Half of the demonstrations say -0.8, half 0.8, of the same observation."""
    network = actor(steps=10)
    actions = torch.full((64, 3, 2), 0.8)
    actions[::2] *= -1
    seen = {"state": torch.zeros(64, 3)}
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    known = torch.ones(64, 3, dtype=torch.bool)
    for _ in range(300):
        optimizer.zero_grad()
        network.cloning_error(seen, actions, known, generator).mean().backward()
        optimizer.step()
    made = network.act(seen, torch.Generator().manual_seed(2))[:, 0, 0]
    assert (made.abs() - 0.8).abs().median() < 0.15
    assert 0.2 < (made > 0).float().mean() < 0.8


def test_it_can_be_described_and_built_again():
    network = actor(steps=7)
    again = build(describe(network))
    again.load_state_dict(network.state_dict())
    noise = torch.randn(6, 3, 2)
    made = [which.act(observation(), noise=noise) for which in (network, again)]
    assert torch.equal(*made)
    with pytest.raises(ValueError, match="at least one Euler step"):
        actor(steps=0)
