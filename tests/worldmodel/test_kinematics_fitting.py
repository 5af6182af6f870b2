"""Kinematics that are fitted beforehand: to what was recorded, and to nothing else."""

import numpy as np
import pytest
import torch
from moving_robots import LENGTH, Moving, clips_of, same

from video.errors import DatasetError
from worldmodel.kinematics import Kinematics, KinematicsSizes, state_loss
from worldmodel.kinematics_fitting import fit_kinematics, recorded_windows


def test_windows_by_number():
    moving = Moving(2)
    moving.columns["state"][3] = np.nan  # a frame of the first episode
    windows = recorded_windows(clips_of(moving), same, past_actions=2, frames=3)
    robot, actions, states = windows[:3]
    assert robot.shape[1:] == (4,)
    assert actions.shape[1:] == states.shape[1:] == (3, 1)
    starts = [5, 6, 7, 8, *range(9)]  # frames, the first episode's not beside the lost one
    assert len(robot) == len(starts)
    action, state = (moving.columns[name].reshape(2, LENGTH) for name in ("actions", "state"))
    rows = [0] * 4 + [1] * 9
    for index, (episode, frame) in enumerate(zip(rows, starts, strict=True)):
        before = max(frame - 1, 0)
        assert robot[index, :2].tolist() == state[episode, [before, frame]].tolist()
        past = np.pad(action[episode], (2, 0), constant_values=np.nan)[frame : frame + 2]
        np.testing.assert_array_equal(robot[index, 2:], past)
        np.testing.assert_array_equal(actions[index, :, 0], action[episode, frame : frame + 3])
        np.testing.assert_array_equal(states[index, :, 0], state[episode, frame + 1 : frame + 4])


def test_actions_that_were_read_are_left_out():
    assert len(recorded_windows(clips_of(Moving(3, spread=0.2)), same, 1, 4).frame) == 0
    both = recorded_windows(clips_of(Moving(2), Moving(3, spread=0.2)), same, 1, 4)
    alone = recorded_windows(clips_of(Moving(2)), same, 1, 4)
    for one, other in zip(alone[:4], both[:4], strict=True):
        assert one.nan_to_num().equal(other.nan_to_num())


def test_too_short_episodes_have_no_window():
    robot, actions, states = recorded_windows(clips_of(Moving(2)), same, 1, LENGTH)[:3]
    assert robot.shape == (0, 3)
    assert actions.shape == states.shape == (0, LENGTH, 1)


def test_they_are_fitted_and_frozen():
    sizes = KinematicsSizes(width=32, dropout=0.05)
    networks = []
    for _ in range(2):
        torch.manual_seed(0)
        networks.append(Kinematics(1, 1, 1, sizes))
        fit_kinematics(networks[-1], clips_of(Moving(20)), same, 1, 4, steps=300, seed=5)
    held_out = recorded_windows(clips_of(Moving(20, seed=1)), same, 1, 4)
    known = torch.ones(held_out[1].shape[:2], dtype=torch.bool)
    found = networks[0](held_out[0], held_out[1], known)
    moved = state_loss(held_out[0][:, None, 1:2].expand_as(held_out[2]), held_out[2])
    assert state_loss(found, held_out[2]) < 0.15 * moved
    assert networks[1](held_out[0], held_out[1], known).equal(found)
    assert not any(weight.requires_grad for weight in networks[0].parameters())


def test_states_are_those_of_the_network():
    """Whatever the data's own range is."""
    windows = recorded_windows(clips_of(Moving(2)), lambda states: states / 2, 1, 4)
    assert windows[2].equal(recorded_windows(clips_of(Moving(2)), same, 1, 4)[2] / 2)


def test_where_nothing_was_recorded_that_is_said():
    clips = clips_of(Moving(2, spread=0.2))
    with pytest.raises(DatasetError, match="no 4 recorded actions in a row"):
        fit_kinematics(Kinematics(1, 1), clips, same, 1, 4, steps=2, seed=0)
