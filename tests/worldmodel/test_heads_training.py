"""Training runs of the heads as a user starts them, and what the frozen model imagines for them."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from interrupted_runs import breaks_off
from tiny_autoencoders import tiny_autoencoder
from tiny_datasets import FPS, moving_square

from video.cli import main
from video.statistics import Normalizer
from video.writer import DatasetWriter
from worldmodel.draws import RowDraws
from worldmodel.evaluate_heads import evaluate_heads
from worldmodel.heads import FrameHeads
from worldmodel.heads_objective import FrameLabels, HeadsObjective, heads_losses
from worldmodel.heads_rollouts import HeadsRollouts, imagine_clips
from worldmodel.heads_training import HeadsTraining
from worldmodel.queries import forward_dynamics
from worldmodel.rollout import rollout
from worldmodel.rollout_state import block_noise, draw_seeds
from worldmodel.success_threshold import episode_scores
from worldmodel.uwm import UWM
from worldmodel.world_model import WorldModel


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory) -> Path:
    """An untrained world model for the datasets of moving squares."""
    torch.manual_seed(0)
    sizes = {"width": 48, "depth": 2, "heads": 2}
    network = UWM(latent_channels=4, action_dim=2, state_dim=2, **sizes)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    with torch.no_grad():
        network.read_action.weight[network.action_dim :] *= 0.1  # corrections are small
    folder = tmp_path_factory.mktemp("saved") / "model"
    WorldModel(
        network=network.eval(),
        autoencoder=tiny_autoencoder(),
        fps=FPS,
        cameras=("top",),
        frame_size=(32, 32),
        action_normalizer=Normalizer(-np.ones(2), np.ones(2)),
        state_normalizer=Normalizer(np.zeros(2), np.ones(2)),
        task_names=["left", "right"],
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def model_folder(saved_model, tmp_path) -> Path:
    """A copy of it that a test may write into."""
    folder = tmp_path / "model"
    WorldModel.from_pretrained(saved_model).save_pretrained(folder)
    return folder


@pytest.fixture
def config(tiny_dataset, model_folder, tmp_path) -> Path:
    """The project's own configuration at toy size."""
    toy = yaml.safe_load(Path("configs/reward.yaml").read_text())
    toy["model"]["init_args"] |= {
        "world_model": str(model_folder),
        "sizes": {"members": 2, "channels": 16, "hidden": 16, "success_channels": 8},
    }
    toy["model"]["init_args"]["optimization"] |= {"updates": 3, "blocks": 16}
    toy["model"]["init_args"]["success"] = {"updates": 4}
    toy["data"]["init_args"] |= {
        "datasets": [
            {
                "path": str(tiny_dataset),
                "latents": str(tmp_path / "latents"),
                "validation_split": "test",
            }
        ],
        "autoencoder": str(model_folder / "autoencoder"),
        "clip_frames": 14,
        "batch_size": 8,
        "clips_per_validation": 16,
    }
    toy["trainer"] |= {
        "default_root_dir": str(tmp_path / "run"),
        "accelerator": "cpu",
        "precision": "32-true",
        "max_steps": 4,
        "log_every_n_steps": 1,
        "val_check_interval": 2,
        "enable_progress_bar": False,
    }
    toy["trainer"]["callbacks"][0]["init_args"] |= {"data": str(tiny_dataset), "split": "train"}
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump(toy))
    return path


def losses(folder: Path, name: str = "loss") -> dict[int, float]:
    with (folder / "metrics.csv").open() as file:
        return {int(row["step"]): float(row[name]) for row in csv.DictReader(file) if row[name]}


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


QUIET = ("--trainer.callbacks", "null")


def test_a_run_gives_the_model_heads_and_changes_nothing_else(
    config, model_folder, tmp_path, capfd
):
    before = contents(model_folder)
    main(["fit", "-c", str(config)])
    after = contents(model_folder)
    assert {name: after[name] for name in before} == before
    assert {Path(name).parts[0] for name in after.keys() - before.keys()} == {"heads"}
    heads = WorldModel.from_pretrained(model_folder).heads
    assert heads is not None
    assert heads.config["has_reward"]
    assert heads.config["has_success"]
    assert heads.state_dim == 2
    assert json.loads((tmp_path / "run" / "heads.json").read_text())["split"] == "train"
    printed = capfd.readouterr().out
    assert "predicted_error: AUROC" in printed
    assert f"wrote {tmp_path / 'run' / 'heads.json'}" in printed
    assert len(losses(tmp_path / "run")) == 4


def test_it_learns_in_mixed_precision_too(config, model_folder, monkeypatch):
    """Which is the configured one, though only newer processors have it."""
    monkeypatch.setattr("video.precision.is_bfloat16_fast", lambda: True)
    main(["fit", "-c", str(config), "--trainer.precision", "bf16-mixed", *QUIET])
    assert WorldModel.from_pretrained(model_folder).heads is not None


