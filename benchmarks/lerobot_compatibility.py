"""Does the real lerobot package read what `DatasetWriter` writes, and the other way round?

Installs lerobot into a virtual environment of its own (its pins want an older torch; about 8 GB),
writes a small dataset here, loads it there with `LeRobotDataset`, and compares every frame, action,
state and label. Then lerobot records a dataset with its own encoder (AV1) and pictures in parquet,
and it is read here. Prints one JSON line, and fails where anything differs.

    python benchmarks/lerobot_compatibility.py --venv runs/lerobot-venv
"""

import argparse
import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import numpy as np

from video.episodes import Episode, open_dataset
from video.lerobot_format import READ, RECORDED, UNKNOWN
from video.writer import DatasetWriter

LEROBOT = "lerobot==0.4.*"
FPS = 20.0
LENGTHS = (33, 40, 1, 36)
BOUND_PSNR = 30.0

# Runs inside lerobot's environment and hands over what it read as arrays. Torchcodec, lerobot's
# first choice, needs FFmpeg's shared libraries on the system; PyAV brings its own.
READER = """
import sys
import lerobot, numpy as np, torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset

root, out = sys.argv[1:]
dataset = LeRobotDataset("local/check", root=root, video_backend="pyav")
items = [dataset[index] for index in range(len(dataset))]
arrays = {
    key: np.stack([np.asarray(item[key]) for item in items]) for key in items[0] if key != "task"
}
windows = LeRobotDataset(
    "local/check",
    root=root,
    video_backend="pyav",
    delta_timestamps={key: [0.0, 0.05] for key in ("observation.images.top", "action")},
)
arrays["window"] = np.stack([np.asarray(windows[i]["observation.images.top"]) for i in range(5)])
np.savez(
    out,
    tasks=np.array([item["task"] for item in items]),
    episodes=dataset.num_episodes,
    mean=dataset.meta.stats["action"]["mean"],
    versions=np.array([lerobot.__version__, torch.__version__]),
    **arrays,
)
"""

# Runs there too: records with lerobot itself, one camera as video and one as pictures.
RECORDER = """
import sys
import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

source, root = sys.argv[1:]
with np.load(source) as file:
    data = dict(file)
axes = ["height", "width", "channels"]
features = {
    "observation.images.top": {"dtype": "video", "shape": data["top"].shape[1:], "names": axes},
    "observation.images.wrist": {"dtype": "image", "shape": data["wrist"].shape[1:], "names": axes},
    "action": {"dtype": "float32", "shape": (4,), "names": list("abcd")},
    "observation.state": {"dtype": "float32", "shape": (3,), "names": list("xyz")},
    "next.reward": {"dtype": "float32", "shape": (1,), "names": None},
    "next.success": {"dtype": "bool", "shape": (1,), "names": None},
}
dataset = LeRobotDataset.create("local/check", fps=20, features=features, root=root)
for t in range(len(data["top"])):
    dataset.add_frame({
        "observation.images.top": data["top"][t],
        "observation.images.wrist": data["wrist"][t],
        "action": data["actions"][t],
        "observation.state": data["state"][t],
        "next.reward": data["reward"][t : t + 1],
        "next.success": data["success"][t : t + 1],
        "task": str(data["tasks"][t]),
    })
    if data["last"][t]:
        dataset.save_episode()
dataset.finalize()
"""


def main() -> None:
    """Install, write, read, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venv", type=Path, default=Path("runs/lerobot-venv"))
    parser.add_argument("--lerobot", default=LEROBOT, help="what pip installs there")
    options = parser.parse_args()
    python = install(options.venv, options.lerobot)
    episodes = [record(number, length) for number, length in enumerate(LENGTHS)]
    results = [check(python, episodes, full_color) for full_color in (False, True)]
    figures = results[0]
    figures["worst_frame_psnr_db"] = {
        "yuv420p": results[0]["worst_frame_psnr_db"],
        "yuv444p": results[1]["worst_frame_psnr_db"],
    }
    figures["recorded_by_lerobot"] = check_reading(python, episodes[:2])
    print(json.dumps(figures))


def check(python: Path, episodes: list[Episode], full_color: bool) -> dict:
    """Write here, read there, compare."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = Path(folder) / "dataset"
        writer = DatasetWriter(dataset, FPS, full_color=full_color)
        for number, episode in enumerate(episodes):
            writer.add(number, episode, "test" if number == 3 else "train")
        writer.finalize()
        result = Path(folder) / "read.npz"
        command = [python, "-W", "ignore", "-c", READER, dataset, result]
        subprocess.run(command, check=True)
        with np.load(result) as file:
            return compare(episodes, dict(file))


