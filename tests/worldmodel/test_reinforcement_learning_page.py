"""Every example of docs/reinforcement_learning.md runs, with a thousandth of its steps."""

import re
from pathlib import Path

import pytest
from tiny_world_models import tiny_world_model

PAGE = Path(__file__).parents[2] / "docs" / "reinforcement_learning.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    tiny_world_model().save_pretrained(folder / "runs" / "uwm" / "model")
    return folder


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
@pytest.mark.filterwarnings("ignore:.*WeightUpdaterBase is deprecated:DeprecationWarning")
def test_an_example_runs(example, folder, monkeypatch):
    for library in ("stable_baselines3", "torchrl"):
        if library in example:
            pytest.importorskip(library)
    monkeypatch.chdir(folder)
    exec(compile(example.replace("_000", ""), str(PAGE), "exec"), {})