def test_imagined_successes_are_as_frequent_as_true_ones(
    config, model_folder, tiny_dataset, monkeypatch, caplog
):
    """On the episodes that are validated on, where there are enough of them."""
    toy = yaml.safe_load(config.read_text())
    (seen,) = toy["data"]["init_args"]["datasets"]
    toy["data"]["init_args"]["datasets"].append(seen | {"split": None, "validation_split": "train"})
    config.write_text(yaml.safe_dump(toy))
    main(["fit", "-c", str(config), *QUIET])
    assert "too few validation episodes" in caplog.text
    monkeypatch.setattr("worldmodel.success_threshold.FEWEST", 1)
    main(["fit", "-c", str(config), *QUIET])
    model = WorldModel.from_pretrained(model_folder)
    assert model.heads is not None
    threshold = model.heads.config["success_threshold"]
    found = [episode_scores(model, tiny_dataset, split) for split in ("train", "test")]
    score, succeeded = (torch.cat(parts) for parts in zip(*found, strict=True))
    assert 0 < succeeded.sum() < len(succeeded)
    assert (score > threshold).sum() == succeeded.sum()
    assert threshold != 0.5
    left, _ = episode_scores(model, tiny_dataset, "train", tasks=["left"])
    assert 0 < len(left) < len(found[0][0])


def test_a_trial_run_leaves_nothing_behind(config, model_folder, tmp_path):
    before = contents(model_folder)
    main(["fit", "-c", str(config), "--trainer.fast_dev_run", "true"])
    assert contents(model_folder) == before
    assert not (tmp_path / "run").exists()


def test_the_losses_fall(config, tmp_path):
    longer = ["--trainer.max_steps", "12", "--data.init_args.batch_size", "16"]
    optimization = "--model.init_args.optimization"
    often = [f"{optimization}.updates", "10", f"{optimization}.learning_rate", "0.01"]
    main(["fit", "-c", str(config), *longer, *often, *QUIET])
    for name in ("success_loss", "error_loss"):
        curve = list(losses(tmp_path / "run", name).values())
        assert np.mean(curve[-3:]) < 0.9 * np.mean(curve[:3]), name


def test_resumed_the_run_is_that_of_an_uninterrupted_one(config, model_folder, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    main(["fit", "-c", str(config), *QUIET, "--trainer.default_root_dir", str(whole)])
    expected = contents(model_folder)
    part = [*QUIET, "--trainer.default_root_dir", str(broken), "--checkpoint.every_n_steps", "1"]
    with breaks_off(HeadsTraining, 2):
        main(["fit", "-c", str(config), *part])
    assert (broken / "checkpoints" / "last.ckpt").is_file()
    main(["fit", "-c", str(config), *part, "--ckpt_path", "last"])
    assert losses(broken) == pytest.approx(losses(whole), rel=1e-5)
    assert contents(model_folder) == expected


def test_cut_off_while_success_is_learned_it_is_learned_by_the_resumed_run(
    config, model_folder, monkeypatch, tmp_path
):
    main(["fit", "-c", str(config), *QUIET, "--trainer.default_root_dir", str(tmp_path / "whole")])
    expected = contents(model_folder)
    shutil.rmtree(model_folder / "heads")
    part = [*QUIET, "--checkpoint.every_n_steps", "1"]
    with monkeypatch.context() as patched:
        patched.setattr("worldmodel.heads_training.learn_success", interrupted)
        with pytest.raises(SystemExit):
            main(["fit", "-c", str(config), *part])
    assert not (model_folder / "heads").exists()
    main(["fit", "-c", str(config), *part, "--ckpt_path", "last"])
    assert contents(model_folder) == expected


def test_cut_off_behind_its_last_step_the_resumed_run_writes_what_it_learned(
    config, model_folder, monkeypatch, tmp_path
):
    main(["fit", "-c", str(config), "--trainer.default_root_dir", str(tmp_path / "whole")])
    expected = contents(model_folder)
    report = (tmp_path / "whole" / "heads.json").read_bytes()
    shutil.rmtree(model_folder / "heads")
    with monkeypatch.context() as patched:
        patched.setattr(HeadsTraining, "on_train_end", interrupted)
        with pytest.raises(SystemExit):
            main(["fit", "-c", str(config)])
    assert not (model_folder / "heads").exists()
    main(["fit", "-c", str(config), "--ckpt_path", "last"])
    assert contents(model_folder) == expected
    assert (tmp_path / "run" / "heads.json").read_bytes() == report
    shutil.rmtree(model_folder / "heads")  # what a finished run wrote is the user's
    main(["fit", "-c", str(config), *QUIET, "--ckpt_path", "last"])
    assert not (model_folder / "heads").exists()


def interrupted(*arguments: object) -> None:
    raise KeyboardInterrupt


def test_clips_are_replayed_with_the_set_point_that_they_begin_with(
    config, model_folder, monkeypatch
):
    model = WorldModel.from_pretrained(model_folder)
    sizes = {"kinematics_sizes": {"set_point": True}, "state_dim": 2}
    model.network = UWM.from_config(dict(model.network.config) | sizes).eval()
    point = model.network.set_point
    torch.nn.init.normal_(point.step.weight, std=0.3, generator=torch.Generator().manual_seed(0))
    model.save_pretrained(model_folder)
    seen = []

    def replay(network, blocks, *rest):
        seen.append(blocks.robot)
        return imagine_clips(network, blocks, *rest)

    monkeypatch.setattr("worldmodel.heads_training.imagine_clips", replay)
    main(["fit", "-c", str(config), *QUIET])
    robot = torch.cat(seen)
    now, points = robot[..., 2:4], robot[..., 4:6]
    assert not points.isnan().any()
    asked = (points - now).abs().amax((1, 2))
    assert (asked > 0.05).float().mean() > 0.9
    assert (points[:, 0] != now[:, 0]).any(-1).float().mean() > 0.5  # of what was before the clip


def test_data_without_labels_are_explained(config, tiny_videos, tiny_dataset, capsys):
    toy = yaml.safe_load(config.read_text())
    toy["data"]["init_args"]["datasets"][0]["action_free"] = True
    config.write_text(yaml.safe_dump(toy))
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "-c", str(config), *QUIET])
    assert stopped.value.code == 1
    assert "no reward, success or robot state" in capsys.readouterr().err


