import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

from video.errors import DatasetError
from video.front_door import run_commands, shortened


def double(number: int, name: str = "x", *, mode: Literal["a", "b"] = "a") -> tuple:
    """Double a number.

    Args:
        number: what is doubled.
        name: a name.
        mode: one of two.
    """
    return 2 * number, name, mode


def open_data(path: Path) -> None:
    """Open data that cannot be opened."""
    if path.name == "missing":
        path.read_text()
    raise DatasetError(f"{path} is empty.\nRecord something first.")


class Machine:
    """A machine.

    Args:
        wheels: how many.
    """

    def __init__(self, wheels: int = 4):
        if wheels < 0:
            raise DatasetError(f"{wheels} wheels cannot be. Give it four.")
        if wheels > 9:
            raise RuntimeError("a mistake of ours")


def drive(machine: Machine | None = None) -> None:
    """Drive a machine that the command line describes."""


def run(*words):
    return run_commands([double, open_data, drive], "python -m toy", words)


def refused(capsys, *words):
    with pytest.raises(SystemExit) as end:
        run(*words)
    return capsys.readouterr().err, end.value.code


def test_required_parameters_are_positional_and_the_rest_are_options():
    assert run("double", "4") == (8, "x", "a")
    assert run("double", "4", "--name", "y", "--mode=b") == (8, "y", "b")


def test_options_can_come_from_a_yaml(tmp_path):
    (tmp_path / "options.yaml").write_text("name: z\nmode: b\n")
    words = ("double", "--config", str(tmp_path / "options.yaml"), "3", "--mode", "a")
    assert run(*words) == (6, "z", "a")


def test_unusable_data_is_a_message_and_not_a_traceback(capsys):
    error, code = refused(capsys, "open_data", "data/toy")
    assert error == "DatasetError: data/toy is empty.\nRecord something first.\n"
    assert code == 1


def test_an_object_that_cannot_be_made_is_a_message_too(capsys):
    run("drive", "--machine.wheels", "3")
    error, code = refused(capsys, "drive", "--machine.wheels", "-1")
    assert error == "DatasetError: -1 wheels cannot be. Give it four.\n"
    assert code == 1
    with pytest.raises(Exception, match="a mistake of ours"):
        run("drive", "--machine.wheels", "10")


def test_a_missing_file_is_a_message_too(capsys):
    error, code = refused(capsys, "open_data", "missing")
    assert error == "error: [Errno 2] No such file or directory: 'missing'\n"
    assert code == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["double", "four"], "Expected a <class 'int'>. Got value: four"),
        (["double"], "required: number"),
        (["double", "4", "--nmae", "y"], "unrecognized arguments: --nmae"),
        (["duoble", "4"], "invalid choice: 'duoble' (choose from 'double', 'open_data', 'drive')"),
        ([], 'expected "subcommand" to be one of'),
    ],
)
def test_a_mistake_on_the_command_line_is_named_in_a_few_lines(capsys, words, message):
    error, code = refused(capsys, *words)
    assert message in error
    assert "python -m toy" in error
    assert len(error.splitlines()) < 5
    assert code == 2


def test_debugging_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("JSONARGPARSE_DEBUG", "true")
    with pytest.raises(DatasetError):
        run("open_data", "data/toy")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--help"], ["Double a number", "Open data that cannot be opened", "python -m toy"]),
        (["double", "--help"], ["what is doubled", "--name NAME", "python -m toy double"]),
    ],
)
def test_help(capsys, words, expected):
    with pytest.raises(SystemExit) as end:
        run(*words)
    assert end.value.code == 0
    shown = capsys.readouterr().out
    for text in expected:
        assert text in shown


def test_a_command_is_only_imported_when_it_is_asked_for(tmp_path, monkeypatch):
    (tmp_path / "lazy_one.py").write_text("def one() -> int:\n    return 1\n")
    (tmp_path / "lazy_two.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    commands = ["lazy_one.one", "lazy_two.two"]
    assert run_commands(commands, "python -m toy", ["one"]) == 1
    assert "lazy_two" not in sys.modules
    with pytest.raises(RuntimeError, match="imported"):
        run_commands(commands, "python -m toy", ["--help"])


def test_of_a_data_loader_workers_error_only_the_message_is_left(capsys):
    def load() -> None:
        """Fail as a DataLoader's worker does."""
        raise DatasetError(
            "Caught DatasetError in DataLoader worker process 1.\n"
            "Original Traceback (most recent call last):\n"
            '  File "clips.py", line 3, in read\n'
            "video.errors.DatasetError: data/a.mp4 is truncated.\nRecord it again.\n"
        )

    with pytest.raises(SystemExit):
        run_commands([load], "python -m toy", ["load"])
    error = capsys.readouterr().err
    assert error == "DatasetError: data/a.mp4 is truncated.\nRecord it again.\n"


TALKS = """
import sys
from video.front_door import run_commands

def talk(lines: int) -> None:
    for line in range(lines):
        print("line", line)

run_commands([talk], "python -m toy", sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("words", "unbuffered", "code"),
    [
        (["talk", "1"], "", 0),  # all is done before it turns out that nobody reads
        (["talk", "1"], "1", 141),
        (["talk", "100000"], "", 141),
        (["talk", "--help"], "", 0),
        (["talk", "--help"], "1", 0),
    ],
)
def test_it_ends_quietly_where_nobody_reads(words, unbuffered, code):
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    command = [sys.executable, "-c", TALKS, *words]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()  # like `| true`
        assert process.stderr.read() == b""
    assert process.returncode == code


def test_another_broken_pipe_is_an_error(capsys):
    def write() -> None:
        """Write to a worker that is gone."""
        raise BrokenPipeError("a worker is gone")

    with pytest.raises(SystemExit) as end:
        run_commands([write], "python -m toy", ["write"])
    assert end.value.code == 1
    assert capsys.readouterr().err == "error: a worker is gone\n"


def test_only_what_helps_is_left_of_a_long_message():
    message = """Parser key "model":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'LightningModule'>, <class 'NoneType'>]
  Errors:
    - Problem with given class_path 'toy.Net':
        Option 'widht' is not accepted
    - Expected a <class 'NoneType'>
  Given value type: <class 'dict'>
  Given value: {'init_args': {'widht': 16}}"""
    assert shortened(message) == (
        'Parser key "model":\n'
        "    Problem with given class_path 'toy.Net':\n"
        "        Option 'widht' is not accepted"
    )


def test_a_list_of_what_could_be_given_instead_is_left_out():
    message = """runs/uwm/model is no folder. Name that of the model that stays frozen.
  - Not a valid subclass of Callback
  Subclass types expect one of:
  - a class path (str)
  - a dict with class_path entry"""
    expected = "runs/uwm/model is no folder. Name that of the model that stays frozen."
    assert shortened(message) == expected
