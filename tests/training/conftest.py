"""Makes the small method of `stub` importable and its data available."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from stub import make_folder


@pytest.fixture(scope="session")
def new_dots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dots that are not in `dots`."""
    return make_folder(tmp_path_factory.mktemp("new_dots"), 100, first=1000)


@pytest.fixture(scope="session")
def dots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of shards of dots."""
    return make_folder(tmp_path_factory.mktemp("dots"))
