"""Write episodes as bare video files, without actions or anything else, one folder per task."""

import re
import shutil
from pathlib import Path

from video.episodes import Episode
from video.lerobot_format import STAGING_PATH
from video.safe_files import write_safely
from video.video_file import write_video


class BareVideoWriter:
    """Records pictures only: `OUT/<task>/episode_000000.mp4`, which `VideoFolder` reads.

    Made like `writer.DatasetWriter` and used like it.

    Example:
        writer = BareVideoWriter("data/videos", fps=20)
        writer.add(0, episode)
        writer.finalize()
    """

    def __init__(
        self, path: Path | str, fps: float, *, crf: int = 20, full_color: bool = False
    ) -> None:
        """Open a new or an existing folder.

        Args:
            path: the folder; made where it is missing.
            fps: frames per second.
            crf: x264's constant rate factor, smaller is better and larger on disk.
            full_color: keep the colour of every pixel; see `video_file.write_video`.
        """
        self.path = Path(path)
        self.fps = float(fps)
        self.crf = crf
        self.full_color = full_color

    @property
    def finished(self) -> set[int]:
        """Ids of the episodes that are safe on disk."""
        files = self.path.glob("*/episode_*.mp4")
        return {int(file.stem.removeprefix("episode_")) for file in files}

    def add(self, episode_id: int, episode: Episode, split: str = "train") -> None:
        """Put one episode on disk. It is durable when this returns.

        Args:
            episode_id: number in the file's name.
            episode: its first camera is written.
            split: not kept; a video file has none.

        Raises:
            DatasetError: the file could not be written (disk full).
        """
        task = re.sub(r"[^\w.-]+", "-", episode.task).strip(".-") or "video"
        name = f"episode_{episode_id:06d}.mp4"
        staged = self.path / STAGING_PATH / name
        frames = next(iter(episode.frames.values()))
        # the unfinished file lies elsewhere, so that a killed recording leaves no stray video
        write_safely(
            staged, lambda path: write_video(path, frames, self.fps, self.crf, self.full_color)
        )
        write_safely(self.path / task / name, staged.replace)

    def finalize(self) -> Path:
        """Remove what an interrupted recording may have left, and return the folder."""
        shutil.rmtree(self.path / STAGING_PATH, ignore_errors=True)
        return self.path
