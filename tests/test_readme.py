"""What the README and the docs say can be typed can be typed, and every configuration can train."""

import ast
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml

from policy.actors.gaussian import GaussianActor
from policy.model import Policy
from video.autoencoder import FrameAutoencoder
from video.cli import main
from video.statistics import Normalizer
from worldmodel.heads import FrameHeads
from worldmodel.uwm import UWM
from worldmodel.world_model import WorldModel

ROOT = Path(__file__).parent.parent
PACKAGES = ("video", "worldmodel", "inverse_dynamics", "policy")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
SIZES = sorted((ROOT / "configs" / "size").glob("*.yaml"))
TRAINED = [path for path in CONFIGS if "model" in yaml.safe_load(path.read_text())]


def commands() -> list[str]:
    """Every command line in a console block, those joined by && apart."""
    found = []
    for page in PAGES:
        text = page.read_text().replace("\\\n", "")  # a line that goes on
        blocks = re.findall(r"^```console\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        lines = "".join(blocks).splitlines()
        found += [part.strip() for line in lines for part in line.split("&&")]
    return sorted({command for command in found if command})


def as_parameter(command: str):
    """Commands that name Meta-World import it."""
    needs_simulator = "video record" in command
    return pytest.param(command, marks=[pytest.mark.simulator] if needs_simulator else [])


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("command", [as_parameter(command) for command in commands()])
def test_a_command_can_be_typed(command, monkeypatch, capsys):
    program, *words = shlex.split(command, comments=True)
    if program == "pip":
        assert_installable(words)
    elif program == "lightning":
        assert_ends_well(
            lambda: main(words if asks_for_help(words) else [*words, "--print_config"])
        )
    elif program == "python":
        flag, package, *words = words
        assert flag == "-m"
        assert package in PACKAGES
        monkeypatch.setattr(sys, "argv", [package, *words, "--print_config"])
        assert_ends_well(lambda: runpy.run_module(package, run_name="__main__"))
    else:
        assert program == "pytest", f"no test knows how to try {program!r}"
        assert words == []


def asks_for_help(words: list[str]) -> bool:
    return any(re.fullmatch(r"--print_config|--.*help", word) for word in words)


def assert_ends_well(run) -> None:
    with pytest.raises(SystemExit) as end:
        run()
    assert not end.value.code


def assert_installable(words: list[str]) -> None:
    """`pip install -e .` with extras that pyproject.toml has."""
    install, editable, target, *options = words
    assert (install, editable) == ("install", "-e")
    assert options == []
    name, extras = re.fullmatch(r"(\.)(?:\[(.*)\])?", target).groups()
    assert name == "."
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    wanted = set(extras.split(",")) if extras else set()
    assert wanted <= set(project["optional-dependencies"])


def test_the_two_commands_are_there():
    assert {"pip install -e .", "lightning fit -c configs/uwm.yaml", "pytest"} <= set(commands())


@pytest.mark.filterwarnings("ignore:the gate does not know how")  # where there is no simulator
@pytest.mark.parametrize("config", TRAINED, ids=lambda path: path.stem)
def test_every_configuration_can_train(config, tmp_path):
    needs = yaml.safe_load(config.read_text())["model"]["init_args"]
    words = []
    if "world_model" in needs:
        untrained_world_model().save_pretrained(tmp_path / "model")
        words = ["--model.world_model", str(tmp_path / "model")]
    if "environment" in needs:
        untrained_world_model(with_heads=True).save_pretrained(tmp_path / "model")
        untrained_policy().save_pretrained(tmp_path / "policy")
        words = ["--model.policy", str(tmp_path / "policy")]
        environment = {
            "checkpoint": str(tmp_path / "model"),
            "contexts": "video/datasets/metaworld_validation",
            "split": "validation",
            "num_envs": "32",
        }
        for name, value in environment.items():
            words += [f"--model.environment.init_args.{name}", value]
    train_a_step(tmp_path, config, words=words)


def untrained_world_model(with_heads: bool = False) -> WorldModel:
    """A narrow one that fits the default dataset."""
    network = UWM(latent_channels=8, action_dim=4, width=32, depth=1, heads=2)
    heads = FrameHeads(width=32, frames=network.block_frames, state_dim=4) if with_heads else None
    return WorldModel(
        network=network,
        autoencoder=FrameAutoencoder.from_pretrained("video/autoencoders/metaworld"),
        fps=20,
        cameras=("corner2",),
        frame_size=(64, 64),
        action_normalizer=Normalizer(-np.ones(4), np.ones(4)),
        state_normalizer=Normalizer(-np.ones(4), np.ones(4)),
        heads=heads,
    )


def untrained_policy() -> Policy:
    """A narrow one that sees what the default dataset shows."""
    shapes = {"latents": (1, 8, 8, 8), "state": (4,)}
    actor = GaussianActor(shapes, 4, chunk=4, width=16)
    return Policy(actor, shapes, Normalizer(-np.ones(4), np.ones(4)))


@pytest.mark.parametrize("size", SIZES, ids=lambda path: path.stem)
def test_every_size_of_the_world_model_can_train(size, tmp_path):
    train_a_step(tmp_path, ROOT / "configs" / "uwm.yaml", size)


def train_a_step(folder: Path, *configs: Path, words: Sequence[str] = ()) -> None:
    files = [word for config in configs for word in ("-c", str(config))]
    small = ["--data.batch_size", "2", "--data.encode_first", "false", "--data.in_memory", "false"]
    if not any("data" in yaml.safe_load(config.read_text()) for config in configs):
        small = []
    trial = ["--trainer.fast_dev_run", "1", "--trainer.default_root_dir", str(folder / "run")]
    main(["fit", *files, *small, *trial, *words])
    assert not (folder / "run").exists(), "a trial run leaves nothing behind"


def test_the_map_names_every_file():
    summary = "<summary>File by file</summary>"
    shown = Path("README.md").read_text().partition(summary)[2].partition("</details>")[0]
    assert shown.strip() == file_map(), "put what `python tests/test_readme.py` prints there"


def file_map() -> str:
    """A table of all modules and the first lines of their docstrings."""
    lines = ["| file | holds |", "|---|---|"]
    for package in PACKAGES:
        for path in sorted(ROOT.glob(f"{package}/**/*.py")):
            if not path.name.startswith("__"):
                docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
                lines.append(f"| `{path.relative_to(ROOT)}` | {docstring.splitlines()[0]} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(file_map())
