"""Jobs over several processes that lose nothing: neither to a crash, nor to a killed parent.

A worker that dies costs the job it was at, and is replaced; workers whose parent is gone stop after
the job they are at. (concurrent.futures gives up at the first dead worker and leaves orphans.)
"""

import multiprocessing
import os
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from video.errors import DatasetError

ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LP_NUM_THREADS")
"""BLAS libraries and Mesa's software renderer: each would start a thread per core."""


class ProcessDied(RuntimeError):
    """A worker that ended amid its job, for want of memory, say."""


def run_jobs(
    function: Callable[[Any], Any], jobs: Sequence[Any], workers: int
) -> Generator[tuple[Any, Any], None, None]:
    """Call `function(job)` for every job, each worker on one thread.

    Args:
        function: picklable; every worker has its own copy, which may keep what it has built.
        jobs: picklable; started in this order.
        workers: processes, started afresh ("spawn"); 0 stays in this one.

    Yields:
        Every job as it ends, with what the function returned, or the exception that it raised: a
        DatasetError as it is, from a worker any other as a RuntimeError that names it. Of a worker
        that died, ProcessDied.
    """
    if workers == 0:
        for job in jobs:
            yield job, _attempt(function, job)
        return
    waiting = list(reversed(jobs))
    running: dict[Connection, tuple[BaseProcess, Any]] = {}

    def start_next(connection: Connection, process: BaseProcess) -> None:
        if waiting:
            job = waiting.pop()
            running[connection] = (process, job)
            connection.send(job)
        else:
            connection.close()

    try:
        for _ in range(min(workers, len(jobs))):
            start_next(*_start(function))
        while running:
            for connection in wait(list(running)):
                assert isinstance(connection, Connection)
                process, job = running.pop(connection)
                try:
                    result = connection.recv()
                except (EOFError, ConnectionResetError):
                    process.join()
                    result = ProcessDied(f"the process died with exit code {process.exitcode}")
                    connection, process = _start(function) if waiting else (connection, process)
                start_next(connection, process)
                yield job, result
    finally:
        for process, _ in running.values():
            process.terminate()


def _start(function: Callable[[Any], Any]) -> tuple[Connection, BaseProcess]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, function), daemon=True)
    with one_thread():
        process.start()
    theirs.close()
    return ours, process


def _work(connection: Connection, function: Callable[[Any], Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        result = _attempt(function, job)
        if isinstance(result, Exception) and not isinstance(result, DatasetError):
            result = RuntimeError(f"{type(result).__name__}: {result}")  # may not be picklable
        try:
            connection.send(result)
        except OSError:
            return


def _attempt(function: Callable[[Any], Any], job: Any) -> Any:
    try:
        return function(job)
    except Exception as error:
        return error


@contextmanager
def one_thread() -> Iterator[None]:
    """Environment variables that a process inherits; libraries read them when they are loaded."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
