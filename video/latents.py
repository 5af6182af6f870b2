"""Latents of a whole dataset: encoded once, stored beside it, memory-mapped in training.

A camera's latents are `DATASET/latents/AUTOENCODER-HxW/CAMERA.npy`, float16 `(N, C, h, w)` over all
rows of the dataset. `CAMERA.json` beside it is written last and names the data and the autoencoder
that they were made of, so that latents of anything else are never taken for them. It also names the
episodes whose video could not be decoded, which hold zeros.
"""

import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from filelock import FileLock
from jaxtyping import Float16, UInt8
from tqdm import tqdm

from video.autoencoder import FrameAutoencoder
from video.clips import count_rows
from video.episodes import EpisodeDataset, open_dataset
from video.errors import DatasetError
from video.resizing import resize_frames

log = logging.getLogger(__name__)

SECONDS_BETWEEN_SAVES = 5.0

UNREADABLE = "unreadable"
"""Key of the episodes that could not be decoded, in what describes a camera's latents."""


class StoredLatents:
    """One camera's latents on disk, indexed by row; pickled as its path alone.

    Attributes:
        path: of the array; the description lies beside it.
        unreadable: episodes whose video could not be decoded.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._array: np.ndarray = np.load(path, mmap_mode="r")
        described = json.loads(path.with_suffix(".json").read_text())
        self.unreadable: list[int] = described.get(UNREADABLE, [])

    @property
    def shape(self) -> tuple[int, ...]:
        """`(N, C, h, w)`."""
        return self._array.shape

    @property
    def dtype(self) -> np.dtype:
        """float16."""
        return self._array.dtype

    def __getitem__(self, rows: np.ndarray) -> Float16[np.ndarray, "*b C h w"]:
        return self._array[rows]

    def __reduce__(self) -> tuple[type["StoredLatents"], tuple[Path]]:
        return StoredLatents, (self.path,)


def encode(
    dataset: Path,
    autoencoder: Path,
    size: tuple[int, int] | None = None,
    cameras: list[str] | None = None,
    fps: float | None = None,
    out: Path | None = None,
    device: str = "auto",
    use_bfloat16: bool = False,
) -> None:
    """Encode a dataset's video to latents, which training then reads instead of the video.

    Args:
        dataset: a LeRobot dataset, or a folder of videos.
        autoencoder: folder of the autoencoder. Where it lacks the statistics of its latents, they
            are measured on the training split and stored there.
        size: height and width that frames are resized to, if not their own.
        cameras: which ones, if not all.
        fps: frame rate to read a folder of videos at, if not its own.
        out: folder for the latents, if not `latents` in the dataset's own.
        device: such as cpu, cuda or cuda:1; auto takes a GPU where there is one.
        use_bfloat16: run the autoencoder in bfloat16.
    """
    opened = open_dataset(dataset, fps)
    chosen = tuple(cameras or opened.cameras)
    size = size or opened.frame_shape(chosen[0])
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = FrameAutoencoder.from_pretrained(autoencoder, use_bfloat16).to(device)
    if model.mean is None:
        episodes = opened.splits.get("train", np.arange(len(opened.lengths)))
        measure_statistics(model, opened, episodes, size, chosen[0])
        model.save_pretrained(autoencoder)
    print(f"latents in {encode_dataset(opened, model, size, chosen, out)}")


def encode_dataset(
    dataset: EpisodeDataset,
    autoencoder: FrameAutoencoder,
    size: tuple[int, int] | None = None,
    cameras: tuple[str, ...] | None = None,
    out: Path | str | None = None,
    progress: bool = True,
) -> Path:
    """Encode every frame. A stopped encoding goes on where it was, a finished one is left alone.

    An episode whose video cannot be decoded is named and left out. Where another process is at it
    already, this one waits for it.

    Args:
        dataset: the recorded video.
        autoencoder: with known statistics, on the device that shall do the work.
        size: height and width that frames are resized to; None keeps the first camera's.
        cameras: which ones, None for all.
        out: a folder for the latents other than `latents` in the dataset's own.
        progress: show a bar.

    Returns:
        The folder, in which `find_latents` finds them.

    Raises:
        DatasetError: no such camera, no episode that can be decoded, a folder that cannot be
            written, or a full disk (what was encoded stays).
    """
    cameras = cameras or dataset.cameras
    missing = [camera for camera in cameras if camera not in dataset.cameras]
    if missing:
        raise DatasetError(f"{dataset.path} has no {missing}, its cameras: {dataset.cameras}")
    size = size or dataset.frame_shape(cameras[0])
    folder = latents_folder(dataset, autoencoder, size, out)

    def missing_latents() -> list[str]:
        described = ((camera, folder / f"{camera}.json") for camera in cameras)
        return [c for c, path in described if not _is_current(path, dataset, autoencoder, size)]

    if not missing_latents():
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = folder / "encoding.lock"
        with FileLock(lock):
            for camera in missing_latents():
                _encode_camera(dataset, autoencoder, size, camera, folder, progress)
            lock.unlink(missing_ok=True)  # whoever gets it now, or a new one, finds nothing missing
    except OSError as error:
        raise DatasetError(
            f"cannot write latents to {folder}: {error}. Choose another folder by 'python -m video "
            "encode ... --out FOLDER', and name it as 'latents: FOLDER' in data.datasets."
        ) from error
    return folder


def find_latents(
    dataset: EpisodeDataset,
    autoencoder: FrameAutoencoder,
    size: tuple[int, int],
    cameras: tuple[str, ...],
    out: Path | str | None = None,
) -> list[StoredLatents] | None:
    """Stored latents per camera, or None where any is missing; stale ones are warned of by name."""
    folder = latents_folder(dataset, autoencoder, size, out)
    if all(_is_current(folder / f"{c}.json", dataset, autoencoder, size) for c in cameras):
        return [StoredLatents(folder / f"{camera}.npy") for camera in cameras]
    stale = sorted(path.parent.name for path in folder.parent.glob(f"*/{cameras[0]}.json"))
    if stale:
        log.warning(
            "%s: stored latents (%s) are of other data, another autoencoder or another size than "
            "%s, and are not used. Encode again with 'python -m video encode'.",
            folder.parent,
            ", ".join(stale),
            folder.name,
        )
    return None


def latents_folder(
    dataset: EpisodeDataset,
    autoencoder: FrameAutoencoder,
    size: tuple[int, int],
    out: Path | str | None = None,
) -> Path:
    """Where latents of this dataset, autoencoder and size belong."""
    above = Path(out) if out is not None else dataset.path / "latents"
    return above / f"{autoencoder.fingerprint}-{size[0]}x{size[1]}"


def measure_statistics(
    autoencoder: FrameAutoencoder,
    dataset: EpisodeDataset,
    episodes: np.ndarray,
    size: tuple[int, int],
    camera: str,
    frames: int = 512,
) -> None:
    """Give an autoencoder without latent statistics those of frames spread over the episodes."""
    per_episode = max(1, frames // len(episodes))
    chosen = episodes[np.linspace(0, len(episodes) - 1, min(frames, len(episodes))).astype(int)]
    pictures = []
    for episode in chosen:
        indices = np.linspace(0, dataset.lengths[episode] - 1, per_episode).astype(np.int64)
        pictures.append(resize_frames(dataset.read_frames(int(episode), indices, camera), size))
    device = next(autoencoder.parameters()).device
    autoencoder.fit_statistics(torch.from_numpy(np.concatenate(pictures)).to(device))
    log.info(
        "the autoencoder came without latent statistics; measured them on %d frames of %s",
        per_episode * len(chosen),
        dataset.path,
    )


def _describe(
    dataset: EpisodeDataset, autoencoder: FrameAutoencoder, size: tuple[int, int]
) -> dict:
    return {
        "dataset": dataset.fingerprint,
        "fps": dataset.fps,
        "rows": count_rows(dataset),
        "autoencoder": autoencoder.fingerprint,
        "size": list(size),
    }


def _is_current(
    path: Path, dataset: EpisodeDataset, autoencoder: FrameAutoencoder, size: tuple[int, int]
) -> bool:
    """Whether a finished file of exactly this data and autoencoder lies there."""
    if not path.is_file():
        return False
    saved = json.loads(path.read_text())
    saved.pop(UNREADABLE, None)
    return saved == _describe(dataset, autoencoder, size)


def _encode_camera(
    dataset: EpisodeDataset,
    autoencoder: FrameAutoencoder,
    size: tuple[int, int],
    camera: str,
    folder: Path,
    progress: bool,
) -> None:
    """Write `CAMERA.npy` under another name episode by episode, then rename it and describe it."""
    description = _describe(dataset, autoencoder, size)
    shape = (count_rows(dataset), *autoencoder.latent_shape(*size))
    row_bytes = 2 * int(np.prod(shape[1:]))
    unfinished = folder / f"{camera}.partial"
    state = folder / f"{camera}.partial.json"
    done, unreadable = 0, []
    if state.is_file() and unfinished.is_file():
        saved = json.loads(state.read_text())
        if saved["description"] == description:
            done, unreadable = saved["episodes"], saved.get(UNREADABLE, [])
    with open(unfinished, "r+b" if done else "w+b") as file:
        header = {"descr": "<f2", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        data = file.tell()
        saved_at = time.monotonic()
        for episode in tqdm(
            range(done, len(dataset.lengths)),
            f"{dataset.path.name}/{camera}",
            initial=done,
            total=len(dataset.lengths),
            unit=" episodes",
            mininterval=0.1 if sys.stderr.isatty() else 10.0,
            disable=not progress,
        ):
            file.seek(data + int(dataset.starts[episode]) * row_bytes)
            try:
                file.write(_encode_episode(dataset, autoencoder, size, camera, episode).tobytes())
            except DatasetError as error:
                log.warning("%s, episode %d is left out: %s", dataset.path, episode, error)
                unreadable.append(episode)
                file.write(bytes(int(dataset.lengths[episode]) * row_bytes))
            if time.monotonic() - saved_at > SECONDS_BETWEEN_SAVES:
                progressed = {"episodes": episode + 1, UNREADABLE: unreadable}
                _save(file, state, {"description": description, **progressed})
                saved_at = time.monotonic()
        if len(unreadable) == len(dataset.lengths):
            raise DatasetError(f"{dataset.path}: no video of camera {camera!r} can be decoded.")
        file.truncate(data + shape[0] * row_bytes)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, folder / f"{camera}.npy")
    noted = {UNREADABLE: unreadable} if unreadable else {}
    _write_json(folder / f"{camera}.json", description | noted)
    state.unlink(missing_ok=True)


def _encode_episode(
    dataset: EpisodeDataset,
    autoencoder: FrameAutoencoder,
    size: tuple[int, int],
    camera: str,
    episode: int,
) -> Float16[np.ndarray, "T C h w"]:
    indices = np.arange(dataset.lengths[episode])
    frames: UInt8[np.ndarray, "T 3 H W"] = resize_frames(
        dataset.read_frames(episode, indices, camera), size
    )
    device = next(autoencoder.parameters()).device
    latents = autoencoder.encode(torch.from_numpy(frames).to(device))
    return latents.cpu().numpy().astype("<f2")


def _save(file: BinaryIO, state: Path, progress: dict) -> None:
    """First the data, then how much of it there is."""
    file.flush()
    os.fsync(file.fileno())
    _write_json(state, progress)


def _write_json(path: Path, content: dict) -> None:
    """All of it or nothing."""
    unfinished = path.with_name(path.name + ".new")
    unfinished.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(unfinished, path)
