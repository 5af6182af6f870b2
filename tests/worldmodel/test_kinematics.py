"""The robot's state: foretold from its actions, and told to no query that must not know it."""

import pytest
import torch

from worldmodel.blocks import cut
from worldmodel.kinematics import (
    Kinematics,
    KinematicsSizes,
    at_rest,
    present_state,
    state_loss,
    state_waves,
    wave_channels,
)
from worldmodel.objective import foretold_states
from worldmodel.queries import draw_noise, forward_dynamics, imagine_block, inverse_dynamics
from worldmodel.rollout import advance, rollout
from worldmodel.rollout_state import start

SEEDS = torch.tensor([3, 4])


@pytest.fixture
def told(build_network):
    """A tiny network that goes by two numbers of state."""
    return build_network(state_dim=2)


@pytest.fixture
def context():
    return torch.randn(2, 1, 1, 3, 4, 4, generator=torch.Generator().manual_seed(0))


STATE = torch.tensor([[0.1, -0.2], [0.5, 0.4]])


def test_it_learns_a_hand_that_lags_behind():
    """The hand moves by half of what the last command and this one say: no single state tells."""
    torch.manual_seed(0)
    kinematics = Kinematics(2, 2)
    optimizer = torch.optim.Adam(kinematics.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)

    def episodes(count):
        actions = torch.rand(count, 6, 2, generator=generator) * 2 - 1
        before = torch.cat((torch.zeros(count, 1, 2), actions[:, :-1]), dim=1)
        return actions, 0.05 * (before + actions).cumsum(1)

    everything = torch.ones(64, 6, dtype=torch.bool)
    robot = at_rest(torch.zeros(64, 2), 1, 2)
    for _ in range(400):
        actions, states = episodes(64)
        loss = state_loss(kinematics(robot, actions, everything), states)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    actions, states = episodes(64)
    found = kinematics(robot, actions, everything)
    assert state_loss(found, states) < 0.15 * state_loss(torch.zeros_like(states), states)


def test_behind_what_is_unknown_nothing_is_known():
    kinematics = Kinematics(1, 2)
    mask = torch.tensor([[True, True, True], [True, False, True], [True, True, True]])
    robot = at_rest(torch.zeros(3, 1), 1, 2)
    robot[2, 0] = torch.nan
    actions = torch.zeros(3, 3, 2)
    actions[1, 1] = torch.nan
    known = ~kinematics(robot, actions, mask).isnan()[..., 0]
    assert known.tolist() == [[True] * 3, [True, False, False], [False] * 3]


def test_all_past_actions_count():
    torch.manual_seed(0)
    kinematics = Kinematics(1, 2, past_actions=3, sizes=KinematicsSizes(waves=True, depth=3))
    robot = at_rest(torch.zeros(1, 1), 3, 2).nan_to_num(0.0).repeat(4, 1)
    robot[torch.arange(3), 2 + 2 * torch.arange(3)] = 1.0  # each another of the three
    actions = torch.zeros(4, 4, 2)
    found = kinematics(robot, actions, torch.ones(4, 4, dtype=torch.bool))[..., 0]
    assert len(found[:, 0].unique()) == 4
    # the oldest one is forgotten after the first step, but for where the hand is by then
    one = kinematics(robot[3:], torch.ones(1, 1, 2), torch.ones(1, 1, dtype=torch.bool))
    behind = torch.tensor([[0.0, one.item(), 0, 0, 0, 0, 1, 1]])
    both = torch.cat((torch.ones(1, 1, 2), actions[3:, :1]), dim=1)
    whole = kinematics(robot[3:], both, torch.ones(1, 2, dtype=torch.bool))
    torch.testing.assert_close(
        kinematics(behind, actions[3:, :1], torch.ones(1, 1, dtype=torch.bool)), whole[:, 1:]
    )


def test_frozen_it_foretells_the_same_in_training():
    torch.manual_seed(0)
    kinematics = Kinematics(1, 2, sizes=KinematicsSizes(depth=2, dropout=0.5)).train()
    given = at_rest(torch.rand(8, 1), 1, 2), torch.rand(8, 4, 2), torch.ones(8, 4, dtype=torch.bool)
    assert not kinematics(*given).equal(kinematics(*given))
    kinematics.requires_grad_(False)
    assert kinematics.train()(*given).equal(kinematics(*given))


@pytest.mark.parametrize("wrong", [{"width": 0}, {"depth": 0}, {"dropout": 1.0}])
def test_sizes_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}={next(iter(wrong.values()))}"):
        KinematicsSizes(**wrong)


