"""Where a benchmark ran, and the time that its parts took."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any


def processor() -> str:
    """The processor's own name."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def load() -> float | None:
    """How busy the machine was in the last minute; None where it does not tell."""
    return round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None


def conditions(*packages: str, threads: int) -> dict[str, Any]:
    """Under what a benchmark runs, to be asked before it adds to the load. packages: those whose
    versions matter, by their names on the index; None where one is not installed."""
    installed = {item.metadata["Name"]: item.version for item in metadata.distributions()}
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "load_of_the_machine": load(),
        "python": platform.python_version(),
        "versions": {name: installed.get(name) for name in packages},
    }


def times(work: Callable[[], Any], rounds: int) -> tuple[list[float], list[float]]:
    """Processor and clock seconds of `work`, `rounds` times after one that does not count."""
    work()
    busy, clock = [], []
    for _ in range(rounds):
        start, begun = time.perf_counter(), time.process_time()
        work()
        busy.append(time.process_time() - begun)
        clock.append(time.perf_counter() - start)
    return busy, clock
