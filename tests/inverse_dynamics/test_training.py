"""Training runs as a user starts them, and what they leave behind."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from interrupted_runs import breaks_off
from PIL import Image
from tiny_autoencoders import tiny_autoencoder
from tiny_datasets import FPS, moving_square

from inverse_dynamics.evaluate import evaluate
from inverse_dynamics.held_out import read_split
from inverse_dynamics.model import InverseDynamicsModel
from inverse_dynamics.shifts import shifted
from inverse_dynamics.training import InverseDynamicsTraining, ReaderOptimization
from video.cli import main
from video.errors import DatasetError
from video.front_door import run_commands
from video.writer import DatasetWriter

QUIET = ("--trainer.callbacks", "null")


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "autoencoder"
    tiny_autoencoder().save_pretrained(folder)
    return folder


@pytest.fixture
def config(tiny_dataset, autoencoder, tmp_path) -> Path:
    """The project's own configuration at toy size."""
    toy = yaml.safe_load(Path("configs/idm.yaml").read_text())
    latents = yaml.safe_load(Path("configs/idm/latents.yaml").read_text())
    toy["data"]["init_args"] |= latents["data"]["init_args"]
    arguments = toy["model"]["init_args"]
    arguments["sizes"] |= latents["model"]["init_args"]["sizes"]
    arguments["sizes"] |= {"width": 16, "depth": 1, "channels": 4, "heads": 2}
    arguments["optimization"] |= {"warmup_steps": 1}
    arguments["action_names"] = ["x", "y"]
    source = {"path": str(tiny_dataset), "latents": str(tmp_path / "latents")}
    toy["data"]["init_args"] |= {
        "datasets": [source | {"validation_split": "test"}],
        "autoencoder": str(autoencoder),
        "clip_frames": 6,
        "batch_size": 8,
        "clips_per_validation": 16,
    }
    toy["trainer"] |= {
        "default_root_dir": str(tmp_path / "run"),
        "accelerator": "cpu",
        "precision": "32-true",
        "max_steps": 4,
        "log_every_n_steps": 1,
        "val_check_interval": 2,
        "enable_progress_bar": False,
    }
    toy["trainer"]["callbacks"][0]["init_args"] |= {
        "validation": str(tiny_dataset),
        "validation_split": "train",
        "data": str(tiny_dataset),
        "split": "test",
        "translation": ["x", "y"],
    }
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump(toy))
    return path


def losses(folder: Path) -> dict[int, float]:
    with (folder / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["loss"]]
    return {int(row["step"]): float(row["loss"]) for row in rows}


def refused(config: Path, capsys: pytest.CaptureFixture, *options: str) -> str:
    """What a run says that does not start."""
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "-c", str(config), *QUIET, *options])
    assert stopped.value.code == 1
    return capsys.readouterr().err


def test_a_run_leaves_a_calibrated_model_and_its_figures(config, tiny_dataset, tmp_path, capfd):
    main(["fit", "-c", str(config)])
    run = tmp_path / "run"
    model = InverseDynamicsModel.from_pretrained(run / "model")
    assert model.calibration is not None
    assert model.action_names == ("x", "y")
    assert (model.fps, model.cameras, model.window) == (FPS, ("top",), 6)
    assert model.kernel is not None
    assert len(model.kernel.basis) == 19 + 21 + 17  # all steps of the training split
    result = json.loads((run / "evaluation.json").read_text())
    assert set(result["r2"]) == {"x", "y"}
    assert result["mean_r2_translation"] == pytest.approx(np.mean(list(result["r2"].values())))
    assert 0 <= result["coverage_90"] <= 1
    assert (result["episodes"], result["steps"], result["split"]) == (1, 19, "test")
    assert len(result["abstention"]) == 10
    with Image.open(run / "evaluation.png") as plot:
        assert plot.width > 480
    printed = capfd.readouterr().out
    assert "mean R2 of translation" in printed
    assert "calibrated on" in printed

    command = ["evaluate", str(run / "model"), str(tiny_dataset), "--out", str(tmp_path / "e.json")]
    assert run_commands([evaluate], "python -m inverse_dynamics", command)["r2"] == result["r2"]


