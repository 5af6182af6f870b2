import errno
import json
import logging
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_autoencoders import tiny_autoencoder

from video.autoencoder import FrameAutoencoder
from video.episodes import open_dataset
from video.errors import DatasetError
from video.latents import encode, encode_dataset, find_latents, latents_folder
from video.resizing import resize_frames

SIZE = (32, 32)


@pytest.fixture
def dataset(tiny_dataset):
    return open_dataset(tiny_dataset)


def test_stored_latents_are_those_of_every_frame(dataset, tmp_path):
    autoencoder = tiny_autoencoder()
    folder = encode_dataset(dataset, autoencoder, out=tmp_path, progress=False)
    assert folder == tmp_path / f"{autoencoder.fingerprint}-32x32"
    (stored,) = find_latents(dataset, autoencoder, SIZE, ("top",), tmp_path)
    assert stored.dtype == np.float16
    assert stored.shape == (sum(dataset.lengths), 4, 8, 8)
    for episode in (0, 3):
        frames = dataset.read_frames(episode, np.arange(dataset.lengths[episode]), "top")
        expected = autoencoder.encode(torch.from_numpy(resize_frames(frames, SIZE)))
        rows = dataset.starts[episode] + np.arange(dataset.lengths[episode])
        torch.testing.assert_close(
            torch.from_numpy(stored[rows]).float(), expected, atol=1e-3, rtol=1e-3
        )
    assert len(pickle.dumps(stored)) < 1000
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(stored))[rows], stored[rows])


def test_a_stopped_encoding_goes_on_where_it_was(dataset, tmp_path, monkeypatch):
    autoencoder = tiny_autoencoder()
    whole = encode_dataset(dataset, autoencoder, out=tmp_path / "whole", progress=False)
    monkeypatch.setattr("video.latents.SECONDS_BETWEEN_SAVES", 0.0)
    read_frames = type(dataset).read_frames
    decoded: list[int] = []

    def read_until_third(self, episode, indices, camera):
        if episode == 2 and len(decoded) == 2:
            raise KeyboardInterrupt
        decoded.append(episode)
        return read_frames(self, episode, indices, camera)

    monkeypatch.setattr(type(dataset), "read_frames", read_until_third)
    with pytest.raises(KeyboardInterrupt):
        encode_dataset(dataset, autoencoder, out=tmp_path / "part", progress=False)
    assert find_latents(dataset, autoencoder, SIZE, ("top",), tmp_path / "part") is None
    decoded.append(-1)
    part = encode_dataset(dataset, autoencoder, out=tmp_path / "part", progress=False)
    assert decoded == [0, 1, -1, 2, 3]
    assert sorted(path.name for path in part.iterdir()) == ["top.json", "top.npy"]
    assert (part / "top.npy").read_bytes() == (whole / "top.npy").read_bytes()
    encode_dataset(dataset, autoencoder, out=tmp_path / "part", progress=False)
    assert decoded == [0, 1, -1, 2, 3]


def test_several_that_want_the_same_latents_encode_them_once(dataset, tmp_path, monkeypatch):
    autoencoder = tiny_autoencoder()
    whole = encode_dataset(dataset, autoencoder, out=tmp_path / "whole", progress=False)
    read_frames = type(dataset).read_frames
    decoded: list[int] = []

    def noted(self, episode, indices, camera):
        decoded.append(episode)
        return read_frames(self, episode, indices, camera)

    monkeypatch.setattr(type(dataset), "read_frames", noted)
    with ThreadPoolExecutor(3) as pool:
        wanted = [
            pool.submit(encode_dataset, dataset, autoencoder, out=tmp_path / "o", progress=False)
            for _ in range(3)
        ]
    folders = {each.result() for each in wanted}
    assert decoded == list(range(len(dataset.lengths)))
    (folder,) = folders
    assert (folder / "top.npy").read_bytes() == (whole / "top.npy").read_bytes()


def test_latents_of_something_else_are_named_and_not_used(dataset, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    old, new = tiny_autoencoder(0), tiny_autoencoder(1)
    assert find_latents(dataset, old, SIZE, ("top",), tmp_path) is None
    assert not caplog.records
    folder = encode_dataset(dataset, old, out=tmp_path, progress=False)
    assert find_latents(dataset, new, SIZE, ("top",), tmp_path) is None
    assert f"{old.fingerprint}-32x32" in caplog.text
    assert find_latents(dataset, old, (16, 16), ("top",), tmp_path) is None
    dataset.fingerprint = "other data"
    assert find_latents(dataset, old, SIZE, ("top",), tmp_path) is None
    encode_dataset(dataset, old, out=tmp_path, progress=False)
    assert json.loads((folder / "top.json").read_text())["dataset"] == "other data"
    assert find_latents(dataset, old, SIZE, ("top",), tmp_path) is not None


def test_a_partial_encoding_of_other_data_is_begun_anew(dataset, tmp_path):
    autoencoder = tiny_autoencoder()
    folder = latents_folder(dataset, autoencoder, SIZE, tmp_path)
    folder.mkdir()
    (folder / "top.partial").write_bytes(b"rubbish")
    (folder / "top.partial.json").write_text(json.dumps({"description": {}, "episodes": 3}))
    encode_dataset(dataset, autoencoder, out=tmp_path, progress=False)
    (stored,) = find_latents(dataset, autoencoder, SIZE, ("top",), tmp_path)
    assert np.abs(stored[np.arange(20)]).max() > 0


def test_a_folder_that_cannot_be_written_names_the_way_out(dataset, tmp_path):
    (tmp_path / "latents").write_text("in the way")
    with pytest.raises(DatasetError, match=r"cannot write latents to .*--out FOLDER"):
        encode_dataset(dataset, tiny_autoencoder(), out=tmp_path / "latents", progress=False)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's always full device")
def test_a_full_disk_is_an_error_that_says_so(dataset, tmp_path):
    autoencoder = tiny_autoencoder()
    folder = latents_folder(dataset, autoencoder, SIZE, tmp_path)
    folder.mkdir()
    (folder / "top.partial").symlink_to("/dev/full")
    with pytest.raises(DatasetError, match=r"cannot write latents .*No space left") as caught:
        encode_dataset(dataset, autoencoder, out=tmp_path, progress=False)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC


def test_no_such_camera(dataset):
    with pytest.raises(DatasetError, match=r"no \['wrist'\], its cameras: \('top',\)"):
        encode_dataset(dataset, tiny_autoencoder(), cameras=("wrist",), progress=False)


def test_command_measures_missing_statistics_and_keeps_them(tiny_dataset, tmp_path, capsys):
    folder = tmp_path / "autoencoder"
    FrameAutoencoder(tiny_autoencoder().network, 4).save_pretrained(folder)
    encode(tiny_dataset, folder, size=(16, 16), out=tmp_path / "latents", device="cpu")
    measured = FrameAutoencoder.from_pretrained(folder)
    assert measured.mean is not None
    stored = np.load(next((tmp_path / "latents").glob("*-16x16/top.npy")))
    assert np.abs(stored.astype(np.float32).mean((0, 2, 3))).max() < 0.1
    assert np.abs(stored.astype(np.float32).std((0, 2, 3)) - 1).max() < 0.1
    assert f"latents in {tmp_path}/latents/{measured.fingerprint}-16x16" in capsys.readouterr().out
