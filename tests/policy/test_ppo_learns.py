"""PPO on the environments that everybody knows, as benchmarks/ppo.py trains it, and as well."""

import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize(("name", "usual"), [("CartPole-v1", 475), ("Pendulum-v1", -200)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_usual_return_is_reached(monkeypatch, name, usual, seed):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    benchmark = importlib.import_module("ppo")
    actor = benchmark.train(name, *benchmark.JOBS[name], seed)
    assert benchmark.mean_return(name, actor) >= usual