def test_a_kernel_is_fitted_to_known_actions_where_there_are_states(config, tmp_path):
    blind = DatasetWriter(tmp_path / "blind", FPS, crf=10)
    for seed in range(2):
        episode = moving_square(seed, 20)
        episode.state = None
        blind.add(seed, episode, "train" if seed else "test")
    toy = yaml.safe_load(config.read_text())
    (source,) = toy["data"]["init_args"]["datasets"]
    others = {"path": str(blind.finalize()), "latents": str(tmp_path / "blind_latents")}
    kernels = []
    for number, changed in enumerate(({"labels": 0.1}, others)):
        toy["data"]["init_args"]["datasets"] = [source | changed]
        toy["trainer"] |= {"default_root_dir": str(tmp_path / str(number)), "max_steps": 1}
        config.write_text(yaml.safe_dump(toy))
        main(["fit", "-c", str(config), *QUIET])
        model = InverseDynamicsModel.from_pretrained(tmp_path / str(number) / "model")
        kernels.append(model.kernel)
    assert kernels[0] is not None
    assert len(kernels[0].basis) in (19, 21, 17)  # one of three episodes
    assert kernels[1] is None


def test_a_run_ends_with_a_reader_of_the_state_if_one_is_wanted(config, tmp_path):
    toy = yaml.safe_load(config.read_text())
    toy["data"]["init_args"]["autoencoder"] = None
    del toy["data"]["init_args"]["encode_first"]
    toy["model"]["init_args"] |= {"state_steps": 2}
    toy["model"]["init_args"]["sizes"] |= {"patch": 4}
    config.write_text(yaml.safe_dump(toy))
    main(["fit", "-c", str(config), *QUIET])
    reader = InverseDynamicsModel.from_pretrained(tmp_path / "run" / "model").state_reader
    assert reader is not None
    wanted = {"state_dim": 2, "patch": 4, "width": 16}
    assert {name: reader.config[name] for name in wanted} == wanted
    main(["fit", "-c", str(config), *QUIET, "--model.init_args.state_steps", "0"])
    assert InverseDynamicsModel.from_pretrained(tmp_path / "run" / "model").state_reader is None


def test_a_trial_run_leaves_nothing_behind(config, tmp_path):
    main(["fit", "-c", str(config), "--trainer.fast_dev_run", "true"])
    assert not (tmp_path / "run").exists()


def test_same_seed_same_run_and_a_resumed_one_goes_on(config, tmp_path):
    main(["fit", "-c", str(config), *QUIET])
    again, broken = tmp_path / "again", tmp_path / "broken"
    main(["fit", "-c", str(config), *QUIET, "--trainer.default_root_dir", str(again)])
    assert losses(again) == losses(tmp_path / "run")
    part = [*QUIET, "--trainer.default_root_dir", str(broken), "--checkpoint.every_n_steps", "1"]
    with breaks_off(InverseDynamicsTraining, 2):
        main(["fit", "-c", str(config), *part])
    main(["fit", "-c", str(config), *part, "--ckpt_path", "last"])
    assert losses(broken) == pytest.approx(losses(again), rel=1e-5)


def test_angles_and_grippers_are_trained_as_such(config, tmp_path):
    kinds = ["--model.init_args.kinds", "[angle, binary]"]
    main(["fit", "-c", str(config), *kinds])
    model = InverseDynamicsModel.from_pretrained(tmp_path / "run" / "model")
    assert model.kinds == ("angle", "binary")
    assert model.action_normalizer.high[0] == np.float32(np.pi)


FRAMES = (
    *("--data.init_args.autoencoder", "null"),
    *("--data.init_args.encode_first", "false"),
    *("--data.init_args.in_memory", "true"),
    *("--model.init_args.sizes.patch", "4"),
)


@pytest.mark.parametrize("masked", ["true", "false"])
def test_frames_are_read_without_an_autoencoder(config, tiny_dataset, tmp_path, masked):
    mask = ["--model.init_args.sizes.masked", masked]
    main(["fit", "-c", str(config), *QUIET, *FRAMES, *mask])
    folder = tmp_path / "run" / "model"
    assert not (folder / "autoencoder").exists()
    model = InverseDynamicsModel.from_pretrained(folder)
    assert model.latents_of is None
    frames = torch.randint(0, 256, (1, 8, 1, 3, 32, 32), dtype=torch.uint8)
    assert model.encode(frames).equal(frames / 127.5 - 1)
    assert model.actions_of_frames(frames).shape == (1, 7, 2)
    assert len(read_split(model, tiny_dataset, "test")) == 1


@pytest.mark.parametrize(("taught", "steps"), [("redraw", 30), ("movement", 60)])
def test_bare_video_teaches_to_redraw(config, tmp_path, taught, steps):
    toy = yaml.safe_load(config.read_text())
    source = toy["data"]["init_args"]["datasets"][0]
    toy["data"]["init_args"]["datasets"] = [source, source | {"action_free": True}]
    toy["model"]["init_args"]["sizes"]["redraw"] = 4
    weights = {"redraw_weight": 0.0, "movement_weight": 0.0, f"{taught}_weight": 1.0}
    toy["model"]["init_args"]["optimization"] |= weights
    toy["trainer"]["max_steps"] = steps
    config.write_text(yaml.safe_dump(toy))
    main(["fit", "-c", str(config), *QUIET])
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["redraw_loss"]]
    errors = [float(row[f"{taught}_loss"]) for row in rows]
    assert len(errors) == steps
    assert errors[-1] < 0.8 * errors[0]
    assert InverseDynamicsModel.from_pretrained(tmp_path / "run" / "model").network.draw_frame


