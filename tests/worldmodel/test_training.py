"""Training runs as a user starts them: resumed, killed, in two processes, and ended."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from imagined_environments import never
from tiny_autoencoders import tiny_autoencoder

from video.cli import main
from worldmodel import training
from worldmodel.action_query import InverseDynamicsQuery
from worldmodel.environment import ImaginedVectorEnv
from worldmodel.policy_query import PolicyQuery
from worldmodel.training import WorldModelTraining
from worldmodel.world_model import DESCRIPTION, WorldModel

DIE = """
import os, signal
import lightning as L

class Die(L.Callback):
    def __init__(self, step: int):
        self.step = step

    def on_train_batch_start(self, trainer, *args):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def toy_autoencoder(tmp_path_factory, square_episodes) -> Path:
    """One whose latents are of unit variance on the tiny dataset."""
    folder = tmp_path_factory.mktemp("models") / "autoencoder"
    autoencoder = tiny_autoencoder()
    frames = torch.from_numpy(square_episodes[0].frames["top"]).permute(0, 3, 1, 2)
    autoencoder.fit_statistics(frames)
    autoencoder.save_pretrained(folder)
    return folder


@pytest.fixture
def config(tiny_dataset, toy_autoencoder, tmp_path) -> Path:
    """The project's own configuration at toy size."""
    toy = yaml.safe_load(Path("configs/uwm.yaml").read_text())
    toy["model"]["init_args"]["architecture"] |= {"width": 48, "depth": 2, "heads": 2}
    toy["model"]["init_args"]["optimization"] |= {"warmup_steps": 2}
    dataset = {"path": str(tiny_dataset), "latents": str(tmp_path / "latents")}
    toy["data"]["init_args"] |= {
        "datasets": [dataset | {"validation_split": "test"}],
        "autoencoder": str(toy_autoencoder),
        "batch_size": 8,
    }
    toy["trainer"] |= {
        "default_root_dir": str(tmp_path / "run"),
        "accelerator": "cpu",
        "precision": "32-true",
        "max_steps": 8,
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
    }
    toy["trainer"]["callbacks"][0]["init_args"] |= {"data": str(tiny_dataset), "split": "train"}
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump(toy))
    return path


def losses(folder: Path, name: str = "loss") -> dict[int, float]:
    """The loss curve of a run."""
    with (folder / "metrics.csv").open() as file:
        return {int(row["step"]): float(row[name]) for row in csv.DictReader(file) if row[name]}


