import pytest
import torch

from worldmodel.noise import ABSENT, GIVEN
from worldmodel.queries import (
    draw_noise,
    forward_dynamics,
    inverse_dynamics,
    joint,
    policy,
    video_generation,
)


@pytest.fixture
def row(blocks):
    """Two rows' first blocks with every action known."""
    return [part[1:3, 0] for part in blocks]


@pytest.fixture
def seen(network):
    """What the network was given in every call."""
    calls = []
    network.register_forward_pre_hook(lambda _, args: calls.append(args))
    return calls


def times(call):
    return {"latent": call[3].flatten().tolist(), "action": call[4][0, 0].tolist()}


def noise_of(network, anchor):
    return draw_noise(network, anchor, torch.Generator().manual_seed(0))


def test_forward_dynamics_gives_the_actions(network, row, seen):
    anchor, _, actions, mask, *_ = row
    noise = noise_of(network, anchor)
    forward_dynamics(network, anchor, actions, mask, noise, steps=2)
    assert [times(call)["latent"] for call in seen] == [[ABSENT] * 2, [0.5] * 2]
    assert all(times(call)["action"] == [GIVEN] * 4 for call in seen)
    assert seen[0][1][:, 0].equal(noise.latents)
    assert seen[0][2][:, 0].equal(actions)


def test_unknown_actions_are_absent_and_their_values_do_not_matter(network, row, seen):
    anchor, _, actions, mask, *_ = row
    noise = noise_of(network, anchor)
    mask = mask & torch.tensor([True, True, False, False])
    clean = forward_dynamics(network, anchor, actions, mask, noise)
    assert times(seen[0])["action"] == [GIVEN, GIVEN, ABSENT, ABSENT]
    broken = torch.where(mask[..., None], actions, torch.nan)
    assert forward_dynamics(network, anchor, broken, mask, noise).equal(clean)


def test_video_generation_has_no_actions(network, row, seen):
    noise = noise_of(network, row[0])
    video_generation(network, row[0], noise, steps=2)
    assert all(times(call)["action"] == [ABSENT] * 4 for call in seen)


def test_inverse_dynamics_gives_the_latents(network, row, seen):
    noise = noise_of(network, row[0])
    actions = inverse_dynamics(network, row[0], row[1], noise, steps=2)
    assert actions.shape == row[2].shape
    assert all(times(call)["latent"] == [GIVEN] * 2 for call in seen)
    assert all(call[1][:, 0].equal(row[1]) for call in seen)
    assert [times(call)["action"] for call in seen] == [[ABSENT] * 4, [0.5] * 4]


def test_policy_never_sees_the_future(network, row, seen):
    noise = noise_of(network, row[0])
    policy(network, row[0], noise, steps=2)
    assert all(times(call)["latent"] == [ABSENT] * 2 for call in seen)
    assert all(call[1][:, 0].equal(noise.latents) for call in seen)


def test_joint_denoises_both(network, row, seen):
    latents, actions = joint(network, row[0], noise_of(network, row[0]), steps=2)
    assert (latents.shape, actions.shape) == (row[1].shape, row[2].shape)
    assert [times(call)["latent"][0] for call in seen] == [ABSENT, 0.5]
    assert [times(call)["action"][0] for call in seen] == [ABSENT, 0.5]


def test_with_a_generator_a_row_each_rows_do_not_depend_on_neighbours(network, row):
    def generators(*seeds):
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    anchor = row[0]
    together = draw_noise(network, anchor, generators(5, 6))
    alone = draw_noise(network, anchor[1:], generators(6))
    assert together.latents[1:].equal(alone.latents)
    assert together.actions[1:].equal(alone.actions)
    with pytest.raises(ValueError, match="1 generators for a batch of 2"):
        draw_noise(network, anchor, generators(5))
