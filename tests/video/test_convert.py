import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from video import convert as convert_module
from video.convert import convert
from video.episodes import open_dataset
from video.errors import DatasetError
from video.import_zarr import open_zarr

h5py = pytest.importorskip("h5py")
zarr = pytest.importorskip("zarr")

LENGTHS = (12, 9, 11)


def smooth(generator: np.random.Generator, length: int, size: int = 32) -> np.ndarray:
    """Frames that a codec keeps well."""
    x, y = np.meshgrid(np.linspace(0, 2, size), np.linspace(0, 2, size))
    phase = generator.uniform(0, 6) + np.arange(length)[:, None, None] / 4
    waves = [np.sin(x + phase), np.sin(y + phase), np.cos(x - phase)]
    return np.rint(127 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)


def robomimic_file(path: Path, env_args: dict, cameras: dict[str, str]) -> list[dict]:
    """Episodes as robomimic stores them; returns what is in the file."""
    episodes = []
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps(env_args)
        for number, length in enumerate(LENGTHS):
            generator = np.random.default_rng(number)
            group = data.create_group(f"demo_{number + 8}")
            content = {
                "actions": generator.normal(size=(length, 7)),
                "rewards": (np.arange(length) == length - 1).astype(np.float64) * (number < 2),
                "dones": np.arange(length) == length - 1,
                "obs/robot0_eef_pos": generator.normal(size=(length, 3)),
                "obs/robot0_eef_quat": generator.normal(size=(length, 4)),
                "obs/object": generator.normal(size=(length, 10)),
                "obs/robot0_joint_vel": generator.normal(size=(length, 7)),
            }
            content |= {f"obs/{key}": smooth(generator, length) for key in cameras}
            content["obs/agentview_depth"] = np.zeros((length, 32, 32, 1), np.float32)
            for name, array in content.items():
                group[name] = array
            episodes.append(content)
        file["mask/train"] = np.array([b"demo_8", b"demo_10"])
        file["mask/valid"] = np.array([b"demo_9"])
    return episodes


def assert_frames(found: np.ndarray, expected: np.ndarray) -> None:
    assert np.abs(found.astype(float) - expected).mean() < 4


def test_robomimic(tmp_path, capsys):
    source = tmp_path / "lift.hdf5"
    cameras = {
        "agentview_image": "agentview",
        "robot0_eye_in_hand_image": "robot0_eye_in_hand",
    }
    env_args = {"env_name": "Lift", "env_kwargs": {"control_freq": 20}}
    written = robomimic_file(source, env_args, cameras)
    dataset = open_dataset(convert(source, tmp_path / "out"))
    assert "3 of 3 episodes converted" in capsys.readouterr().out
    assert dataset.fps == 20
    assert dataset.cameras == ("agentview", "robot0_eye_in_hand")
    assert dataset.tasks == ["Lift"] * 3
    assert [note["source"] for note in dataset.notes] == ["demo_8", "demo_10", "demo_9"]
    assert {name: list(value) for name, value in dataset.splits.items()} == {
        "train": [0, 1],
        "valid": [2],
    }
    for number, content in enumerate([written[0], written[2], written[1]]):
        rows = slice(dataset.starts[number], dataset.starts[number] + dataset.lengths[number])
        columns = {name: array[rows] for name, array in dataset.columns.items()}
        felt = [content["obs/robot0_eef_pos"], content["obs/robot0_eef_quat"]]
        expected = {
            "actions": content["actions"],
            "state": np.concatenate(felt, axis=1),
            "environment_state": content["obs/object"],
            "reward": content["rewards"],
        }
        for name, array in expected.items():
            np.testing.assert_array_equal(columns[name], array.astype(np.float32), strict=True)
        np.testing.assert_array_equal(columns["success"], content["rewards"] > 0)
        indices = np.arange(dataset.lengths[number])
        for key, camera in cameras.items():
            assert_frames(dataset.read_frames(number, indices, camera), content[f"obs/{key}"])