def test_half_precision_around_it_changes_nothing():
    torch.manual_seed(0)
    kinematics = Kinematics(2, 2)
    given = at_rest(torch.rand(3, 2), 1, 2), torch.rand(3, 4, 2), torch.ones(3, 4, dtype=torch.bool)
    expected = kinematics(*given)
    with torch.autocast("cpu", torch.bfloat16):
        assert kinematics(*given).equal(expected)


def test_the_loss_is_of_what_is_known():
    predicted = torch.tensor([[[1.0], [torch.nan], [5.0]]], requires_grad=True)
    loss = state_loss(predicted, torch.tensor([[[1.5], [1.0], [torch.nan]]]))
    torch.testing.assert_close(loss, torch.tensor(0.5 / 3))
    loss.backward()
    torch.testing.assert_close(predicted.grad.flatten(), torch.tensor([-1 / 3, 0.0, 0.0]))


def test_waves_by_number():
    waves = state_waves(torch.tensor([[0.5], [torch.nan]]))
    assert waves.shape[-1] == wave_channels(1) == 10
    expected = [0.5, 1, 0, 0, 0, 0, -1, 1, 1, 1]  # x; sin of pi/2, pi, 2pi, 4pi; cos; known
    torch.testing.assert_close(waves[0], torch.tensor(expected), atol=1e-5, rtol=0)
    assert waves[1].tolist() == [0] * 10
    assert wave_channels(0) == 0


def test_clips_are_cut_with_their_states():
    latents = torch.zeros(1, 10, 1, 1, 1, 1)
    actions = torch.arange(9.0)[None, :, None]
    mask = torch.ones(1, 9, dtype=torch.bool)
    mask[0, 0] = False  # the step before the first frame
    states = 10 * torch.arange(10.0)[None, :, None]
    blocks = cut(latents, actions, mask, 4, states=states)
    unknown = -1.0
    assert blocks.robot[0].nan_to_num(unknown).tolist() == [[0, 10, unknown], [40, 50, 4]]
    assert blocks.states.flatten().tolist() == [20, 30, 40, 50, 60, 70, 80, 90]
    assert present_state(blocks.robot, 1).flatten().tolist() == [10, 50]
    longer = cut(latents, actions, mask, 4, past_actions=6).robot[0].nan_to_num(unknown)
    assert longer.tolist() == [[unknown] * 6, [unknown, unknown, 1, 2, 3, 4]]


def test_the_picture_follows_the_state(told, context, actions):
    one = rollout(told, context, actions, 12, seeded(), state=STATE)
    other = rollout(told, context, actions, 12, seeded(), state=STATE + 0.3)
    unknown = rollout(told, context, actions, 12, seeded())
    nowhere = rollout(told, context, actions, 12, seeded(), state=STATE * torch.nan)
    assert (one - other).abs().max() > 1e-3
    assert (one - unknown).abs().max() > 1e-3
    assert unknown.equal(nowhere)
    assert one.isfinite().all()


def imagined_states(network, context, actions, chunk):
    """The robot's states along a rollout."""
    now, found = start(network, context, SEEDS, chunk, STATE), []
    for begin in range(0, actions.shape[1], chunk):
        step = advance(network, now, actions[:, begin : begin + chunk])
        found.append(step.robot)
        now = step.state
    return torch.cat(found, 1)


@pytest.mark.parametrize("chunk", [1, 4])
def test_states_go_on_from_block_to_block(told, context, actions, chunk):
    """Where the network has no objection: what the kinematics say of the whole."""
    for part in (told.read_action.weight, told.read_action.bias):
        torch.nn.init.zeros_(part[told.action_dim :])
    found = imagined_states(told, context, actions, chunk)
    mask = torch.ones(2, 12, dtype=torch.bool)
    torch.testing.assert_close(found, told.kinematics(at_rest(STATE, 1, 2), actions, mask))


def test_what_is_seen_corrects_what_is_foretold(told, context, actions):
    mask = torch.ones(2, 4, dtype=torch.bool)
    foretold = told.kinematics(at_rest(STATE, 1, 2), actions[:, :4], mask)
    found = imagined_states(told, context, actions, 4)
    other = imagined_states(told, context + 0.5, actions, 4)
    assert (found[:, :4] - foretold).abs().min() > 1e-4
    assert (found - other).abs().min() > 1e-5
    begun = torch.cat((found[:, 2:4].flatten(1), actions[:, 3]), dim=1)
    assert start(told, context, SEEDS, 4, STATE).robot.shape == begun.shape
    first = advance(told, start(told, context, SEEDS, 4, STATE), actions[:, :4])
    assert first.state.robot.equal(begun)  # and the next block goes on from there
    stepped = imagined_states(told, context, actions, 1)
    torch.testing.assert_close(stepped[:, 3::4], found[:, 3::4])  # the ends of full blocks