def test_another_autoencoder_is_explained(config, tmp_path, capsys):
    tiny_autoencoder(seed=1).save_pretrained(tmp_path / "other")
    with pytest.raises(SystemExit):
        main(["fit", "-c", str(config), "--data.init_args.autoencoder", str(tmp_path / "other")])
    assert "not the one that the world model was" in capsys.readouterr().err


def test_clips_that_are_no_blocks_are_explained(config, capsys):
    with pytest.raises(SystemExit):
        main(["fit", "-c", str(config), "--data.init_args.clip_frames", "12"])
    assert "Set data.clip_frames to 10" in capsys.readouterr().err


@pytest.mark.parametrize("missing", [("reward",), ("success",), ("state",), ("reward", "state")])
def test_what_is_not_recorded_is_not_trained(config, model_folder, tmp_path, missing):
    writer = DatasetWriter(tmp_path / "partial", FPS, crf=10)
    for seed in range(3):
        episode = moving_square(seed, 18)
        for name in missing:
            setattr(episode, name, None)
        writer.add(seed, episode, "test" if seed == 2 else "train")
    path = writer.finalize()
    toy = yaml.safe_load(config.read_text())
    toy["data"]["init_args"]["datasets"][0]["path"] = str(path)
    config.write_text(yaml.safe_dump(toy))
    main(["fit", "-c", str(config), *QUIET, "--trainer.max_steps", "1"])
    heads = WorldModel.from_pretrained(model_folder).heads
    assert heads is not None
    assert heads.config["has_reward"] == ("reward" not in missing)
    assert heads.config["has_success"] == ("success" not in missing)
    assert heads.state_dim == (0 if "state" in missing else 2)
    result = evaluate_heads(model_folder, path, split="train")
    for name in ("reward", "success", "state"):
        assert (name in result["whole_blocks"]) == (name not in missing), name


def test_one_batch_is_learned_by_heart():
    torch.manual_seed(0)
    heads = FrameHeads(width=32, frames=4, state_dim=2, channels=32, hidden=32)
    features, mask = torch.randn(16, 20, 32), torch.ones(16, 4, dtype=torch.bool)
    labels = FrameLabels(
        torch.randn(16, 4), mask, torch.rand(16, 4) < 0.3, mask, torch.randn(16, 4, 2), mask,
        torch.rand(16, 4), mask,
    )  # fmt: skip
    optimizer = torch.optim.AdamW(heads.parameters(), 5e-3)
    for _ in range(300):
        judged = heads.judge(features, (1, 4, 4))
        parts = heads_losses(judged, labels, torch.ones(5, 16), HeadsObjective(success_weight=1.0))
        optimizer.zero_grad()
        parts.total(HeadsObjective()).backward()
        optimizer.step()
    assert max(parts) < 0.02, parts


def chained(network, blocks, settings, seed=0):
    draws = RowDraws(torch.Generator().manual_seed(seed), len(blocks.anchor))
    return imagine_clips(network, blocks, settings, draws)


ONE_STEP = {"sampler_steps": [1], "sampler_shares": [1.0]}


