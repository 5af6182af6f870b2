"""Names and paths of the LeRobotDataset format, shared by its reader and its writer.

Version 3.0 packs many episodes into one parquet and one mp4 file and lists in `meta/episodes` where
each begins. Version 2.1 has a parquet and an mp4 file for every episode.
"""

from typing import NamedTuple

CODEBASE_VERSION = "v3.0"
INFO_PATH = "meta/info.json"
STATS_PATH = "meta/stats.json"
TASKS_PATH = "meta/tasks.parquet"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
FILES_PER_CHUNK = 1000
CAMERA_PREFIX = "observation.images."

STAGING_PATH = ".staging"
"""Where a recording lies that is not finished."""
RECORDING_ID = "recording_id"
"""Our column of `meta/episodes` with the number that an episode was recorded under."""
RESERVED_NOTES = (
    "episode_index",
    "tasks",
    "length",
    "dataset_from_index",
    "dataset_to_index",
    RECORDING_ID,
)
"""Columns of `meta/episodes` that no note can be called after."""


class Column(NamedTuple):
    """How one of an episode's arrays is called and stored in the files."""

    feature: str
    dtype: str
    is_vector: bool


COLUMNS = {
    "actions": Column("action", "float32", is_vector=True),
    "action_mask": Column("action_mask", "bool", is_vector=False),
    "action_spread": Column("action_spread", "float32", is_vector=True),
    "action_source": Column("action_source", "int8", is_vector=False),
    "state": Column("observation.state", "float32", is_vector=True),
    "environment_state": Column("observation.environment_state", "float32", is_vector=True),
    "reward": Column("next.reward", "float32", is_vector=False),
    "success": Column("next.success", "bool", is_vector=False),
}
"""By the name of the `Episode` attribute that holds it."""

UNKNOWN, RECORDED, READ = 0, 1, 2
"""Where an action comes from, as `action_source` says: nowhere, the robot, or a model that read it
off the video."""

INDEX_COLUMNS = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
"""What the format adds to every row."""


def camera_name(feature: str) -> str:
    """Short name of a camera: "front" of "observation.images.front"."""
    return feature.removeprefix(CAMERA_PREFIX).removeprefix("observation.")


def chunk_and_file(number: int) -> dict[str, int]:
    """Where the n-th file of a kind lies."""
    return {"chunk_index": number // FILES_PER_CHUNK, "file_index": number % FILES_PER_CHUNK}
