import numpy as np

from video.episodes import open_dataset


def test_what_was_written_comes_back(tiny_dataset, square_episodes):
    dataset = open_dataset(tiny_dataset)
    assert dataset.fps == 10
    assert dataset.cameras == ("top",)
    assert dataset.tasks == [episode.task for episode in square_episodes]
    for number, episode in enumerate(square_episodes):
        length = len(episode.frames["top"])
        assert dataset.lengths[number] == length
        rows = slice(dataset.starts[number], dataset.starts[number] + length)
        for name in ("actions", "state", "environment_state", "reward", "success"):
            np.testing.assert_array_equal(dataset.columns[name][rows], getattr(episode, name))
        frames = dataset.read_frames(number, np.arange(length), "top")
        error = np.mean((frames.astype(float) - episode.frames["top"]) ** 2)
        assert 10 * np.log10(255**2 / error) > 35
    print(dataset.splits, dataset.notes, dataset.fingerprint, dataset.damaged)


def test_videos(tiny_videos):
    d = open_dataset(tiny_videos, fps=5)
    print(d.lengths, d.read_frames(1, [9], "video").shape, d.fps, d.fingerprint)
