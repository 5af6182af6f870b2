"""Shifted copies of a dataset."""

import json
import shutil

import numpy as np
import pytest

from video.episodes import open_dataset
from video.errors import DatasetError
from video.front_door import run_commands
from video.shift import moved, shift, whole_episode
from video.splits import keep_labels
from video.writer import DatasetWriter


def test_pictures_move_and_their_edge_is_repeated():
    numbers = np.arange(9, dtype=np.uint8).reshape(1, 3, 3, 1).repeat(3, axis=-1)
    assert moved(numbers, 1, 0)[0, :, :, 0].tolist() == [[0, 1, 2], [0, 1, 2], [3, 4, 5]]
    assert moved(numbers, 0, -1)[0, :, :, 0].tolist() == [[1, 2, 2], [4, 5, 5], [7, 8, 8]]
    assert moved(numbers, -2, 2)[0, :, :, 0].tolist() == [[6, 6, 6]] * 3
    assert (moved(numbers, 0, 0) == numbers).all()


def test_copies_are_shifted_and_keep_all_else(tiny_dataset, tmp_path):
    source = open_dataset(tiny_dataset)
    out = shift(tiny_dataset, tmp_path / "shifted", copies=3, reach=2)
    copies = open_dataset(out)
    assert len(copies.lengths) == 3 * 3
    assert set(copies.splits) == {"train"}
    offsets = set()
    for number in range(9):
        original, copy = whole_episode(source, number // 3), whole_episode(copies, number)
        for name in ("actions", "state", "environment_state", "reward", "success"):
            assert np.array_equal(getattr(copy, name), getattr(original, name)), name
        assert copy.task == original.task
        assert original.notes.items() <= copy.notes.items()
        down, right = map(int, copy.notes["shift_top"].split(","))
        assert (number % 3 > 0) or (down, right) == (0, 0)
        assert max(abs(down), abs(right)) <= 2
        offsets.add((down, right))
        expected = moved(original.frames["top"], down, right).astype(float)
        assert np.abs(copy.frames["top"] - expected).mean() < 3
    assert len(offsets) > 4


def test_the_labelled_share_is_that_of_a_training(tiny_dataset, tmp_path):
    source = open_dataset(tiny_dataset)
    (kept,) = keep_labels(source.splits["train"], 0.3, seed=5)
    copies = open_dataset(shift(tiny_dataset, tmp_path / "few", copies=2, labels=0.3, seed=5))
    assert len(copies.lengths) == 2
    expected = whole_episode(source, int(kept)).actions
    assert np.array_equal(whole_episode(copies, 1).actions, expected)


def test_the_same_seed_gives_the_same_copies_and_a_stopped_command_goes_on(
    tiny_dataset, tmp_path, monkeypatch
):
    once = open_dataset(shift(tiny_dataset, tmp_path / "once", copies=2))
    add, written = DatasetWriter.add, []

    def stop_after_three(self, number, *arguments):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(number)
        add(self, number, *arguments)

    monkeypatch.setattr(DatasetWriter, "add", stop_after_three)
    with pytest.raises(KeyboardInterrupt):
        shift(tiny_dataset, tmp_path / "again", copies=2)
    monkeypatch.setattr(DatasetWriter, "add", add)
    again = open_dataset(shift(tiny_dataset, tmp_path / "again", copies=2))
    assert again.fingerprint == once.fingerprint
    other = open_dataset(shift(tiny_dataset, tmp_path / "other", copies=2, seed=1))
    notes = [[note["shift_top"] for note in copies.notes] for copies in (once, again, other)]
    assert notes[0] == notes[1] != notes[2]


def test_what_cannot_be_shifted_is_explained(tiny_dataset, tmp_path, capsys):
    for options, message in (
        (["--copies", "1"], "two copies or more"),
        (["--labels", "0"], "a share above 0"),
        (["--split", "validation"], "no split 'validation', but train, test"),
    ):
        words = ["shift", str(tiny_dataset), str(tmp_path / "out"), *options]
        with pytest.raises(SystemExit) as stopped:
            run_commands([shift], "python -m video", words)
        assert stopped.value.code == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    shift(tiny_dataset, tmp_path / "out", copies=2)
    with pytest.raises(DatasetError, match="copies was 2, is now 3"):
        shift(tiny_dataset, tmp_path / "out", copies=3)


def test_an_episode_that_cannot_be_decoded_is_left_out(tiny_dataset, tmp_path, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(tiny_dataset, broken)
    reads = type(open_dataset(broken)).read_frames

    def failing(self, episode, indices, camera):
        if episode == 1:
            raise DatasetError("file-000.mp4 is cut off")
        return reads(self, episode, indices, camera)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(open_dataset(broken)), "read_frames", failing)
        out = shift(broken, tmp_path / "out", copies=2)
    assert len(open_dataset(out).lengths) == 4
    assert "skipped episode 1: file-000.mp4 is cut off" in capsys.readouterr().err
    assert json.loads((out / "recipe.json").read_text())["copies"] == 2