def test_how_the_state_moves_is_learned_by_its_own_weight(config, tmp_path):
    toy = yaml.safe_load(config.read_text())
    weights = {"state_weight": 0.0, "state_movement_weight": 8.0}
    toy["model"]["init_args"]["optimization"] |= weights
    toy["trainer"]["max_steps"] = 100
    config.write_text(yaml.safe_dump(toy))
    main(["fit", "-c", str(config), *QUIET])
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["state_movement_loss"]]
    errors = [float(row["state_movement_loss"]) for row in rows]
    assert np.mean(errors[-5:]) < 0.8 * np.mean(errors[:5])


def test_data_that_cannot_be_trained_on_are_explained(config, capsys):
    toy = yaml.safe_load(config.read_text())
    toy["data"]["init_args"]["datasets"][0]["action_free"] = True
    free = config.with_name("free.yaml")
    free.write_text(yaml.safe_dump(toy))
    assert "no actions are known in the training data" in refused(free, capsys)
    names = ["--model.init_args.action_names", "[x, y, z]"]
    assert "have 2 action dimensions" in refused(config, capsys, *names)
    kinds = ["--model.init_args.kinds", "[number]"]
    assert "have 2 action dimensions" in refused(config, capsys, *kinds)
    single = ["--data.init_args.clip_frames", "1"]
    assert "an action lies between two frames" in refused(config, capsys, *single)
    stride = ["--data.init_args.stride", "2"]
    assert "Set it to 1" in refused(config, capsys, *stride)


def test_settings_that_cannot_be_are_named():
    with pytest.raises(ValueError, match="cooldown"):
        ReaderOptimization(cooldown=0)
    with pytest.raises(ValueError, match="noise=-1"):
        ReaderOptimization(noise=-1)
    with pytest.raises(ValueError, match="mask_weight=-1"):
        ReaderOptimization(mask_weight=-1)
    with pytest.raises(ValueError, match="shift=-1"):
        ReaderOptimization(shift=-1)
    with pytest.raises(ValueError, match="movement_weight=-1"):
        ReaderOptimization(movement_weight=-1)
    with pytest.raises(ValueError, match="state_movement_weight=-1"):
        ReaderOptimization(state_movement_weight=-1)
    with pytest.raises(ValueError, match="kernel_steps=-1"):
        InverseDynamicsTraining(kernel_steps=-1)
    with pytest.raises(ValueError, match="state_steps=-1"):
        InverseDynamicsTraining(state_steps=-1)
    with pytest.raises(ValueError, match=r"set sizes\.redraw to their size"):
        InverseDynamicsTraining(optimization=ReaderOptimization(movement_weight=3))


def write_squares(path: Path, fps: float = FPS, camera: str = "top", actions: int = 2) -> Path:
    """One episode, differing in what is asked for."""
    writer = DatasetWriter(path, fps, crf=10)
    episode = moving_square(0, 12)
    episode.frames = {camera: episode.frames["top"]}
    if actions != 2:
        episode.actions = np.repeat(episode.actions, 2, axis=1) if actions else None
    writer.add(0, episode, "test")
    return writer.finalize()


def test_video_that_a_model_cannot_read_is_explained(config, tiny_dataset, tmp_path):
    main(["fit", "-c", str(config), *QUIET, "--trainer.max_steps", "1"])
    model = InverseDynamicsModel.from_pretrained(tmp_path / "run" / "model")
    for name, options, message in (
        ("rate", {"fps": 5.0}, "5 fps"),
        ("view", {"camera": "wrist"}, "has the cameras"),
        ("size", {"actions": 4}, "actions of size 4"),
        ("free", {"actions": 0}, "Give a dataset with recorded actions"),
    ):
        with pytest.raises(DatasetError, match=message):
            read_split(model, write_squares(tmp_path / name, **options), "test")
    with pytest.raises(DatasetError, match="Pass --split"):
        read_split(model, tiny_dataset, "validation")
    model.frame_size = (64, 64)
    with pytest.raises(DatasetError, match="frames of 32x32"):
        read_split(model, tiny_dataset, "test")


