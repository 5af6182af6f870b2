"""A run's folder belongs to one training at a time."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from video.errors import DatasetError

if sys.platform != "win32":
    import fcntl


@contextmanager
def one_training_at_a_time(folder: Path) -> Iterator[None]:
    """Keep a second training out of a folder in which one is running.

    By the system's own lock on the folder, which ends with its process however that ends, so
    nothing is left behind. Where there are no such locks, nothing is kept out.

    Args:
        folder: of the run; made if it is not there.

    Raises:
        DatasetError: another process trains there.
    """
    if sys.platform == "win32":
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        raise DatasetError(
            f"another training is running in {folder}, and both would write the same files. Wait "
            "for it, or choose another --trainer.default_root_dir."
        ) from None
    except OSError:  # a file system without locks
        pass
    try:
        yield
    finally:
        os.close(held)
