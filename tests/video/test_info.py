import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from video.info import info
from video.lerobot_format import READ, RECORDED, UNKNOWN
from video.writer import DatasetWriter


def test_a_labelled_dataset(tiny_dataset, capsys):
    description = info(tiny_dataset)
    assert json.loads(json.dumps(description)) == description
    assert description == {
        "path": str(tiny_dataset),
        "fps": 10.0,
        "episodes": 4,
        "frames": 80,
        "shortest": 18,
        "longest": 22,
        "cameras": {"top": [32, 32]},
        "columns": {
            "actions": 2,
            "state": 2,
            "environment_state": 5,
            "reward": 1,
            "success": 1,
        },
        "actions": {"recorded": 76, "read": 0, "unknown": 0},
        "labelled": 1.0,
        "success_rate": 0.5,
        "splits": {"train": 3, "test": 1},
        "tasks": {
            "left": {"episodes": 2, "success_rate": 0.5},
            "right": {"episodes": 2, "success_rate": 0.5},
        },
        "damaged": [],
    }
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        str(tiny_dataset),
        "episodes 4 of 18 to 22 frames",
        "frames 80 at 10 fps, 0 min 08 s",
        "cameras top 32x32",
        "columns actions (2), state (2), environment_state (5), reward (1), success (1)",
        "actions recorded 76, read 0, unknown 0",
        "labelled 100.0 % of the steps have a known action",
        "success 50.0 %",
        "splits train 3, test 1",
        "",
        "task episodes success",
        "left 2 50.0 %",
        "right 2 50.0 %",
        "",
        "damaged: none",
    ]


def test_bare_videos(tiny_videos, capsys):
    description = info(tiny_videos)
    assert description["labelled"] == 0
    assert description["success_rate"] is None
    assert description["tasks"] == {"": {"episodes": 3, "success_rate": None}}
    printed = capsys.readouterr().out
    assert "0.0 % of the steps have a known action" in printed
    assert "3 of 20 frames" in printed
    assert "(no name)" in printed
    assert "unknown" in printed


def test_the_share_of_labelled_steps(tmp_path, square_episodes):
    writer = DatasetWriter(tmp_path / "data", fps=10.0)
    writer.add(0, replace(square_episodes[0], action_mask=np.arange(20) < 5))
    writer.add(1, replace(square_episodes[0], actions=None))
    assert info(writer.finalize())["labelled"] == pytest.approx(5 / 38)


def test_steps_are_counted_by_where_their_action_comes_from(tmp_path, square_episodes, capsys):
    source = np.repeat([RECORDED, READ, UNKNOWN], [5, 8, 7]).astype(np.int8)
    spread = np.full((20, 2), 0.5, np.float32)
    labels = {"action_mask": source > 0, "action_source": source, "action_spread": spread}
    writer = DatasetWriter(tmp_path / "data", fps=10.0)
    writer.add(0, replace(square_episodes[0], **labels))
    assert info(writer.finalize())["actions"] == {"recorded": 5, "read": 8, "unknown": 6}
    assert "recorded 5, read 8, unknown 6" in capsys.readouterr().out


def test_damage_is_shown(tiny_videos, tmp_path, capsys):
    folder = Path(shutil.copytree(tiny_videos, tmp_path / "videos"))
    (folder / "10.mp4").write_bytes(b"")
    assert info(folder)["episodes"] == 2
    printed = capsys.readouterr().out
    assert "damaged: 1" in printed
    assert f"{folder / '10.mp4'} is cut off or empty" in printed
