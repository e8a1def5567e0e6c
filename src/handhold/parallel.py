"""Independent jobs: one after the other, in several processes, or on the machines of a Ray cluster.

A job is the arguments of a function that writes files of its own and whose random choices follow
from its arguments: what comes out does not depend on where or in what order jobs run.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from handhold.errors import HandholdError, MissingExtraError

LOCAL = "local"
DIED = (
    "a worker process was killed, perhaps for want of memory; what was finished is kept, and the "
    "same command goes on"
)
Jobs = Sequence[tuple[Any, ...]]


def run_jobs(
    function: Callable[..., Any], jobs: Jobs, *, workers: int = 1, ray: str | None = None
) -> Iterator[tuple[int, Any]]:
    """Number and result of each job as it finishes.

    workers: processes on this machine. ray: address of a cluster that sees the same folders, or
    "local" to start one here, of `workers` processes. The first error ends it; jobs that were
    finished stay. Raises MissingExtraError without Ray where it is asked for, what a job raises,
    and HandholdError where a worker is killed.
    """
    if not jobs:
        return
    if ray is not None:
        yield from _on_ray(function, jobs, workers, ray)
    elif workers > 1:
        yield from _in_processes(function, jobs, workers)
    else:
        for number, job in enumerate(jobs):
            yield number, function(*job)


def _in_processes(
    function: Callable[..., Any], jobs: Jobs, workers: int
) -> Iterator[tuple[int, Any]]:
    size = min(workers, len(jobs))
    # not forked from this process: a fork copies the locks that its libraries' threads hold
    clean = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(size, clean, initializer=_end_with_parent) as pool:
        running = {pool.submit(function, *job): number for number, job in enumerate(jobs)}
        try:
            while running:
                for one in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(one), one.result()
        except BrokenProcessPool as error:
            raise HandholdError(DIED) from error
        finally:
            for one in running:
                one.cancel()


def _end_with_parent() -> None:
    """End this worker when the process that started it is gone, even by kill -9."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _on_ray(
    function: Callable[..., Any], jobs: Jobs, workers: int, address: str
) -> Iterator[tuple[int, Any]]:
    try:
        import ray
        from ray.exceptions import RayTaskError, WorkerCrashedError
    except ImportError as error:
        raise MissingExtraError("--ray needs: pip install 'handhold[ray]'") from error
    quiet: dict[str, Any] = {"logging_level": "error", "log_to_driver": False}
    started = not ray.is_initialized()  # else the caller's own cluster is used, and left running
    if started and address == LOCAL:
        ray.init(num_cpus=max(1, workers), include_dashboard=False, **quiet)
    elif started:
        ray.init(address=address, **quiet)
    try:
        remote = ray.remote(num_cpus=1)(function)
        running = {remote.remote(*job): number for number, job in enumerate(jobs)}
        while running:
            for one in ray.wait(list(running))[0]:
                yield running.pop(one), ray.get(one)
    except RayTaskError as error:
        if isinstance(error.cause, HandholdError | OSError):
            raise error.cause from None
        raise
    except WorkerCrashedError as error:
        raise HandholdError(DIED) from error
    finally:
        if started:
            ray.shutdown()
