"""Every example of the README and of docs/ runs, with fewer steps."""

import re
from pathlib import Path

import pytest
from tiny_policies import tiny_policy
from tiny_world_models import tiny_world_model

ROOT = Path(__file__).parents[1]
EXAMPLES = [
    pytest.param(page, example, id=f"{page.stem}-{number}")
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    for number, example in enumerate(
        re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    )
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    tiny_world_model().save_pretrained(folder / "runs" / "uwm" / "model")
    tiny_policy().save_pretrained(folder / "runs" / "behaviour_cloning" / "policy")
    return folder


@pytest.mark.parametrize(("page", "example"), EXAMPLES)
@pytest.mark.filterwarnings("ignore:.*WeightUpdaterBase is deprecated:DeprecationWarning")
def test_an_example_runs(page, example, folder, monkeypatch):
    for library in ("stable_baselines3", "torchrl"):
        if library in example:
            pytest.importorskip(library)
    monkeypatch.chdir(folder)
    exec(compile(example.replace("_000", ""), str(page), "exec"), {})
