"""Files and folders that are whole or not there, however the process that writes them ends."""

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError

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
    """Write a JSON file, as `write_safely` does; what is no finite number there is null."""
    text = json.dumps(_without_gaps(content), indent=2, allow_nan=False) + "\n"
    write_safely(path, lambda temporary: temporary.write_text(text))


def _without_gaps(value: Any) -> Any:
    """JSON has no nan and no infinity."""
    if isinstance(value, dict):
        return {name: _without_gaps(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_gaps(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Write a folder under another name; it takes the place of an earlier one when it is complete.

        with whole_folder(Path("runs/uwm/model")) as unfinished:
            ...  # write into `unfinished`, which is there and empty

    Args:
        folder: where it shall lie.

    Raises:
        DatasetError: the disk does not take it; what stood there before is untouched.
    """
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    retired = folder.with_name(f".{folder.name}.retired")
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        shutil.rmtree(retired, ignore_errors=True)
        if folder.exists():
            folder.rename(retired)
        unfinished.rename(folder)
    except OSError as error:
        raise DatasetError(
            f"{folder} could not be written ({error}). Free space or choose another place; what "
            "stood there before is untouched."
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    shutil.rmtree(retired, ignore_errors=True)


@contextmanager
def reading_model(folder: Path) -> Iterator[None]:
    """Say of a saved model which folder it is that cannot be read, and what to do.

    Raises:
        DatasetError: in place of what is raised for missing and damaged files, and for descriptions
            that lack a key.
    """
    try:
        yield
    except (OSError, SafetensorError, json.JSONDecodeError, KeyError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise DatasetError(
            f"{folder} is damaged or incomplete ({reason}). Copy it again, or train it again."
        ) from error


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
