"""What the environment tells of its doubts, compared with the truth."""

import dataclasses
import json

import pytest
import torch
from imagined_environments import never
from tiny_datasets import FPS
from tiny_world_models import tiny_world_model

from video.errors import DatasetError
from video.front_door import run_commands
from worldmodel.environment import ImaginedVectorEnv
from worldmodel.evaluate_round_trip import SIGNS, Replays, evaluate_round_trip, measure, replay
from worldmodel.held_out import HeldOut


def held_out(model, episodes=2, frames=9) -> HeldOut:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (episodes, frames, 1, 3, 32, 32), generator=generator)
    mask = torch.ones(episodes, frames - 1, dtype=torch.bool)
    mask[1, 5] = False
    pixels = pixels.to(torch.uint8)
    return HeldOut(
        frames=pixels,
        latents=model.encode(pixels),
        actions=torch.rand(episodes, frames - 1, 2, generator=generator) * 2 - 1,
        action_mask=mask,
        state=torch.zeros(episodes, 0),
        lengths=torch.full((episodes,), frames),
        tasks=["left"] * episodes,
        episodes=list(range(episodes)),
    )


def nothing(latents):
    """An idm that reads no movement off anything."""
    return torch.zeros(len(latents), latents.shape[1] - 1, 2)


def test_episodes_are_imagined_again_with_their_own_actions():
    """What was recorded is what the world model imagines: then its error is none."""
    model = tiny_world_model()
    recorded = held_out(model)
    env = ImaginedVectorEnv(model, 2, chunk=4, reward=never, horizon=1000)
    first = [frames.permute(0, 2, 3, 1).numpy() for frames in recorded.frames[:, 0]]
    env.reset(seed=3, options={"context": [frame[None] for frame in first]})
    assert model.action_normalizer is not None
    actions = model.action_normalizer.denormalize(recorded.actions).numpy()
    for step in (4, 8):
        env.step(actions[:, step - 4 : step])
        recorded.latents[:, step] = env.get_state().imagined.frame
    replays = replay(model, recorded, nothing, seed=3)
    assert replays.steps == [4, 8]
    assert replays.error.tolist() == [[0.0, 0.0]] * 2
    assert replays.known.tolist() == [[True, True], [True, False]]  # an action is unknown
    assert set(replays.told) == set(SIGNS)
    assert replays.told["elapsed_steps"].tolist() == [[4.0, 8.0]] * 2
    assert replay(model, recorded, nothing, seed=4).error.min() > 0


def test_a_sign_that_says_nothing_yet_is_left_out():
    model = tiny_world_model()
    error = replay(model, held_out(model), nothing, chunk=1).told["round_trip_error"]
    assert error[:, :2].isnan().all()
    assert not error[:, 2:].isnan().any()


def test_correlations_over_all_steps_and_within_one():
    """A sign that only knows the time, and one that only knows the episode."""
    episode, step = torch.arange(10.0)[:, None], torch.tensor([[0.0, 100.0]])
    error, known = episode + step, torch.ones(10, 2, dtype=torch.bool)
    signs = {"elapsed_steps": step.expand(10, 2), "round_trip_error": -episode.repeat(1, 2)}
    found = measure(Replays([4, 8], error, known, signs))
    assert found["spearman"]["elapsed_steps"]["pooled"] == pytest.approx(0.8671, abs=1e-3)
    assert found["spearman"]["elapsed_steps"]["within"] is None
    assert found["spearman"]["round_trip_error"]["within"] == pytest.approx(-1)
    assert found["by_horizon"]["8"]["true_error"] == pytest.approx(104.5)
    known[5:, 1] = False
    signs["round_trip_error"][0, 0] = torch.nan
    found = measure(Replays([4, 8], error, known, signs))
    assert found["by_horizon"]["8"]["true_error"] == pytest.approx(102.0)
    assert "round_trip_error" not in found["by_horizon"]["4"]
    without = known.clone()
    without[0, 0] = False
    signs = {"round_trip_error": -episode.repeat(1, 2)}
    assert found["spearman"]["round_trip_error"]["pooled"] == pytest.approx(
        measure(Replays([4, 8], error, without, signs))["spearman"]["round_trip_error"]["pooled"]
    )
    assert found["spearman"]["round_trip_error"]["within"] == pytest.approx(-1)


def test_the_command_writes_what_it_prints(tiny_dataset, tmp_path, capsys):
    model = tiny_world_model()
    model = dataclasses.replace(model, fps=FPS, cameras=("top",))
    model.save_pretrained(tmp_path / "model")
    folder = str(tmp_path / "model")
    words = ["evaluate_round_trip", folder, str(tiny_dataset), folder, "--split", "train"]
    words += ["--horizon", "8", "--episodes", "2"]
    result = run_commands([evaluate_round_trip], "python -m worldmodel", words)
    assert json.loads((tmp_path / "round_trip.json").read_text()) == result
    assert result["chunk"] == 4
    assert "round-trip drift" in capsys.readouterr().out


def test_episodes_without_actions_are_refused():
    model = tiny_world_model()
    recorded = held_out(model)
    recorded.action_mask[:] = False
    with pytest.raises(DatasetError, match="Give a dataset with actions"):
        replay(model, recorded, nothing)
