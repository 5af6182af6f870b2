"""benchmarks/kinematics.py, with a few steps on a few episodes."""

import importlib
import json
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent


@pytest.fixture
def benchmark(monkeypatch, tmp_path):
    """The benchmark as a module, which fits small kinematics."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = importlib.import_module("kinematics")
    settings = yaml.safe_load(module.CONFIG.read_text())
    own = settings["model"]["init_args"]
    own["optimization"]["kinematics_steps"] = 5
    own["architecture"]["kinematics_sizes"]["width"] = 16
    path = tmp_path / "few_steps.yaml"
    path.write_text(yaml.safe_dump(settings))
    monkeypatch.setattr(module, "CONFIG", path)
    return module


def test_it_measures_both_kinds(benchmark, tiny_dataset, tmp_path, monkeypatch, capsys):
    out = tmp_path / "kinematics.json"
    monkeypatch.setattr(benchmark, "HAND", 2)
    options = ["--data", tiny_dataset, "--validation", tiny_dataset, "--validation-split", "test"]
    options += ["--shares", "1", "--out", out]
    monkeypatch.setattr("sys.argv", ["kinematics.py", *map(str, options)])
    benchmark.main()
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert result == json.loads(out.read_text())
    assert [row["set_point"] for row in result["rows"]] == [False, True]
    for row in result["rows"]:
        assert 0 < row["mean_absolute_error"] <= row["root_mean_square"]
        assert row["far"]["0.08"] >= row["far"]["0.15"]
        assert f"{row['mean_absolute_error']:.4f}" in printed.err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--shares", "2"], "--shares 2.0: from above 0 to 1"),
        (["--data", "nothere"], "nothere is not a folder"),
    ],
)
def test_what_it_cannot_measure_is_refused(benchmark, options, says, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["kinematics.py", *options])
    with pytest.raises(SystemExit):
        benchmark.main()
    assert says in capsys.readouterr().err
