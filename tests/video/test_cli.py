import csv
import fcntl
import os
import signal
import subprocess
import sys
from contextlib import suppress

import pytest
import torch
import yaml
from toy_training import ToyModel

from video.cli import main

CONFIG = {
    "trainer": {
        "default_root_dir": "runs/toy",
        "accelerator": "cpu",
        "max_steps": 20,
        "log_every_n_steps": 1,
    },
    "checkpoint": {"every_n_steps": 5},
    "model": {"class_path": "toy_training.ToyModel", "init_args": {"width": 3}},
    "data": {
        "class_path": "toy_training.ToyData",
        "init_args": {"width": "${model.init_args.width}"},
    },
}
LAST = "runs/toy/checkpoints/last.ckpt"
RESUME = ("--ckpt_path", "last")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty working folder with toy.yaml in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(CONFIG))
    handlers = {kind: signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)}
    yield tmp_path
    for kind, handler in handlers.items():  # Lightning ignores Ctrl-C once it has been pressed
        signal.signal(kind, handler)


def fit(*words):
    main(["fit", "-c", "toy.yaml", *words])


def losses():
    with open("runs/toy/metrics.csv") as file:
        return {int(row["step"]): row["loss"] for row in csv.DictReader(file)}


def saved_step():
    return torch.load(LAST)["global_step"]


@pytest.fixture
def uninterrupted():
    """The losses of a run that nothing stopped."""
    fit()
    return losses()


def refused(capsys, *words):
    """The error that a command ends with, and its exit code."""
    with pytest.raises(SystemExit) as end:
        main(list(words))
    return capsys.readouterr().err, end.value.code


def test_a_run_leaves_its_folder(folder, capsys):
    fit()
    found = {str(path.relative_to(folder)) for path in (folder / "runs").rglob("*.*")}
    assert found == {LAST, "runs/toy/config.yaml", "runs/toy/metrics.csv"}
    assert saved_step() == 20
    assert list(losses()) == list(range(20))
    bar = capsys.readouterr().out
    assert "20/20" in bar
    assert "steps/s" in bar
    assert "loss=" in bar


def test_the_saved_configuration_repeats_the_run(uninterrupted):
    main(["fit", "-c", "runs/toy/config.yaml"])
    assert losses() == uninterrupted


def test_a_second_run_replaces_the_first(uninterrupted):
    fit("--trainer.max_steps", "10")
    assert losses() == {step: uninterrupted[step] for step in range(10)}
    assert saved_step() == 10


def test_overlays_and_options_win_over_the_file_before_and_reach_what_refers_to_them(folder):
    (folder / "size.yaml").write_text("model: {init_args: {width: 5}}")
    fit("-c", "size.yaml")
    assert torch.load(LAST)["state_dict"]["layer.weight"].shape == (1, 5)
    fit("-c", "size.yaml", "--model.width", "7")
    assert torch.load(LAST)["state_dict"]["layer.weight"].shape == (1, 7)
    saved = yaml.safe_load((folder / "runs/toy/config.yaml").read_text())
    assert saved["data"]["init_args"]["width"] == 7


@pytest.mark.parametrize("workers", ["0", "2"])
def test_ctrl_c_saves_the_step_and_resuming_goes_on_from_it(uninterrupted, capsys, workers):
    options = ("--model.interrupt_at", "12", "--data.workers", workers)
    with pytest.raises(SystemExit) as end:
        fit(*options)
    assert end.value.code == 1
    assert saved_step() == 13
    signal.signal(signal.SIGINT, signal.default_int_handler)
    fit("--data.workers", workers, *RESUME)
    assert {**uninterrupted, **losses()} == uninterrupted
    assert saved_step() == 20
    assert "13/20" in capsys.readouterr().out


def test_ctrl_c_does_not_stop_the_workers_that_the_step_waits_for(uninterrupted):
    fit("--data.workers", "2", "--data.interrupt_workers_at", "9")
    assert losses() == uninterrupted


def test_a_termination_signal_saves_the_step(uninterrupted):
    with pytest.raises(SystemExit) as end:
        fit("--model.terminate_at", "7")
    assert end.value.code == 143
    assert saved_step() == 8
    fit(*RESUME)
    assert losses() == uninterrupted


def test_killed_while_saving_the_checkpoint_before_it_is_whole(uninterrupted, folder):
    command = "from video.cli import main; main()"
    words = ("fit", "-c", "toy.yaml", "--model.kill_while_saving", "15")
    environment = {"PYTHONPATH": ":".join(sys.path), "PATH": ""}
    run = subprocess.run([sys.executable, "-c", command, *words], env=environment, check=False)
    assert run.returncode == -signal.SIGKILL
    assert saved_step() == 10
    fit(*RESUME)
    assert losses() == uninterrupted
    assert [path.name for path in (folder / "runs/toy/checkpoints").iterdir()] == ["last.ckpt"]


def test_an_error_leaves_the_last_good_checkpoint(capsys):
    with pytest.raises(SystemExit) as end:
        fit("--model.fail_at", "13")
    assert end.value.code == 1
    assert saved_step() == 10
    error = capsys.readouterr().err
    assert "DatasetError: data/toy/file-003.mp4 is truncated." in error
    assert "Traceback" not in error


