"""The commands `calibrate` and `evaluate`, for any action model, on recorded and imagined video."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_datasets import FPS, moving_square
from tiny_world_models import tiny_world_model

from inverse_dynamics.calibrate import calibrate
from inverse_dynamics.evaluate import evaluate
from video.errors import DatasetError
from video.front_door import run_commands
from video.lerobot_format import READ, RECORDED
from video.writer import DatasetWriter
from worldmodel.imagine import imagine


@pytest.fixture
def model(tmp_path) -> Path:
    """A world model's folder, in a run's."""
    model = dataclasses.replace(tiny_world_model(), fps=FPS, cameras=("top",))
    model.save_pretrained(tmp_path / "run" / "model")
    return tmp_path / "run" / "model"


def command(function, *words):
    return run_commands([function], "python -m inverse_dynamics", [function.__name__, *words])


def test_a_world_model_is_calibrated_and_evaluated(model, tiny_dataset, capsys):
    before = {path: path.read_bytes() for path in model.rglob("*") if path.is_file()}
    with pytest.raises(DatasetError, match="Pass --split"):
        calibrate(model, tiny_dataset)
    found = command(calibrate, str(model), str(tiny_dataset), "--split", "train")
    saved = json.loads((model / "calibration.json").read_text())
    assert saved == found.to_json()
    assert {path: path.read_bytes() for path in before} == before
    assert "intervals cover" in capsys.readouterr().out

    (model.parent / "evaluation.json").write_text("{}")  # of the world model, not ours
    result = command(evaluate, str(model), str(tiny_dataset))
    assert json.loads((model.parent / "inverse_dynamics.json").read_text()) == result
    assert (model.parent / "evaluation.json").read_text() == "{}"
    assert result["split"] == "test"
    assert set(result["r2"]) == {"0", "1"}
    assert list(result["by_horizon"]) == ["1-4", "5-8", "9-16", "17-19"]
    assert sum(figures["steps"] for figures in result["by_horizon"].values()) == result["steps"]
    share = [f["coverage_90"] * f["steps"] for f in result["by_horizon"].values()]
    assert sum(share) / result["steps"] == pytest.approx(result["coverage_90"])
    with Image.open(model.parent / "inverse_dynamics.png") as plot:
        assert plot.width > 480
    assert "R2, steps 9-16" in capsys.readouterr().out


def test_imagined_video_is_evaluated_by_the_actions_it_was_given(model, tiny_dataset, tmp_path):
    out = tmp_path / "imagined"
    imagine(model, tiny_dataset, "train", "forward_dynamics", horizon=8, dataset=out)
    result = command(evaluate, str(model), str(out), "--out", str(tmp_path / "e.json"))
    assert list(result["by_horizon"]) == ["1-4", "5-8"]
    assert result["split"] == "train"  # the only one
    assert result["steps"] == 8 * result["episodes"]
    assert "coverage_90" not in result  # not calibrated


def test_dreams_without_actions_cannot_be_evaluated(model, tiny_dataset, tmp_path):
    imagine(model, tiny_dataset, "train", "video_generation", horizon=8, dataset=tmp_path / "dream")
    with pytest.raises(DatasetError, match="Give a dataset with recorded actions"):
        evaluate(model, tmp_path / "dream")


def test_what_a_model_has_read_is_no_truth(model, tmp_path):
    writer = DatasetWriter(tmp_path / "labelled", FPS, crf=10)
    episode = moving_square(0, 12)
    episode.action_source = np.full(12, READ, np.int8)
    episode.action_source[:5] = RECORDED
    episode.action_spread = np.zeros((12, 2), np.float32)
    episode.action_spread[5:] = 0.1
    writer.add(0, episode, "test")
    result = evaluate(model, writer.finalize(), out=tmp_path / "e.json")
    assert result["steps"] == 5


def test_smaller_frames_are_refused(model, tmp_path):
    writer = DatasetWriter(tmp_path / "small", FPS, crf=10)
    episode = moving_square(0, 12)
    episode.frames = {"top": np.ascontiguousarray(episode.frames["top"][:, :16, :16])}
    writer.add(0, episode, "test")
    with pytest.raises(DatasetError, match=r"frames of 16x16 .* record larger ones"):
        evaluate(model, writer.finalize())