def test_a_folder_of_libero_files(tmp_path):
    folder = tmp_path / "libero"
    folder.mkdir()
    for name in ("open the drawer", "close the drawer"):
        with h5py.File(folder / f"{name.replace(' ', '_')}_demo.hdf5", "w") as file:
            data = file.create_group("data")
            data.attrs["env_args"] = json.dumps({"env_kwargs": {"control_freq": 20}})
            data.attrs["problem_info"] = json.dumps({"language_instruction": [*name.split()]})
            for number in range(2):
                generator = np.random.default_rng(number)
                group = data.create_group(f"demo_{number}")
                group["actions"] = generator.normal(size=(6, 7))
                group["rewards"] = np.zeros(6, np.uint8)
                group["obs/agentview_rgb"] = smooth(generator, 6)
                group["obs/eye_in_hand_rgb"] = smooth(generator, 6)
                group["obs/ee_pos"] = generator.normal(size=(6, 3))
                group["obs/ee_ori"] = generator.normal(size=(6, 3))
                group["obs/ee_states"] = generator.normal(size=(6, 6))
                group["obs/gripper_states"] = generator.normal(size=(6, 2))
    dataset = open_dataset(convert(folder, tmp_path / "out"))
    assert dataset.tasks == ["close the drawer"] * 2 + ["open the drawer"] * 2
    assert dataset.cameras == ("agentview", "eye_in_hand")
    assert dataset.columns["state"].shape == (24, 8)
    assert not dataset.columns["success"].any()


def replay_buffer(path: Path, floats: bool, state: bool = True) -> dict[str, np.ndarray]:
    """A zarr store as Diffusion Policy writes it."""
    total = sum(LENGTHS)
    generator = np.random.default_rng(0)
    content = {
        "img": smooth(generator, total).astype(np.float32 if floats else np.uint8),
        "action": generator.normal(size=(total, 2)).astype(np.float32),
        "keypoint": generator.normal(size=(total, 9, 2)).astype(np.float32),
    }
    if state:
        content["state"] = generator.normal(size=(total, 5)).astype(np.float32)
    else:
        content["robot0_eef_pos"] = generator.normal(size=(total, 3)).astype(np.float32)
        content["robot0_gripper_width"] = generator.normal(size=(total, 1)).astype(np.float32)
    root = zarr.open_group(str(path), mode="w")
    for name, array in content.items():
        root.create_dataset(f"data/{name}", data=array, chunks=(7, *array.shape[1:]))
    root.create_dataset("meta/episode_ends", data=np.cumsum(LENGTHS))
    return content


