import pickle
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from video.clips import ClipDataset, ClipPart
from video.errors import DatasetError
from video.resizing import resize_frames
from video.statistics import Normalizer

LENGTHS = (6, 4, 3)


@dataclass
class Numbered:
    """A dataset in memory whose frames, actions and rewards say where they come from.

    Frame t of episode e is 20 e + t everywhere, its action (t, 100 e + t), its reward 2^t.
    """

    lengths: np.ndarray = field(default_factory=lambda: np.array(LENGTHS))
    cameras: tuple[str, ...] = ("front",)
    path: Path = Path("numbered")
    fps: float = 10.0

    def __post_init__(self):
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.tasks = ["push", "pull", ""]
        self.splits = {"train": np.arange(len(self.lengths))}
        self.damaged: list[str] = []
        self.notes: list[dict] = []
        self.fingerprint = "0"
        t = np.concatenate([np.arange(length) for length in self.lengths])
        episode = np.repeat(np.arange(len(self.lengths)), self.lengths)
        self.columns = {
            "actions": np.stack([t, 100 * episode + t], 1).astype(np.float32),
            "state": (100 * episode + t)[:, None].astype(np.float32),
            "reward": 2.0**t,
            "success": t >= 3,
        }

    def frame_shape(self, camera: str) -> tuple[int, int]:
        return 8, 8

    def read_frames(self, episode: int, indices: np.ndarray, camera: str) -> np.ndarray:
        value = 20 * episode + indices + 100 * self.cameras.index(camera)
        return np.broadcast_to(value[:, None, None, None], (len(indices), 8, 8, 3)).astype(np.uint8)


def units(dimensions: int) -> Normalizer:
    """Leaves values as they are."""
    return Normalizer(-np.ones(dimensions), np.ones(dimensions))


def part(dataset: Numbered, labelled: bool = True, **changed) -> ClipPart:
    episodes = np.arange(len(dataset.lengths))
    mask = np.full(len(dataset.lengths), labelled)
    return ClipPart(dataset, episodes, mask, dataset.cameras, **changed)


def clips_of(*parts: ClipPart, clip_frames: int = 3, **changed) -> ClipDataset:
    options = {"action_normalizer": units(2), "state_normalizer": units(1), "pad_start": 0}
    options["task_names"] = ["pull", "push"]
    return ClipDataset(parts, clip_frames, (8, 8), **(options | changed))


def first_pixels(clips) -> list:
    return clips["frames"][:, :, 0, 0, 0, 0].tolist()


def test_every_window_of_every_episode_once_and_none_across():
    clips = clips_of(part(Numbered()))
    assert len(clips) == 4 + 2 + 1
    expected = [[0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5]]
    expected += [[20, 21, 22], [21, 22, 23], [40, 41, 42]]
    assert first_pixels(clips[range(len(clips))]) == expected


def test_a_clip_carries_what_belongs_to_its_frames():
    clips = clips_of(part(Numbered()))[[4, 0]]
    assert clips["actions"].tolist() == [[[0, 100], [1, 101]], [[0, 0], [1, 1]]]
    assert clips["state"].tolist() == [[[100], [101], [102]], [[0], [1], [2]]]
    assert clips["reward"].tolist() == [[1, 2], [1, 2]]
    assert clips["task"].tolist() == [0, 1]
    assert clips["episode"].tolist() == [1, 0]
    assert clips["start"].tolist() == [0, 0]
    for mask in ("action_mask", "state_mask", "reward_mask", "success_mask"):
        assert clips[mask].all()
    assert clips_of(part(Numbered()))[[3]]["success"].tolist() == [[True, True]]
    assert {name: clips[name].dtype for name in ("frames", "actions", "success", "task")} == {
        "frames": torch.uint8,
        "actions": torch.float32,
        "success": torch.bool,
        "task": torch.int64,
    }


def test_padded_start_repeats_the_first_frame_without_an_action():
    clips = clips_of(part(Numbered()), pad_start=2)
    assert len(clips) == 6 + 4 + 3
    padded = clips[[6, 7, 8]]
    assert first_pixels(padded) == [[20, 20, 20], [20, 20, 21], [20, 21, 22]]
    assert padded["action_mask"].tolist() == [[False, False], [False, True], [True, True]]
    assert padded["actions"][:2].tolist() == [[[0, 0], [0, 0]], [[0, 0], [0, 100]]]
    assert padded["reward_mask"].tolist() == padded["action_mask"].tolist()
    assert padded["start"].tolist() == [-2, -1, 0]


def test_stride_joins_the_actions_between_two_frames():
    clips = clips_of(part(Numbered()), stride=2, pad_start=1)
    assert clips.action_dim == 4
    assert clips.windows_per_part == [2 + 1]  # only the first episode spans 5 frames
    strided = clips[[0, 1, 2]]
    assert first_pixels(strided) == [[0, 0, 2], [0, 2, 4], [1, 3, 5]]
    assert strided["actions"][2].tolist() == [[1, 1, 2, 2], [3, 3, 4, 4]]
    assert strided["action_mask"].tolist() == [[False, True], [True, True], [True, True]]
    assert strided["reward"][1].tolist() == [1 + 2, 4 + 8]
    assert strided["success"][1].tolist() == [False, True]


