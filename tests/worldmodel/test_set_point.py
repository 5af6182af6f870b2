"""Where commands have asked the robot to be: followed, learned, and carried through rollouts."""

from dataclasses import replace

import pytest
import torch
from moving_robots import CEILING, FLOOR, LENGTH, STEP, HeldUp, clips_of, same
from tiny_world_models import tiny_world_model

from worldmodel.blocks import cut
from worldmodel.kinematics import Kinematics, KinematicsSizes, at_rest, state_loss
from worldmodel.kinematics_fitting import (
    fit_kinematics,
    recorded_windows,
    set_points,
    with_set_point,
)
from worldmodel.rollout import advance, rollout
from worldmodel.rollout_state import start
from worldmodel.set_point import SetPoint, clip_set_points


def true_set_point() -> SetPoint:
    point = SetPoint(1, 1)
    with torch.no_grad():
        point.step.weight.fill_(STEP)
        point.low.fill_(FLOOR)
        point.high.fill_(CEILING)
    return point


def test_it_adds_commands_up_inside_its_bounds():
    point = true_set_point()
    actions = torch.tensor([[[-1.0], [-1.0], [-1.0], [-1.0], [1.0]]])
    known = torch.ones(1, 5, dtype=torch.bool)
    found = point(torch.zeros(1, 1), actions, known)
    torch.testing.assert_close(found.flatten(), torch.tensor([-0.2, -0.4, -0.6, -0.6, -0.4]))
    later = torch.tensor([[False, False, True, True, True]])
    found = point(torch.zeros(1, 1), actions, known & later, later)
    torch.testing.assert_close(found.flatten(), torch.tensor([0.0, 0.0, -0.2, -0.4, -0.2]))
    unknown = point(torch.zeros(1, 1), actions, later.roll(-1))
    assert unknown.isnan().all()


def test_in_every_clip_it_is_that_of_the_whole_episode():
    moving = HeldUp(3)
    clips = clips_of(moving)
    clips.history = LENGTH
    batch = clips[range(len(clips))]
    states = torch.where(batch["state_mask"][..., None], batch["state"], torch.nan)
    given = batch["actions"], states, batch["past_actions"], batch["past_state"]
    with torch.no_grad():
        found = clip_set_points(true_set_point(), batch, *given)[..., 0]
    assert batch["start"].min() == -1  # one that begins before its episode
    for row, (episode, begin) in enumerate(zip(batch["episode"], batch["start"], strict=True)):
        frames = (begin + torch.arange(found.shape[1])).clamp(min=0)
        expected = torch.from_numpy(moving.points[episode][frames]).float()
        torch.testing.assert_close(found[row], expected)


def test_where_actions_were_read_it_is_the_state():
    clips = clips_of(HeldUp(3, spread=0.2))
    clips.history = 5
    batch = clips[range(len(clips))]
    given = batch["actions"], batch["state"], batch["past_actions"], batch["past_state"]
    found = clip_set_points(true_set_point(), batch, *given)
    behind = batch["start"] > 0
    assert behind.any()
    assert found[behind].equal(batch["state"][behind])


def test_it_is_learned_from_what_the_robot_does():
    """The table holds the hand up by more than the last two actions tell."""
    errors = {}
    held_out = recorded_windows(clips_of(HeldUp(30, seed=1)), same, 1, 4)
    known = torch.ones(held_out.actions.shape[:2], dtype=torch.bool)
    for keeps in (False, True):
        torch.manual_seed(0)
        kinematics = Kinematics(1, 1, 1, KinematicsSizes(width=32, set_point=keeps))
        fit_kinematics(kinematics, clips_of(HeldUp(60)), same, 1, 4, steps=400, seed=5)
        robot = held_out.robot
        if kinematics.set_point is not None:
            every = torch.arange(len(held_out.frame))
            point = set_points(kinematics.set_point, held_out, every)
            robot = with_set_point(robot, point)
            step = kinematics.set_point.step
            assert step.weight.item() == pytest.approx(STEP, rel=0.1)
        found = kinematics(robot, held_out.actions, known)
        errors[keeps] = state_loss(found, held_out.states).item()
    assert errors[True] < 0.5 * errors[False]


def keeping():
    """A tiny world model whose kinematics keep a set-point that moves and has bounds."""
    model = tiny_world_model(kinematics_sizes={"set_point": True})
    point = model.network.set_point
    assert point is not None
    torch.manual_seed(1)
    for parameter in model.network.kinematics.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    with torch.no_grad():
        point.low.fill_(-0.5)
        point.high.fill_(0.5)
    return model.network


@pytest.fixture
def context():
    return torch.randn(2, 1, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))


STATE = torch.tensor([[0.1, -0.2, 0.3], [0.5, 0.4, 0.0]])


def test_a_rollout_carries_it_on(context, actions):
    network = keeping()
    now = start(network, context, torch.tensor([3, 4]), state=STATE)
    assert now.robot.shape[1] == 3 * 3 + 2
    assert now.robot[:, 6:9].equal(STATE)  # at rest it is where the robot is
    known = torch.ones(2, 12, dtype=torch.bool)
    expected = network.set_point(STATE, actions, known)
    for block in range(3):
        now = advance(network, now, actions[:, 4 * block : 4 * block + 4]).state
        torch.testing.assert_close(now.robot[:, 6:9], expected[:, 4 * block + 3])


def test_one_action_at_a_time_is_the_whole_block(context, actions):
    network, generator = keeping(), torch.Generator()
    whole = rollout(network, context, actions, 12, generator.manual_seed(0), state=STATE)
    generator.manual_seed(0)
    stepped = rollout(network, context, actions, 12, generator, chunk=1, state=STATE)
    torch.testing.assert_close(stepped[:, 3::4], whole[:, 3::4])


def test_the_picture_depends_on_it(context, actions):
    network = keeping()
    now = start(network, context, torch.tensor([3, 4]), state=STATE)
    robot = now.robot.clone()
    robot[:, 6:9] += 0.3
    expected = advance(network, now, actions[:, :4]).frames
    otherwise = advance(network, replace(now, robot=robot), actions[:, :4]).frames
    assert (otherwise - expected).abs().amax((1, 2, 3, 4, 5)).min() > 1e-4


def test_blocks_are_cut_with_it():
    states = 10 * torch.arange(10.0)[None, :, None]
    actions = torch.arange(9.0)[None, :, None]
    known = torch.ones(1, 9, dtype=torch.bool)
    blocks = cut(
        torch.zeros(1, 10, 1, 1, 1, 1), actions, known, 4, states=states, set_points=-states
    )
    assert blocks.robot[0].tolist() == [[0, 10, -10, 0], [40, 50, -50, 4]]
    assert at_rest(states[:, 3], 1, 1, set_point=True).nan_to_num(7).tolist() == [[30, 30, 30, 7]]


def test_half_precision_around_it_changes_nothing():
    torch.manual_seed(0)
    kinematics = Kinematics(1, 1, sizes=KinematicsSizes(set_point=True))
    torch.nn.init.normal_(kinematics.set_point.step.weight)
    given = at_rest(torch.rand(3, 1), 1, 1, True), torch.rand(3, 4, 1)
    known = torch.ones(3, 4, dtype=torch.bool)
    expected = kinematics(*given, known)
    points = kinematics.set_point(given[0][:, :1], given[1], known)
    with torch.autocast("cpu", torch.bfloat16):
        assert kinematics(*given, known).equal(expected)
        assert kinematics.set_point(given[0][:, :1], given[1], known).equal(points)
