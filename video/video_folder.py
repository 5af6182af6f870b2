"""A folder of video files as a dataset without actions: every file is one episode.

Labelled data is read by `lerobot.py`; bringing frames to a common size is the business of
`resizing.py`.
"""

import hashlib
import logging
from collections import Counter
from pathlib import Path

import numpy as np

from video.errors import DatasetError
from video.frame_numbers import checked_frames
from video.mp4_header import VideoHeader
from video.video_file import outline, read_video, video_header

SUFFIXES = (".mp4", ".webm", ".mkv", ".avi", ".mov", ".gif")
CAMERA = "video"

logger = logging.getLogger(__name__)


class VideoFolder:
    """Video files, of any rate and size, as `episodes.EpisodeDataset` describes a dataset.

    Files are searched in all folders below, in the order of their paths. Their rate may differ:
    each is read at one rate by repeating or leaving out frames, always taking the frame nearest in
    time. An episode's task is the name of the file's folder, where that is not `path` itself.

    Example:
        videos = VideoFolder("recordings", fps=10)
        frames = videos.read_frames(0, np.arange(16), "video")
    """

    def __init__(self, path: Path | str, fps: float | None = None) -> None:
        """Look at the header of every file.

        Args:
            path: the folder.
            fps: rate to read at; None takes the rate that most files have.

        Raises:
            DatasetError: there is no video file, or none can be read, or fps is not positive.
        """
        self.path = Path(path)
        if fps is not None and fps <= 0:
            raise DatasetError(f"{path}: fps must be positive, got {fps}.")
        self.damaged: list[str] = []
        self._files: list[Path] = []
        headers: list[VideoHeader] = []
        found = [file for file in sorted(self.path.rglob("*")) if _is_video(file, self.path)]
        for file in found:
            try:
                headers.append(video_header(file))
                self._files.append(file)
            except DatasetError as error:
                self.damaged.append(f"{error} Skipped.")
        if not self._files:
            what = "no usable video file" if found else f"no {', '.join(SUFFIXES)} file"
            raise DatasetError("\n".join([f"{path} holds {what}.", *self.damaged]))
        if self.damaged:
            skipped = f"{len(self.damaged)} of {len(found)} files skipped"
            logger.warning("%s: %s:\n%s", path, skipped, "\n".join(self.damaged))
        self.fps = float(fps or _most_common([round(header.fps, 3) for header in headers]))
        self._file_fps = np.array([header.fps for header in headers])
        self._file_frames = np.array([header.frames for header in headers])
        self._shape = _most_common([(header.height, header.width) for header in headers])
        last_second = (self._file_frames - 1) / self._file_fps
        # the small addition keeps a last frame whose time was rounded down
        self.lengths = np.floor(last_second * self.fps + 1e-6).astype(np.int64) + 1
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)[:-1]]).astype(np.int64)
        self.cameras: tuple[str, ...] = (CAMERA,)
        names = [file.relative_to(self.path) for file in self._files]
        self.tasks = [name.parent.name for name in names]
        self.notes = [{"file": str(name)} for name in names]
        self.splits = {"train": np.arange(len(names))}
        self.columns: dict[str, np.ndarray] = {}
        self.fingerprint = self._fingerprint()

    def frame_shape(self, camera: str) -> tuple[int, int]:
        """Height and width that most files have, in pixels."""
        self._check_camera(camera)
        return self._shape

    def read_frames(self, episode: int, indices: np.ndarray, camera: str) -> np.ndarray:
        """Decode frames of one file: uint8 `(len(indices), H, W, 3)`, in the file's own size.

        Args:
            episode: number of the file.
            indices: frame numbers at the dataset's rate, in any order.
            camera: "video".

        Raises:
            IndexError: a frame before the episode's first or after its last.
            DatasetError: no such camera, or the file is damaged there; the text names it.
        """
        self._check_camera(camera)
        name = f"{self._files[episode]} at {self.fps:g} fps"
        indices = checked_frames(indices, int(self.lengths[episode]), name)
        nearest = np.floor(indices * self._file_fps[episode] / self.fps + 0.5).astype(np.int64)
        last = self._file_frames[episode] - 1
        return read_video(self._files[episode], np.minimum(nearest, last))

    def _check_camera(self, camera: str) -> None:
        if camera != CAMERA:
            raise DatasetError(f"{self.path} has no camera {camera!r}; it has {CAMERA!r}.")

    def _fingerprint(self) -> str:
        digest = hashlib.blake2b(f"{self.fps}".encode(), digest_size=8)
        for file in self._files:
            digest.update(str(file.relative_to(self.path)).encode())
            digest.update(outline(file))
        return digest.hexdigest()


def _is_video(file: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return file.suffix.lower() in SUFFIXES and not hidden and file.is_file()


def _most_common(values: list):
    return Counter(values).most_common(1)[0][0]
