"""The network: any length, both directions of time, one batch by heart."""

import pytest
import torch

from inverse_dynamics.losses import action_loss, redraw_loss
from inverse_dynamics.network import ActionReader, rotate

KINDS = ["number", "angle", "binary"]


def build(**options) -> ActionReader:
    """A tiny network whose every weight matters."""
    options = {
        "frame_shape": [1, 2, 4, 4],
        "kinds": KINDS,
        "state_dim": 2,
        "width": 16,
        "depth": 2,
        "heads": 2,
        "channels": 4,
    } | options
    torch.manual_seed(0)
    network = ActionReader(**options)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network.eval()


@pytest.mark.parametrize("shape", [(1, 2, 4, 4), (2, 3, 4, 6), (5,)])
@pytest.mark.parametrize("frames", [2, 7])
def test_one_answer_for_each_step(shape, frames):
    readout = build(frame_shape=list(shape))(torch.randn(3, frames, *shape))
    assert readout.actions.location.shape == (3, frames - 1, 3)
    assert readout.actions.log_scale.shape == (3, frames - 1, 3)
    assert readout.state.shape == (3, frames, 2)


def test_a_step_depends_on_what_comes_before_and_after():
    network, latents = build(), torch.randn(1, 6, 1, 2, 4, 4)
    before = network.read(latents).mean[0, 2]
    for frame in (0, 5):
        changed = latents.clone()
        changed[:, frame] += 1
        assert not torch.allclose(network.read(changed).mean[0, 2], before)


def test_rows_do_not_know_each_other():
    network, latents = build(), torch.randn(4, 6, 1, 2, 4, 4)
    together, alone = network.read(latents), network.read(latents[2:3])
    torch.testing.assert_close(together.mean[2:3], alone.mean)


def test_attention_sees_distances_alone():
    queries, keys = torch.randn(8), torch.randn(8)
    x, y = rotate(queries.expand(6, 8)), rotate(keys.expand(6, 8))
    torch.testing.assert_close(x[1] @ y[4], x[0] @ y[3])
    assert abs(x[1] @ y[4] - x[1] @ y[3]) > 1e-3


@pytest.mark.parametrize("masked", [False, True])
def test_one_batch_is_learned_by_heart(masked):
    torch.manual_seed(0)
    options = {"width": 32, "depth": 2, "heads": 2, "channels": 8, "dropout": 0.0}
    network = ActionReader([1, 2, 4, 4], KINDS, patch=2, masked=masked, **options)
    latents, mask = torch.randn(8, 6, 1, 2, 4, 4), torch.ones(8, 5, 1, dtype=torch.bool)
    actions = torch.rand(8, 5, 3) * 2 - 1
    actions[..., 2] = actions[..., 2].sign()
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    for _ in range(400):
        loss = action_loss(network(latents).actions, actions, mask, KINDS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    mean = network.eval().read(latents).mean
    error = (mean - actions).abs()
    assert error[..., 0].mean() < 0.1
    assert error[..., 2].max() < 0.5
    assert error[..., 1].median() < 0.1


def test_a_token_learns_to_redraw_its_frame():
    torch.manual_seed(0)
    network = build(redraw=2, dropout=0.0)
    frames = torch.randn(4, 3, 1, 2, 4, 4)
    assert network(frames).redrawn.shape == (4, 3, 1, 2, 2, 2)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    for _ in range(300):
        loss = redraw_loss(network(frames).redrawn, frames)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    assert build()(frames).redrawn is None


def test_impossible_sizes_are_named():
    with pytest.raises(ValueError, match="kinds="):
        build(kinds=["gripper"])
    with pytest.raises(ValueError, match="frame_shape="):
        build(frame_shape=[2, 3])
    with pytest.raises(ValueError, match="redraw=4"):
        build(frame_shape=[3], redraw=4)
    with pytest.raises(ValueError, match="width=18"):
        build(width=18)


def test_a_narrowed_network_says_the_same_of_its_dimensions():
    network, latents = build(state_dim=3), torch.randn(2, 5, 1, 2, 4, 4)
    whole, part = network(latents), network.narrowed(slice(1, 3), slice(0, 2))(latents)
    for own, all_of_them in zip(part.actions, whole.actions, strict=True):
        torch.testing.assert_close(own, all_of_them[..., 1:3])
    torch.testing.assert_close(part.state, whole.state[..., :2])
    blind = network.narrowed(slice(0, 1), slice(0, 0))
    assert blind.kinds == ("number",)
    assert blind(latents).state.shape == (2, 5, 0)