def test_states_are_learned_as_they_will_be_foretold(told, context, actions):
    """Training tells the network what imagination will: not the true states of the block."""
    mask = torch.ones(2, 9, dtype=torch.bool)
    states = torch.rand(2, 10, 2, generator=seeded())
    latents = context.expand(-1, 10, -1, -1, -1, -1)
    blocks = cut(latents, actions[:, :9], mask, 4, states=states)
    foretold = foretold_states(told, blocks)
    assert foretold[:, :, 0].equal(states[:, 1:6:4])
    expected = told.kinematics(blocks.robot[:, 1], actions[:, 5:9], mask[:, 5:])
    torch.testing.assert_close(foretold[:, 1, 1:], expected)
    elsewhere = blocks._replace(states=blocks.states + 1)
    assert foretold_states(told, elsewhere).equal(foretold)


def test_where_actions_were_read_the_states_are_those_that_were_read(told, context, actions):
    """But where the robot is far from where it should be: then it was held up."""
    mask = torch.ones(2, 9, dtype=torch.bool)
    blocks = cut(context.expand(-1, 10, -1, -1, -1, -1), actions[:, :9], mask, 4)
    states = torch.rand(2, 10, 2, generator=seeded())
    blocks = cut(context.expand(-1, 10, -1, -1, -1, -1), actions[:, :9], mask, 4, states=states)
    foretold = foretold_states(told, blocks)
    near = foretold[:, :, 1:] + 0.05
    near[0, 1, 2, 1] += 0.3  # the second number of one block
    near[1, 1, :, 0] = torch.nan
    weight = torch.full_like(blocks.action_weight, 0.7)
    weight[0, 0] = 1.0  # recorded
    weight[1, 0] = 0.0  # unknown, as far as it counts
    told_states = foretold_states(told, blocks._replace(states=near, action_weight=weight))
    assert told_states[:, :, 0].equal(foretold[:, :, 0])
    assert told_states[:, 0].equal(foretold[:, 0])
    assert told_states[0, 1, 1:, 0].equal(near[0, 1, :, 0])
    assert told_states[0, 1, 1:, 1].equal(foretold[0, 1, 1:, 1])
    assert told_states[1, 1, 1:, 0].equal(foretold[1, 1, 1:, 0])
    assert told_states[1, 1, 1:, 1].equal(near[1, 1, :, 1])


def test_one_action_at_a_time_is_the_whole_block(told, context, actions):
    whole = rollout(told, context, actions, 12, seeded(), state=STATE)
    stepped = rollout(told, context, actions, 12, seeded(), chunk=1, state=STATE)
    torch.testing.assert_close(stepped[:, 3::4], whole[:, 3::4])  # the frames of full blocks


def test_no_query_is_told_what_it_is_asked(told, context, actions):
    """States say what was done: behind an action that is not given they are not looked at."""
    anchor = context.expand(-1, 2, -1, -1, -1, -1)
    noise = draw_noise(told, anchor, seeded())
    mask = torch.tensor([[True, True, False, False]]).expand(2, 4)

    def seen(states, action_time):
        return told(
            anchor[:, None],
            noise.latents[:, None],
            actions[:, None, :4],
            torch.ones(2, 1),
            action_time.expand(2, 1, 4),
            states=states[:, None],
        ).latents

    states = torch.randn(2, 5, 2, generator=seeded())
    later = states.clone()
    later[:, 3:] += 1
    given = torch.tensor([0.0, 0.0, 1.0, 1.0])
    assert seen(states, given).equal(seen(later, given))
    assert not seen(states, given).equal(seen(states + 1, given))
    denoised = torch.full((4,), 0.5)
    assert seen(states, denoised).equal(seen(states + 1, denoised))

    block = imagine_block(told, anchor, actions[:, :4], mask, noise, robot=at_rest(STATE, 1, 2))
    assert block.states.isnan().any(-1).tolist() == [[False] * 3 + [True] * 2] * 2
    own = inverse_dynamics(told, anchor, noise.latents, noise)
    assert own.isfinite().all()
    unknown = forward_dynamics(told, anchor, actions[:, :4], mask, noise)
    assert not block.latents.equal(unknown)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)
