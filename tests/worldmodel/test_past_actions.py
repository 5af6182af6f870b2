"""The actions before a block: what a hand still lags behind, told where actions are given."""

from dataclasses import replace

import pytest
import torch

from worldmodel.blocks import cut
from worldmodel.kinematics import next_robot
from worldmodel.noise import GIVEN
from worldmodel.queries import draw_noise, imagine_block, inverse_dynamics
from worldmodel.rollout import advance, rollout
from worldmodel.rollout_state import start

SEEDS = torch.tensor([3, 4])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def lagging(build_network):
    """A tiny network that is told six actions, more than a block has."""
    return build_network(past_actions=6)


@pytest.fixture
def context():
    return torch.randn(2, 1, 1, 3, 4, 4, generator=seeded())


def test_the_robot_vector_behind_a_block_by_number():
    robot = torch.tensor([[10.0, 11.0, 1.0, 2.0, 3.0]])  # two states of a number, three actions
    states, actions = torch.tensor([[[11.0], [12.0], [13.0]]]), torch.tensor([[[4.0], [5.0]]])
    known = torch.ones(1, 2, dtype=torch.bool)
    assert next_robot(robot, states, actions, known).tolist() == [[12, 13, 3, 4, 5]]
    half = next_robot(robot, states, actions, known & torch.tensor([[True, False]]))
    assert half.nan_to_num(-1).tolist() == [[12, 13, 3, 4, -1]]
    short = next_robot(robot[:, :3], states, actions, known)
    assert short.tolist() == [[12, 13, 5]]


def test_a_rollout_remembers_as_many_as_it_is_told(lagging, context, actions):
    now = start(lagging, context, SEEDS)
    assert now.robot.isnan().all()
    for block in range(3):
        now = advance(lagging, now, actions[:, 4 * block : 4 * block + 4]).state
        told = now.robot.view(2, 6, 2)
        held = min(6, 4 * block + 4)
        assert told[:, :-held].isnan().all()
        assert told[:, -held:].equal(actions[:, 4 * block + 4 - held : 4 * block + 4])


def test_the_next_block_depends_on_the_actions_before(lagging, context, actions):
    """With the same picture before it: through them alone."""
    now = advance(lagging, start(lagging, context, SEEDS), actions[:, :4]).state
    expected = advance(lagging, now, actions[:, 4:8]).frames
    for action in range(2, 6):  # the first two of the six are before the episode
        robot = now.robot.clone()
        robot[:, 2 * action] += 0.5
        otherwise = advance(lagging, replaced(now, robot), actions[:, 4:8]).frames
        assert (otherwise - expected).abs().amax((1, 2, 3, 4, 5)).min() > 1e-4


def replaced(state, robot):
    return replace(state, robot=robot)


@pytest.mark.parametrize("chunk", [1, 2])
def test_one_action_at_a_time_is_the_whole_block(lagging, context, actions, chunk):
    whole = rollout(lagging, context, actions, 12, seeded())
    stepped = rollout(lagging, context, actions, 12, seeded(), chunk=chunk)
    torch.testing.assert_close(stepped[:, 3::4], whole[:, 3::4])


def test_clips_are_cut_as_rollouts_go_on(lagging, context, actions):
    """What training tells is what a rollout of the same clip remembers."""
    latents = context.expand(-1, 10, -1, -1, -1, -1)
    mask = torch.ones(2, 9, dtype=torch.bool)
    blocks = cut(latents, actions[:, :9], mask, 4, past_actions=6)
    begun = replaced(start(lagging, context, SEEDS), blocks.robot[:, 0])
    now = advance(lagging, begun, blocks.actions[:, 0]).state
    assert now.robot.nan_to_num(9).equal(blocks.robot[:, 1].nan_to_num(9))


@pytest.mark.parametrize("fill", [7.0, 1e9, torch.nan])
def test_an_unknown_one_does_not_matter(lagging, context, actions, fill):
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[0, 2] = mask[1, 5] = False
    other = torch.where(mask[..., None], actions, fill)
    assert rollout(lagging, context, other, 12, seeded(), mask).equal(
        rollout(lagging, context, actions, 12, seeded(), mask)
    )
    latents = context.expand(-1, 10, -1, -1, -1, -1)
    one, two = (cut(latents, a[:, :9], mask[:, :9], 4, past_actions=6) for a in (actions, other))
    assert one.robot.nan_to_num(9).equal(two.robot.nan_to_num(9))


def test_no_query_is_told_what_it_is_asked(lagging, context, actions):
    """Where the block's own actions are not given, those before are not looked at."""
    anchor = context.expand(-1, 2, -1, -1, -1, -1)
    noise = draw_noise(lagging, anchor, seeded())

    def seen(robot, first_time):
        time = torch.full((2, 1, 4), GIVEN)
        time[..., 0] = first_time
        given = anchor[:, None], noise.latents[:, None], actions[:, None, :4], torch.ones(2, 1)
        return lagging(*given, time, robot=robot[:, None])

    one, other = (torch.randn(2, 12, generator=seeded(seed)) for seed in (5, 6))
    assert not seen(one, GIVEN).latents.equal(seen(other, GIVEN).latents)
    for time in (0.5, 1.0):
        assert seen(one, time).latents.equal(seen(other, time).latents)
        assert seen(one, time).actions.equal(seen(other, time).actions)
    nothing = torch.zeros(2, 4, dtype=torch.bool)
    blind = [
        imagine_block(lagging, anchor, actions[:, :4], nothing, noise, robot=robot).latents
        for robot in (one, other)
    ]
    assert blind[0].equal(blind[1])
    assert inverse_dynamics(lagging, anchor, noise.latents, noise).isfinite().all()
