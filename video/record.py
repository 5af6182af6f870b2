"""`python -m video record`: episodes from any gymnasium environment into a dataset.

Here is decided which episodes there are, and that all of them end up on disk, whatever is killed
on the way. How one episode is recorded is in `simulators/episode.py`, how it is written in
`writer.py` and `bare_videos.py`.
"""

import os
import sys
import time
from collections import Counter
from contextlib import closing, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
from tqdm import tqdm

import video.simulators  # noqa: F401  registers metaworld/<task>
from video.bare_videos import BareVideoWriter
from video.dataset_recipe import RECIPE, check_recipe
from video.errors import DatasetError
from video.lerobot_format import INFO_PATH
from video.safe_files import write_json
from video.simulators.episode import record_episode
from video.simulators.policies import RecordingPolicy
from video.simulators.processes import run_jobs
from video.simulators.recipe import EpisodeJob, Source, list_episodes, task_name
from video.writer import DatasetWriter


def record(
    out: Path | None = None,
    env: str | list[str] | None = None,
    env_kwargs: dict[str, Any] | None = None,
    policy: Literal["random"] | RecordingPolicy = "random",
    episodes: int | dict[str, int] = 10,
    length: int = 100,
    split: str = "train",
    sources: list[Source] | None = None,
    seed: int = 0,
    workers: int = os.cpu_count() or 1,
    size: int | None = None,
    fps: float | None = None,
    camera: str = "main",
    environment_state: bool = True,
    video_files: bool = False,
    crf: int = 20,
    full_color: bool = False,
    robot_type: str = "unknown",
) -> Path:
    """Record episodes from simulators; run it again to go on after an interruption.

    Example: python -m video record --out data/drawer --env metaworld/drawer-open-v3
    --policy video.simulators.metaworld_policies.Expert --policy.noise 0.3 --episodes 50 --length 36

    Episode i of the recording has the seed `seed + i`, for the environment and for the policy, so
    that the result depends neither on the number of workers nor on interruptions. An episode that
    fails is named and left out.

    Args:
        out: the dataset's folder.
        env: gymnasium ids, such as metaworld/drawer-open-v3, gym_pusht/PushT-v0 or CartPole-v1.
        env_kwargs: what `gymnasium.make` gets besides, as in --env_kwargs.action_repeat 2.
        policy: "random", or the class path of a policy; see `video/simulators/policies.py`.
        episodes: how many in every environment: a number, or one for every split.
        length: steps of an episode; it is shorter only where the environment ends it.
        split: where the episodes belong if `episodes` is a number.
        sources: several policies into one dataset, instead of `policy`, `episodes` and `split`.
        seed: of the first episode.
        workers: processes; 0 records in this one.
        size: scale frames to this height and width; None keeps what the environment renders.
        fps: frames per second; None takes the environment's own rate.
        camera: the name for the frames.
        environment_state: keep the simulator's true state where observations have it.
        video_files: write bare mp4 files without actions, in a folder per task, instead of a
            dataset.
        crf: x264's constant rate factor, smaller is better and larger on disk.
        full_color: keep the colour of every pixel; small frames are then sharper in fewer bytes,
            but browsers do not play the files.
        robot_type: free text for the dataset.

    Returns:
        The dataset's folder.

    Raises:
        DatasetError: an option is missing or wrong, `out` holds something else, the disk is full,
            or no episode could be recorded.
    """
    if out is None:
        raise DatasetError("Where to? Say --out FOLDER.")
    if length < 2:
        raise DatasetError(f"An episode has at least 2 steps, got --length {length}.")
    sources = sources or [Source(policy, episodes)]
    jobs = list_episodes(sources, env, split, seed)
    kwargs = {"render_mode": "rgb_array", "max_episode_steps": length} | (env_kwargs or {})
    rate = fps or _common_fps(list(dict.fromkeys(job.env for job in jobs)), kwargs)
    recipe = {
        "sources": [source.as_json() for source in sources],
        **{"env": env, "env_kwargs": env_kwargs, "seed": seed, "split": split, "length": length},
        **{"fps": rate, "size": size, "camera": camera, "environment_state": environment_state},
        **{"video_files": video_files, "crf": crf, "full_color": full_color},
    }
    check_recipe(out, recipe)
    writer = (
        BareVideoWriter(out, rate, crf=crf, full_color=full_color)
        if video_files
        else DatasetWriter(out, rate, robot_type=robot_type, crf=crf, full_color=full_color)
    )
    write_json(out / RECIPE, recipe)
    recorder = _Recorder(sources, writer, kwargs, length, size, camera, environment_state)
    failed = _record_missing(recorder, jobs, workers)
    writer.finalize()
    by_split = Counter(job.split for job in jobs if job not in failed)
    print(f"{out}: " + ", ".join(f"{count} {name} episodes" for name, count in by_split.items()))
    if failed:
        print(f"{len(failed)} of {len(jobs)} episodes failed and were left out.", file=sys.stderr)
    return out


