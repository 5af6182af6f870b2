"""`python -m inverse_dynamics label`: a copy of a dataset, or of a folder of videos, with actions.

What is read of one episode is said in `labels.py`. Episodes are decoded by several processes, come
back in any order and carry their number with them; each is on disk when the next one is read.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from inverse_dynamics.decoding import DecodeEpisode
from inverse_dynamics.held_out import open_for
from inverse_dynamics.labels import keep_recorded, read_missing, recorded_steps
from inverse_dynamics.staged_labels import LabelledCopy, LabelledVideos
from video.action_model import ActionModel, StateModel, load_action_model
from video.episodes import EpisodeDataset
from video.errors import DatasetError
from video.lerobot_format import INFO_PATH, READ, STAGING_PATH
from video.relabel import ActionColumns, can_be_copied
from video.safe_files import write_json
from video.simulators.processes import ProcessDied, run_jobs
from video.splits import keep_labels

OPTIONS = "labelling.json"
"""Beside the new dataset's `meta`: what it was labelled with."""

THRESHOLD = 0.75


def label(
    model: Path,
    dataset: Path,
    out: Path,
    threshold: float = THRESHOLD,
    labels: float = 1.0,
    split: str = "train",
    seed: int = 0,
    relabel: bool = False,
    workers: int = 2,
    crf: int = 20,
    device: str = "cpu",
) -> Path:
    """Label a dataset, or a folder of videos, with the actions that a model reads off it.

    Recorded actions are kept; what is read goes with its spread and its source. A model that can
    tell the robot's state labels it, too, where there is none. An interrupted call goes on where it
    stopped when it is made again.

    Args:
        model: folder of a saved, calibrated inverse dynamics model or world model.
        dataset: LeRobotDataset or folder of videos.
        out: folder of the new dataset.
        threshold: steps with a larger doubt stay unlabelled: the root-mean-square of the spread
            over the dimensions, in units in which actions fill [-1, 1].
        labels: share of the split's episodes, chosen by the seed, whose recorded actions and states
            are kept; those of the others are read as if there were none.
        split: the split that `labels` is a share of.
        seed: of that choice; with the same `data.seed`, training keeps the labels of the same ones.
        relabel: read every step, also where an action was recorded; recorded states are kept.
        workers: processes that decode video; 0 decodes in this one.
        crf: x264's constant rate factor where video is encoded anew.
        device: where to compute.

    Returns:
        The new dataset's folder.

    Raises:
        DatasetError: the model cannot read the dataset, is not calibrated, or `out` holds something
            else.
    """
    if not 0 <= labels <= 1 or not threshold > 0:
        raise DatasetError(f"need 0 <= labels <= 1 and threshold > 0, got {labels}, {threshold}.")
    loaded = load_action_model(model, device)
    if loaded.calibration is None:
        raise DatasetError(
            f"{model} is not calibrated, so how sure it is means nothing. Run `python -m "
            f"inverse_dynamics calibrate {model} DATASET` with recorded episodes that it was not "
            "trained on."
        )
    if workers < 0:
        raise DatasetError(f"--workers {workers} must not be negative; 0 decodes in this process.")
    source, cameras = open_for(loaded, dataset)
    concealed = _concealed(source, labels, split, seed)
    hidden = np.arange(len(source.lengths)) if relabel else concealed
    options = {
        "model": loaded.fingerprint,
        "calibration": loaded.calibration.fingerprint,
        "dataset": source.fingerprint,
        "threshold": threshold,
        "labels": labels,
        "split": split,
        "seed": seed,
        "relabel": relabel,
        "crf": crf,
    }
    if _is_finished(out, options):
        print(f"{out} is finished already.")
        return out
    labeller = f"{model.resolve().name}:{loaded.fingerprint}"
    name_of_bare = loaded.cameras[0]
    staged = (
        LabelledCopy(source, out)
        if can_be_copied(source)
        else LabelledVideos(source, out, name_of_bare, crf)
    )
    stateless = _without_state(source, loaded, concealed)
    damaged = _read_all(
        source, cameras, loaded, staged, hidden, stateless, threshold, labeller, workers
    )
    if len(damaged) == len(source.lengths):
        raise DatasetError("\n".join([f"{dataset}: no episode could be read.", *damaged]))
    write_json(out / OPTIONS, options)
    staged.finalize()
    shutil.rmtree(out / STAGING_PATH, ignore_errors=True)
    print(f"{out}: {len(source.lengths) - len(damaged)} of {len(source.lengths)} episodes.")
    for line in damaged:
        print(f"  {line}")
    return out


