"""Figures, pictures and datasets that come out of a saved model."""

import json
from contextlib import nullcontext
from copy import deepcopy

import numpy as np
import pytest
import torch
from tiny_autoencoders import tiny_autoencoder
from torch import nn

from video.autoencoder import FrameAutoencoder
from video.episodes import open_dataset
from video.errors import DatasetError
from video.statistics import Normalizer
from video.writer import DatasetWriter
from worldmodel import evaluate as evaluation
from worldmodel.bootstrap import ratio_interval, resampled
from worldmodel.contexts import Contexts
from worldmodel.evaluate import evaluate, table
from worldmodel.held_out import HeldOut, read_held_out
from worldmodel.imagine import imagine
from worldmodel.scores import (
    _all_blocks,
    _r2,
    action_following,
    action_following_ratio,
    copy_last,
    mean_frame,
    score_frames,
)
from worldmodel.world_model import WorldModel


@pytest.fixture(scope="module")
def toy_model():
    """Random weights, but everything that a model needs to be used."""
    from worldmodel.uwm import UWM

    torch.manual_seed(0)
    denoiser = UWM(latent_channels=4, action_dim=2, width=48, depth=1, heads=2)
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return WorldModel(
        network=denoiser.eval(),
        autoencoder=tiny_autoencoder(),
        fps=10.0,
        cameras=("top",),
        frame_size=(32, 32),
        action_normalizer=Normalizer(-np.ones(2), np.ones(2)),
        task_names=["left", "right"],
        contexts=Contexts(
            torch.zeros(2, 1, 3, 32, 32, dtype=torch.uint8),
            torch.ones(2, 3),
            torch.tensor([True, False]),
            ["push", "push"],
        ),
    )


