"""The project's own commands as stages of a benchmark, so that it does what its users do."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from video.clip_sources import ClipSource
from video.safe_files import write_json

HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""Asks for pages of 2 MiB, where the kernel gives them on request."""


def fit(
    folder: Path,
    configs: Sequence[str],
    model: Mapping[str, Any],
    data: Mapping[str, Any],
    trainer: Mapping[str, Any],
    seed: int = 0,
) -> None:
    """Train by configurations of the project with changes; goes on with a stopped run.

    Args:
        folder: of the run; the changes are written there.
        configs: later ones win.
        model: changes of the model's arguments.
        data: changes of the data's. `datasets` replace those of the configurations: a field that
            one of them does not name has its default, whatever stood there before.
        trainer: changes of the trainer's.
        seed: of the run.
    """
    changes: dict[str, Any] = {
        "seed_everything": seed,
        "trainer": {**trainer, "default_root_dir": str(folder)},
    }
    if model:
        changes["model"] = {"init_args": dict(model)}
    if data:
        whole = [asdict(ClipSource(**source)) for source in data["datasets"]]
        changes["data"] = {"init_args": {**data, "datasets": whole}}
    overlay = folder / "changes.yaml"
    write(overlay, changes)
    words = [word for path in (*configs, overlay) for word in ("-c", path)]
    _call(Path(sys.executable).with_name("lightning"), "fit", *words, "--ckpt_path", "last")


def python(package: str, *words: object) -> None:
    """One of the packages' own commands."""
    _call(sys.executable, "-m", package, *words)


def side_by_side(work: Iterable[Callable[[], None]], jobs: int) -> None:
    """Do what does not depend on each other, several at once, each on its share of the cores.

    Small networks use one core better than two. All is done, or tried, before an error is told.
    """
    threads = os.environ.get("OMP_NUM_THREADS")
    if jobs > 1:
        os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // jobs))
    try:
        with ThreadPoolExecutor(jobs) as pool:
            running = [pool.submit(task) for task in work]
        for task in running:
            task.result()
    finally:
        os.environ.pop("OMP_NUM_THREADS", None)
        if threads is not None:
            os.environ["OMP_NUM_THREADS"] = threads


def keep_apart(out: Path, options: Mapping[str, Any]) -> None:
    """Refuse a folder of other options, whose stages would pass for those of these."""
    path = out / "options.json"
    wanted = {name: str(value) for name, value in options.items()}
    earlier = json.loads(path.read_text()) if path.exists() else wanted
    for name, value in wanted.items():
        if earlier.get(name) != value:
            option = f"--{name.replace('_', '-')}"
            sys.exit(f"{out} is of {option} {earlier.get(name)}: name another by --out for {value}")
    write_json(path, wanted)


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write a YAML file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(dict(content)))


def _call(*words: object) -> None:
    """Show a command and wait for it; what it prints goes to the error stream."""
    command = [str(word) for word in words]
    sys.stderr.write(f"$ {' '.join(command)}\n")  # at once: others may be writing beside it
    subprocess.run(command, check=True, stdout=sys.stderr, env=HUGE_PAGES | os.environ)
