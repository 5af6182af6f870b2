import csv
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from interrupted_runs import breaks_off
from tiny_autoencoders import tiny_autoencoder

from policy.cloning import BehaviourCloning, weighted_mean
from policy.cloning_examples import clip_shapes, observation_of
from policy.model import Policy
from video.cli import main
from video.clip_sources import ClipSource
from video.datamodule import ClipDataModule

QUIET = ["--trainer.enable_checkpointing", "false"]


@pytest.fixture(scope="session")
def autoencoder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("autoencoder")
    tiny_autoencoder().save_pretrained(folder)
    return folder


@pytest.fixture
def config(tiny_dataset, autoencoder, tmp_path) -> Path:
    """The project's own configuration at toy size."""
    toy = yaml.safe_load(Path("configs/behaviour_cloning.yaml").read_text())
    toy["model"]["init_args"]["actor"]["init_args"] |= {"width": 16, "channels": 4}
    toy["data"]["init_args"] |= {
        "datasets": [
            {
                "path": str(tiny_dataset),
                "latents": str(tmp_path / "latents"),
                "validation_split": "test",
                "test_split": "none",
                "episodes": 1,
                "notes": {"policy": "random"},
            }
        ],
        "autoencoder": str(autoencoder),
        "clip_frames": 4,
        "batch_size": 8,
    }
    toy["trainer"] |= {
        "default_root_dir": str(tmp_path / "run"),
        "accelerator": "cpu",
        "max_steps": 4,
        "log_every_n_steps": 1,
        "val_check_interval": 2,
        "enable_progress_bar": False,
    }
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump(toy))
    return path


def changed(config: Path, source: dict, **data) -> Path:
    toy = yaml.safe_load(config.read_text())
    toy["data"]["init_args"]["datasets"][0] |= source
    toy["data"]["init_args"] |= data
    path = config.with_name("changed.yaml")
    path.write_text(yaml.safe_dump(toy))
    return path


def refused(config: Path, capsys, *options: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "-c", str(config), *QUIET, *options])
    assert stopped.value.code == 1
    return capsys.readouterr().err


def losses(folder: Path) -> list[float]:
    with (folder / "metrics.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file) if row["loss"]]


def test_a_run_leaves_a_policy(config, tmp_path, capfd):
    main(["fit", "-c", str(config)])
    policy = Policy.from_pretrained(tmp_path / "run" / "policy")
    assert policy.shapes == {"latents": (1, 4, 8, 8), "state": (2,)}
    assert (policy.chunk, policy.fps, policy.cameras) == (3, 10.0, ("top",))
    assert policy.autoencoder == tiny_autoencoder().fingerprint
    assert policy.notes["episodes"] == [2]  # one of each of two tasks
    encoder = policy.actor.encoder
    assert not torch.equal(encoder.embed["state"].half_range, torch.ones(2))
    assert "wrote" in capfd.readouterr().out
    assert "val_mae" in (tmp_path / "run" / "metrics.csv").read_text()


def test_video_without_state_is_cloned_on_pictures_alone(config, tmp_path):
    main(["fit", "-c", str(changed(config, {"labels": 0.5, "episodes": None})), *QUIET])
    policy = Policy.from_pretrained(tmp_path / "run" / "policy")
    assert policy.shapes == {"latents": (1, 4, 8, 8)}


@pytest.mark.parametrize("kind", ["gaussian.GaussianActor", "flow.FlowActor"])
def test_same_seed_same_run_with_any_actor(config, tmp_path, kind):
    options = ["--model.init_args.actor", f"policy.actors.{kind}"]
    for run, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        where = ["--trainer.default_root_dir", str(tmp_path / run)]
        main(["fit", "-c", str(config), *QUIET, *options, "--model.seed", seed, *where])
    assert losses(tmp_path / "a") == losses(tmp_path / "b") != losses(tmp_path / "c")


def test_a_stopped_run_goes_on_as_if_nothing_had_happened(config, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    main(["fit", "-c", str(config), *QUIET, "--trainer.default_root_dir", str(whole)])
    part = ["--trainer.default_root_dir", str(broken), "--checkpoint.every_n_steps", "1"]
    with breaks_off(BehaviourCloning, 2):
        main(["fit", "-c", str(config), *part])
    main(["fit", "-c", str(config), *part, "--ckpt_path", "last"])
    assert losses(broken) == losses(whole)


def test_a_trial_run_leaves_nothing_behind(config, tmp_path):
    main(["fit", "-c", str(config), "--trainer.fast_dev_run", "true"])
    assert not (tmp_path / "run").exists()


def test_pixels_are_seen_as_environments_show_them(config, tmp_path, tiny_dataset):
    path = changed(config, {"latents": None}, autoencoder=None, encode_first=False, in_memory=True)
    main(["fit", "-c", str(path), *QUIET, "--model.init_args.observations", "[pixels]"])
    policy = Policy.from_pretrained(tmp_path / "run" / "policy")
    assert policy.shapes == {"pixels": (32, 32, 3)}
    assert policy.act(np.zeros((2, 32, 32, 3), np.uint8)).shape == (2, 3, 2)


def test_observations_are_those_of_the_first_frame_in_the_datas_units(tiny_dataset):
    data = ClipDataModule(
        [ClipSource(str(tiny_dataset))], 3, batch_size=4, pad_start=0, num_workers=0
    )
    data.setup()
    batch = next(iter(data.train_dataloader()))
    shapes = clip_shapes(data)
    assert shapes == {"pixels": (32, 32, 3), "state": (2,)}
    seen = observation_of(batch, data, shapes)
    part = data.train_clips.parts[0]
    for row in range(4):
        episode = part.episodes[batch["episode"][row]]
        where = part.dataset.starts[episode] + int(batch["start"][row])
        expected = part.dataset.columns["state"][where]
        np.testing.assert_allclose(seen["state"][row], expected, atol=1e-6)
        frame = batch["frames"][row, 0, 0].permute(1, 2, 0)
        assert torch.equal(seen["pixels"][row], frame)


def test_only_what_is_known_and_sure_counts():
    values = torch.tensor([[1.0, 2.0], [torch.nan, 5.0]], requires_grad=True)
    weights = torch.tensor([[1.0, 0.5], [0.0, 0.0]])
    mean = weighted_mean(values, weights)
    assert mean.item() == pytest.approx(2 / 1.5)
    mean.backward()
    torch.testing.assert_close(values.grad, torch.tensor([[1 / 1.5, 0.5 / 1.5], [0.0, 0.0]]))
    assert weighted_mean(values, torch.zeros(2, 2)).item() == 0


def test_arguments_that_the_actor_refuses_are_named(config, capsys):
    correlated = "--model.actor.init_args.correlation", "1.5"
    said = refused(config, capsys, *correlated)
    assert "model.actor: correlation=1.5 must lie in [0, 1)" in said
    assert "Traceback" not in said


def test_data_that_cannot_be_cloned_are_explained(config, capsys):
    assert "nothing to clone" in refused(changed(config, {"action_free": True}), capsys)
    assert "Set clip_frames to k + 1" in refused(changed(config, {}, clip_frames=1), capsys)
    pixels = ["--model.init_args.observations", "[pixels]"]
    assert "data.autoencoder is set" in refused(config, capsys, *pixels)
    half = changed(config, {"labels": 0.5, "episodes": None})
    state = ["--model.init_args.observations", "[state]"]
    assert "robot's state is not known" in refused(half, capsys, *state)
    none = ["--model.init_args.observations", "[]"]
    assert "is empty" in refused(config, capsys, *none)