@pytest.mark.parametrize("floats", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_diffusion_policy_zarr(tmp_path, floats, packed):
    source = tmp_path / "pusht.zarr"
    written = replay_buffer(source, floats)
    if packed:
        source = Path(shutil.make_archive(str(source), "zip", source))
    dataset = open_dataset(convert(source, tmp_path / "out", fps=10.0))
    assert dataset.fps == 10
    assert dataset.cameras == ("img",)
    assert dataset.tasks == ["pusht"] * 3
    assert tuple(dataset.lengths) == LENGTHS
    np.testing.assert_array_equal(dataset.columns["actions"], written["action"], strict=True)
    np.testing.assert_array_equal(dataset.columns["state"], written["state"], strict=True)
    assert_frames(dataset.read_frames(1, np.arange(9), "img"), written["img"][12:21])


def test_zarr_in_a_folder_inside_the_zip_file(tmp_path):
    replay_buffer(tmp_path / "inner" / "pusht.zarr", floats=False, state=False)
    packed = Path(shutil.make_archive(str(tmp_path / "pusht.zarr"), "zip", tmp_path / "inner"))
    dataset = open_dataset(convert(packed, tmp_path / "out", fps=10.0, task="push"))
    assert dataset.tasks == ["push"] * 3
    assert dataset.columns["state"].shape == (sum(LENGTHS), 4)


def test_pictures_between_0_and_1_and_channels_first(tmp_path):
    written = replay_buffer(tmp_path / "a.zarr", floats=False)
    root = zarr.open_group(str(tmp_path / "a.zarr"))
    del root["data/img"]
    root.create_dataset("data/img", data=written["img"].transpose(0, 3, 1, 2) / 255.0)
    dataset = open_dataset(convert(tmp_path / "a.zarr", tmp_path / "out", fps=10.0))
    assert_frames(dataset.read_frames(0, np.arange(12), "img"), written["img"][:12])


def test_an_unknown_frame_rate_is_asked_for(tmp_path):
    replay_buffer(tmp_path / "a.zarr", floats=False)
    with pytest.raises(DatasetError, match=r"a\.zarr does not say one frame rate\. Pass --fps"):
        convert(tmp_path / "a.zarr", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damaged_episodes_are_named_and_skipped(tmp_path, capsys):
    source = tmp_path / "lift.hdf5"
    robomimic_file(source, {"env_kwargs": {"control_freq": 20}}, {"agentview_image": ""})
    with h5py.File(source, "a") as file:
        del file["data/demo_8/actions"]
        short = file["data/demo_9/actions"][:-1]
        del file["data/demo_9/actions"]
        file["data/demo_9/actions"] = short
    dataset = open_dataset(convert(source, tmp_path / "out"))
    assert tuple(dataset.lengths) == (11,)
    printed = capsys.readouterr()
    assert "1 of 3 episodes converted" in printed.out
    assert f"skipped {source}, demo_8: damaged" in printed.err
    assert f"skipped {source}, demo_9" in printed.err
    assert "actions has shape (8, 7), not (T, D) with T = 9 frames" in printed.err


def test_nothing_to_convert_is_an_error(tmp_path):
    with pytest.raises(DatasetError, match=r"none\.hdf5 does not exist"):
        convert(tmp_path / "none.hdf5", tmp_path / "out")
    with pytest.raises(DatasetError, match=r"no \.hdf5 or \.h5 file, and is no zarr\..* as it is"):
        convert(tmp_path, tmp_path / "out")
    (tmp_path / "text.hdf5").write_text("no hdf5")
    with pytest.raises(DatasetError, match=r"text\.hdf5 cannot be read"):
        convert(tmp_path / "text.hdf5", tmp_path / "out")
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        file["numbers"] = np.arange(3)
    with pytest.raises(DatasetError, match="no group 'data': not a robomimic or LIBERO file"):
        convert(tmp_path / "other.hdf5", tmp_path / "out")
    with h5py.File(tmp_path / "hollow.hdf5", "w") as file:
        file.create_group("data")
    with pytest.raises(DatasetError, match=r"hollow\.hdf5 holds no episode"):
        convert(tmp_path / "hollow.hdf5", tmp_path / "out")


def test_robomimic_files_without_pictures_say_what_to_do(tmp_path):
    source = tmp_path / "low_dim.hdf5"
    robomimic_file(source, {"env_kwargs": {"control_freq": 20}}, {})
    with pytest.raises(
        DatasetError, match=r"no episode could be converted(.|\n)*no pictures among"
    ):
        convert(source, tmp_path / "out")


def test_other_zarr_stores_are_refused(tmp_path):
    (tmp_path / "bad.zarr.zip").write_bytes(b"no zip")
    with pytest.raises(DatasetError, match=r"bad\.zarr\.zip is not a zarr store"):
        open_zarr(tmp_path / "bad.zarr.zip")
    zarr.open_group(str(tmp_path / "other.zarr"), mode="w").create_dataset("x", data=np.arange(3))
    with pytest.raises(DatasetError, match="no 'data' and 'meta/episode_ends'"):
        open_zarr(tmp_path / "other.zarr")
    replay_buffer(tmp_path / "short.zarr", floats=False)
    root = zarr.open_group(str(tmp_path / "short.zarr"))
    root["data/action"].resize(30, 2)
    with pytest.raises(DatasetError, match=r"goes to row 32, but data has \{'action': 30\}"):
        open_zarr(tmp_path / "short.zarr")


def test_an_unknown_compression_is_named(tmp_path):
    replay_buffer(tmp_path / "umi.zarr", floats=False)
    header = tmp_path / "umi.zarr/data/img/.zarray"
    content = json.loads(header.read_text()) | {"compressor": {"id": "jpegxl"}}
    header.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"umi\.zarr cannot be read: .*jpegxl"):
        open_zarr(tmp_path / "umi.zarr")


def test_an_interrupted_conversion_goes_on(tmp_path, monkeypatch):
    source = tmp_path / "pusht.zarr"
    replay_buffer(source, floats=False)
    added: list[int] = []

    class Interrupted(convert_module.DatasetWriter):
        def add(self, episode_id, episode, split="train"):
            if len(added) == 2:
                raise KeyboardInterrupt
            super().add(episode_id, episode, split)
            added.append(episode_id)

    with monkeypatch.context() as patch:
        patch.setattr(convert_module, "DatasetWriter", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            convert(source, tmp_path / "out", fps=10.0)
    assert added == [0, 1]
    loaded: list[str] = []

    class Noting(convert_module.DatasetWriter):
        def add(self, episode_id, episode, split="train"):
            loaded.append(episode_id)
            super().add(episode_id, episode, split)

    monkeypatch.setattr(convert_module, "DatasetWriter", Noting)
    dataset = open_dataset(convert(source, tmp_path / "out", fps=10.0))
    assert loaded == [2]
    assert tuple(dataset.lengths) == LENGTHS
    convert(source, tmp_path / "out", fps=10.0)
    assert loaded == [2]
    with pytest.raises(DatasetError, match=r"fps was 10\.0, is now 20\.0"):
        convert(source, tmp_path / "out", fps=20.0)
    shutil.copytree(source, tmp_path / "other.zarr")
    with pytest.raises(DatasetError, match=r"source was .*pusht\.zarr, is now .*other\.zarr"):
        convert(tmp_path / "other.zarr", tmp_path / "out", fps=10.0)
