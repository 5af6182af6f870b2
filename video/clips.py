"""Episodes cut into training clips: windows of frames with their actions, rewards and masks.

Which windows make a batch is decided in `batches.py`; opening the datasets, and what of them may be
used for what, in `datamodule.py`.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Int64, Shaped
from torch import Tensor
from torch.utils.data import Dataset

from video.confidence import SPREAD_SCALE, confidence
from video.embodiments import Embodiment, part_of
from video.episodes import EpisodeDataset
from video.errors import DatasetError
from video.resizing import resize_frames
from video.statistics import Normalizer

log = logging.getLogger(__name__)

Clips = dict[str, Tensor]
"""A batch of clips: see `ClipDataset.__getitem__`."""


@runtime_checkable
class Pictures(Protocol):
    """One view's frames or latents of every row, an array or something that is indexed like one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """`(N, C, H, W)`."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """Of the numbers."""
        ...

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray:
        """The pictures of these rows."""
        ...


@dataclass
class ClipPart:
    """The part of one dataset that goes into a `ClipDataset`.

    Attributes:
        dataset: where it comes from.
        episodes: int64, the episodes to use.
        labelled: bool per dataset episode; where False an episode is taken for bare video.
        cameras: its names of the clips' views, in their order.
        pictures: per view those of all rows of the dataset, on disk or in memory: latents float16
            `(N, C, h, w)` or frames uint8 `(N, 3, H, W)`; None decodes the video.
        spread_scale: normalised spread at which an action that was read counts half, see
            `confidence.py`.
        embodiment: name of its robot; empty where all have the same.
    """

    dataset: EpisodeDataset
    episodes: Int64[np.ndarray, " used"]
    labelled: Bool[np.ndarray, " episodes"]
    cameras: tuple[str, ...]
    pictures: Sequence[Pictures] | None = None
    spread_scale: float = SPREAD_SCALE
    embodiment: str = ""

    @property
    def rows(self) -> int:
        """Frames of all the dataset's episodes, used or not."""
        return count_rows(self.dataset)


