"""The heads: shapes of any grid, what they cost, how members are put together, and their folder."""

import pytest
import torch
from tiny_world_models import tiny_world_model
from torch.utils.flop_counter import FlopCounterMode

from video.errors import DatasetError
from worldmodel.heads import FrameHeads, MemberOutputs
from worldmodel.uwm import UWM
from worldmodel.world_model import WorldModel


def build(**options) -> FrameHeads:
    options = {"width": 32, "frames": 4, "state_dim": 3, "channels": 16, "hidden": 8} | options
    torch.manual_seed(0)
    return FrameHeads(**options).eval()


@pytest.mark.parametrize("maps", [0, 8])
@pytest.mark.parametrize("grid", [(1, 4, 4), (1, 3, 5), (2, 4, 4), (1, 1, 1)])
def test_any_grid_gives_one_answer_a_frame(grid, maps):
    heads = build(views=2, maps=maps)
    tokens = grid[0] * grid[1] * grid[2] + 4
    outputs = heads(torch.randn(6, tokens, 32), grid)
    for name in ("reward", "success_logit", "error", "disagreement"):
        assert getattr(outputs, name).shape == (6, 4), name
    assert outputs.state.shape == (6, 4, 3)
    assert (outputs.error > 0).all()
    assert (outputs.disagreement > 0).all()


def test_without_a_state_there_is_an_empty_one():
    outputs = build(state_dim=0)(torch.randn(2, 20, 32), (1, 4, 4))
    assert outputs.state.shape == (2, 4, 0)
    assert outputs.disagreement.isfinite().all()


def test_tokens_that_are_no_such_grid_are_refused():
    with pytest.raises(
        ValueError, match="20 tokens; a grid of 1 views, 5 rows and 4 columns has 20"
    ):
        build()(torch.randn(2, 20, 32), (1, 5, 4))


def test_a_token_is_known_by_its_place():
    heads, features = build(), torch.randn(2, 20, 32)
    swapped = features.clone()
    swapped[:, [0, 5]] = features[:, [5, 0]]
    assert not torch.allclose(heads(swapped, (1, 4, 4)).reward, heads(features, (1, 4, 4)).reward)


def test_a_frame_depends_on_its_own_action_token():
    heads, features = build(), torch.randn(2, 20, 32)
    changed = features.clone()
    changed[:, 18] += 1
    moved = heads(changed, (1, 4, 4)).reward != heads(features, (1, 4, 4)).reward
    assert moved.tolist() == [[False, False, True, False]] * 2


def test_rows_do_not_know_each_other():
    heads, features = build(), torch.randn(5, 20, 32)
    together = heads(features, (1, 4, 4))
    alone = heads(features[3:4], (1, 4, 4))
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one[3:4], other)


def test_features_of_lower_precision_are_read_too():
    heads, features = build(), torch.randn(2, 20, 32).bfloat16()
    for one, other in zip(
        heads(features, (1, 4, 4)), heads(features.float(), (1, 4, 4)), strict=True
    ):
        assert one.equal(other)


def test_members_are_put_together_as_written():
    heads = build(members=2, state_dim=1, reward_mean=10.0, reward_std=2.0)
    members = MemberOutputs(
        reward=torch.tensor([0.0, 1.0]).view(2, 1, 1),
        success_logit=torch.tensor([0.0, 4.0]).view(2, 1, 1),
        state=torch.tensor([-0.5, 0.5]).view(2, 1, 1, 1),
        log_error=torch.tensor([-1.0, 1.0]).view(2, 1, 1),
    )
    outputs = heads.summarize(members)
    assert outputs.reward.item() == pytest.approx(11.0)  # 10 + 2 * 0.5
    assert outputs.success_logit.item() == pytest.approx(2.0)
    assert outputs.state.item() == pytest.approx(0.0)
    assert outputs.error.item() == pytest.approx(1.0)  # exp(0)
    assert outputs.disagreement.item() == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"state_dim": 0}, 1.0),  # rewards of -1 and 1
        ({"state_dim": 0, "has_reward": False}, 0.231059),  # sigmoid(1) - 1/2
    ],
)
def test_members_disagree_over_what_there_is(options, expected):
    members = MemberOutputs(
        *(torch.tensor([-1.0, 1.0]).view(2, 1, 1) for _ in range(2)),
        state=torch.zeros(2, 1, 1, 0),
        log_error=torch.zeros(2, 1, 1),
    )
    outputs = build(members=2, **options).summarize(members)
    assert outputs.disagreement.item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("maps", "share"), [(0, 0.03), (32, 0.08)])
def test_a_picture_costs_little_beside_the_model(maps, share):
    network = UWM(latent_channels=8, action_dim=4)
    heads = FrameHeads(width=256, frames=4, state_dim=4, maps=maps).eval()
    with FlopCounterMode(display=False) as trunk, torch.no_grad():
        network(
            torch.randn(1, 1, 2, 1, 8, 8, 8),
            torch.randn(1, 1, 4, 1, 8, 8, 8),
            torch.randn(1, 1, 4, 4),
            torch.ones(1, 1),
            torch.zeros(1, 1, 4),
        )
    with FlopCounterMode(display=False) as own, torch.no_grad():
        heads(torch.randn(1, 20, 256), (1, 4, 4))
    assert own.get_total_flops() < share * trunk.get_total_flops()


@pytest.fixture
def folder(tmp_path):
    model = tiny_world_model()
    model.heads = None
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_heads_come_back_with_their_model(folder):
    model = WorldModel.from_pretrained(folder)
    assert model.heads is None  # as in a folder of an older version
    model.heads = build(reward_mean=3.0, has_success=False)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    model.save_heads(folder)
    for path, content in before.items():
        assert path.read_bytes() == content, path
    loaded = WorldModel.from_pretrained(folder).heads
    assert loaded is not None
    assert loaded.config["reward_mean"] == 3.0
    assert not loaded.config["has_success"]
    features = torch.randn(2, 20, 32)
    for one, other in zip(
        loaded(features, (1, 4, 4)), model.heads(features, (1, 4, 4)), strict=True
    ):
        assert one.equal(other)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert not loaded.training


def test_saving_the_model_saves_its_heads(folder, tmp_path):
    model = WorldModel.from_pretrained(folder)
    model.heads = build()
    model.save_pretrained(tmp_path / "copy")
    assert WorldModel.from_pretrained(tmp_path / "copy").heads is not None


def test_heads_that_cannot_be_written_leave_the_old_ones(folder, monkeypatch):
    model = WorldModel.from_pretrained(folder)
    model.heads = build(reward_mean=1.0)
    model.save_heads(folder)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    model.heads = build(reward_mean=2.0)
    monkeypatch.setattr(FrameHeads, "save_pretrained", full)
    with pytest.raises(DatasetError, match="No space left on device"):
        model.save_heads(folder)
    old = WorldModel.from_pretrained(folder).heads
    assert old is not None
    assert old.config["reward_mean"] == 1.0
    assert not list(folder.glob(".heads*"))


def test_heads_go_into_world_models_only(tmp_path):
    model = tiny_world_model()
    model.heads = build()
    with pytest.raises(DatasetError, match="is no world model"):
        model.save_heads(tmp_path)
