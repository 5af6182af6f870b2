"""Kinematics fitted to what was recorded, before the video network learns to go by them.

Next to video, states and actions are few numbers: all of them are seen many times within a minute.
So the kinematics are good where few actions are known, and they are as good from the first step on
as they will be in imagination.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from tqdm import trange

from video.clips import ClipDataset
from video.errors import DatasetError
from worldmodel.kinematics import Kinematics, at_rest, state_loss
from worldmodel.set_point import HISTORY, SetPoint

WINDOWS = 384
"""Windows of a step."""
LEARNING_RATE = 2e-3
WARMUP = 0.05
"""Share of the steps."""
MOST_EPISODES = 4096
"""More are not looked at: they are kept in memory."""


class Windows(NamedTuple):
    """All stretches of k recorded actions between known states, and the frames that they are of.

    Attributes:
        robot: robot vectors, without set-point.
        actions: behind them.
        states: then.
        frame: of each window's state now, among all frames.
        first: that of its episode.
        all_actions: recorded from each frame on, NaN where unknown.
        all_states: in each frame, NaN where unknown.
    """

    robot: Float[Tensor, "windows robot"]
    actions: Float[Tensor, "windows k action_dim"]
    states: Float[Tensor, "windows k state_dim"]
    frame: Int64[Tensor, " windows"]
    first: Int64[Tensor, " windows"]
    all_actions: Float[Tensor, "frames action_dim"]
    all_states: Float[Tensor, "frames state_dim"]


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
    if not len(windows.frame):
        raise DatasetError(
            f"the training data have no {frames} recorded actions in a row between known states, "
            "to which kinematics could be fitted. Add recorded episodes, or set "
            "model.optimization.kinematics_steps to 0."
        )
    kinematics.requires_grad_(True).train()
    if kinematics.set_point is not None:
        begin_set_point(kinematics.set_point, windows)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(kinematics.parameters(), LEARNING_RATE)
    total = max(steps, 2)  # which OneCycleLR needs, and more than a step of warm-up
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=total, pct_start=max(WARMUP, 1.5 / total)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for _ in trange(steps, desc="Kinematics", unit=" steps"):
            chosen = torch.randint(len(windows.frame), (WINDOWS,), generator=generator)
            robot, actions, states = (part[chosen] for part in windows[:3])
            if kinematics.set_point is not None:
                robot = with_set_point(robot, set_points(kinematics.set_point, windows, chosen))
            known = torch.ones(actions.shape[:2], dtype=torch.bool)
            loss = state_loss(kinematics(robot, actions, known), states)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    kinematics.requires_grad_(False).eval()


@torch.no_grad()
def begin_set_point(set_point: SetPoint, windows: Windows) -> None:
    """A first guess: commands move it as they move the robot, and to where that has been."""
    _, count, size = windows.states.shape
    present = windows.robot[:, size : 2 * size]
    given = torch.nn.functional.pad(windows.actions.sum(1), (0, 1), value=count)
    found = torch.linalg.lstsq(given.double(), (windows.states[:, -1] - present).double()).solution
    set_point.step.weight.copy_(found[:-1].mT)
    set_point.step.bias.copy_(found[-1])
    been = torch.cat((windows.states.flatten(0, 1), present))
    set_point.low.copy_(been.amin(0))
    set_point.high.copy_(been.amax(0))


def set_points(
    set_point: SetPoint, windows: Windows, chosen: Int64[Tensor, " chosen"]
) -> Float[Tensor, "chosen state_dim"]:
    """Those of some of the windows, in the frame before their actions; the state if unknown."""
    frame, first = windows.frame[chosen], windows.first[chosen]
    before = frame[:, None] + torch.arange(-HISTORY, 0)
    taken = before >= first[:, None]
    actions = windows.all_actions[before.clamp(min=0)]
    begin = windows.all_states[torch.maximum(frame - HISTORY, first)]
    point = set_point(begin, actions, ~actions.isnan().any(-1), taken)[:, -1]
    return torch.where(point.isnan(), windows.all_states[frame], point)


def with_set_point(
    robot: Float[Tensor, "windows robot"], point: Float[Tensor, "windows state_dim"]
) -> Float[Tensor, "windows robot_and_set_point"]:
    """Robot vectors with their set-points, which they lack."""
    told = 2 * point.shape[-1]
    return torch.cat((robot[:, :told], point, robot[:, told:]), dim=-1)


def recorded_windows(
    clips: ClipDataset, to_network: Callable[[Tensor], Tensor], past_actions: int, frames: int
) -> Windows:
    """All windows of the episodes that were recorded; at its first frame, each is at rest."""
    size, width = clips.state_dim, clips.action_dim
    nothing = torch.zeros(0, dtype=torch.int64)
    parts = [
        Windows(
            torch.zeros(0, 2 * size + past_actions * width),
            torch.zeros(0, frames, width),
            torch.zeros(0, frames, size),
            *(nothing, nothing, torch.zeros(0, width), torch.zeros(0, size)),
        )
    ]
    offset = 0
    for part in _windows(clips, to_network, past_actions, frames):
        parts.append(part._replace(frame=part.frame + offset, first=part.first + offset))
        offset += len(part.all_states)
    return Windows(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _windows(
    clips: ClipDataset, to_network: Callable[[Tensor], Tensor], past_actions: int, frames: int
) -> Iterator[Windows]:
    """Those of each episode, whose frames are numbered from 0."""
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
        recorded = torch.where(known[:, None], actions, torch.nan)
        past = torch.cat((start, recorded.flatten())).unfold(0, len(start), actions.shape[-1])
        before = torch.cat((states[:1], states[: count - 1]))
        robot = torch.cat((before, states[:count], past[:count]), dim=-1)
        complete = _all_of(known, frames, count) & _all_of(seen, frames + 1, count)
        complete[1:] &= seen[: count - 1]
        frame = complete.nonzero()[:, 0]
        yield Windows(
            robot[complete],
            actions.unfold(0, frames, 1).mT[complete],
            states[1:].unfold(0, frames, 1).mT[complete],
            frame,
            torch.zeros_like(frame),
            torch.nn.functional.pad(recorded, (0, 0, 0, 1), value=torch.nan),
            torch.where(seen[:, None], states, torch.nan),
        )


def _all_of(known: Bool[Tensor, " steps"], size: int, count: int) -> Bool[Tensor, " count"]:
    """Whether each of the first `count` stretches of this size is known throughout."""
    return known.unfold(0, size, 1)[:count].all(-1)