@pytest.fixture
def two_bodies(config, tiny_dataset, tmp_path) -> Path:
    """Two datasets of one, whose actions have two dimensions and four."""
    writer = DatasetWriter(tmp_path / "wide", FPS, crf=10)
    for seed in range(3):
        episode = moving_square(seed, 20)
        episode.actions = np.repeat(5 * episode.actions, 2, axis=1)
        episode.state = episode.state[:, :1]
        writer.add(seed, episode, "train" if seed < 2 else "test")
    wide = writer.finalize()
    toy = yaml.safe_load(config.read_text())
    source = toy["data"]["init_args"]["datasets"][0]
    others = {"path": str(wide), "embodiment": "wide", "latents": str(tmp_path / "wide_latents")}
    toy["data"]["init_args"]["datasets"] = [source | {"embodiment": "narrow"}, source | others]
    toy["model"]["init_args"] |= {
        "action_names": {"narrow": ["x", "y"], "wide": ["a", "b", "c", "d"]},
        "kinds": {"narrow": ["number", "number"], "wide": ["number"] * 3 + ["binary"]},
        "state_steps": 1,
    }
    report = toy["trainer"]["callbacks"][0]
    there = {"validation": str(wide), "data": str(wide), "translation": ["a"], "embodiment": "wide"}
    toy["trainer"]["callbacks"] = [
        {**report, "init_args": report["init_args"] | {"embodiment": "narrow"}},
        {**report, "init_args": report["init_args"] | there},
    ]
    path = tmp_path / "bodies.yaml"
    path.write_text(yaml.safe_dump(toy))
    return path


def test_two_embodiments_are_learned_in_one_run(two_bodies, tiny_dataset, tmp_path):
    main(["fit", "-c", str(two_bodies)])
    run = tmp_path / "run"
    narrow, wide = (
        InverseDynamicsModel.from_pretrained(run / f"model-{name}") for name in ("narrow", "wide")
    )
    assert narrow.action_names == ("x", "y")
    assert wide.action_names == ("a", "b", "c", "d")
    assert wide.kinds == ("number", "number", "number", "binary")
    assert wide.action_normalizer.high.max() > 4 > narrow.action_normalizer.high.max()
    assert (narrow.network.config["state_dim"], wide.network.config["state_dim"]) == (2, 1)
    for model, steps, state, actions in ((narrow, 57, 2, 2), (wide, 38, 1, 4)):
        assert model.state_dim == state
        assert model.state_reader is not None
        assert model.state_reader.config["state_dim"] == state
        assert model.kernel is not None
        assert model.kernel.basis.shape == (steps, 7 * state)
        assert model.kernel.offset.shape == (2 * actions,)
    trunk = [model.network.embed_step.state_dict() for model in (narrow, wide)]
    assert all(trunk[0][name].equal(weight) for name, weight in trunk[1].items())
    for model, dataset, size in ((narrow, tiny_dataset, 2), (wide, tmp_path / "wide", 4)):
        assert read_split(model, dataset, "test")[0].estimate.mean.shape[1] == size
    for name, first in (("narrow", "x"), ("wide", "a")):
        assert first in json.loads((run / f"evaluation-{name}.json").read_text())["r2"]
    with pytest.raises(DatasetError, match="actions of size 4"):
        read_split(narrow, tmp_path / "wide", "test")


def test_settings_of_embodiments_must_name_them(two_bodies, capsys):
    names = ["--model.init_args.action_names"]
    assert "but the data name the embodiment 'narrow'" in refused(
        two_bodies, capsys, *names, "[x, y]"
    )
    assert "but the data have 'wide'" in refused(two_bodies, capsys, *names, "{narrow: [x, y]}")
    assert "those of 'wide' have 4 action dimensions" in refused(
        two_bodies, capsys, *names, "{narrow: [x, y], wide: [a]}"
    )


def test_a_shifted_clip_moves_as_a_whole():
    """Every pixel is its own number: the inside of a clip says by how much it was moved."""
    rows, columns = torch.meshgrid(torch.arange(9.0), torch.arange(7.0), indexing="ij")
    frames = torch.stack((rows, columns)).expand(20, 3, 1, 2, 9, 7)
    torch.manual_seed(0)
    moved = shifted(frames, 2)
    offsets = moved[..., 4, 3] - torch.tensor([4.0, 3.0])  # clip, frame, view, row or column
    assert (offsets == offsets[:, :1]).all()
    assert set(offsets.unique().tolist()) == {-2, -1, 0, 1, 2}
    expected = torch.stack((rows, columns)) + offsets[:, 0, 0, :, None, None]
    expected[:, 0].clamp_(0, 8)  # what lies outside repeats the edge
    expected[:, 1].clamp_(0, 6)
    assert moved.equal(expected[:, None, None].expand_as(moved))
    assert shifted(frames, 0) is frames
