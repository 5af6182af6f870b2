"""Other recordings to the native format: `python -m video convert SOURCE OUT`.

What is in a file of which kind is known to `import_hdf5.py` and `import_zarr.py`; this file copies
episode by episode, so that one of them is in memory at a time.
"""

import sys
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from video.dataset_recipe import RECIPE, check_recipe
from video.errors import DatasetError
from video.import_hdf5 import open_hdf5
from video.import_zarr import open_zarr
from video.safe_files import write_json
from video.sources import Source
from video.writer import DatasetWriter

Format = Literal["auto", "hdf5", "zarr"]

HDF5_SUFFIXES = (".hdf5", ".h5")


def convert(
    source: Path,
    out: Path,
    format: Format = "auto",
    fps: float | None = None,
    task: str | None = None,
    crf: int = 20,
) -> Path:
    """Import robomimic or LIBERO HDF5, or Diffusion Policy zarr, as a native dataset.

    An interrupted conversion goes on where it stopped when it is started again.

    Args:
        source: an .hdf5 file, a folder of them, a .zarr folder or a .zarr.zip file.
        out: folder of the new dataset.
        format: "hdf5" or "zarr"; "auto" looks at the name.
        fps: frames per second; by default what the source says, which zarr does not.
        task: name or instruction for all episodes; by default what the source says.
        crf: x264's constant rate factor, smaller is better and larger on disk.

    Returns:
        The new dataset's folder.

    Raises:
        DatasetError: the source cannot be read, nothing in it is usable, the frame rate is not
            known, or the folder holds something else.
    """
    sources = _open_all(source, format)
    rates = {each.fps for each in sources} if fps is None else {fps}
    rate = rates.pop()
    if rate is None or rates:
        raise DatasetError(f"{source} does not say one frame rate. Pass --fps.")
    recipe = {"source": str(source.resolve()), "fps": rate, "task": task, "crf": crf}
    check_recipe(out, recipe)
    writer = DatasetWriter(out, rate, crf=crf)
    write_json(out / RECIPE, recipe)
    finished = writer.finished
    skipped: list[str] = []
    episodes = [episode for each in sources for episode in each.episodes]
    for number, episode in enumerate(tqdm(episodes, desc="Converting", unit=" episodes")):
        if number in finished:
            continue
        try:
            content = episode.load()
            content.task = content.task if task is None else task
            writer.add(number, content, episode.split)
        except DatasetError as error:
            skipped.append(f"{episode.name}: {error}")
    if len(skipped) == len(episodes):
        raise DatasetError("\n".join([f"{source}: no episode could be converted.", *skipped]))
    folder = writer.finalize()
    print(f"{folder}: {len(episodes) - len(skipped)} of {len(episodes)} episodes converted.")
    for line in skipped:
        print(f"  skipped {line}", file=sys.stderr)
    return folder


def _open_all(source: Path, format: Format) -> list[Source]:
    """One source, or those in a folder of HDF5 files."""
    if not source.exists():
        raise DatasetError(f"{source} does not exist.")
    if format == "auto":
        format = "zarr" if source.name.removesuffix(".zip").endswith(".zarr") else "hdf5"
        if source.is_dir() and (source / ".zgroup").exists():
            format = "zarr"
    if format == "zarr":
        return [open_zarr(source)]
    if source.is_file():
        return [open_hdf5(source)]
    files = sorted(file for file in source.iterdir() if file.suffix in HDF5_SUFFIXES)
    if not files:
        raise DatasetError(
            f"{source} holds no {' or '.join(HDF5_SUFFIXES)} file, and is no zarr. A folder of "
            f"videos or a LeRobot dataset is used as it is: python -m video info {source}"
        )
    return [open_hdf5(file) for file in files]