def _read_all(
    source: EpisodeDataset,
    cameras: Sequence[str],
    model: ActionModel,
    staged: LabelledCopy | LabelledVideos,
    hidden: np.ndarray,
    stateless: np.ndarray,
    threshold: float,
    labeller: str,
    workers: int,
) -> list[str]:
    """Read and stage every episode that is not staged yet; returns what could not be decoded."""
    recorded = recorded_steps(source, hidden)
    missing = [e for e in range(len(source.lengths)) if e not in staged.finished]
    decode = DecodeEpisode(source, staged.cameras_needed(tuple(cameras)))
    damaged: dict[int, tuple[ActionColumns, str]] = {}
    size = model.action_normalizer.dim
    jobs = run_jobs(decode, missing, workers)
    for episode, frames in tqdm(jobs, "Labelling", len(missing), unit=" episodes"):
        labels = keep_recorded(source, episode, recorded, size)
        if isinstance(frames, DatasetError | ProcessDied):
            damaged[episode] = labels, f"skipped episode {episode}: {frames}"
            continue
        if isinstance(frames, Exception):
            raise frames
        with_state = episode in stateless
        if len(labels.actions) > 1 and (with_state or not labels.action_mask[:-1].all()):
            labels = read_missing(labels, model, frames, cameras, threshold, with_state)
        elif with_state:
            assert isinstance(model, StateModel)
            labels = replace(labels, state=np.zeros((1, model.state_dim), np.float32))
        was_read = (labels.action_source == READ).any()
        staged.add(episode, frames, labels, labeller if was_read else "")
    if isinstance(staged, LabelledCopy):  # keeps its files, and can do without the frames
        for episode, (labels, _) in damaged.items():
            staged.add(episode, {}, labels, "")
    return [line for _, line in damaged.values()]


def _concealed(source: EpisodeDataset, labels: float, split: str, seed: int) -> np.ndarray:
    """Episodes of which nothing that was recorded must be used."""
    if labels == 1:
        return np.arange(0)
    episodes = source.splits.get(split, np.arange(0))
    if not len(episodes):
        raise DatasetError(
            f"{source.path} has no episodes in split {split!r}, of which labels={labels} is a "
            f"share; there are {list(source.splits)}. Pass --split."
        )
    return np.setdiff1d(episodes, keep_labels(episodes, labels, seed))


def _without_state(source: EpisodeDataset, model: ActionModel, concealed: np.ndarray) -> np.ndarray:
    """Episodes whose robot's state the model tells: where there is none, or one of its size."""
    size = model.state_dim if isinstance(model, StateModel) else 0
    if size and "state" not in source.columns:
        return np.arange(len(source.lengths))
    return concealed if size and source.columns["state"].shape[1] == size else np.arange(0)


def _is_finished(out: Path, options: dict) -> bool:
    """Whether the dataset is there; remembers the options of one that is not.

    Raises:
        DatasetError: the folder holds something else, or was labelled with other options.
    """
    places = [out / OPTIONS, out / STAGING_PATH / OPTIONS]
    earlier = next((json.loads(place.read_text()) for place in places if place.exists()), None)
    if earlier is None:
        if out.exists() and any(out.iterdir()):
            raise DatasetError(f"{out} is not empty. Choose another folder.")
        write_json(places[1], options)
        return False
    changed = [
        f"{name} was {earlier.get(name)!r} and is {value!r}"
        for name, value in options.items()
        if earlier.get(name) != value
    ]
    if changed:
        raise DatasetError(
            f"{out} was labelled with other options: {', '.join(changed)}. Use the same ones, or "
            "choose another folder."
        )
    return (out / INFO_PATH).exists()