@pytest.fixture(scope="module")
def folder(toy_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "model"
    toy_model.save_pretrained(folder)
    return folder


def held_out_of(latents, frames=None, tasks=None):
    """Held-out episodes made of given numbers."""
    episodes, length = latents.shape[:2]
    frames = torch.zeros(episodes, length, 1, 3, 16, 16).byte() if frames is None else frames
    return HeldOut(
        frames=frames,
        latents=latents,
        actions=torch.zeros(episodes, length - 1, 2),
        action_mask=torch.ones(episodes, length - 1, dtype=torch.bool),
        state=torch.zeros(episodes, 0),
        lengths=torch.full((episodes,), length),
        tasks=tasks or ["a"] * episodes,
        episodes=list(range(episodes)),
    )


def test_saved_and_loaded_a_model_imagines_the_same(toy_model, folder):
    loaded = WorldModel.from_pretrained(folder)
    assert not list(folder.rglob("*.bin"))
    assert not list(folder.rglob("*.pkl"))
    assert (loaded.fps, loaded.cameras, loaded.frame_size) == (10.0, ("top",), (32, 32))
    assert loaded.task_names == ["left", "right"]
    frames = torch.randint(0, 256, (2, 1, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(loaded.encode(frames), toy_model.encode(frames))
    for name, value in toy_model.network.state_dict().items():
        assert loaded.network.state_dict()[name].equal(value)


def test_a_model_that_cannot_be_written_leaves_the_old_one(toy_model, folder, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    before = (folder / "world_model.json").read_text()
    monkeypatch.setattr("worldmodel.contexts.save_file", full)
    with pytest.raises(DatasetError, match="No space left on device"):
        toy_model.save_pretrained(folder)
    assert (folder / "world_model.json").read_text() == before
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_what_is_no_model_is_named(tmp_path):
    with pytest.raises(DatasetError, match="is no world model"):
        WorldModel.from_pretrained(tmp_path)
    (tmp_path / "world_model.json").write_text('{"format": 99}')
    with pytest.raises(DatasetError, match="format 99"):
        WorldModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "file",
    ["world_model.json", "contexts.safetensors", "transformer/diffusion_pytorch_model.safetensors"],
)
def test_a_damaged_model_is_named(toy_model, tmp_path, file):
    toy_model.save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / file
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(DatasetError, match=r"model is damaged or incomplete .* Copy it again"):
        WorldModel.from_pretrained(tmp_path / "model")


def test_held_out_episodes_are_the_recorded_ones(toy_model, tiny_dataset, square_episodes):
    held_out = read_held_out(toy_model, tiny_dataset, "test", frames=24)
    recorded = square_episodes[3]
    assert held_out.tasks == [recorded.task]
    assert held_out.lengths.tolist() == [20]
    assert held_out.frames.shape == (1, 24, 1, 3, 32, 32)
    assert held_out.action_mask[0].tolist() == [True] * 19 + [False] * 4
    torch.testing.assert_close(held_out.actions[0, :19], torch.from_numpy(recorded.actions[:19]))
    assert held_out.frames[0, 22].equal(held_out.frames[0, 19])


def test_held_out_episodes_lie_where_the_model_does(toy_model, tiny_dataset, monkeypatch):
    """Nothing has a value on the "meta" device, and nothing of another goes together with it."""
    monkeypatch.setattr(FrameAutoencoder, "_autocast", lambda *_: nullcontext())  # not on meta
    model = deepcopy(toy_model)
    nn.Module.to(model.network, "meta")
    model.autoencoder.to("meta")
    held_out = read_held_out(model, tiny_dataset, "test", frames=9)
    parts = held_out.frames, held_out.latents, held_out.actions, held_out.action_mask
    assert {part.device.type for part in parts} == {"meta"}
    assert model.decode(held_out.latents).shape == held_out.frames.shape


def test_data_that_does_not_fit_is_named(toy_model, tiny_dataset, tiny_videos, monkeypatch):
    with pytest.raises(DatasetError, match="no episodes in split 'dev'"):
        read_held_out(toy_model, tiny_dataset, "dev", 8)
    monkeypatch.setattr(toy_model, "cameras", ("left", "right"))
    with pytest.raises(DatasetError, match="the model wants"):
        read_held_out(toy_model, tiny_dataset, "test", 8)
    monkeypatch.undo()
    monkeypatch.setattr(toy_model, "action_normalizer", Normalizer(-np.ones(3), np.ones(3)))
    with pytest.raises(DatasetError, match="actions of size 2, the model was trained with 3"):
        read_held_out(toy_model, tiny_dataset, "test", 8)


def test_another_episode_has_the_same_task_where_there_is_one():
    held_out = held_out_of(torch.zeros(4, 2, 1, 1, 2, 2), tasks=["a", "b", "a", "c"])
    swapped = held_out.swapped().tolist()
    assert (swapped[0], swapped[2]) == (2, 0)
    assert swapped[1] != 1
    assert swapped[3] != 3


def test_the_action_following_ratio_by_hand():
    held_out = held_out_of(torch.zeros(2, 3, 1, 1, 1, 1))
    own, other = torch.full((2, 2, 1, 1, 1, 1), 0.5), torch.full((2, 2, 1, 1, 1, 1), 1.0)
    assert action_following_ratio(own, other, held_out, [1, 2]) == {"1": 4.0, "2": 4.0}


def test_how_sure_the_ratio_is_hangs_on_the_episodes():
    held_out = held_out_of(torch.zeros(3, 2, 1, 1, 1, 1))
    own = torch.tensor([1.0, 1.0, 3.0])[:, None, None, None, None, None]
    following = action_following(own, 2 * own, held_out, [1])
    assert following.error_by_episode == {"1": [1.0, 1.0, 9.0]}
    assert following.swapped_error_by_episode == {"1": [4.0, 4.0, 36.0]}
    assert following.action_following_interval == {"1": [4.0, 4.0]}  # each has the same ratio
    uneven = torch.tensor([2.0, 1.0, 12.0])[:, None, None, None, None, None]
    following = action_following(own, uneven, held_out, [1])
    assert following.action_following_ratio["1"] == pytest.approx(149 / 11)
    assert following.action_following_interval == {"1": [1.0, 16.0]}  # one episode drawn thrice


def test_a_bootstrap_draws_the_same_for_the_same_seed():
    assert (resampled(5) == resampled(5)).all()
    assert (resampled(5) != resampled(5, seed=1)).any()
    assert set(resampled(5).flatten()) == set(range(5))


def test_a_bootstrap_interval_covers_as_often_as_it_says():
    """Of ratios of means of exponential draws, whose truth is known."""
    generator, covered = np.random.default_rng(0), 0
    for _ in range(200):
        above, below = 3 * generator.exponential(size=60), generator.exponential(size=60)
        low, high = ratio_interval(above, below)
        covered += low <= 3 <= high
    assert 0.89 <= covered / 200 <= 0.99


def test_psnr_by_horizon_is_that_of_the_right_frame():
    frames = torch.zeros(2, 4, 1, 3, 16, 16).byte()
    held_out = held_out_of(torch.zeros(2, 4, 1, 1, 2, 2), frames)
    imagined = torch.zeros(2, 3, 1, 3, 16, 16).byte()
    imagined[:, 2] = 255
    psnr = score_frames(imagined, held_out, [1, 3]).psnr
    assert psnr == {"1": 100.0, "3": 0.0}


def test_baselines_by_hand():
    frames = torch.zeros(2, 3, 1, 3, 16, 16).byte()
    frames[:, 0], frames[1] = 90, 30
    held_out = held_out_of(torch.zeros(2, 3, 1, 1, 2, 2), frames, ["a", "b"])
    assert copy_last(held_out).flatten(2)[:, :, 0].tolist() == [[90, 90], [30, 30]]
    # task a: frames 90, 0, 0; task b: 30 throughout
    assert mean_frame(held_out, held_out).flatten(2)[:, :, 0].tolist() == [[30, 30], [30, 30]]


def test_r2_by_hand():
    actions = torch.tensor([[[0.0, 5.0]], [[2.0, 5.0]]])
    assert _r2(actions, actions) == [1.0, 0.0]
    assert _r2(actions.mean(0, keepdim=True).expand_as(actions), actions) == [0.0, 0.0]
    assert _r2(torch.tensor([[[0.0, 5.0]], [[1.0, 5.0]]]), actions) == [0.5, 0.0]


def test_blocks_of_held_out_episodes_start_at_the_first_frame(build_network):
    latents = torch.arange(50.0, 59.0)[None, :, None, None, None, None]
    blocks = _all_blocks(held_out_of(latents), build_network())
    assert blocks.latents.flatten().tolist() == [51, 52, 53, 54, 55, 56, 57, 58]
    assert blocks.anchor.flatten().tolist() == [50, 50, 53, 54]
    blocks = _all_blocks(held_out_of(latents), build_network(first_frame=True))
    assert blocks.anchor.flatten().tolist() == [50, 50, 50, 50, 53, 54]


def test_evaluate_prints_and_saves_all_figures(folder, tiny_dataset, capsys, monkeypatch):
    monkeypatch.setattr(evaluation, "TRAIN_EPISODES", 2)
    result = evaluate(folder, tiny_dataset, split="train")
    saved = json.loads((folder.parent / "evaluation.json").read_text())
    assert saved == json.loads(json.dumps(result))
    for name in ("psnr", "foreground_psnr", "ssim", "latent_mse", "action_following_ratio"):
        assert set(saved[name]) == {"1", "4", "8", "16"}, name
    for baseline in ("copy_last", "mean_frame"):
        assert set(saved["baselines"][baseline]["psnr"]) == {"1", "4", "8", "16"}
    assert set(saved["confidence"]) == {"psnr", "foreground_psnr", "ssim", "latent_mse"}
    assert len(saved["queries"]["inverse_dynamics_r2"]) == 2
    assert set(saved["by_task"]) == {"left", "right"}
    assert table(result) in capsys.readouterr().out


def test_without_a_split_to_train_on_one_baseline_less_is_there(folder, tiny_dataset, tmp_path):
    out = tmp_path / "e.json"
    result = evaluate(folder, tiny_dataset, split="train", train_split="none", out=out)
    assert set(result["baselines"]) == {"copy_last"}
    assert table(result).count("mean frame") == 2


def test_the_same_seed_gives_the_same_figures(folder, tiny_dataset, tmp_path):
    one = evaluate(folder, tiny_dataset, split="train", out=tmp_path / "a.json", steps=2)
    two = evaluate(folder, tiny_dataset, split="train", out=tmp_path / "b.json", steps=2)
    other = evaluate(folder, tiny_dataset, split="train", out=tmp_path / "c.json", steps=2, seed=1)
    assert one == two
    assert one["latent_mse"] != other["latent_mse"]


def test_action_free_data_cannot_be_evaluated(folder, tiny_videos):
    with pytest.raises(DatasetError, match="nothing to follow"):
        evaluate(folder, tiny_videos, split="train")


def test_imagine_writes_pictures_of_both_queries(folder, tiny_dataset, tmp_path):
    written = imagine(folder, tiny_dataset, split="train", horizon=8, out=tmp_path)
    assert [path.name for path in written] == [
        "forward_dynamics.mp4",
        "forward_dynamics.png",
        "video_generation.mp4",
        "video_generation.png",
    ]
    assert all(path.stat().st_size > 500 for path in written)


def test_imagined_video_becomes_an_action_free_dataset(folder, tiny_videos, tmp_path):
    imagine(folder, tiny_videos, split="train", horizon=6, dataset=tmp_path / "dream")
    dream = open_dataset(tmp_path / "dream")
    assert dream.lengths.tolist() == [7, 7, 7]
    assert dream.cameras == ("top",)
    assert "actions" not in dream.columns


def test_imagined_video_keeps_the_actions_it_was_given(
    folder, tiny_dataset, tmp_path, square_episodes
):
    imagine(
        folder,
        tiny_dataset,
        split="test",
        query="forward_dynamics",
        horizon=6,
        dataset=tmp_path / "dream",
    )
    dream = open_dataset(tmp_path / "dream")
    actions = dream.columns["actions"]
    np.testing.assert_allclose(actions[:6], square_episodes[3].actions[:6], atol=1e-6)
    assert dream.columns["action_mask"].tolist() == [True] * 6 + [False]


def test_many_dreams_of_a_first_frame(folder, tiny_videos, tmp_path, monkeypatch):
    """Differing from each other; the same however often the run is stopped, and after the label."""
    options = {"split": "train", "horizon": 6, "dreams": 2, "query": "joint"}
    imagine(folder, tiny_videos, dataset=tmp_path / "whole", **options)
    whole = open_dataset(tmp_path / "whole")
    assert len(whole.lengths) == 6
    notes = [(note["source_episode"], note["dream"]) for note in whole.notes]
    assert notes == [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)]
    assert {note["imagined_by"] for note in whole.notes} == {"joint"}
    assert whole.tasks == open_dataset(tiny_videos).tasks * 2
    frames = [whole.read_frames(episode, np.arange(7), "top") for episode in range(6)]
    assert not np.array_equal(frames[0], frames[3])

    monkeypatch.setattr("worldmodel.imagined_video.AT_ONCE", 2)
    add, added = DatasetWriter.add, []

    def interrupted(self, number, episode):
        if len(added) == 4:
            raise KeyboardInterrupt
        added.append(number)
        add(self, number, episode)

    monkeypatch.setattr(DatasetWriter, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        imagine(folder, tiny_videos, dataset=tmp_path / "resumed", **options)
    monkeypatch.setattr(DatasetWriter, "add", add)
    imagine(folder, tiny_videos, dataset=tmp_path / "resumed", **options)
    resumed = open_dataset(tmp_path / "resumed")
    for episode in range(6):
        own = resumed.read_frames(episode, np.arange(7), "top").astype(int)
        assert np.abs(own - frames[episode]).max() <= 1, episode  # rounding in another batch
    with pytest.raises(DatasetError, match="seed was 0, is now 1"):
        imagine(folder, tiny_videos, dataset=tmp_path / "resumed", seed=1, **options)


def test_dreams_want_a_dataset(folder, tiny_videos):
    for dreams in (0, 2):
        with pytest.raises(DatasetError, match=f"--dreams {dreams}"):
            imagine(folder, tiny_videos, split="train", dreams=dreams)


def test_forward_dynamics_without_actions_is_refused(folder, tiny_videos, tmp_path):
    with pytest.raises(DatasetError, match="video_generation"):
        imagine(folder, tiny_videos, split="train", query="forward_dynamics", out=tmp_path)
