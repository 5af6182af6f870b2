import math
from dataclasses import replace

import pytest
import torch

from worldmodel import counter_noise
from worldmodel.noise import GIVEN
from worldmodel.queries import BlockNoise
from worldmodel.rollout import advance, rollout
from worldmodel.rollout_state import anchor_of, draw_seeds, start
from worldmodel.rows import put, take
from worldmodel.sampler import euler

SEEDS = torch.tensor([3, 8])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def context():
    return torch.randn(2, 2, 1, 3, 4, 4, generator=seeded(4))


@pytest.fixture
def actions():
    return torch.rand(2, 24, 2, generator=seeded(5)) * 2 - 1


def recomputed(network, context, actions, horizon, steps):
    """The same rollout without a cache: every block runs the whole past through the network."""
    size, seeds = network.block_frames, draw_seeds(seeded(), len(context))
    anchors, frames, chosen = [anchor_of(context)], [], []

    def noise_of(block):
        shape = (size, *context.shape[2:])
        count = math.prod(shape)
        draws = counter_noise.normal(seeds, torch.full_like(seeds, block), count + size * 2)
        return BlockNoise(draws[:, :count].unflatten(1, shape), draws[:, count:])

    for index in range(horizon // size):
        chosen.append(actions[:, index * size : (index + 1) * size])

        def predict(noisy, time, index=index):
            latent_time = torch.full((len(context), index + 1), GIVEN)
            latent_time[:, -1] = time
            prediction = network(
                torch.stack(anchors, 1),
                torch.stack([*frames, noisy[0]], 1),
                torch.stack(chosen, 1),
                latent_time,
                torch.full((len(context), index + 1, size), GIVEN),
            )
            return (prediction.latents[:, -1],)

        frames.append(euler(predict, (noise_of(index).latents,), steps)[0])
        anchors.append(anchor_of(frames[-1]))
    return torch.cat(frames, 1)


@pytest.mark.parametrize("history_blocks", [0, 1, 2])
@pytest.mark.parametrize("steps", [1, 3])
def test_a_cached_rollout_equals_the_recomputed_one(
    build_network, context, actions, history_blocks, steps
):
    network = build_network(history_blocks=history_blocks)
    cached = rollout(network, context, actions, 24, seeded(), steps=steps)
    torch.testing.assert_close(
        cached, recomputed(network, context, actions, 24, steps), atol=1e-4, rtol=1e-4
    )


def test_history_matters_where_there_is_some(build_network, context, actions):
    """Otherwise the test above would compare two models that never look back."""
    network = build_network(history_blocks=2)
    state = start(network, context, SEEDS)
    for index in range(2):
        state = advance(network, state, actions[:, 4 * index : 4 * index + 4]).state
    remembered = advance(network, state, actions[:, 8:12]).frames
    forgotten = advance(network, replace(state, past=None), actions[:, 8:12]).frames
    assert (remembered - forgotten).abs().max() > 1e-3


def test_the_window_slides_in_constant_memory(build_network, context, actions):
    network = build_network(history_blocks=2)
    state, sizes, calls = start(network, context, SEEDS), [], []
    network.register_forward_pre_hook(lambda _, args: calls.append(args[1].shape[1]))
    for _ in range(6):
        state = advance(network, state, actions[:, :4]).state
        sizes.append(state.past[0].keys.shape[2])
    tokens = 2 * 2 + 4
    assert sizes == [2 * tokens] * 6
    assert calls == [1] * 12  # one call to imagine and one to remember, never more than one block


@pytest.mark.parametrize("history_blocks", [0, 2])
@pytest.mark.parametrize("chunk", [1, 2])
def test_rows_at_different_places_do_not_see_each_other(
    build_network, context, actions, history_blocks, chunk
):
    """One row is restarted within a block; both go on as if each were alone."""
    network = build_network(history_blocks=history_blocks)

    def alone(row, steps):
        state, frames = start(network, context[row : row + 1], SEEDS[row : row + 1], chunk), []
        for index in range(steps):
            part = actions[row : row + 1, index * chunk : (index + 1) * chunk]
            step = advance(network, state, part)
            frames.append(step.frames)
            state = step.state
        return torch.cat(frames, 1)

    restarted, total = 3, 12
    state, frames = start(network, context, SEEDS, chunk), []
    for index in range(total):
        if index == restarted:
            fresh = start(network, context[1:], SEEDS[1:], chunk)
            state = put(state, torch.tensor([1]), fresh)
        second = index if index < restarted else index - restarted
        part = torch.stack(
            (
                actions[0, index * chunk : (index + 1) * chunk],
                actions[1, second * chunk : (second + 1) * chunk],
            )
        )
        step = advance(network, state, part)
        frames.append(step.frames)
        state = step.state
    frames = torch.cat(frames, 1)
    torch.testing.assert_close(frames[:1], alone(0, total), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        frames[1:, restarted * chunk :], alone(1, total - restarted), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("chunk", [1, 2])
def test_a_full_block_does_not_depend_on_how_its_actions_came(network, context, actions, chunk):
    whole = rollout(network, context, actions, 24, seeded())
    stepped = rollout(network, context, actions, 24, seeded(), chunk=chunk)
    # the last frame of a block is imagined when all its actions are known
    torch.testing.assert_close(stepped[:, 3::4], whole[:, 3::4], atol=1e-5, rtol=1e-5)
    assert (stepped[:, 0::4] - whole[:, 0::4]).abs().max() > 1e-3


def test_a_step_depends_on_no_action_after_it(network, context, actions):
    changed = actions.clone()
    changed[:, 6:] = 0.0
    before = rollout(network, context, actions, 8, seeded(), chunk=1)
    after = rollout(network, context, changed, 8, seeded(), chunk=1)
    assert before[:, :6].equal(after[:, :6])
    assert not before[:, 6:].equal(after[:, 6:])


def test_same_seed_same_rollout_and_another_seed_another(network, context, actions):
    one = rollout(network, context, actions, 8, seeded(1))
    assert one.equal(rollout(network, context, actions, 8, seeded(1)))
    assert not one.equal(rollout(network, context, actions, 8, seeded(2)))


def test_a_state_can_be_continued_twice(network, context, actions):
    state = start(network, context, SEEDS, chunk=1)
    state = advance(network, state, actions[:, :1]).state
    one = advance(network, state, actions[:, 1:2])
    other = advance(network, state, -actions[:, 1:2])
    assert one.frames.equal(advance(network, state, actions[:, 1:2]).frames)
    assert not one.frames.equal(other.frames)
    swapped = take(state, torch.tensor([1, 0]))
    again = advance(network, swapped, actions[[1, 0], 1:2])
    assert again.frames.equal(one.frames[[1, 0]])


def test_without_actions_their_values_cannot_matter(network, context, actions):
    mask = torch.zeros(actions.shape[:2], dtype=torch.bool)
    generated = rollout(network, context, None, 8, seeded())
    masked = rollout(network, context, actions * torch.nan, 8, seeded(), action_mask=mask)
    assert generated.equal(masked)


def test_a_horizon_that_ends_within_a_block(network, context, actions):
    longer = rollout(network, context, actions, 8, seeded())
    shorter = rollout(network, context, actions[:, :7], 7, seeded())
    assert shorter.shape[1] == 7
    assert shorter[:, :4].equal(longer[:, :4])


def test_a_single_context_frame_stood_still(context):
    assert anchor_of(context[:, :1])[:, 0].equal(anchor_of(context[:, :1])[:, 1])
    assert anchor_of(context).equal(context)


@pytest.mark.parametrize("chunk", [1, 4])
def test_the_first_frame_is_seen_in_every_block(build_network, context, actions, chunk):
    network = build_network(first_frame=True)
    longer = torch.cat((torch.randn(context.shape, generator=seeded(6)), context), dim=1)

    def seen(frames, context):
        state = start(network, context, SEEDS, chunk)
        assert state.anchor.shape[1] == network.anchor_frames == 3
        for begin in range(0, frames, chunk):
            state = advance(network, state, actions[:, begin : begin + chunk]).state
        return state.anchor

    assert seen(8, longer)[:, 0].equal(longer[:, 0])
    imagined = [rollout(network, frames, actions, 8, seeded()) for frames in (longer, context)]
    assert imagined[0][:, 0].ne(imagined[1][:, 0]).any()
    # a memory of the last two frames alone has forgotten what came before
    plain = build_network()
    imagined = [rollout(plain, frames, actions, 8, seeded()) for frames in (longer, context)]
    assert imagined[0].equal(imagined[1])


def test_an_anchor_without_the_first_frame_is_refused(build_network, context, actions):
    state = start(build_network(), context, SEEDS)
    with pytest.raises(ValueError, match="an anchor of 2 frames; this model has 3"):
        advance(build_network(first_frame=True), state, actions[:, :4])


def test_mistakes_are_named(network, context, actions):
    with pytest.raises(ValueError, match="chunk=3 does not divide"):
        rollout(network, context, actions, 8, seeded(), chunk=3)
    with pytest.raises(ValueError, match="24 actions for a horizon of 25"):
        rollout(network, context, actions, 25, seeded())
    with pytest.raises(ValueError, match="3 generators for a batch of 2"):
        rollout(network, context, actions, 8, [seeded()] * 3)
    state = start(network, context, SEEDS)
    with pytest.raises(ValueError, match="5 actions; this rollout was started for chunk=4"):
        advance(network, state, actions[:, :5])
