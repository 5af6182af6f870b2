"""Files that are either whole or not there, however the process that writes them ends."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from video.errors import DatasetError


def write_safely(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under another name and give it its own when it is complete.

    Args:
        path: the file; its folder is made.
        write: called with the path to write to.

    Raises:
        DatasetError: the disk is full or the place cannot be written to. What was at `path` before
            is still there.
    """
    temporary = path.with_name(f"unfinished_{os.getpid()}_{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise DatasetError(f"{path} could not be written: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: dict) -> None:
    """Write a JSON file, as `write_safely` does."""
    write_safely(path, lambda temporary: temporary.write_text(json.dumps(content, indent=2)))


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write a parquet file in one piece, as `write_safely` does.

    One row group without dictionaries is half the size of lerobot's own layout for episodes of
    some tens of frames, and reads the same.
    """
    write_safely(
        path,
        lambda temporary: pq.write_table(
            table,
            temporary,
            row_group_size=max(1, table.num_rows),
            compression="zstd",
            compression_level=9,
            use_dictionary=False,
        ),
    )