class _Recorder:
    """Records one episode after the other, in whichever process it is copied to."""

    def __init__(
        self,
        sources: list[Source],
        writer: DatasetWriter | BareVideoWriter,
        env_kwargs: dict[str, Any],
        length: int,
        size: int | None,
        camera: str,
        environment_state: bool,
    ) -> None:
        self.sources = sources
        self.writer = writer
        self.env_kwargs = env_kwargs
        self.length = length
        self.size = size
        self.camera = camera
        self.environment_state = environment_state
        self._env: gymnasium.Env | None = None
        self._env_id = ""

    def __call__(self, job: EpisodeJob) -> int:
        """Record and write an episode, and return the number of its frames."""
        if self._env is None or self._env_id != job.env:
            self.close()
            self._env, self._env_id = _make(job.env, self.env_kwargs), job.env
        source = self.sources[job.source]
        episode = record_episode(self._env, source.actor(), self.length, job.seed, self.camera)
        if self.size is not None:
            episode.frames = {
                name: self._resized(frames) for name, frames in episode.frames.items()
            }
        if not self.environment_state:
            episode.environment_state = None
        episode.task = task_name(job.env)
        episode.notes = {"env": job.env, "policy": source.policy_label(), "seed": job.seed}
        self.writer.add(job.number, episode, job.split)
        return len(episode.frames[self.camera])

    def close(self) -> None:
        """Close the environment that was used last."""
        if self._env is not None:
            self._env.close()
            self._env = None

    def _resized(self, frames: np.ndarray) -> np.ndarray:
        from video.resizing import resize_frames  # brings torch, which few recordings need

        assert self.size is not None
        return resize_frames(frames, (self.size, self.size)).transpose(0, 2, 3, 1)


def _record_missing(recorder: _Recorder, jobs: list[EpisodeJob], workers: int) -> list[EpisodeJob]:
    """Record what is not there yet, with a progress bar; the jobs that failed are returned."""
    out = recorder.writer.path
    finished = recorder.writer.finished
    missing = [job for job in jobs if job.number not in finished]
    if missing and (out / INFO_PATH).exists():
        raise DatasetError(
            f"{out} is finished, with {len(missing)} of {len(jobs)} episodes left out because they "
            "had failed. Delete it to record them again."
        )
    failed: dict[EpisodeJob, Exception] = {}
    frames = 0
    start = time.monotonic()
    bar = tqdm(total=len(jobs), initial=len(jobs) - len(missing), unit="episode", smoothing=0)
    with bar, closing(recorder), closing(run_jobs(recorder, missing, workers)) as results:
        for job, result in results:
            if isinstance(result, DatasetError):
                raise result
            if isinstance(result, Exception):
                failed[job] = result
                where = f"Episode {job.number} ({job.env}, seed {job.seed})"
                bar.write(f"{where} failed: {result}", sys.stderr)
            else:
                frames += result
                bar.set_postfix_str(f"{frames / (time.monotonic() - start):.0f} frames/s")
            bar.update()
    if len(failed) == len(jobs):
        raise DatasetError(f"{out}: all {len(jobs)} episodes failed, as {failed[jobs[-1]]}.")
    return list(failed)


def _make(env: str, kwargs: dict[str, Any]) -> gymnasium.Env:
    package, slash, _ = env.partition("/")
    if slash and ":" not in env and env not in gymnasium.registry:
        with suppress(ModuleNotFoundError):
            import_module(package)  # gym_pusht/PushT-v0 is registered by importing gym_pusht
    try:
        return gymnasium.make(env, disable_env_checker=True, **kwargs)
    except (gymnasium.error.Error, ImportError, TypeError, ValueError) as error:
        raise DatasetError(f"{env} cannot be made: {error}") from error


def _common_fps(envs: list[str], kwargs: dict[str, Any]) -> float:
    rates = {}
    for name in envs:
        env = _make(name, kwargs)
        rates[name] = env.metadata.get("render_fps")
        env.close()
    if len(set(rates.values())) > 1 or None in rates.values():
        raise DatasetError(
            "A dataset has one frame rate, the environments render at "
            f"{', '.join(f'{rate} fps ({name})' for name, rate in rates.items())}. Say --fps."
        )
    return float(rates[envs[0]])