def test_a_whole_episode_is_a_clip_of_its_own_length():
    bare = Numbered()
    bare.columns = {}
    clips = clips_of(part(bare), part(Numbered()), pad_start=1)
    assert clips.labelled_episodes().tolist() == [3, 4, 5]
    whole = clips.whole(4)
    assert first_pixels(whole) == [[20, 21, 22, 23]]
    assert whole["actions"].tolist() == [[[0, 100], [1, 101], [2, 102]]]
    assert whole["action_mask"].all()
    assert not clips.whole(1)["action_mask"].any()
    without = clips.whole(4, pictures=False)
    assert set(whole) - set(without) == {"frames"}
    assert without["actions"].equal(whole["actions"])
    strided = clips_of(part(Numbered()), stride=2).whole(0)
    assert first_pixels(strided) == [[0, 2, 4]]
    assert strided["actions"].tolist() == [[[0, 0, 1, 1], [2, 2, 3, 3]]]


def test_an_action_behind_the_last_frame_labels_no_episode():
    dataset = Numbered()
    dataset.columns["action_mask"] = np.zeros(sum(LENGTHS), bool)
    dataset.columns["action_mask"][LENGTHS[0] - 1] = True
    dataset.columns["action_mask"][sum(LENGTHS) - 2] = True
    assert clips_of(part(dataset)).labelled_episodes().tolist() == [2]


def test_bare_video_beside_labelled():
    dataset = Numbered()
    dataset.columns = {}
    clips = clips_of(part(Numbered()), part(dataset))
    assert clips.windows_per_part == [7, 7]
    mixed = clips[[0, 7]]
    assert first_pixels(mixed) == [[0, 1, 2], [0, 1, 2]]
    assert mixed["action_mask"].tolist() == [[True, True], [False, False]]
    assert mixed["state_mask"].any(1).tolist() == [True, False]
    assert mixed["actions"][1].abs().sum() == 0
    assert mixed["episode"].tolist() == [0, 3]
    assert clips.episode_name(4) == "numbered, episode 1"


def test_actions_that_were_read_weigh_less_the_more_their_spread():
    dataset = Numbered()
    spread = np.zeros((sum(LENGTHS), 2), np.float32)
    spread[1] = (2.0, 0.0)  # mean square 2, at a scale of 2: 1 / (1 + 2 / 4)
    spread[2] = (4.0, 4.0)  # 1 / (1 + 16 / 4)
    dataset.columns |= {"action_spread": spread, "action_mask": np.arange(sum(LENGTHS)) != 4}
    clips = clips_of(part(dataset, spread_scale=2.0), part(Numbered(), labelled=False))
    weight = clips[[0, 1, 2, 3, 7]]["action_weight"]
    expected = [[1, 2 / 3], [2 / 3, 0.2], [0.2, 1], [1, 0], [0, 0]]
    torch.testing.assert_close(weight, torch.tensor(expected))
    strided = clips_of(part(dataset, spread_scale=2.0), clip_frames=2, stride=2)
    torch.testing.assert_close(strided[[1]]["action_weight"], torch.tensor([[(2 / 3 + 0.2) / 2]]))
    padded = clips_of(part(dataset), pad_start=1)[[0]]
    assert padded["action_weight"].tolist() == [[0, 1]]


def test_the_spread_is_measured_against_the_range_of_the_actions():
    dataset = Numbered()
    dataset.columns["action_spread"] = np.full((sum(LENGTHS), 2), 5, np.float32)
    wide = Normalizer(np.zeros(2), np.array([10.0, 10.0]))  # 5 is half the range: 1 normalised
    clips = clips_of(part(dataset, spread_scale=1.0), action_normalizer=wide)
    torch.testing.assert_close(clips[[0]]["action_weight"], torch.full((1, 2), 0.5))


def test_unlabelled_episodes_and_masked_actions_show_nothing():
    dataset = Numbered()
    dataset.columns["action_mask"] = np.arange(sum(LENGTHS)) != 1
    dataset.columns["actions"][1] = np.nan
    hidden = part(dataset)
    hidden.labelled[1] = False
    clips = clips_of(hidden)[range(7)]
    assert clips["action_mask"][:2].tolist() == [[True, False], [False, True]]
    assert not clips["action_mask"][4:6].any()
    assert not clips["state_mask"][4:6].any()
    assert clips["actions"].isfinite().all()
    assert clips["reward_mask"][:4].all()


def test_views_in_the_order_asked_for():
    dataset = Numbered(cameras=("front", "wrist"))
    view = part(dataset)
    view.cameras = ("wrist", "front")
    frames = clips_of(view)[[0]]["frames"]
    assert frames.shape == (1, 3, 2, 3, 8, 8)
    assert frames[0, :, :, 0, 0, 0].tolist() == [[100, 0], [101, 1], [102, 2]]


