"""The mask contract first: what is not known must not matter, to the last bit."""

import pytest
import torch

from worldmodel.blocks import Blocks
from worldmodel.draws import RowDraws
from worldmodel.noise import ABSENT, GIVEN
from worldmodel.objective import (
    Objective,
    QueryMix,
    Times,
    action_loss,
    block_losses,
    draw_depths,
    draw_times,
    finish_history,
    given_weight,
    latent_loss,
)


def step(network, blocks, mix=None):
    """Loss and all gradients of one training step."""
    network.zero_grad()
    draws = RowDraws(torch.Generator().manual_seed(0), len(blocks.actions))
    objective = Objective(mix=mix or QueryMix())
    times = draw_times(blocks.action_mask, objective.mix, draws)
    losses = block_losses(network, blocks, times, objective, draws)
    (losses.latent + objective.action_weight * losses.action).backward()
    return losses, [p.grad for p in network.parameters() if p.grad is not None]


def random_values(actions):
    return torch.randn(actions.shape, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("history_blocks", [0, 1])
@pytest.mark.parametrize(
    "fill", [random_values, lambda a: torch.full_like(a, 1e9), lambda a: a * torch.nan]
)
def test_masked_actions_leave_loss_and_gradients_bit_identical(
    build_network, blocks, fill, history_blocks
):
    network = build_network(history_blocks=history_blocks)
    other = torch.where(blocks.action_mask[..., None], blocks.actions, fill(blocks.actions))
    assert not other.equal(blocks.actions)
    before, gradients = step(network, blocks)
    after, other_gradients = step(network, blocks._replace(actions=other))
    assert before.latent.equal(after.latent)
    assert before.action.equal(after.action)
    for one, two in zip(gradients, other_gradients, strict=True):
        assert one.equal(two)


def test_rows_train_anywhere_in_their_clips_at_any_depth():
    draws = RowDraws(torch.Generator().manual_seed(0), 4000)
    depth, first = draw_depths(0.6, 3, draws)
    shares = torch.bincount(depth, minlength=4) / 4000
    assert torch.allclose(shares, torch.tensor([0.4, 0.2, 0.2, 0.2]), atol=0.03)
    assert set((first + depth)[depth == 0].tolist()) == {0, 1, 2, 3}
    assert set((first + depth)[depth == 2].tolist()) == {2, 3}
    assert set(first[depth == 3].tolist()) == {0}
    nothing, anywhere = draw_depths(1.0, 0, draws)
    assert not nothing.any()
    assert not anywhere.any()


def test_known_actions_do_matter(network, blocks):
    before, _ = step(network, blocks)
    after, _ = step(network, blocks._replace(actions=-blocks.actions))
    assert not before.latent.equal(after.latent)
    assert not before.action.equal(after.action)


def test_the_action_loss_of_an_action_free_batch_has_exactly_zero_gradient(network, blocks):
    free = blocks._replace(action_mask=torch.zeros_like(blocks.action_mask))
    draws = RowDraws(torch.Generator().manual_seed(0), 6)
    times = draw_times(free.action_mask, QueryMix(), draws)
    losses = block_losses(network, free, times, Objective(), draws)
    losses.action.backward()
    assert losses.action.item() == 0.0
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert gradients
    assert all(gradient.count_nonzero() == 0 for gradient in gradients)


def test_an_action_free_batch_still_trains_the_video(network, blocks):
    free = blocks._replace(action_mask=torch.zeros_like(blocks.action_mask))
    losses, gradients = step(network, free)
    assert losses.latent > 0
    assert any(gradient.count_nonzero() for gradient in gradients)


def only(**share):
    """A mix of one query."""
    names = ("forward_dynamics", "prefix", "inverse_dynamics", "policy", "video_generation")
    return QueryMix(**{name: 0.0 for name in (*names, "joint")} | share)


def draw(mix, mask):
    return draw_times(mask, mix, RowDraws(torch.Generator().manual_seed(0), len(mask)))


def test_queries_are_choices_of_times():
    mask = torch.ones(64, 1, 4, dtype=torch.bool)
    times = draw(only(forward_dynamics=1.0), mask)
    assert (times.action == GIVEN).all()
    assert (times.latent > GIVEN).all()
    times = draw(only(inverse_dynamics=1.0), mask)
    assert (times.latent == GIVEN).all()
    assert (times.action > GIVEN).all()
    times = draw(only(policy=1.0), mask)
    assert (times.latent == ABSENT).all()
    assert (times.action > GIVEN).all()
    times = draw(only(video_generation=1.0), mask)
    assert (times.action == ABSENT).all()
    assert (times.latent > GIVEN).all()


def test_a_prefix_is_given_actions_before_absent_ones():
    times = draw(only(prefix=1.0), torch.ones(256, 1, 4, dtype=torch.bool))
    patterns = {tuple(row) for row in times.action[:, 0].tolist()}
    assert patterns == {(0, 1, 1, 1), (0, 0, 1, 1), (0, 0, 0, 1), (0, 0, 0, 0)}


def test_blocks_without_actions_generate_video():
    mask = torch.zeros(64, 1, 4, dtype=torch.bool)
    times = draw(only(inverse_dynamics=1.0), mask)
    assert (times.action == ABSENT).all()
    assert (times.latent > GIVEN).all()


def test_an_unknown_action_is_absent_whatever_the_query():
    mask = torch.ones(64, 1, 4, dtype=torch.bool)
    mask[:, :, 2] = False
    times = draw(QueryMix(), mask)
    assert (times.action[:, :, 2] == ABSENT).all()


def test_shares_come_out_as_asked():
    times = draw(QueryMix(), torch.ones(4000, 1, 4, dtype=torch.bool))
    given = (times.action == GIVEN).all(-1).float().mean().item()
    assert given == pytest.approx(0.66 + 0.14 / 4, abs=0.03)


def test_times_do_not_depend_on_other_rows_masks():
    mask = torch.ones(8, 1, 4, dtype=torch.bool)
    other = mask.clone()
    other[4:] = False
    one, two = draw(QueryMix(), mask), draw(QueryMix(), other)
    assert one.latent[:4].equal(two.latent[:4])
    assert one.action[:4].equal(two.action[:4])


def test_shares_must_sum_to_one():
    with pytest.raises(ValueError, match="sum to 1"):
        QueryMix(forward_dynamics=0.9)


@pytest.mark.parametrize("name", ["late_start", "single_frame", "self_rollout"])
def test_a_share_is_one(name):
    for wrong in (-0.1, 1.5):
        with pytest.raises(ValueError, match=f"{name}={wrong} is a share"):
            Objective(**{name: wrong})


def test_finished_history_is_given_and_the_last_block_is_not():
    mask = torch.ones(4, 3, 2, dtype=torch.bool)
    mask[:, 0, 1] = False
    times = Times(torch.full((4, 3), 0.5), torch.full((4, 3, 2), 0.5))
    finished = finish_history(times, mask, 1.0, RowDraws(torch.Generator().manual_seed(0), 4))
    assert finished.latent[0].tolist() == [GIVEN, GIVEN, 0.5]
    assert finished.action[0].tolist() == [[GIVEN, ABSENT], [GIVEN, GIVEN], [0.5, 0.5]]
    untouched = finish_history(times, mask, 0.0, RowDraws(torch.Generator().manual_seed(0), 4))
    assert untouched.latent.equal(times.latent)


def test_latent_loss_by_hand():
    # one number a block: error 0.5, change 3 (counts as 1), tau 0.5: (1 + 4) * 0.25 / 0.25
    shape = (1, 1, 1, 1, 1, 1, 1)
    anchor = torch.zeros(1, 1, 2, 1, 1, 1, 1)
    latents, predicted = torch.full(shape, 3.0), torch.full(shape, 3.5)
    loss = latent_loss(predicted, latents, anchor, torch.tensor([[0.5]]), 4.0, 0.2)
    assert loss.tolist() == [[5.0]]
    given = latent_loss(predicted, latents, anchor, torch.tensor([[GIVEN]]), 4.0, 0.2)
    assert given.tolist() == [[0.0]]


def test_action_loss_by_hand():
    # errors 1 and 2 in two actions of one dimension, the second unknown; the mean is over both
    actions = torch.tensor([[[[0.0], [0.0]]]])
    predicted = torch.tensor([[[[1.0], [2.0]]]])
    mask = torch.tensor([[[True, False]]])
    time = torch.tensor([[[0.5, 1.0]]])
    weight = torch.tensor([[[1.0, 0.0]]])
    assert action_loss(predicted, actions, mask, weight, time, 0.2).tolist() == [[2.0]]
    assert action_loss(predicted, actions, mask, weight / 4, time, 0.2).tolist() == [[0.5]]


def test_a_block_weighs_what_the_actions_weigh_that_it_is_given():
    weight = torch.tensor([[[1.0, 0.5, 0.25, 0.0]]]).expand(1, 4, 4)
    time = torch.full((1, 4, 4), 0.7)
    time[0, 0] = GIVEN  # all of them
    time[0, 1, :2] = GIVEN  # a prefix
    time[0, 2] = ABSENT
    assert given_weight(time, weight).tolist() == [[1.75 / 4, 0.75, 1.0, 1.0]]


def test_unsure_actions_count_less(network, blocks):
    """Forward dynamics: half the weight, half the loss."""
    half = blocks._replace(action_weight=blocks.action_weight / 2)
    given, denoised = only(forward_dynamics=1.0), only(inverse_dynamics=1.0)
    rows = [0, 1, 2, 3]  # the others are action-free: whatever they weigh, the video counts
    part = Blocks(*(each[rows] for each in blocks))
    light = Blocks(*(each[rows] for each in half))
    torch.testing.assert_close(
        step(network, light, given)[0].latent, step(network, part, given)[0].latent / 2
    )
    torch.testing.assert_close(
        step(network, light, denoised)[0].action, step(network, part, denoised)[0].action / 2
    )
    free = Blocks(*(each[4:] for each in blocks)), Blocks(*(each[4:] for each in half))
    assert step(network, free[0], given)[0].latent.equal(step(network, free[1], given)[0].latent)


def test_one_batch_can_be_learned(build_network, blocks):
    network = build_network(width=64)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    mix = only(forward_dynamics=1.0)
    first, _ = step(network, blocks, mix)
    for _ in range(100):
        losses, _ = step(network, blocks, mix)
        optimizer.step()
    assert losses.latent < 0.2 * first.latent
