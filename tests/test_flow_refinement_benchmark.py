"""The plan of benchmarks/flow_refinement.py, whose stages run for a quarter of an hour."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
REAL_TASKS = ("button", "drawer")


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.chdir(ROOT)
    return importlib.import_module("flow_refinement")


@pytest.fixture
def refined(tmp_path) -> Path:
    """What `refine.py` leaves behind two of its rounds."""
    folder = tmp_path / "refined"
    for number in ("", "_2"):
        (folder / f"heads{number}").mkdir(parents=True)
        (folder / f"heads{number}" / "heads.json").write_text("{}")
    (folder / "options.json").write_text(json.dumps({"size": "cpu"}))
    return folder


def evaluation(first: int, successes: list[bool]) -> dict:
    each = [
        {"seed": first + number, "task": REAL_TASKS[number % 2], "success": success}
        for number, success in enumerate(successes)
    ]
    played = {"each": each, "tasks": dict.fromkeys(REAL_TASKS)}
    return {"real": played, "imagined": played}


def test_every_flow_is_cloned_refined_twice_and_evaluated_on_its_own_seeds(
    benchmark, refined, tmp_path, monkeypatch, capsys
):
    trained, first_seeds = {}, {}

    def fit(folder, configs, model, data, trainer, seed):
        trained[folder] = model
        (folder / "policy").mkdir(parents=True)

    def python(*words):
        out, first = words[-1], words[-3]
        first_seeds.setdefault(first, []).append(out.parent)
        better = out.parent.name != "before"
        out.write_text(json.dumps(evaluation(first, [True, better, False, better])))

    monkeypatch.setattr(benchmark.refine, "fit", fit)
    monkeypatch.setattr(benchmark, "python", python)
    out = tmp_path / "out"
    options = ["--refined", str(refined), "--out", str(out), "--seeds", "0", "2", "--jobs", "1"]
    monkeypatch.setattr(sys, "argv", ["flow_refinement.py", *options])
    benchmark.main()

    actors = {
        path.relative_to(out): model["actor"]["class_path"] for path, model in trained.items()
    }
    assert actors == {
        Path(f"seed_{seed}/{name}"): f"policy.actors.{actor}"
        for seed in (0, 2)
        for name, actor in (
            ("before", "flow.FlowActor"),
            ("residual", "residual.ResidualActor"),
            ("steering", "steering.SteeringActor"),
        )
    }
    for path, model in trained.items():
        if path.name != "before":
            assert model["policy"] == str(path.parent / "before" / "policy")
            checkpoint = model["environment"]["init_args"]["checkpoint"]
            assert checkpoint == str(refined / "uwm_2" / "model")  # of the last finished round
    assert {first: len(folders) for first, folders in first_seeds.items()} == {750000: 3, 770000: 3}
    config = yaml.safe_load((out / "seed_0" / "residual" / "evaluate.yaml").read_text())
    assert config["episodes"] == 34 * 3
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    for found in result["actors"].values():
        assert (found["real_success_before"], found["real_success_after"]) == (0.25, 0.75)
        assert (found["fixed"], found["broken"], found["episodes"]) == (4, 0, 8)


def test_a_folder_that_is_not_finished_is_refused(benchmark, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["flow_refinement.py", "--refined", str(tmp_path)])
    with pytest.raises(SystemExit):
        benchmark.main()
    assert "options.json is no file" in capsys.readouterr().err
    (tmp_path / "options.json").write_text(json.dumps({"size": "cpu"}))
    with pytest.raises(SystemExit):
        benchmark.main()
    assert "has no finished heads yet" in capsys.readouterr().err
