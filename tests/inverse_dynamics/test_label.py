"""Labels belong to their frames, whatever the workers do; what was recorded is kept."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_action_models import SURE, EarlierIsSlower, PixelReader, StateReader
from tiny_autoencoders import tiny_autoencoder

from inverse_dynamics import label as label_module
from inverse_dynamics.estimate import decided
from inverse_dynamics.label import label
from inverse_dynamics.model import InverseDynamicsModel
from inverse_dynamics.network import ActionReader
from inverse_dynamics.staged_labels import LabelledCopy, LabelledVideos
from video.action_model import Estimate
from video.calibration import Calibration
from video.episodes import Episode, open_dataset
from video.errors import DatasetError
from video.front_door import run_commands
from video.simulators.processes import ProcessDied
from video.splits import keep_labels
from video.statistics import Normalizer
from video.video_file import write_video
from video.writer import DatasetWriter

LENGTHS = (6, 9, 7, 8, 6, 7)


def brightness(episode: int) -> np.ndarray:
    """Of each frame: tells the episode by its tens, the frame by its threes."""
    return 30 + 32 * episode + 3 * np.arange(LENGTHS[episode])


def frames_of(episode: int) -> np.ndarray:
    shape = (LENGTHS[episode], 16, 16, 3)
    return np.broadcast_to(brightness(episode)[:, None, None, None], shape).astype(np.uint8)


def episode_of(number: int) -> Episode:
    actions = np.full((LENGTHS[number], 2), [1.5, number], np.float32)
    return Episode(
        frames={"top": frames_of(number)},
        actions=actions,
        state=np.arange(LENGTHS[number], dtype=np.float32)[:, None],
        success=np.arange(LENGTHS[number]) == 3,
        task=f"task {number % 2}",
        notes={"policy": "expert", "seed": number},
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return PixelReader.save(tmp_path_factory.mktemp("model") / "reader")


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for number in range(len(LENGTHS)):
        write_video(folder / f"{number}.mp4", frames_of(number), 10.0, crf=1)
    return folder


@pytest.fixture(scope="module")
def native(tmp_path_factory) -> Path:
    """Recorded but for the last two training episodes; the sixth is held out."""
    writer = DatasetWriter(tmp_path_factory.mktemp("native") / "data", 10.0, crf=1)
    for number in range(len(LENGTHS)):
        content = episode_of(number)
        if number in (3, 4):
            content = replace(content, actions=None)
        writer.add(number, content, "test" if number == 5 else "train")
    return writer.finalize()


def assert_read(dataset, episode: int, number: int | None = None) -> None:
    """Every label is that of its own frame."""
    rows = slice(dataset.starts[episode], dataset.starts[episode] + dataset.lengths[episode])
    expected = brightness(episode if number is None else number) / 255
    columns = {name: values[rows] for name, values in dataset.columns.items()}
    np.testing.assert_allclose(columns["actions"][:-1, 0], 2 * expected[:-1], atol=0.01)
    np.testing.assert_allclose(columns["actions"][:-1, 1], 2.5, atol=1e-5)  # -0.5 in 0 .. 10
    np.testing.assert_allclose(
        columns["action_spread"][:-1], [[2 * SURE, 5 * SURE]] * len(expected[1:]), rtol=1e-3
    )
    assert columns["action_source"].tolist() == [2] * (len(expected) - 1) + [0]
    assert columns["action_mask"].tolist() == [True] * (len(expected) - 1) + [False]
    assert not columns["actions"][-1].any()


@pytest.mark.parametrize("source", ["videos", "native"])
def test_labels_stay_with_their_frames_when_workers_finish_out_of_order(
    request, source, model, tmp_path, monkeypatch
):
    monkeypatch.setattr(label_module, "DecodeEpisode", EarlierIsSlower)
    order = []
    for sink in (LabelledCopy, LabelledVideos):

        def add(self, episode, *rest, _add=sink.add):
            order.append(episode)
            _add(self, episode, *rest)

        monkeypatch.setattr(sink, "add", add)
    folder = request.getfixturevalue(source)
    out = label(model, folder, tmp_path / "out", relabel=True, workers=3, crf=1)
    assert sorted(order) == list(range(6))
    assert order != sorted(order)  # otherwise this shows nothing
    dataset = open_dataset(out)
    for episode in range(6):
        assert_read(dataset, episode)
        shown = dataset.read_frames(episode, np.arange(LENGTHS[episode]), "top")
        assert np.abs(shown.mean((1, 2, 3)) - brightness(episode)).max() < 3


def test_recorded_actions_are_kept_and_the_others_read(native, model, tmp_path):
    out = label(model, native, tmp_path / "out", workers=0)
    before, after = open_dataset(native), open_dataset(out)
    for name in ("state", "success"):
        np.testing.assert_array_equal(before.columns[name], after.columns[name], strict=True)
    assert after.tasks == before.tasks
    assert {k: v.tolist() for k, v in after.splits.items()} == {
        "train": [0, 1, 2, 3, 4],
        "test": [5],
    }
    for episode in (3, 4):
        assert_read(after, episode)
        assert after.notes[episode]["labelled_by"] == "reader:0123456789abcdef"
        assert after.notes[episode]["seed"] == episode
    for episode in (0, 1, 2, 5):
        rows = slice(after.starts[episode], after.starts[episode] + LENGTHS[episode])
        np.testing.assert_array_equal(after.columns["actions"][rows], episode_of(episode).actions)
        assert not after.columns["action_spread"][rows].any()
        assert set(after.columns["action_source"][rows].tolist()) == {1}
        assert after.notes[episode]["labelled_by"] == ""
    video = "videos/observation.images.top/chunk-000/file-000.mp4"
    assert (native / video).read_bytes() == (out / video).read_bytes()
    info = json.loads((out / "meta/info.json").read_text())
    assert info["features"]["action_source"] == {"dtype": "int8", "shape": [1], "names": None}
    statistics = json.loads((out / "meta/stats.json").read_text())
    np.testing.assert_allclose(
        statistics["action"]["mean"], after.columns["actions"].mean(0), rtol=1e-5
    )


def test_a_share_of_the_labels_is_that_of_training(native, model, tmp_path):
    out = open_dataset(label(model, native, tmp_path / "out", labels=0.4, seed=1, workers=0))
    kept = set(keep_labels(np.arange(5), 0.4, seed=1).tolist()) - {3, 4}  # those have none
    firsts = out.columns["action_source"][out.starts]
    assert {e for e in range(6) if firsts[e] == 1} == kept | {5}  # the held-out one keeps its own
    for episode in set(range(5)) - kept:
        assert_read(out, episode)


@pytest.mark.parametrize("source", ["videos", "native"])
def test_a_state_that_is_not_there_is_read(request, source, tmp_path, monkeypatch):
    """Of video that has none, and of episodes whose labels are concealed; recorded ones stay."""
    model = StateReader.save(tmp_path / "teller")
    folder = request.getfixturevalue(source)
    concealed = {} if source == "videos" else {"labels": 0.4, "seed": 1}
    out = open_dataset(label(model, folder, tmp_path / "out", **concealed, workers=0, crf=1))
    kept = {5, *keep_labels(np.arange(5), 0.4, seed=1)} if concealed else set()
    assert 0 < len(kept) < 6 or not concealed
    for episode in range(6):
        states = out.columns["state"][out.starts[episode] :][: LENGTHS[episode], 0]
        if episode in kept:
            assert states.tolist() == list(range(LENGTHS[episode]))
            assert out.notes[episode].get("state_read_by") is None
        else:
            np.testing.assert_allclose(states, brightness(episode) / 2.55, atol=0.6)
            assert out.notes[episode]["state_read_by"] == "teller:0123456789abcdef"
    statistics = json.loads((tmp_path / "out/meta/stats.json").read_text())["observation.state"]
    np.testing.assert_allclose(statistics["max"], out.columns["state"].max(0), rtol=1e-5)
    again = label(model, tmp_path / "out", tmp_path / "again", relabel=True, workers=0)
    assert open_dataset(again).columns["state"].tolist() == out.columns["state"].tolist()


def test_a_state_is_read_of_recorded_actions_too(tmp_path):
    writer = DatasetWriter(tmp_path / "data", 10.0, crf=1)
    lone = Episode(frames={"top": frames_of(0)[:1]}, actions=np.ones((1, 2), np.float32))
    for number, content in enumerate((replace(episode_of(1), state=None, success=None), lone)):
        writer.add(number, content)
    model = StateReader.save(tmp_path / "teller")
    out = open_dataset(label(model, writer.finalize(), tmp_path / "out", workers=0))
    assert set(out.columns["action_source"].tolist()) == {1}
    first = out.columns["state"][out.starts[0] :][: LENGTHS[1], 0]
    np.testing.assert_allclose(first, brightness(1) / 2.55, atol=0.6)
    assert out.columns["state"][out.starts[1]] == 0  # a single frame cannot be read


def test_unsure_steps_stay_unlabelled(model, tmp_path):
    marked = frames_of(1).copy()
    marked[[2, 5], :4, :4, 0] = 255
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "one.mp4", marked, 10.0, crf=1, full_color=True)
    dataset = open_dataset(label(model, tmp_path / "videos", tmp_path / "out", workers=0))
    unknown = [False, False, True, False, False, True, False, False, True]
    assert (dataset.columns["action_source"] == 0).tolist() == unknown
    assert not dataset.columns["actions"][unknown].any()
    assert not dataset.columns["action_spread"][unknown].any()
    every = label(model, tmp_path / "videos", tmp_path / "every", threshold=1.0, workers=0)
    assert open_dataset(every).columns["action_mask"].tolist() == [True] * 8 + [False]


@pytest.mark.parametrize("source", ["videos", "native"])
def test_killed_and_started_again(request, source, model, tmp_path, monkeypatch):
    folder = request.getfixturevalue(source)
    whole = open_dataset(label(model, folder, tmp_path / "whole", relabel=True, workers=0))

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        read = label_module.read_missing
        calls = iter(range(100))

        def read_three(*arguments):
            if next(calls) == 3:
                killed()
            return read(*arguments)

        patched.setattr(label_module, "read_missing", read_three)
        with pytest.raises(KeyboardInterrupt):
            label(model, folder, tmp_path / "out", relabel=True, workers=0)
        assert next(calls) == 4
    with pytest.raises(DatasetError, match="unfinished recording"):
        open_dataset(tmp_path / "out")
    with pytest.raises(DatasetError, match=r"threshold was 0\.75 and is 0\.5"):
        label(model, folder, tmp_path / "out", threshold=0.5, relabel=True, workers=0)
    other = Path(shutil.copytree(model, tmp_path / "other"))
    Calibration((0.9,), torch.full((1, 2), 3.0), 7).save(other)
    with pytest.raises(DatasetError, match=r"calibration was '[0-9a-f]{16}' and is"):
        label(other, folder, tmp_path / "out", relabel=True, workers=0)
    with monkeypatch.context() as patched:
        left = []
        read = label_module.read_missing
        patched.setattr(label_module, "read_missing", lambda *a: left.append(0) or read(*a))
        label(model, folder, tmp_path / "out", relabel=True, workers=0)
    assert len(left) == 3, "what is on disk is not read again"
    again = open_dataset(tmp_path / "out")
    assert not (tmp_path / "out" / ".staging").exists()
    for name, values in whole.columns.items():
        np.testing.assert_array_equal(again.columns[name], values, strict=True)
    assert label(model, folder, tmp_path / "out", relabel=True, workers=0) == tmp_path / "out"
    with pytest.raises(DatasetError, match="relabel was True and is False"):
        label(model, folder, tmp_path / "out", workers=0)


def test_labels_are_the_same_to_the_last_bit(tiny_dataset, tmp_path):
    torch.manual_seed(0)
    network = ActionReader([1, 4, 8, 8], ["number", "number"], 0, 16, 1, 2, 4)
    torch.nn.init.normal_(network.read_actions.weight)
    reader = InverseDynamicsModel(
        network=network.eval(),
        autoencoder=tiny_autoencoder(),
        fps=10.0,
        cameras=("top",),
        frame_size=(32, 32),
        window=5,
        action_normalizer=Normalizer(-np.ones(2), np.ones(2)),
        action_names=("x", "y"),
        calibration=Calibration((0.9,), torch.ones(1, 2), 100),
    )
    reader.save_pretrained(tmp_path / "model")
    options = {"relabel": True, "threshold": 100.0}
    alone, together = (
        open_dataset(
            label(tmp_path / "model", tiny_dataset, tmp_path / str(n), workers=n, **options)
        )
        for n in (0, 2)
    )
    for name in ("actions", "action_spread", "action_mask", "action_source"):
        np.testing.assert_array_equal(alone.columns[name], together.columns[name], strict=True)
    frames = alone.read_frames(2, np.arange(18), "top").transpose(0, 3, 1, 2)[:, None]
    expected = (
        reader.read(reader.encode(torch.from_numpy(frames.copy()))[None]).mean[0].clamp(-1, 1)
    )
    first = alone.starts[2]
    assert alone.columns["action_mask"][first : first + 17].all()
    np.testing.assert_array_equal(alone.columns["actions"][first : first + 17], expected.numpy())


def test_damaged_episodes_are_left_out(videos, model, tmp_path):
    folder = Path(shutil.copytree(videos, tmp_path / "videos"))
    file = folder / "2.mp4"
    content = bytearray(file.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    file.write_bytes(content)
    out = open_dataset(label(model, folder, tmp_path / "out", workers=0))
    assert len(out.lengths) == 5
    for episode, number in enumerate((0, 1, 3, 4, 5)):
        assert_read(out, episode, number)


def test_damaged_video_costs_no_recorded_action(native, model, tmp_path, monkeypatch, capsys):
    class Damaged(label_module.DecodeEpisode):
        def __call__(self, episode):
            if episode == 1:
                raise DatasetError("its video is damaged")
            return super().__call__(episode)

    monkeypatch.setattr(label_module, "DecodeEpisode", Damaged)
    monkeypatch.setattr(label_module, "run_jobs", _in_order)
    out = open_dataset(label(model, native, tmp_path / "out", workers=1))
    rows = slice(out.starts[1], out.starts[1] + LENGTHS[1])
    np.testing.assert_array_equal(out.columns["actions"][rows], episode_of(1).actions)
    assert not out.columns["action_mask"][out.starts[3]]
    assert_read(out, 4)
    printed = capsys.readouterr().out
    assert "4 of 6 episodes" in printed
    assert "skipped episode 3: the process died" in printed


def _in_order(function, jobs, workers):
    """As `run_jobs`, with a job that dies."""
    for job in jobs:
        if job == 3:
            yield job, ProcessDied("the process died with exit code 9")
            continue
        try:
            yield job, function(job)
        except DatasetError as error:
            yield job, error


def test_a_gripper_is_open_or_closed():
    mean = torch.tensor([[0.25, 0.96], [0.25, -0.5]])
    found = decided(Estimate(mean, torch.full((2, 2), 0.3)), ["number", "binary"])
    assert found.mean.tolist() == [[0.25, 1.0], [0.25, -1.0]]
    # wrong with probability 0.02 and 0.25, and then by 2
    torch.testing.assert_close(found.spread, torch.tensor([[0.3, 0.28284], [0.3, 1.0]]))


def test_what_cannot_be_labelled_is_refused(videos, native, model, tmp_path, capsys):
    raw = PixelReader.save(tmp_path / "raw", calibrated=False)
    with pytest.raises(DatasetError, match=f"inverse_dynamics calibrate {raw}"):
        label(raw, videos, tmp_path / "out")
    with pytest.raises(DatasetError, match="--workers -1"):
        label(model, videos, tmp_path / "out", workers=-1)
    assert not (tmp_path / "out").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(DatasetError, match="is not empty"):
        label(model, videos, tmp_path / "full")
    with pytest.raises(DatasetError, match="no episodes in split 'expert'"):
        label(model, native, tmp_path / "out", labels=0.5, split="expert")
    commands = ["inverse_dynamics.label.label"]
    with pytest.raises(SystemExit, match="1"):
        run_commands(commands, "x", ["label", str(tmp_path), str(videos), str(tmp_path / "out")])
    assert "no action model" in capsys.readouterr().err
