"""Robots of a single dimension, their episodes in memory."""

import numpy as np
import torch

from video.clips import ClipDataset, ClipPart
from video.statistics import Normalizer

LENGTH = 12


STEP, FLOOR, TABLE, CEILING = 0.2, -0.6, -0.2, 0.6


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


class HeldUp:
    """Episodes of a hand that goes halfway to its set-point, and never below a table."""

    def __init__(self, episodes: int, spread: float = 0.0, seed: int = 0):
        generator = np.random.default_rng(seed)
        count = episodes, LENGTH
        actions = np.repeat(generator.uniform(-1, 1, (episodes, LENGTH // 3)), 3, axis=1)
        states, points = np.zeros(count), np.zeros(count)
        for step in range(1, LENGTH):
            moved = points[:, step - 1] + STEP * actions[:, step - 1]
            points[:, step] = moved.clip(FLOOR, CEILING)
            halfway = (states[:, step - 1] + points[:, step]) / 2
            states[:, step] = halfway.clip(TABLE)
        self.path = "held up"
        self.points = points
        self.lengths = np.full(episodes, LENGTH)
        self.starts = LENGTH * np.arange(episodes)
        self.tasks = [""] * episodes
        self.columns = {
            "actions": actions.reshape(-1, 1).astype(np.float32),
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
