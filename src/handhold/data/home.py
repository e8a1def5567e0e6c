"""Where indexes are kept."""

from __future__ import annotations

import os
from pathlib import Path

HOME_VARIABLE = "HANDHOLD_HOME"


def home() -> Path:
    """The folder of caches: HANDHOLD_HOME, else the platform's cache folder."""
    given = os.environ.get(HOME_VARIABLE)
    if given:
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "handhold"


def index_folder(cache: Path | None) -> Path:
    """The folder of indexes: the one given, else in `home()`."""
    return cache or home() / "index"
