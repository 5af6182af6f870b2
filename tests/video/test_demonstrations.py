import numpy as np
import pytest

from video.clip_sources import ClipSource, open_sources
from video.demonstrations import draw_of_each_task, select_episodes
from video.episodes import open_dataset
from video.errors import DatasetError
from video.splits import training_part, validation_part

EVERY = np.arange(4)
"""Episodes 0 and 1 are of task "left", 2 and 3 of "right"; 0 and 2 succeed; their seeds count."""


@pytest.fixture
def dataset(tiny_dataset):
    return open_dataset(tiny_dataset)


def test_episodes_are_selected_by_task_success_and_notes(dataset):
    assert select_episodes(dataset, EVERY).tolist() == [0, 1, 2, 3]
    assert select_episodes(dataset, EVERY, tasks=["right"]).tolist() == [2, 3]
    assert select_episodes(dataset, EVERY, successful=True).tolist() == [0, 2]
    assert select_episodes(dataset, EVERY, successful=False).tolist() == [1, 3]
    assert select_episodes(dataset, EVERY, notes={"seed": [1, 2]}).tolist() == [1, 2]
    assert select_episodes(dataset, EVERY, ["left"], True, {"policy": "random"}).tolist() == [0]


def test_a_selection_without_episodes_says_what_there_is(dataset):
    with pytest.raises(DatasetError, match=r"none of 4 episodes .*\['left', 'right'\]"):
        select_episodes(dataset, EVERY, tasks=["up"])
    with pytest.raises(DatasetError, match=r"'policy': \['random'\]"):
        select_episodes(dataset, EVERY, notes={"policy": "Expert()"})


def test_success_must_be_known(tiny_videos):
    with pytest.raises(DatasetError, match="Leave 'successful' out"):
        select_episodes(open_dataset(tiny_videos), np.arange(3), successful=True)


def test_so_many_of_each_task_are_drawn_and_more_include_fewer(dataset):
    drawn = [draw_of_each_task(dataset, EVERY, 1, seed) for seed in range(20)]
    assert all({dataset.tasks[e] for e in chosen} == {"left", "right"} for chosen in drawn)
    assert len({tuple(chosen) for chosen in drawn}) == 4
    assert np.array_equal(draw_of_each_task(dataset, EVERY, 1, 3), drawn[3])
    both = draw_of_each_task(dataset, EVERY, 2, 3)
    assert set(drawn[3]) < set(both)
    with pytest.raises(DatasetError, match="'left' has 2 that fit"):
        draw_of_each_task(dataset, EVERY, 3, 0)


def test_a_source_trains_on_its_demonstrations_and_validates_on_such(tiny_dataset):
    source = ClipSource(
        str(tiny_dataset), validation_split="test", episodes=1, successful=True, test_split="none"
    )
    opened = open_sources([source]).sources[0]
    part = training_part(opened, 0)
    assert part.episodes.tolist() == [0, 2]
    assert np.flatnonzero(part.labelled).tolist() == [0, 2]  # what the range is measured on
    with pytest.raises(DatasetError, match="none of 1 episodes"):
        validation_part(opened)  # episode 3 fails


def test_demonstrations_are_taken_of_the_labelled_share(tiny_dataset):
    source = ClipSource(str(tiny_dataset), labels=0.4, drop_unlabelled=True)
    labelled = training_part(open_sources([source]).sources[0], 0).episodes
    source.tasks = ["left"]
    chosen = training_part(open_sources([source]).sources[0], 0).episodes
    assert set(chosen) == set(labelled) & {0, 1}


def test_no_episode_at_all_is_refused(tiny_dataset):
    with pytest.raises(ValueError, match="episodes must be at least 1"):
        ClipSource(str(tiny_dataset), episodes=0)
