"""Several action models read together, and know what they differ by."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from inverse_dynamics.calibrate import calibrate
from inverse_dynamics.ensemble import DESCRIPTION, Ensemble, ensemble
from inverse_dynamics.estimate import mixture
from inverse_dynamics.label import label
from inverse_dynamics.model import InverseDynamicsModel
from inverse_dynamics.network import ActionReader
from video.action_model import Estimate, load_action_model
from video.calibration import CALIBRATION
from video.episodes import Episode, open_dataset
from video.errors import DatasetError
from video.front_door import run_commands
from video.statistics import Normalizer
from video.writer import DatasetWriter


def save_reader(folder: Path, seed: int, fps: float = 10.0, state_dim: int = 0) -> Path:
    """A model of frames with random weights."""
    torch.manual_seed(seed)
    network = ActionReader([1, 3, 16, 16], ["number", "number"], state_dim, 16, 1, 2, 8, patch=4)
    torch.nn.init.normal_(network.read_actions.weight)
    InverseDynamicsModel(
        network=network.eval(),
        autoencoder=None,
        fps=fps,
        cameras=("top",),
        frame_size=(16, 16),
        window=5,
        action_normalizer=Normalizer(np.array([-2.0, 0.0]), np.array([2.0, 10.0])),
        action_names=("x", "y"),
        state_normalizer=Normalizer(np.full(state_dim, -3.0), np.full(state_dim, 3.0))
        if state_dim
        else None,
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def members(tmp_path) -> list[Path]:
    return [save_reader(tmp_path / f"reader_{seed}", seed) for seed in range(3)]


@pytest.fixture
def data(tmp_path) -> Path:
    generator = np.random.default_rng(0)
    writer = DatasetWriter(tmp_path / "data", 10.0, crf=1)
    for number in range(6):
        frames = generator.integers(0, 255, (12, 16, 16, 3), dtype=np.uint8)
        actions = generator.uniform((-2, 0), (2, 10), (12, 2)).astype(np.float32)
        content = Episode(frames={"top": frames}, actions=actions if number else None, task="move")
        writer.add(number, content, "validation" if number > 2 else "train")
    return writer.finalize()


def test_a_mixture_has_the_variance_of_its_members_and_of_what_they_differ_by():
    members = [
        Estimate(torch.tensor([[0.0, 0.9, 1.0]]), torch.tensor([[0.3, 0.1, 0.0]])),
        Estimate(torch.tensor([[0.4, -0.9, 0.0]]), torch.tensor([[0.1, 0.1, 0.0]])),
    ]
    mean, spread = mixture(members, ["number", "angle", "binary"])
    # the angle's members are a fifth of a half turn apart, across the seam
    torch.testing.assert_close(mean.abs(), torch.tensor([[0.2, 1.0, 0.5]]))
    # variance of Laplace distributions of scales 0.3 and 0.1 around 0 and 0.4, halved: a scale
    number = ((0.3**2 + 0.1**2) / 2 + 0.2**2 / 2) ** 0.5
    angle = (0.1**2 + 0.1**2 / 2) ** 0.5
    torch.testing.assert_close(spread, torch.tensor([[number, angle, 0.75**0.5]]))


def test_drawn_values_have_the_spread_that_is_told():
    torch.manual_seed(0)
    members = [
        Estimate(torch.tensor([[m]]), torch.tensor([[b]])) for m, b in ((-0.5, 0.2), (0.3, 0.4))
    ]
    mean, spread = mixture(members, ["number"])
    draws = [
        torch.distributions.Laplace(*estimate).sample((200000,)).flatten() for estimate in members
    ]
    drawn = torch.cat(draws)
    assert drawn.mean().item() == pytest.approx(mean.item(), abs=0.01)
    assert drawn.var().item() == pytest.approx(2 * spread.item() ** 2, rel=0.02)


def test_an_ensemble_reads_what_its_members_read_together(members, tmp_path):
    out = ensemble(members, tmp_path / "together" / "model")
    loaded = load_action_model(out)
    assert isinstance(loaded, Ensemble)
    frames = torch.randint(0, 256, (9, 1, 3, 16, 16), dtype=torch.uint8)
    inputs = loaded.encode(frames)[None]
    alone = [InverseDynamicsModel.from_pretrained(member).read(inputs) for member in members]
    torch.testing.assert_close(loaded.read(inputs).mean, sum(one.mean for one in alone) / 3)
    for own, name in ((loaded.fps, "fps"), (loaded.kinds, "kinds"), (loaded.cameras, "cameras")):
        assert own == getattr(InverseDynamicsModel.from_pretrained(members[0]), name)


def test_the_state_is_the_mean_of_what_all_members_tell(tmp_path):
    told = [save_reader(tmp_path / f"told_{seed}", seed, state_dim=2) for seed in range(2)]
    both = Ensemble([load_action_model(folder) for folder in told])
    inputs = torch.randn(1, 4, 1, 3, 16, 16)
    each = [InverseDynamicsModel.from_pretrained(folder).states(inputs) for folder in told]
    assert both.state_dim == 2
    torch.testing.assert_close(both.states(inputs), (each[0] + each[1]) / 2)
    silent = save_reader(tmp_path / "silent", 3)
    mixed = Ensemble([load_action_model(folder) for folder in (*told, silent)])
    assert mixed.state_dim == 0
    with pytest.raises(ValueError, match="same robot's state"):
        mixed.states(inputs)


def test_its_fingerprint_changes_with_any_member(members, tmp_path):
    whole = load_action_model(ensemble(members, tmp_path / "a" / "model")).fingerprint
    fewer = load_action_model(ensemble(members[:2], tmp_path / "b" / "model")).fingerprint
    turned = load_action_model(ensemble(members[::-1], tmp_path / "c" / "model")).fingerprint
    assert len({whole, fewer, turned}) == 3
    assert len(whole) == 16


def test_it_is_calibrated_evaluated_and_labels_from_the_command_line(members, data, tmp_path):
    out = tmp_path / "together" / "model"
    prog = "python -m inverse_dynamics"
    commands = [
        "inverse_dynamics.ensemble.ensemble",
        "inverse_dynamics.evaluate.evaluate",
        "inverse_dynamics.label.label",
    ]
    given = json.dumps([str(member) for member in members])
    run_commands(commands, prog, ["ensemble", given, str(out)])
    calibrate(out, data, "validation")
    assert (out / CALIBRATION).exists()
    run_commands(commands, prog, ["evaluate", str(out), str(data), "--split", "validation"])
    figures = json.loads((out.parent / "evaluation.json").read_text())
    assert figures["coverage_90"] > 0.9  # set on these very steps
    labelled = label(out, data, tmp_path / "labelled", threshold=10.0, workers=0)
    dataset = open_dataset(labelled)
    read = dataset.columns["action_source"] == 2
    assert read.sum() == 11  # the steps of the one episode without actions
    assert dataset.columns["action_spread"][read].min() > 0


def test_models_that_do_not_fit_together_are_refused(members, tmp_path):
    faster = save_reader(tmp_path / "faster", 0, fps=20.0)
    with pytest.raises(
        DatasetError, match=r"model 1 of the ensemble has fps=20.0, model 0 has 10.0"
    ):
        ensemble([members[0], faster], tmp_path / "out")


def test_models_with_other_ranges_of_actions_are_refused(members):
    models = [InverseDynamicsModel.from_pretrained(member) for member in members[:2]]
    models[1].action_normalizer = Normalizer(np.array([-1.0, 0.0]), np.array([2.0, 10.0]))
    told = r"model 1 .* has action range=.*'high': \[2.0, 10.0\].*, model 0 has .*'high'"
    with pytest.raises(DatasetError, match=told):
        Ensemble(models)


def test_one_model_is_no_ensemble(members, tmp_path):
    with pytest.raises(DatasetError, match="two models or more, got 1"):
        ensemble(members[:1], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_empty_is_left_alone(members, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(DatasetError, match="not empty"):
        ensemble(members, tmp_path / "out")
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_a_missing_member_is_named(members, tmp_path):
    out = ensemble(members, tmp_path / "out")
    (out / "member_1" / "inverse_dynamics.json").unlink()
    with pytest.raises(DatasetError, match="member_1"):
        load_action_model(out)
    (out / DESCRIPTION).write_text("{}")
    with pytest.raises(DatasetError, match=f"{out} is damaged or incomplete .'members' is missing"):
        Ensemble.from_pretrained(out)
    (out / DESCRIPTION).write_text("{")
    with pytest.raises(DatasetError, match="damaged"):
        load_action_model(out)