@pytest.mark.parametrize("first_frame", [False, True])
def test_blocks_are_chained_as_in_a_rollout(build_network, blocks, first_frame):
    """The true errors that come out are those of a plain rollout with the same noise."""
    network = build_network(first_frame=first_frame)
    if first_frame:
        first = torch.randn(6, 1, 1, 1, 3, 4, 4).expand(-1, 2, -1, -1, -1, -1, -1)
        blocks = blocks._replace(anchor=torch.cat((first, blocks.anchor), dim=2))
    settings = HeadsRollouts(true_anchor=0.0, prefix=0.0, **ONE_STEP)
    imagined = chained(network, blocks, settings)
    draws = RowDraws(torch.Generator().manual_seed(0), 6)
    settings.draw_steps(draws)
    for _ in range(3):
        draws.uniform(2)
    frames = rollout(
        network,
        blocks.anchor[:, 0],
        blocks.actions.flatten(1, 2),
        8,
        draws.generator,
        action_mask=blocks.action_mask.flatten(1, 2),
    )
    error = (frames - blocks.latents.flatten(1, 2)).square().mean((2, 3, 4, 5)).sqrt()
    torch.testing.assert_close(imagined.error.flatten(1, 2), error)


def test_only_frames_behind_known_actions_are_known(network, blocks):
    whole = chained(network, blocks, HeadsRollouts(true_anchor=0.0, prefix=0.0, **ONE_STEP))
    assert whole.known[0].tolist() == [[True] * 4, [True, True, False, False]]
    assert whole.known[1].all()
    assert not whole.known[4:].any()
    begun = chained(network, blocks, HeadsRollouts(prefix=1.0, **ONE_STEP))
    assert begun.known[1:4, :, 0].all()
    assert not begun.known[:, :, 3].any()


def test_behind_true_anchors_a_block_is_a_single_one(network, blocks):
    settings = HeadsRollouts(true_anchor=1.0, prefix=0.0, **ONE_STEP)
    imagined = chained(network, blocks, settings)
    draws = RowDraws(torch.Generator().manual_seed(0), 6)
    settings.draw_steps(draws)
    for _ in range(3):
        draws.uniform(2)
    seed = draw_seeds(draws.generator, 6)
    noise = block_noise(network, blocks.anchor[:, 1], seed, torch.ones(6, dtype=torch.long))
    latents = forward_dynamics(
        network, blocks.anchor[:, 1], blocks.actions[:, 1], blocks.action_mask[:, 1], noise
    )
    error = (latents - blocks.latents[:, 1]).square().mean((2, 3, 4, 5)).sqrt()
    torch.testing.assert_close(imagined.error[:, 1], error)


def test_first_actions_alone_do_not_change_what_comes_after(network, blocks):
    """A block of which less was given is judged so, but the rollout goes on from the whole one."""
    anchors = {"true_anchor": 0.0, **ONE_STEP}
    whole = chained(network, blocks, HeadsRollouts(prefix=0.0, **anchors))
    half = chained(network, blocks, HeadsRollouts(prefix=0.5, **anchors))
    full = half.known.all(-1) | ~blocks.action_mask.all(-1)
    kept = full & blocks.action_mask.all(-1)
    assert kept.any()
    assert not kept[:4].all()
    torch.testing.assert_close(half.features[kept], whole.features[kept])
    begun = ~half.known.all(-1)
    begun[0] = begun[4:] = False  # rows with unknown actions of their own
    assert begun.any()
    for one, other in zip(half.features[begun], whole.features[begun], strict=True):
        assert not torch.allclose(one, other)


def test_a_model_with_memory_is_replayed_too(build_network, blocks):
    imagined = chained(build_network(history_blocks=1), blocks, HeadsRollouts())
    assert imagined.features.isfinite().all()


def test_sizes_that_cannot_be_are_named_before_any_data_are_read(config, capsys):
    for name, value, reason in (
        ("success_channels", 12, "success_channels=12 is not a multiple of 8"),
        ("channels", 18, "channels=18 is not a multiple of pools=4"),
    ):
        with pytest.raises(SystemExit):
            main(["fit", "-c", str(config), f"--model.sizes.{name}", str(value)])
        assert f"error: {reason}" in capsys.readouterr().err


def test_settings_that_cannot_be_are_named():
    with pytest.raises(ValueError, match="sampler_shares"):
        HeadsRollouts(sampler_steps=[1], sampler_shares=[0.5, 0.5])
    with pytest.raises(ValueError, match="true_anchor=2"):
        HeadsRollouts(true_anchor=2)


def test_masked_actions_leave_no_trace(network, blocks):
    spoilt = blocks.actions.masked_fill(~blocks.action_mask[..., None], float("nan"))
    settings = HeadsRollouts()
    one = chained(network, blocks, settings)
    other = chained(network, blocks._replace(actions=spoilt), settings)
    assert one.features.equal(other.features)
