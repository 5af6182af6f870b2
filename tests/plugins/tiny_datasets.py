"""Tiny datasets for the tests of every package: a square that moves as its actions say."""

from pathlib import Path

import numpy as np
import pytest

from video.episodes import Episode
from video.video_file import write_video
from video.writer import DatasetWriter

SIZE = 32
SQUARE = 8
FPS = 10.0
LENGTHS = (20, 22, 18, 20)
SPLITS = ("train", "train", "train", "test")


def moving_square(seed: int, length: int) -> Episode:
    """A bright square on a grey ground; an action is its displacement in units of 4 pixels."""
    generator = np.random.default_rng(seed)
    actions = generator.uniform(-1, 1, (length, 2)).astype(np.float32)
    room = SIZE - SQUARE
    position = generator.uniform(0, room, 2)
    states = np.zeros((length, 2), np.float32)
    frames = np.full((length, SIZE, SIZE, 3), 90, np.uint8)
    for t in range(length):
        states[t] = position
        x, y = np.round(position).astype(int)
        frames[t, y : y + SQUARE, x : x + SQUARE] = 230
        position = np.clip(position + 4 * actions[t], 0, room)
    success = np.zeros(length, bool)
    success[length // 2 :] = seed % 2 == 0
    return Episode(
        frames={"top": frames},
        actions=actions,
        state=states / room,
        environment_state=np.concatenate([states, states * 2, states[:, :1]], axis=1),
        reward=generator.normal(size=length).astype(np.float32),
        success=success,
        task="left" if seed < 2 else "right",
        notes={"policy": "random", "seed": seed, "noise": 0.5 * seed},
    )


@pytest.fixture(scope="session")
def square_episodes() -> list[Episode]:
    """What `tiny_dataset` was written from."""
    return [moving_square(seed, length) for seed, length in enumerate(LENGTHS)]


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory, square_episodes) -> Path:
    """Native dataset: 4 labelled episodes of about 20 frames, 32x32, 10 fps; the last is "test".

    Shared by all tests of a session: copy it before changing anything in it.
    """
    writer = DatasetWriter(tmp_path_factory.mktemp("native") / "squares", FPS, crf=10)
    for number, (episode, split) in enumerate(zip(square_episodes, SPLITS, strict=True)):
        writer.add(number, episode, split)
    return writer.finalize()


@pytest.fixture(scope="session")
def tiny_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of 3 action-free mp4 files of 20 frames, 32x32, 10 fps."""
    folder = tmp_path_factory.mktemp("videos")
    for seed in range(10, 13):
        write_video(folder / f"{seed}.mp4", moving_square(seed, 20).frames["top"], FPS, crf=10)
    return folder