def fit(config: Path, *options: str, cwd: Path | None = None) -> subprocess.CompletedProcess:
    """`lightning fit` in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}
    command = [Path(sys.executable).with_name("lightning"), "fit", "-c", config, *options]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )


def test_a_run_ends_with_a_model_pictures_and_figures(config, tmp_path, capfd):
    main(["fit", "-c", str(config)])
    run, printed = tmp_path / "run", capfd.readouterr().out
    for name in ("evaluation.json", "rollouts.png", "rollouts.mp4"):
        assert (run / name).is_file(), name
        assert f"wrote {run / name}" in printed
    assert (run / "checkpoints" / "last.ckpt").is_file()
    assert "action-following ratio" in printed
    model = WorldModel.from_pretrained(run / "model")
    assert model.network.action_dim == 2
    assert model.cameras == ("top",)
    assert model.action_normalizer is not None
    assert model.contexts is not None
    assert model.contexts.frames.shape[1:] == (1, 3, 32, 32)
    assert model.network.state_dim == model.state_dim == 2  # that of the data, unless left out


def test_the_robots_state_can_be_left_out(config, tmp_path):
    plain = ["--trainer.callbacks", "null", "--model.robot_state", "false"]
    main(["fit", "-c", str(config), *plain])
    assert WorldModel.from_pretrained(tmp_path / "run" / "model").network.state_dim == 0
    curve = losses(tmp_path / "run")
    assert len(curve) == 8
    assert all(map(math.isfinite, curve.values())), curve


def test_a_model_that_sees_the_first_frame(config, tmp_path):
    """From training to all that such a model is asked."""
    main(["fit", "-c", str(config), "--model.architecture.first_frame", "true"])
    figures = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert math.isfinite(figures["psnr"]["8"])
    model = WorldModel.from_pretrained(tmp_path / "run" / "model")
    assert model.network.anchor_frames == 3
    envs = ImaginedVectorEnv(model, num_envs=2, reward=never)
    envs.reset(seed=0)
    envs.step(envs.action_space.sample())
    assert model.contexts is not None
    latents = model.encode(model.contexts.frames[:2])
    assert PolicyQuery(model).act({"latents": latents}).shape == (2, 4, 2)
    assert InverseDynamicsQuery(model).read(latents[None]).mean.shape == (1, 1, 2)


def test_a_pretrained_model_goes_on_to_act(config, tmp_path):
    """`configs/uwm/act.yaml`, behind a pretraining."""
    quiet = ["--trainer.callbacks", "null"]
    main(["fit", "-c", str(config), "--trainer.max_steps", "2", *quiet])
    act = yaml.safe_load(Path("configs/uwm/act.yaml").read_text())
    pretrained = tmp_path / "run" / "model"
    act["model"]["init_args"]["start_from"] = str(pretrained)
    demonstrations, _ = act["data"]["init_args"].pop("datasets")
    assert set(demonstrations) == {"path", "notes", "successful"}
    act["trainer"] |= {"default_root_dir": str(tmp_path / "act"), "max_steps": 2}
    act["trainer"]["val_check_interval"] = 2
    (tmp_path / "act.yaml").write_text(yaml.safe_dump(act))
    main(["fit", "-c", str(config), "-c", str(tmp_path / "act.yaml")])
    assert all(map(math.isfinite, losses(tmp_path / "act").values()))
    model = WorldModel.from_pretrained(tmp_path / "act" / "model")
    before, after = (
        torch.nn.utils.parameters_to_vector(one.network.parameters())
        for one in (WorldModel.from_pretrained(pretrained), model)
    )
    assert 0 < (after - before).norm() < 0.1 * before.norm()  # it goes on from there
    assert model.contexts is not None
    latents = model.encode(model.contexts.frames[:2])
    assert PolicyQuery(model).act({"latents": latents}).shape == (2, 4, 2)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_anchors_may_show_a_single_frame(config, monkeypatch, share):
    seen, block_losses = {}, training.block_losses

    def keep(network, blocks, *others):
        seen["anchor"] = blocks.anchor
        return block_losses(network, blocks, *others)

    monkeypatch.setattr(training, "block_losses", keep)
    objective = {"single_frame": share, "anchor_noise": 0.0}
    options = [
        word
        for name, value in objective.items()
        for word in (f"--model.objective.{name}", str(value))
    ]
    options += ["--trainer.max_steps", "1", "--trainer.limit_val_batches", "0"]
    main(["fit", "-c", str(config), "--trainer.callbacks", "null", *options])
    _, before, last = seen["anchor"].unbind(2)
    assert bool((before == last).all()) == bool(share)


def test_the_robots_state_is_learned(config, tmp_path):
    steps = ["--trainer.max_steps", "60", "--trainer.val_check_interval", "60"]
    main(["fit", "-c", str(config), *steps, "--trainer.callbacks", "null"])
    error = list(losses(tmp_path / "run", "kinematics_loss").values())
    assert sum(error[-5:]) < 0.7 * sum(error[:5])


def test_kinematics_fitted_beforehand_stay_as_they_are(config, tmp_path):
    """Also in a run that goes on: it does not fit them again, nor move them."""
    options = ["-c", "configs/uwm/fitted_kinematics.yaml"]
    options += ["--model.optimization.kinematics_steps", "20"]
    run = fit(config, *options, "--trainer.max_steps", "4")
    assert "Kinematics" in run.stderr

    def kinematics():
        network = WorldModel.from_pretrained(tmp_path / "run" / "model").network
        assert network.past_actions == 4
        return list(network.kinematics.state_dict().values())

    fitted = kinematics()
    assert len(fitted) == 12  # three hidden layers and the last, the set-point and its bounds
    assert "kinematics_loss" not in (tmp_path / "run" / "metrics.csv").read_text()
    run = fit(config, *options, "--ckpt_path", "last")
    assert "Kinematics" not in run.stderr
    assert all(one.equal(other) for one, other in zip(fitted, kinematics(), strict=True))


def test_a_set_point_that_nothing_would_fit_is_refused(config, capsys):
    options = ["-c", "configs/uwm/fitted_kinematics.yaml"]
    with pytest.raises(SystemExit):
        main(["fit", "-c", str(config), *options, "--model.optimization.kinematics_steps", "0"])
    assert "set model.optimization.kinematics_steps" in capsys.readouterr().err


def test_the_held_out_error_falls(config, tmp_path):
    steps = ["--trainer.max_steps", "80", "--trainer.val_check_interval", "10"]
    main(["fit", "-c", str(config), *steps, "--trainer.callbacks", "null"])
    held_out = list(losses(tmp_path / "run", "val_latent_mse").values())
    assert len(held_out) == 8
    assert held_out[-1] < 0.97 * held_out[0]


def test_killed_and_resumed_the_curve_is_that_of_an_uninterrupted_run(config, tmp_path):
    (tmp_path / "die.py").write_text(DIE)
    plain = ["--trainer.callbacks", "null"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    main(["fit", "-c", str(config), *plain, "--trainer.default_root_dir", str(whole)])
    expected = losses(whole)
    model = WorldModel.from_pretrained(whole / "model")

    where = ["--trainer.default_root_dir", str(broken), "--checkpoint.every_n_steps", "3"]
    deadly = '[{"class_path": "die.Die", "init_args": {"step": 5}}]'
    killed = fit(config, *where, "--trainer.callbacks", deadly, cwd=tmp_path)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (broken / "checkpoints" / "last.ckpt").is_file()
    assert not (broken / "model").exists()

    main(["fit", "-c", str(config), *plain, *where, "--ckpt_path", "last"])
    resumed = losses(broken)
    assert sorted(resumed) == list(range(8))
    assert resumed == pytest.approx(expected, rel=1e-6)
    after = WorldModel.from_pretrained(broken / "model")
    for name, value in model.network.state_dict().items():
        torch.testing.assert_close(after.network.state_dict()[name], value, msg=name)


def test_two_processes_have_the_loss_curve_of_one(config, tmp_path):
    plain = ["--trainer.callbacks", "null"]
    one, two = tmp_path / "one", tmp_path / "two"
    main(["fit", "-c", str(config), *plain, "--trainer.default_root_dir", str(one)])
    done = fit(
        config,
        *plain,
        *("--trainer.default_root_dir", str(two)),
        *("--trainer.devices", "2", "--trainer.strategy", "ddp"),
    )
    assert done.returncode == 0, done.stderr
    assert len(losses(two)) == 8
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)


def test_training_twice_in_the_same_folder_works(config):
    for _ in range(2):
        main(["fit", "-c", str(config), "--trainer.max_steps", "2", "--trainer.callbacks", "null"])


def test_a_checkpoint_of_another_configuration_is_named(config, capsys):
    plain = ["--trainer.callbacks", "null", "--trainer.max_steps", "2"]
    main(["fit", "-c", str(config), *plain])
    width = ["--model.init_args.architecture.width", "96"]
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "-c", str(config), *plain, *width, "--ckpt_path", "last"])
    assert stopped.value.code == 1
    message = capsys.readouterr().err
    assert "last.ckpt" in message
    assert "width is 48 there and 96 here" in message


def test_a_checkpoint_of_another_optimiser_is_named(config, capsys):
    plain = ["--trainer.callbacks", "null", "--trainer.max_steps", "2"]
    main(["fit", "-c", str(config), *plain])
    content = yaml.safe_load(config.read_text())
    content["model"]["init_args"]["optimization"]["matrix_learning_rate"] = None
    config.write_text(yaml.safe_dump(content))
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "-c", str(config), *plain, "--ckpt_path", "last"])
    assert stopped.value.code == 1
    assert "the optimiser is Muon there and AdamW here" in capsys.readouterr().err


def test_the_last_step_is_part_of_the_average(config, tmp_path):
    decay = ["--model.init_args.optimization.ema_decay", "0.0", "--trainer.callbacks", "null"]
    main(["fit", "-c", str(config), *decay, "--trainer.max_steps", "1"])
    trained = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=False)
    saved = WorldModel.from_pretrained(tmp_path / "run" / "model").network.state_dict()
    for name, value in saved.items():
        torch.testing.assert_close(value, trained["state_dict"][f"network.{name}"])


def test_data_that_cannot_be_imagined_are_refused(config, capsys):
    content = yaml.safe_load(config.read_text())
    dataset = content["data"]["init_args"]["datasets"][0]
    for changes, says in (
        ({"stride": 2, "clip_frames": 10}, "Set it to 1; data.fps leaves out frames"),
        ({"size": [36, 36]}, "patches of 2x2. Choose another data.size"),
        ({"size": [30, 30]}, "Set data.size to bring frames to one that it takes"),
        (
            {"datasets": [dataset | {"embodiment": "one"}, dataset | {"embodiment": "two"}]},
            "several embodiments ('one', 'two')",
        ),
    ):
        changed = yaml.safe_load(config.read_text())
        changed["data"]["init_args"] |= changes
        path = config.with_name("changed.yaml")
        path.write_text(yaml.safe_dump(changed))
        with pytest.raises(SystemExit) as stopped:
            main(["fit", "-c", str(path), "--trainer.max_steps", "1"])
        assert stopped.value.code == 1
        assert says in capsys.readouterr().err, changes


def test_an_unknown_key_is_named(config, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "-c", str(config), "--model.init_args.architecture.widht", "96"])
    assert stopped.value.code == 2
    assert "widht" in capsys.readouterr().err


def test_clips_of_the_wrong_length_are_explained(config, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "-c", str(config), "--data.init_args.clip_frames", "9"])
    assert stopped.value.code == 1
    assert "Set data.clip_frames to 10" in capsys.readouterr().err


def test_history_and_deeper_self_rollouts_train(config):
    main(
        [
            *("fit", "-c", str(config), "--trainer.max_steps", "2", "--trainer.callbacks", "null"),
            *("--model.init_args.architecture.history_blocks", "1"),
            *("--model.init_args.objective.self_rollout", "1.0"),
            *("--data.init_args.clip_frames", "14"),
        ]
    )


def test_what_is_rolled_out_begins_where_it_was_imagined_to_be(config, monkeypatch):
    """Not with the recorded frames, nor with the recorded state of the robot."""
    seen = {}
    roll_out = WorldModelTraining._roll_out

    def watch(self, blocks, draws):
        seen["recorded"], seen["begun"] = blocks, roll_out(self, blocks, draws)
        return seen["begun"]

    monkeypatch.setattr(WorldModelTraining, "_roll_out", watch)
    deep = ["--model.init_args.objective.self_rollout", "1.0"]
    deep += ["--model.init_args.objective.self_rollout_blocks", "2"]
    deep += ["--data.init_args.clip_frames", "14", "--trainer.callbacks", "null"]
    deep += ["--model.architecture.first_frame", "true"]
    deep += ["--data.init_args.pad_start", "0"]  # behind a still start an untrained model is right
    main(["fit", "-c", str(config), "--trainer.max_steps", "1", *deep])
    recorded, begun = seen["recorded"], seen["begun"]
    same = begun.latents == recorded.latents
    assert same.flatten(2).all(-1)[:, 1:].any(1).all()  # a recorded block, never the first
    latest = begun.anchor[:, :, 1:] == recorded.anchor[:, :, 1:]
    assert not latest.flatten(2).all(-1).any()
    assert begun.anchor[:, 0, 0].equal(recorded.anchor[:, 0, 0])  # the episode's first frame
    known = ~begun.robot.isnan().any(-1)[:, 0]
    assert known.any()
    assert not (begun.robot == recorded.robot).all(-1)[known].any()


@pytest.mark.parametrize("late", [0.0, 1.0])
def test_the_first_frame_is_shown_clean_and_sometimes_a_later_one(config, monkeypatch, late):
    seen = {}
    setup, cut, block_losses = (
        WorldModelTraining.setup,
        WorldModelTraining._cut,
        training.block_losses,
    )

    def begin(self, stage):
        setup(self, stage)
        seen["clips"] = self.data.train_clips

    def watch(self, batch):
        seen["batch"] = batch
        return cut(self, batch)

    def keep(network, blocks, *others):
        seen["anchor"] = blocks.anchor
        return block_losses(network, blocks, *others)

    monkeypatch.setattr(WorldModelTraining, "setup", begin)
    monkeypatch.setattr(WorldModelTraining, "_cut", watch)
    monkeypatch.setattr(training, "block_losses", keep)
    options = ["--model.architecture.first_frame", "true", "--trainer.callbacks", "null"]
    options += ["--model.init_args.objective.late_start", str(late), "--trainer.max_steps", "1"]
    options += ["--trainer.limit_val_batches", "0"]
    main(["fit", "-c", str(config), *options])
    batch = seen["batch"]
    assert seen["anchor"][:, 0, 0].equal(batch["first_latents"])
    assert seen["clips"].late_starts == late
    noisy = seen["anchor"][:, :1, 1] != batch["latents"]
    assert noisy.flatten(2).any(-1).all()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], 0),
        (["--model.robot_state", "false"], 4),
        (["--model.architecture.past_actions", "2"], 2),
    ],
)
def test_past_actions_are_told_in_place_of_a_state(config, tmp_path, options, told):
    fit = ["fit", "-c", str(config), "--trainer.callbacks", "null", "--trainer.max_steps", "1"]
    main([*fit, *options])
    network = WorldModel.from_pretrained(tmp_path / "run" / "model").network
    assert network.past_actions == told
    assert network.robot_actions == max(told, 1)


def test_sizes_that_cannot_be_are_refused_by_name(config, capsys):
    with pytest.raises(SystemExit):
        main(["fit", "-c", str(config), "--model.architecture.past_actions", "-1"])
    assert "model.architecture: past_actions=-1 is a number of actions" in capsys.readouterr().err


@pytest.mark.parametrize("untold", [0.0, 1.0])
def test_past_actions_are_sometimes_hidden(config, monkeypatch, untold):
    seen = {}
    block_losses = training.block_losses

    def keep(network, blocks, *others):
        seen["past"] = blocks.robot
        return block_losses(network, blocks, *others)

    monkeypatch.setattr(training, "block_losses", keep)
    options = ["--model.robot_state", "false", "--trainer.max_steps", "1"]
    options += ["--model.init_args.objective.state_dropout", str(untold)]
    main(["fit", "-c", str(config), "--trainer.callbacks", "null", *options])
    assert seen["past"].shape[2] == 4 * 2
    hidden = seen["past"].isnan().all(-1)
    assert hidden.all() if untold else not hidden.all()


def test_rolling_out_leaves_gradients_for_every_weight(config, monkeypatch):
    """Weights cast for the rollout, without gradients, must not be reused by the step itself."""
    missing = []

    def check(self, optimizer):
        missing.extend(name for name, p in self.named_parameters() if p.grad is None)

    monkeypatch.setattr(WorldModelTraining, "on_before_optimizer_step", check)
    precision = ["--trainer.precision", "bf16-mixed", "--trainer.callbacks", "null"]
    main(["fit", "-c", str(config), "--trainer.max_steps", "1", *precision])
    assert missing == []


def test_a_run_goes_on_from_a_saved_model(config, tmp_path):
    fit = ["fit", "-c", str(config), "--trainer.callbacks", "null"]
    main(fit)
    first = WorldModel.from_pretrained(tmp_path / "run" / "model")
    start = ["--model.start_from", str(tmp_path / "run" / "model")]
    still = ["--model.optimization.learning_rate", "1e-9", "--trainer.max_steps", "1"]
    still += ["--model.optimization.matrix_learning_rate", "1e-9"]
    main([*fit, *start, *still, "--trainer.default_root_dir", str(tmp_path / "second")])
    second = WorldModel.from_pretrained(tmp_path / "second" / "model")
    for name, weight in first.network.state_dict().items():
        torch.testing.assert_close(second.network.state_dict()[name], weight, atol=1e-6, rtol=0)


def test_states_go_on_meaning_what_they_meant(config, tmp_path, monkeypatch):
    fit = ["fit", "-c", str(config), "--trainer.callbacks", "null", "--trainer.max_steps", "1"]
    seen: list[torch.Tensor] = []
    cut = training.cut

    def watched(*arguments):
        seen.append(arguments[5])
        return cut(*arguments)

    monkeypatch.setattr(training, "cut", watched)
    main(fit)
    own, count = torch.cat(seen), len(seen)
    description = tmp_path / "run" / "model" / DESCRIPTION
    saved = json.loads(description.read_text())
    low, high = (torch.tensor(saved["state"][end]) for end in ("low", "high"))
    narrower = {"low": (low / 2).tolist(), "high": (high / 2).tolist()}
    description.write_text(json.dumps(saved | {"state": narrower}))
    start = ["--model.start_from", str(tmp_path / "run" / "model")]
    main([*fit, *start, "--trainer.default_root_dir", str(tmp_path / "second")])
    center, half = (high + low) / 2, (high - low) / 2
    expected = (own * half + center - center / 2) / (half / 2)
    torch.testing.assert_close(torch.cat(seen[count:]), expected, equal_nan=True)
    second = WorldModel.from_pretrained(tmp_path / "second" / "model")
    assert second.state_normalizer is not None
    assert second.state_normalizer.to_json() == narrower


def test_a_model_to_start_from_has_to_fit(config, tmp_path, capsys):
    fit = ["fit", "-c", str(config), "--trainer.callbacks", "null", "--trainer.max_steps", "1"]
    main(fit)
    changed = yaml.safe_load(config.read_text())
    changed["model"]["init_args"]["start_from"] = str(tmp_path / "run" / "model")
    changed["model"]["init_args"]["architecture"]["width"] = 96
    description = tmp_path / "run" / "model" / DESCRIPTION
    saved = json.loads(description.read_text())
    saved["actions"]["high"] = [2 * high for high in saved["actions"]["high"]]
    description.write_text(json.dumps(saved))
    config.write_text(yaml.safe_dump(changed))
    with pytest.raises(SystemExit):
        main(fit)
    said = capsys.readouterr().err
    assert "width is 48 there and 96 here" in said
    assert "its actions fill [" in said


def test_a_model_to_start_from_has_to_be_there(config, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["fit", "-c", str(config), "--model.start_from", str(tmp_path / "nowhere")])
    assert "is no world model" in capsys.readouterr().err