def test_stored_pictures_take_the_place_of_video():
    dataset = Numbered()
    rows = np.arange(sum(LENGTHS), dtype=np.uint8)
    frames = np.broadcast_to(rows[:, None, None, None], (len(rows), 3, 8, 8))
    latents = frames.astype(np.float16)[:, :, :2, :2]
    from_frames = clips_of(part(dataset, pictures=[frames]))[[0, 4]]["frames"]
    assert from_frames[:, :, 0, 0, 0, 0].tolist() == [[0, 1, 2], [6, 7, 8]]
    both = clips_of(part(dataset, pictures=[latents]), part(dataset, pictures=[latents + 50]))
    found = both[[0, 4, 7]]["latents"]
    assert found.dtype == torch.float32
    assert found.shape == (3, 3, 1, 3, 2, 2)
    assert found[:, :, 0, 0, 0, 0].tolist() == [[0, 1, 2], [6, 7, 8], [50, 51, 52]]


def test_every_clip_can_come_with_the_first_frame_of_its_episode():
    dataset = Numbered()
    rows = np.arange(sum(LENGTHS), dtype=np.float16)
    latents = np.broadcast_to(rows[:, None, None, None], (len(rows), 3, 2, 2))
    for stored, name, expected in ((None, "frames", [0, 20]), ([latents], "latents", [0, 6])):
        clips = clips_of(part(dataset, pictures=stored))
        assert f"first_{name}" not in clips[[2]]
        clips.first_frames = True
        found = clips[[2, 5]]
        assert found[f"first_{name}"].shape == (2, *found[name].shape[2:])
        assert found[f"first_{name}"][:, 0, 0, 0, 0].tolist() == expected
        assert found[name][0, 0, 0, 0, 0, 0] == 2


@pytest.mark.parametrize(("stride", "steps"), [(1, 3), (2, 1)])
def test_every_clip_can_come_with_the_steps_before_it(stride, steps):
    clips = clips_of(part(Numbered()), pad_start=1, stride=stride, action_normalizer=units(2))
    without = clips[range(len(clips))]
    clips.history = steps
    batch = clips[range(len(clips))]
    assert all(batch[name].equal(value) for name, value in without.items())
    assert batch["past_actions"].shape == (len(clips), steps, 2 * stride)
    for row, (episode, start) in enumerate(zip(batch["episode"], batch["start"], strict=True)):
        begin = int(start) - stride * steps
        for step in range(steps):
            taken = range(begin + stride * step, begin + stride * (step + 1))
            known = min(taken) >= 0
            assert batch["past_action_weight"][row, step] == known
            expected = [x for t in taken for x in (t, 100 * int(episode) + t)] if known else 0
            assert (batch["past_actions"][row, step] == torch.tensor(expected)).all()
        assert batch["past_state"][row].tolist() == [100 * int(episode) + max(begin, 0)]
    assert batch["past_state_mask"].all()


def test_some_windows_begin_amid_their_episode_always_at_the_same_frame():
    clips = clips_of(part(Numbered()))
    clips.first_frames, clips.late_starts = True, 1.0
    windows = np.arange(len(clips))
    found = clips[windows]
    first = found["first_frames"].flatten(1)[:, 0]
    own = found["frames"].flatten(1)[:, 0]
    assert clips[windows[::-1]]["first_frames"].flatten(1)[:, 0].flip(0).equal(first)
    beginning = 20 * found["episode"]
    assert ((beginning <= first) & (first <= own)).all()
    assert (first > beginning).any()
    clips.late_starts = 0.5
    kept = clips[windows]["first_frames"].flatten(1)[:, 0]
    assert ((kept == first) | (kept == beginning)).all()
    assert (kept != first).any()


def test_clip_longer_than_every_episode_is_refused():
    with pytest.raises(DatasetError, match=r"numbered: a clip of 4 frames at stride 2 spans 7"):
        clips_of(part(Numbered()), clip_frames=4, stride=2)
    with pytest.raises(ValueError, match="clip_frames >= 1"):
        clips_of(part(Numbered()), clip_frames=0)


def test_dataset_survives_pickling():
    clips = clips_of(part(Numbered()))
    copy = pickle.loads(pickle.dumps(clips))
    for name, value in clips[[1, 5]].items():
        assert torch.equal(copy[[1, 5]][name], value)


def test_resize_crops_the_centre_to_the_aspect():
    frames = np.zeros((2, 4, 8, 3), np.uint8)
    frames[:, :, 2:6] = 200
    np.testing.assert_array_equal(resize_frames(frames, (4, 4)), np.full((2, 3, 4, 4), 200))
    tall = resize_frames(frames.transpose(0, 2, 1, 3), (2, 2))
    np.testing.assert_array_equal(tall, np.full((2, 3, 2, 2), 200))


def test_resize_averages_when_it_shrinks():
    stripes = np.zeros((1, 8, 8, 3), np.uint8)
    stripes[:, :, ::2] = 200
    shrunk = resize_frames(stripes, (2, 2))
    assert shrunk.shape == (1, 3, 2, 2)
    assert np.abs(shrunk.astype(int) - 100).max() < 10
