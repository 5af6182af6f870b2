"""Kinematics that are fitted beforehand: to what was recorded, and to nothing else."""

import numpy as np
import pytest
import torch

from video.clips import ClipDataset, ClipPart
from video.errors import DatasetError
from video.statistics import Normalizer
from worldmodel.kinematics import Kinematics, KinematicsSizes, state_loss
from worldmodel.kinematics_fitting import fit_kinematics, recorded_windows

LENGTH = 12


class Moving:
    """Episodes of a hand that moves by a tenth of its last two commands, and starts at rest."""

    def __init__(self, episodes: int, spread: float = 0.0, seed: int = 0):
        generator = np.random.default_rng(seed)
        actions = generator.uniform(-1, 1, (episodes, LENGTH, 1)).astype(np.float32)
        before = np.pad(actions, ((0, 0), (1, 0), (0, 0)))[:, :-1]
        moves = 0.1 * (actions + before)
        states = np.pad(moves.cumsum(1), ((0, 0), (1, 0), (0, 0)))[:, :-1]
        self.path = "moving"
        self.lengths = np.full(episodes, LENGTH)
        self.starts = LENGTH * np.arange(episodes)
        self.tasks = [""] * episodes
        self.columns = {
            "actions": actions.reshape(-1, 1),
            "state": states.reshape(-1, 1).astype(np.float32),
            "action_spread": np.full((episodes * LENGTH, 1), spread, np.float32),
        }


def clips_of(*datasets) -> ClipDataset:
    parts = []
    for dataset in datasets:
        episodes = np.arange(len(dataset.lengths))
        parts.append(ClipPart(dataset, episodes, np.ones(len(episodes), bool), ()))
    one = Normalizer(np.array([-1.0]), np.array([1.0]))
    return ClipDataset(parts, 4, (8, 8), action_normalizer=one, state_normalizer=one)


def same(states: torch.Tensor) -> torch.Tensor:
    return states


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