def test_a_longer_run_goes_on_where_a_finished_one_ended(uninterrupted):
    fit("--trainer.max_steps", "12")
    fit(*RESUME)
    assert losses() == uninterrupted


def test_resuming_before_there_is_anything_starts_anew(uninterrupted, folder):
    (folder / LAST).unlink()
    with pytest.warns(UserWarning, match="there is no last checkpoint available"):
        fit(*RESUME)
    assert losses() == uninterrupted


def test_a_checkpoint_of_another_model_is_refused(uninterrupted, capsys, folder):
    before = (folder / "runs/toy/config.yaml").read_text()
    words = ("fit", "-c", "toy.yaml", "--model.width", "4", *RESUME)
    error, code = refused(capsys, *words)
    assert code == 1
    assert "does not fit this configuration's model" in error
    assert "layer.weight" in error
    assert "Traceback" not in error
    assert (folder / "runs/toy/config.yaml").read_text() == before


@pytest.mark.parametrize("damage", [None, 500])
def test_a_checkpoint_that_is_missing_or_cut_is_refused(uninterrupted, capsys, folder, damage):
    path = folder / "other.ckpt"
    if damage:
        path.write_bytes((folder / LAST).read_bytes()[:damage])
    error, code = refused(capsys, "fit", "-c", "toy.yaml", "--ckpt_path", str(path))
    assert code == 1
    assert f"{path} is no checkpoint that can be resumed from" in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("yaml_text", "message"),
    [
        ("model: {init_args: {widht: 4}}", "Option 'widht' is not accepted"),
        ("model: {init_args: {width: wide}}", "Expected a <class 'int'>. Got value: wide"),
        ("model: {class_path: toy_training.Modle}", "has no attribute 'Modle'"),
        ("modle: {init_args: {width: 4}}", "does not accept option 'modle.init_args.width'"),
        ("trainer: {max_stesp: 3}", "does not accept option 'trainer.max_stesp'"),
        ("trainer: [", "Problems parsing config"),
    ],
)
def test_a_mistake_in_a_yaml_is_named_in_a_few_lines(capsys, folder, yaml_text, message):
    (folder / "mistake.yaml").write_text(yaml_text)
    error, code = refused(capsys, "fit", "-c", "toy.yaml", "-c", "mistake.yaml")
    assert code == 2
    assert message in error
    assert len(error.splitlines()) < 8


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        (["--model.width", "${trainer.nothing}"], "trainer.nothing' not found", 1),
        (["--model.width", "0"], "error: width=0, but a model has at least one input.", 1),
        (["--checkpoint.every_n_steps", "0"], "every_n_steps is 0; it must be at least 1", 1),
        (["--trainer.max_steps", "-7"], "You passed in -7", 1),
        (["--modle.width", "3"], "unrecognized arguments: --modle.width", 2),
        (["-c", "nothing.yaml"], "File does not exist", 2),
    ],
)
def test_a_mistake_in_an_option_is_named_in_a_few_lines(capsys, words, message, code):
    error, exit_code = refused(capsys, "fit", "-c", "toy.yaml", *words)
    assert message in error
    assert exit_code == code
    assert len(error.splitlines()) < 8


def test_debugging_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("JSONARGPARSE_DEBUG", "true")
    with pytest.raises(ValueError, match="at least one input"):
        fit("--model.width", "0")


def test_a_folder_in_which_a_training_runs_is_left_alone(uninterrupted, capsys, folder):
    before = {path: path.read_bytes() for path in (folder / "runs").rglob("*.*")}
    running = os.open("runs/toy", os.O_RDONLY)
    fcntl.flock(running, fcntl.LOCK_EX)
    try:
        error, code = refused(capsys, "fit", "-c", "toy.yaml", "--trainer.max_steps", "3")
    finally:
        os.close(running)
    assert code == 1
    assert "another training is running in runs/toy" in error
    assert {path: path.read_bytes() for path in (folder / "runs").rglob("*.*")} == before
    fit("--trainer.max_steps", "3")  # it has ended
    assert saved_step() == 3


def is_free(folder):
    """Whether another training may write there."""
    other = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(other)
    return True


@pytest.mark.parametrize("words", [(), ("--model.fail_at", "7")])
def test_a_training_holds_its_folder_until_it_ends(words, monkeypatch):
    seen = []
    monkeypatch.setattr(ToyModel, "on_train_start", lambda _: seen.append(is_free("runs/toy")))
    with suppress(SystemExit):
        fit(*words)
    assert seen == [False]
    assert is_free("runs/toy")


def test_a_trial_run_writes_nothing(folder):
    fit("--trainer.fast_dev_run", "2")
    assert not (folder / "runs").exists()


def test_the_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as end:
        main(["fit", "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert "--checkpoint.every_n_steps" in shown
    assert "--ckpt_path" in shown


def test_bfloat16_gives_way_where_the_processor_is_slow_in_it(capsys, monkeypatch):
    monkeypatch.setattr("video.precision.is_bfloat16_fast", lambda device="cpu": False)
    fit()
    in_float32 = losses()
    fit("--trainer.precision", "bf16-mixed")
    assert "bf16-mixed is slow on this processor: training in 32-true" in capsys.readouterr().out
    assert losses() == in_float32
