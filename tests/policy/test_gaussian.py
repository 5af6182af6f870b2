import math

import pytest
import torch

from policy.actors.actor import Actor, Cloneable, StochasticActor, build, describe
from policy.actors.gaussian import GaussianActor
from video.errors import DatasetError

SHAPES = {"latents": (1, 4, 8, 8), "state": (3,)}


def observation(envs: int = 6) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "latents": torch.randn(envs, 1, 4, 8, 8, generator=generator),
        "state": torch.randn(envs, 3, generator=generator),
    }


def actor(**options) -> GaussianActor:
    torch.manual_seed(0)
    return GaussianActor(SHAPES, 2, chunk=3, width=32, channels=8, **options)


def test_it_is_what_the_protocols_ask_for():
    assert isinstance(actor(), Actor)
    assert isinstance(actor(), StochasticActor)
    assert isinstance(actor(), Cloneable)


@pytest.mark.parametrize("state_dependent_std", [False, True])
def test_a_distribution_is_of_whole_chunks(state_dependent_std):
    distribution = actor(state_dependent_std=state_dependent_std).distribution(observation())
    assert (distribution.batch_shape, distribution.event_shape) == ((6,), (3, 2))
    assert distribution.log_prob(distribution.mean).shape == (6,)
    torch.testing.assert_close(distribution.stddev.mean(), torch.tensor(0.3), atol=5e-3, rtol=0)
    entropy = 6 * (0.5 * math.log(2 * math.pi * math.e) + math.log(0.3))
    torch.testing.assert_close(distribution.entropy(), torch.full((6,), entropy), atol=0.1, rtol=0)


def test_only_a_state_dependent_std_depends_on_the_state():
    for dependent in (False, True):
        network = actor(state_dependent_std=dependent)
        if network.spread is not None:
            torch.nn.init.normal_(network.spread.weight)
        std = network.distribution(observation()).stddev
        assert (std[0] != std[1]).any() == dependent


def test_chance_comes_from_the_generator_alone():
    network = actor()
    draw = [network.act(observation(), torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(draw[0], draw[1])
    assert not torch.equal(draw[0], draw[2])
    assert torch.equal(network.act(observation(), deterministic=True), network(observation())[0])


def test_the_actions_of_a_chunk_deviate_together():
    network, seen = actor(correlation=0.6), observation(1)
    many = {key: values.expand(40000, *values.shape[1:]) for key, values in seen.items()}
    deviations = network.act(many, torch.Generator().manual_seed(0)) - network(seen)[0]
    expected = 0.3**2 * torch.tensor([[1, 0.6, 0.6], [0.6, 1, 0.6], [0.6, 0.6, 1]])
    for dimension in deviations.unbind(-1):
        torch.testing.assert_close(dimension.T.cov(), expected, atol=2e-3, rtol=0)
    between = torch.stack([dimension.flatten() for dimension in deviations.unbind(-1)])
    assert between.corrcoef()[0, 1].abs() < 0.01


def test_a_correlated_draw_is_as_likely_as_its_covariance_says():
    network = actor(correlation=0.6)
    mean, std = network(observation())
    drawn = network.distribution(observation()).sample()
    covariance = std[0, 0, 0] ** 2 * torch.tensor([[1, 0.6, 0.6], [0.6, 1, 0.6], [0.6, 0.6, 1]])
    chances = torch.distributions.MultivariateNormal(mean.mT, covariance)
    expected = chances.log_prob(network.decode(observation(), drawn).mT).sum(-1)
    torch.testing.assert_close(network.distribution(observation()).log_prob(drawn), expected)


def test_a_correlation_changes_neither_the_cloning_nor_what_is_done_without_chance():
    alike, apart = actor(correlation=0.6), actor()
    known = torch.ones(6, 3, dtype=torch.bool)
    actions = torch.rand(6, 3, 2, generator=torch.Generator().manual_seed(0))
    errors = [one.cloning_error(observation(), actions, known) for one in (alike, apart)]
    assert torch.equal(*errors)
    done = [one.act(observation(), deterministic=True) for one in (alike, apart)]
    assert torch.equal(*done)
    assert build(describe(alike)).correlation == 0.6


@pytest.mark.parametrize(
    "options", [{"correlation": 1.0}, {"correlation": 0.5, "state_dependent_std": True}]
)
def test_refuses_a_correlation_that_is_none(options):
    with pytest.raises(ValueError, match="correlation"):
        actor(**options)


def test_the_error_is_the_negative_log_likelihood():
    network = actor()
    mean, std = network(observation())
    known = torch.ones(6, 3, dtype=torch.bool)
    error = network.cloning_error(observation(), mean + std, known)
    expected = 0.5 + math.log(0.3 * math.sqrt(2 * math.pi))
    torch.testing.assert_close(error, torch.full((6, 3), expected), atol=1e-4, rtol=0)


def test_it_learns_one_batch_by_heart():
    network = actor()
    generator = torch.Generator().manual_seed(1)
    actions = torch.rand(6, 3, 2, generator=generator) * 2 - 1
    known = torch.ones(6, 3, dtype=torch.bool)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        network.cloning_error(observation(), actions, known).mean().backward()
        optimizer.step()
    error = (network.act(observation(), deterministic=True) - actions).abs().mean()
    assert error < 0.03
    assert network(observation())[1].mean() < 0.27  # and it has become surer


def test_it_can_be_described_and_built_again():
    network = actor(state_dependent_std=True, least_std=0.1)
    again = build(describe(network))
    again.load_state_dict(network.state_dict())
    given = observation()
    assert torch.equal(again.act(given, deterministic=True), network.act(given, deterministic=True))
    assert describe(again) == describe(network)


def test_descriptions_that_cannot_be_built_are_explained():
    with pytest.raises(DatasetError, match="cannot be imported"):
        build({"class_path": "no_such_package.Actor", "init_args": {}})
    with pytest.raises(DatasetError, match="no ActorNetwork"):
        build({"class_path": "os.system", "init_args": {}})
    described = describe(actor())
    described["init_args"]["colour"] = "red"
    with pytest.raises(DatasetError, match="colour"):
        build(described)


def test_spreads_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="least_std"):
        actor(initial_std=0.01)