class ClipDataset(Dataset[Clips]):
    """Numbered windows over the episodes of one or several datasets.

    A window begins at any frame of an episode that leaves room for the whole clip, or up to
    `pad_start` clip frames before the first one: then the first frame is repeated, and the step
    that leads to it has no known action. Windows of the same part are numbered in a row.

    Args:
        parts: what to take of which dataset.
        clip_frames: frames T of a clip.
        stride: dataset frames from one clip frame to the next. The k actions in between are
            concatenated to one of k times the size, and their rewards summed.
        pad_start: clip frames by which a window may begin before its episode.
        size: height and width of the frames.
        action_normalizer: of the data's actions; None leaves them out.
        state_normalizer: of the robot's state; None leaves it out.
        task_names: all names that `task` counts.
        embodiments: those of the parts, where they have action spaces of their own.

    Attributes:
        first_frames: whether each clip comes with the first frame of its episode.
        history: steps before a clip that it comes with, without their pictures.
        late_starts: share of the windows whose episode is taken to have begun later: at a frame up
            to the window's own start, which the window's number decides.

    Raises:
        DatasetError: a part without any episode that is long enough.
    """

    def __init__(
        self,
        parts: Sequence[ClipPart],
        clip_frames: int,
        size: tuple[int, int],
        stride: int = 1,
        pad_start: int = 1,
        action_normalizer: Normalizer | None = None,
        state_normalizer: Normalizer | None = None,
        task_names: Sequence[str] = (),
        embodiments: Sequence[Embodiment] = (),
    ) -> None:
        if clip_frames < 1 or stride < 1 or pad_start < 0:
            raise ValueError(
                f"need clip_frames >= 1, stride >= 1, pad_start >= 0, got {clip_frames}, {stride}, "
                f"{pad_start}"
            )
        self.first_frames = False
        self.history = 0
        self.late_starts = 0.0
        self.parts = list(parts)
        self.clip_frames = clip_frames
        self.stride = stride
        self.pad_start = pad_start
        self.size = size
        self.windows_per_part = [self._count_windows(part).sum().item() for part in self.parts]
        self.action_dim = stride * action_normalizer.dim if action_normalizer else 0
        self.state_dim = state_normalizer.dim if state_normalizer else 0
        self._index_episodes(task_names)
        self._embodiments = {own.name: own for own in embodiments}
        self._embodiment = np.array(
            [list(self._embodiments or [""]).index(part.embodiment) for part in self.parts]
        )
        self._read_columns(action_normalizer, state_normalizer)

    def __len__(self) -> int:
        return int(self._first_window[-1])

    def __getitem__(self, windows: Sequence[int] | Int64[np.ndarray, " B"]) -> Clips:
        """A batch of B clips, given by their numbers.

        Returns:
            `frames` uint8 `B T V 3 H W` or `latents` float32 `B T V C h w`;
            with `first_frames` the like of each episode's first one, `B V ...`: `first_frames` or
            `first_latents`;
            `actions` float32 `B T-1 A`, normalised, and `action_mask` bool `B T-1`;
            `action_weight` float32 `B T-1`: 1 where the action was recorded, 0 where it is unknown,
            between them where a model read it off the video (the mean over a stride's actions);
            `state` float32 `B T S`, normalised, and `state_mask` bool `B T`;
            `reward` float32 and `success` bool `B T-1`, with `reward_mask` and `success_mask`;
            `task` int64 `B`, -1 where unknown; `embodiment`, `episode`, `start` int64 `B`;
            with a `history` of H steps `past_actions` `B H A` and `past_action_weight` `B H`, the
            latest last, and `past_state` `B S` and `past_state_mask` `B` of the frame where they
            begin, or the episode's first.
            Whatever a mask declares unknown is zero.
        """
        numbers = np.asarray(windows, np.int64)
        episode = np.searchsorted(self._first_window, numbers, side="right") - 1
        offset = numbers - self._first_window[episode] - self.pad_start
        start = np.where(offset < 0, offset * self.stride, offset)
        clips = self._cut(episode, start, self.clip_frames)
        if self.first_frames:
            kind, first = self._pictures(episode, self._beginnings(numbers, start)[:, None])
            clips[f"first_{kind}"] = first[:, 0]
        if self.history:
            begin = start - self.history * self.stride
            past = self._cut(episode, begin, self.history + 1, pictures=False)
            clips |= {f"past_{name}": past[name] for name in ("actions", "action_weight")}
            clips |= {f"past_{name}": past[name][:, 0] for name in ("state", "state_mask")}
        return clips

    def parts_with(self, column: str) -> list[bool]:
        """Which of the parts know something of a column, such as "state"."""
        known = np.split(self._known[column], self._row_offsets[1:])
        return [bool(rows.any()) for rows in known]

    def labelled_episodes(self) -> Int64[np.ndarray, " labelled"]:
        """Numbers, for `whole`, of the episodes with a known action between two frames."""
        known = self._known["actions"]
        rows = zip(self._first_row, self._lengths, strict=True)
        return np.flatnonzero([known[first : first + length - 1].any() for first, length in rows])

    def whole(self, episode: int, pictures: bool = True) -> Clips:
        """A batch of one clip: a whole episode, given by its number, as far as the stride goes.

        Without its pictures, if they are not wanted.
        """
        frames = (int(self._lengths[episode]) - 1) // self.stride + 1
        return self._cut(np.array([episode]), np.zeros(1, np.int64), frames, pictures)

    def _cut(
        self,
        episode: Int64[np.ndarray, " B"],
        start: Int64[np.ndarray, " B"],
        frames: int,
        pictures: bool = True,
    ) -> Clips:
        """Clips of episodes from these frames on; before 0, the first frame is repeated."""
        frame = start[:, None] + self.stride * np.arange(frames)
        clipped = np.maximum(frame, 0)
        first_row = self._first_row[episode]
        rows = first_row[:, None] + clipped
        step = frame[:, :-1, None] + np.arange(self.stride)
        known_step = step >= 0
        step_rows = first_row[:, None, None] + np.maximum(step, 0)

        def masked(name: str) -> tuple[np.ndarray, np.ndarray]:
            mask = np.all(self._known[name][step_rows] & known_step, axis=-1)
            values = self._columns[name][step_rows]
            return np.where(mask.reshape(mask.shape + (1,) * (values.ndim - 2)), values, 0), mask

        actions, action_mask = masked("actions")
        reward, reward_mask = masked("reward")
        success, success_mask = masked("success")
        arrays = {
            "actions": actions.reshape(*actions.shape[:2], self.action_dim),
            "action_mask": action_mask,
            "action_weight": np.where(action_mask, self._weight[step_rows].mean(-1), 0),
            "state": self._columns["state"][rows],
            "state_mask": self._known["state"][rows],
            "reward": reward.sum(-1, dtype=np.float32),
            "reward_mask": reward_mask,
            "success": success.any(-1),
            "success_mask": success_mask,
            "task": self._task[episode],
            "embodiment": self._embodiment[self._part[episode]],
            "episode": episode,
            "start": start,
        }
        clips = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return clips | (dict([self._pictures(episode, clipped)]) if pictures else {})

    def _beginnings(
        self, windows: Int64[np.ndarray, " B"], start: Int64[np.ndarray, " B"]
    ) -> Int64[np.ndarray, " B"]:
        """The frames at which the windows' episodes are taken to have begun."""
        first = np.zeros_like(windows)
        if self.late_starts:
            for row, window in enumerate(windows):
                late, where = np.random.default_rng(window).random(2)
                if late < self.late_starts:
                    first[row] = where * (max(start[row], 0) + 1)
        return first

    def _pictures(
        self, episode: Int64[np.ndarray, " B"], frame: Int64[np.ndarray, "B T"]
    ) -> tuple[str, Tensor]:
        """Frames of episodes, by their numbers there: "frames" or "latents", and these."""
        if self.parts[0].pictures is None:
            return "frames", torch.from_numpy(self._decode(episode, frame))
        rows = self._first_row[episode][:, None] + frame
        pictures = torch.from_numpy(self._gather(episode, rows))
        if pictures.dtype == torch.float16:
            return "latents", pictures.float()
        return "frames", pictures

    def episode_name(self, episode: int) -> str:
        """Dataset path and episode number there of an `episode` of a batch."""
        part = self.parts[self._part[episode]]
        return f"{part.dataset.path}, episode {self._dataset_episode[episode]}"

    def _count_windows(self, part: ClipPart) -> np.ndarray:
        """Windows per used episode: 0 where the clip is longer."""
        span = (self.clip_frames - 1) * self.stride + 1
        lengths = part.dataset.lengths[part.episodes]
        if len(lengths) == 0 or lengths.max() < span:
            raise DatasetError(
                f"{part.dataset.path}: a clip of {self.clip_frames} frames at stride {self.stride} "
                f"spans {span} frames, the longest of {len(lengths)} episodes has "
                f"{lengths.max(initial=0)}. Lower data.clip_frames or data.stride."
            )
        return np.where(lengths < span, 0, lengths - span + 1 + self.pad_start)

    def _index_episodes(self, task_names: Sequence[str]) -> None:
        """Number the episodes and windows of all parts through."""
        numbers = {name: number for number, name in enumerate(task_names)}
        offsets = np.cumsum([0] + [part.rows for part in self.parts])
        self._row_offsets = offsets[:-1]
        self._dataset_episode = np.concatenate([part.episodes for part in self.parts])
        self._part = np.repeat(np.arange(len(self.parts)), [len(p.episodes) for p in self.parts])
        self._first_row = np.concatenate(
            [p.dataset.starts[p.episodes] + o for p, o in zip(self.parts, offsets, strict=False)]
        )
        self._lengths = np.concatenate([part.dataset.lengths[part.episodes] for part in self.parts])
        self._task = np.array(
            [numbers.get(p.dataset.tasks[e], -1) for p in self.parts for e in p.episodes], np.int64
        )
        windows = np.concatenate([self._count_windows(part) for part in self.parts])
        self._first_window = np.concatenate([[0], np.cumsum(windows)])

    def _read_columns(self, actions: Normalizer | None, state: Normalizer | None) -> None:
        """One table over the rows of all parts, normalised, zero where unknown."""
        rows = sum(part.rows for part in self.parts)
        self._columns = {
            "actions": np.zeros((rows, actions.dim if actions else 0), np.float32),
            "state": np.zeros((rows, state.dim if state else 0), np.float32),
            "reward": np.zeros(rows, np.float32),
            "success": np.zeros(rows, bool),
        }
        self._known = {name: np.zeros(rows, bool) for name in self._columns}
        self._weight = np.ones(rows, np.float32)
        normalizers = {"actions": actions, "state": state}
        for part, offset in zip(self.parts, self._row_offsets, strict=True):
            for name in self._columns:
                known = labelled_rows(part, name)
                if name in part.dataset.columns and (lost := int(gaps(part, name).sum())):
                    log.warning(
                        "%s: %d of %d rows of %r are not finite and count as unknown",
                        *(part.dataset.path, lost, part.rows, name),
                    )
                if not known.any() or normalizers.get(name, True) is None:
                    continue
                values = part.dataset.columns[name][known]
                normalizer, place = normalizers.get(name), ...
                if normalizer is not None and part.embodiment in self._embodiments:
                    place = getattr(self._embodiments[part.embodiment], name)
                    normalizer = part_of(normalizer, place)
                    if normalizer.dim == 0:
                        continue  # none of its kind was labelled in training
                there = offset + np.flatnonzero(known)
                values = normalizer.normalize(values) if normalizer else values
                self._columns[name][there, place] = values
                self._known[name][there] = True
                if name == "actions" and "action_spread" in part.dataset.columns:
                    assert normalizer is not None
                    spread = normalizer.normalize_spread(
                        part.dataset.columns["action_spread"][known]
                    )
                    self._weight[there] = confidence(spread, part.spread_scale)

    def _gather(
        self, episode: Int64[np.ndarray, " B"], rows: Int64[np.ndarray, "B T"]
    ) -> Shaped[np.ndarray, "B T V c h w"]:
        """Stored latents or frames of the rows."""
        part_of = self._part[episode]
        clips: np.ndarray | None = None
        for number in np.unique(part_of):
            chosen = np.flatnonzero(part_of == number)
            pictures = self.parts[number].pictures
            assert pictures is not None, "parts with and without stored pictures were mixed"
            if clips is None:
                shape = (*rows.shape, len(pictures), *pictures[0].shape[1:])
                clips = np.empty(shape, pictures[0].dtype)
            for view, stored in enumerate(pictures):
                clips[chosen, :, view] = stored[rows[chosen] - self._row_offsets[number]]
        assert clips is not None
        return clips

    def _decode(
        self, episode: Int64[np.ndarray, " B"], frame: Int64[np.ndarray, "B T"]
    ) -> Shaped[np.ndarray, "B T V 3 H W"]:
        """Frames of the clips out of their video files."""
        views = len(self.parts[0].cameras)
        clips = np.empty((*frame.shape, views, 3, *self.size), np.uint8)
        for row, number in enumerate(episode):
            part = self.parts[self._part[number]]
            for view, camera in enumerate(part.cameras):
                frames = part.dataset.read_frames(
                    int(self._dataset_episode[number]), frame[row], camera
                )
                clips[row, :, view] = resize_frames(frames, self.size)
        return clips


def count_rows(dataset: EpisodeDataset) -> int:
    """Rows of a table over all the dataset's frames."""
    return int((dataset.starts + dataset.lengths).max())


def labelled_rows(part: ClipPart, column: str) -> Bool[np.ndarray, " N"]:
    """Rows whose value is known and may be used: of labelled episodes, not masked, finite."""
    known = np.zeros(part.rows, bool)
    if column not in part.dataset.columns:
        return known
    for episode in np.flatnonzero(part.labelled):
        first = part.dataset.starts[episode]
        known[first : first + part.dataset.lengths[episode]] = True
    if column == "actions" and "action_mask" in part.dataset.columns:
        known &= part.dataset.columns["action_mask"][: part.rows]
    return known & ~gaps(part, column)


def gaps(part: ClipPart, column: str) -> Bool[np.ndarray, " N"]:
    """Rows with a value that is not finite, which nobody can know."""
    values = part.dataset.columns[column][: part.rows].reshape(part.rows, -1)
    return np.asarray(~np.isfinite(values).all(axis=1))
