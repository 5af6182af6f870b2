"""Kinematics fitted to what was recorded, before the video network learns to go by them.

Next to video, states and actions are few numbers: all of them are seen many times within a minute.
So the kinematics are good where few actions are known, and they are as good from the first step on
as they will be in imagination.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor
from tqdm import trange

from video.clips import ClipDataset
from video.errors import DatasetError
from worldmodel.kinematics import Kinematics, at_rest, state_loss

WINDOWS = 384
"""Windows of a step."""
LEARNING_RATE = 2e-3
WARMUP = 0.05
"""Share of the steps."""
MOST_EPISODES = 4096
"""More are not looked at: they are kept in memory."""

Windows = tuple[Tensor, Tensor, Tensor]
"""Robot vectors `(n, M)`, the actions behind them `(n, k, A)`, and the states then `(n, k, S)`."""


def fit_kinematics(
    kinematics: Kinematics,
    clips: ClipDataset,
    to_network: Callable[[Tensor], Tensor],
    past_actions: int,
    frames: int,
    steps: int,
    seed: int,
) -> None:
    """Fit kinematics to all recorded actions and states, and freeze them.

    Actions that a model read are left out: they already tell what came of them.

    Args:
        kinematics: on the CPU.
        clips: the training data.
        to_network: the clips' normalised states to those of the network.
        past_actions: actions P of the robot vector.
        frames: frames k that are foretold.
        steps: of the optimiser.
        seed: of the windows and the dropout.

    Raises:
        DatasetError: nothing was recorded that they could be fitted to.
    """
    windows = recorded_windows(clips, to_network, past_actions, frames)
    if not len(windows[0]):
        raise DatasetError(
            f"the training data have no {frames} recorded actions in a row between known states, "
            "to which kinematics could be fitted. Add recorded episodes, or set "
            "model.optimization.kinematics_steps to 0."
        )
    kinematics.requires_grad_(True).train()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(kinematics.parameters(), LEARNING_RATE)
    total = max(steps, 2)  # which OneCycleLR needs, and more than a step of warm-up
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=total, pct_start=max(WARMUP, 1.5 / total)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for _ in trange(steps, desc="Kinematics", unit=" steps"):
            chosen = torch.randint(len(windows[0]), (WINDOWS,), generator=generator)
            robot, actions, states = (part[chosen] for part in windows)
            known = torch.ones(actions.shape[:2], dtype=torch.bool)
            loss = state_loss(kinematics(robot, actions, known), states)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    kinematics.requires_grad_(False).eval()


def recorded_windows(
    clips: ClipDataset, to_network: Callable[[Tensor], Tensor], past_actions: int, frames: int
) -> Windows:
    """All stretches of so many recorded actions between known states."""
    parts = list(_windows(clips, to_network, past_actions, frames))
    if not parts:
        nothing = torch.zeros(0, frames, clips.action_dim), torch.zeros(0, frames, clips.state_dim)
        return torch.zeros(0, 2 * clips.state_dim + past_actions * clips.action_dim), *nothing
    robot, actions, states = (torch.cat(column) for column in zip(*parts, strict=True))
    return robot, actions, states


def _windows(
    clips: ClipDataset, to_network: Callable[[Tensor], Tensor], past_actions: int, frames: int
) -> Iterator[Windows]:
    """Those of each episode; at its first frame it is taken to be at rest."""
    labelled = clips.labelled_episodes()
    chosen = np.linspace(0, len(labelled) - 1, min(len(labelled), MOST_EPISODES)).round()
    for number in labelled[chosen.astype(np.int64)].tolist():
        episode = clips.whole(number, pictures=False)
        states, actions = to_network(episode["state"][0]), episode["actions"][0]
        known, seen = episode["action_weight"][0] == 1, episode["state_mask"][0]
        count = len(actions) - frames + 1
        if count < 1 or not states.shape[-1]:
            continue
        start = at_rest(states[:1], past_actions, actions.shape[-1])[0, 2 * states.shape[-1] :]
        taken = torch.where(known[:, None], actions, torch.nan).flatten()
        past = torch.cat((start, taken)).unfold(0, len(start), actions.shape[-1])[:count]
        before = torch.cat((states[:1], states[: count - 1]))
        robot = torch.cat((before, states[:count], past), dim=-1)
        complete = _all_of(known, frames, count) & _all_of(seen, frames + 1, count)
        complete[1:] &= seen[: count - 1]
        following = actions.unfold(0, frames, 1).mT, states[1:].unfold(0, frames, 1).mT
        yield robot[complete], following[0][complete], following[1][complete]


def _all_of(known: Bool[Tensor, " steps"], size: int, count: int) -> Bool[Tensor, " count"]:
    """Whether each of the first `count` stretches of this size is known throughout."""
    return known.unfold(0, size, 1)[:count].all(-1)
