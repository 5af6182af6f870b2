"""Actions that a model read count the less, the less sure it was: in all three trainings."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from tiny_autoencoders import tiny_autoencoder

from video.cli import main
from video.lerobot_format import READ, RECORDED
from video.writer import DatasetWriter

ROOT = Path(__file__).parent.parent
SMALL = {
    "uwm": ({"architecture": {"width": 48, "depth": 2, "heads": 2}}, 10),
    "idm": ({"sizes": {"width": 32, "depth": 1, "heads": 2}, "action_names": ["x", "y"]}, 8),
    "behaviour_cloning": ({"actor": {"init_args": {"width": 16, "channels": 4}}}, 4),
}


def partly_read(folder: Path, episodes: list, spread: float) -> Path:
    """Every second action was read, with that spread."""
    writer = DatasetWriter(folder, 10.0)
    for number, episode in enumerate(episodes[:3]):
        source = np.where(np.arange(len(episode.actions)) % 2, READ, RECORDED).astype(np.int8)
        spreads = np.where(source[:, None] == READ, spread, 0.0).astype(np.float32)
        columns = {
            "action_mask": np.ones(len(source), bool),
            "action_source": source,
            "action_spread": np.broadcast_to(spreads, episode.actions.shape).copy(),
        }
        split = "test" if number == 2 else "train"
        writer.add(number, replace(episode, **columns), split)
    return writer.finalize()


def merged(content: dict, changes: dict) -> dict:
    """With changes at any depth."""
    parts = {
        name: merged(content.get(name) or {}, value) if isinstance(value, dict) else value
        for name, value in changes.items()
    }
    return content | parts


def first_loss(config: str, dataset: Path, home: Path) -> float:
    """Of the first step of one of the project's own configurations at toy size."""
    model, clip_frames = SMALL[config]
    toy = yaml.safe_load((ROOT / "configs" / f"{config}.yaml").read_text())
    toy["model"]["init_args"] = merged(toy["model"]["init_args"], model)
    source = {"path": str(dataset), "validation_split": "test", "latents": str(home / "latents")}
    toy["data"]["init_args"] |= {"datasets": [source], "clip_frames": clip_frames}
    toy["data"]["init_args"] |= {"batch_size": 8}
    if toy["data"]["init_args"].get("autoencoder"):
        toy["data"]["init_args"]["autoencoder"] = str(home / "autoencoder")
    run = home / f"{config}_{dataset.name}"
    toy["trainer"] |= {
        "default_root_dir": str(run),
        "accelerator": "cpu",
        "precision": "32-true",
        "max_steps": 1,
        "val_check_interval": 1,
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
        "callbacks": None,
    }
    path = home / "toy.yaml"
    path.write_text(yaml.safe_dump(toy))
    main(["fit", "-c", str(path)])
    with (run / "metrics.csv").open() as file:
        return float(next(row["loss"] for row in csv.DictReader(file) if row["loss"]))


@pytest.mark.parametrize("config", list(SMALL))
def test_what_is_unsure_counts_less(config, square_episodes, tmp_path):
    tiny_autoencoder().save_pretrained(tmp_path / "autoencoder")
    names = {"sure": 0.001, "sure_too": 0.001, "unsure": 1000.0}
    sure, again, unsure = (
        first_loss(config, partly_read(tmp_path / name, square_episodes, spread), tmp_path)
        for name, spread in names.items()
    )
    assert sure == again
    assert sure != pytest.approx(unsure, rel=1e-3)
