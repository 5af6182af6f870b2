"""Neural trajectories at toy size: dream, label, clone from the dreams alone, act."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tiny_autoencoders import tiny_autoencoder
from tiny_world_models import ACTION_HIGH, ACTION_LOW, tiny_world_model

from inverse_dynamics.label import label
from inverse_dynamics.model import InverseDynamicsModel
from inverse_dynamics.network import ActionReader
from policy.evaluate import evaluate
from policy.model import Policy
from policy.real import RealVectorEnv
from video.calibration import Calibration
from video.cli import main
from video.episodes import open_dataset
from video.statistics import Normalizer
from worldmodel.imagine import imagine

ROOT = Path(__file__).parent.parent
CONFIGS = [
    ROOT / "configs" / "behaviour_cloning.yaml",
    ROOT / "configs" / "behaviour_cloning" / "dreams.yaml",
]


@pytest.fixture
def models(tmp_path) -> Path:
    """A folder with a world model, a reader of actions and the autoencoder of both; untrained."""
    torch.manual_seed(0)
    network = ActionReader([1, 4, 8, 8], ["number", "number"], 0, 16, 1, 2, 4)
    torch.nn.init.normal_(network.read_actions.weight, std=0.1)
    reader = InverseDynamicsModel(
        network=network.eval(),
        autoencoder=tiny_autoencoder(),
        fps=10.0,
        cameras=("top",),
        frame_size=(32, 32),
        window=5,
        action_normalizer=Normalizer(ACTION_LOW, ACTION_HIGH),
        action_names=("x", "y"),
        calibration=Calibration((0.9,), torch.ones(1, 2), 100),
    )
    reader.save_pretrained(tmp_path / "reader")
    replace(tiny_world_model(), cameras=("top",)).save_pretrained(tmp_path / "world_model")
    tiny_autoencoder().save_pretrained(tmp_path / "autoencoder")
    return tmp_path


def test_from_first_frames_to_a_policy_that_acts(models, tiny_dataset, tmp_path):
    dreams, labelled = tmp_path / "dreams", tmp_path / "labelled"
    imagine(models / "world_model", tiny_dataset, split="test", horizon=8, dataset=dreams, dreams=3)
    assert "actions" not in open_dataset(dreams).columns

    label(models / "reader", dreams, labelled, threshold=100.0, workers=0)
    read = open_dataset(labelled)
    assert read.lengths.tolist() == [9, 9, 9]
    assert set(read.columns["action_source"].tolist()) == {0, 2}

    small = toy_cloning(models, labelled, tiny_dataset, tmp_path)
    main(["fit", *(word for path in (*CONFIGS, small) for word in ("-c", str(path)))])
    policy = Policy.from_pretrained(tmp_path / "run" / "policy")
    assert policy.shapes == {"latents": (1, 4, 8, 8)}
    low, high = policy.action_normalizer.low, policy.action_normalizer.high
    known = read.columns["actions"][read.columns["action_source"] == 2]
    np.testing.assert_allclose([low, high], [known.min(0), known.max(0)], atol=1e-6)

    env = RealVectorEnv(
        "toy_simulators:toy/Left-v0",
        num_envs=2,
        horizon=6,
        chunk=3,
        autoencoder=tiny_autoencoder(),
        workers=0,
    )
    result = evaluate(tmp_path / "run" / "policy", real=env, episodes=2, seed=5)
    assert [episode["seed"] for episode in result["real"]["each"]] == [5, 6]


def toy_cloning(models: Path, labelled: Path, real: Path, folder: Path) -> Path:
    """What makes the project's own configuration small."""
    held_out = {"path": str(real), "validation_split": "test", "test_split": "none", "notes": None}
    toy = {
        "model": {"init_args": {"actor": {"init_args": {"width": 16, "channels": 4}}}},
        "data": {
            "init_args": {
                "datasets": [
                    {"path": str(labelled)},
                    held_out | {"split": None, "latents": str(folder / "latents")},
                ],
                "autoencoder": str(models / "autoencoder"),
                "clip_frames": 4,
                "batch_size": 8,
            }
        },
        "trainer": {
            "default_root_dir": str(folder / "run"),
            "accelerator": "cpu",
            "max_steps": 3,
            "val_check_interval": 3,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
        },
    }
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(toy))
    return path