def check_reading(python: Path, episodes: list[Episode]) -> dict:
    """Write there, read here, compare."""
    arrays = {
        name: np.concatenate([getattr(episode, name) for episode in episodes])
        for name in ("actions", "state", "reward", "success")
    }
    frames = {
        camera: np.concatenate([episode.frames[camera] for episode in episodes])
        for camera in ("top", "wrist")
    }
    lengths = [len(episode.actions) for episode in episodes]
    tasks = np.repeat([episode.task for episode in episodes], lengths)
    last = np.isin(np.arange(len(tasks)), np.cumsum(lengths) - 1)
    with tempfile.TemporaryDirectory() as folder:
        source, recorded = Path(folder) / "source.npz", Path(folder) / "recorded"
        np.savez(source, tasks=tasks, last=last, **arrays, **frames)
        command = [python, "-W", "ignore", "-c", RECORDER, source, recorded]
        subprocess.run(command, check=True, stderr=subprocess.PIPE)
        dataset = open_dataset(recorded)
        assert dataset.damaged == []
        assert list(dataset.lengths) == lengths
        assert dataset.tasks == [episode.task for episode in episodes]
        for name, array in arrays.items():
            np.testing.assert_array_equal(dataset.columns[name], array)
        read = {
            camera: np.concatenate(
                [dataset.read_frames(e, np.arange(n), camera) for e, n in enumerate(lengths)]
            )
            for camera in dataset.cameras
        }
    np.testing.assert_array_equal(read["wrist"], frames["wrist"])
    errors = ((read["top"].astype(float) - frames["top"]) ** 2).mean(axis=(1, 2, 3))
    psnr = round(float(10 * np.log10(255**2 / errors.max())), 2)
    assert psnr > BOUND_PSNR, f"worst frame: {psnr} dB"
    return {"actions_states_labels": "equal", "pictures": "equal", "worst_frame_psnr_db": psnr}


def install(folder: Path, requirement: str) -> Path:
    """A virtual environment with lerobot in it; an existing one is used as it is."""
    python = (folder / "bin" / "python").absolute()
    if not python.exists():
        venv.create(folder, with_pip=True)
    present = subprocess.run([python, "-c", "import lerobot"], capture_output=True).returncode == 0
    if not present:
        command = [python, "-m", "pip", "install", requirement]
        subprocess.run(command, check=True, stdout=sys.stderr)
    return python


def record(seed: int, length: int) -> Episode:
    """Smooth pictures that move, and numbers of full precision."""
    generator = np.random.default_rng(seed)
    source = np.where(np.arange(length) % 7 == 3, UNKNOWN, RECORDED).astype(np.int8)
    source[length // 2 :] *= READ
    x, y = np.meshgrid(np.linspace(0, 3, 64), np.linspace(0, 3, 48))
    time = np.arange(length)[:, None, None] / 5 + seed
    waves = [np.sin(x + time), np.sin(y - 2 * time), np.cos(x + y + time)]
    top = np.rint(127 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)
    return Episode(
        frames={"top": top, "wrist": np.ascontiguousarray(top[:, ::-1, :32])},
        actions=generator.normal(size=(length, 4)).astype(np.float32),
        action_mask=source != UNKNOWN,
        action_spread=np.where(source == READ, 0.5, 0)[:, None].repeat(4, 1).astype(np.float32),
        action_source=source,
        state=generator.normal(size=(length, 3)).astype(np.float32),
        environment_state=generator.normal(size=(length, 1)).astype(np.float32),
        reward=generator.normal(size=length).astype(np.float32),
        success=np.arange(length) > 20,
        task=f"task {seed % 2}",
        notes={"policy": "noise", "seed": seed},
    )


def compare(episodes: list[Episode], read: dict[str, np.ndarray]) -> dict:
    """Assert that lerobot read what was written; returns the figures."""

    def written(name: str) -> np.ndarray:
        return np.concatenate([getattr(episode, name) for episode in episodes])

    mask = written("action_mask")
    assert read["episodes"] == len(episodes)
    np.testing.assert_array_equal(read["action_mask"], mask)
    np.testing.assert_array_equal(read["action_spread"], written("action_spread"))
    np.testing.assert_array_equal(read["action_source"], written("action_source"))
    np.testing.assert_array_equal(read["action"], np.where(mask[:, None], written("actions"), 0))
    np.testing.assert_array_equal(read["observation.state"], written("state"))
    environment_state = written("environment_state")[:, 0]
    np.testing.assert_array_equal(read["observation.environment_state"].ravel(), environment_state)
    np.testing.assert_array_equal(read["next.reward"], written("reward"))
    np.testing.assert_array_equal(read["next.success"], written("success"))
    tasks = np.repeat([episode.task for episode in episodes], LENGTHS)
    np.testing.assert_array_equal(read["tasks"], tasks)
    np.testing.assert_array_equal(read["episode_index"], np.repeat(range(len(LENGTHS)), LENGTHS))
    frame_index = np.concatenate([np.arange(length) for length in LENGTHS])
    np.testing.assert_array_equal(read["frame_index"], frame_index)
    np.testing.assert_allclose(read["mean"], read["action"].mean(0), rtol=1e-4)

    psnr = {}
    for camera in episodes[0].frames:
        frames = np.concatenate([episode.frames[camera] for episode in episodes])
        decoded = read[f"observation.images.{camera}"].transpose(0, 2, 3, 1) * 255.0
        errors = ((decoded - frames) ** 2).mean(axis=(1, 2, 3))
        psnr[camera] = round(float(10 * np.log10(255**2 / errors.max())), 2)
        assert psnr[camera] > BOUND_PSNR, f"worst frame of {camera}: {psnr[camera]} dB"
    np.testing.assert_array_equal(read["window"][:, 1], read["observation.images.top"][1:6])
    lerobot, torch = read["versions"].tolist()
    return {
        "lerobot": lerobot,
        "torch": torch,
        "episodes": len(episodes),
        "frames": len(mask),
        "actions_states_labels": "equal",
        "worst_frame_psnr_db": psnr,
    }


if __name__ == "__main__":
    main()
