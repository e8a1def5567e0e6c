"""A floor imports only from the floors below it; within a floor everything may meet."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import handhold

PACKAGE = Path(handhold.__file__).parent
FLOORS = {
    "errors": 0,
    "atomic": 0,
    "fields": 0,
    "scene": 0,
    "hand": 0,
    "objects": 0,
    "geometry": 0,
    "render": 1,
    "models": 2,
    "data": 2,
    "inference": 3,
    "training": 3,
    "evaluation": 3,
    "synthesis": 3,
    "cli": 4,
    "app": 4,
}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE)


def _imports(path: Path) -> list[str]:
    """The handhold modules that a file imports, also inside functions."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return [name for name in names if name.startswith("handhold.")]


def test_every_folder_has_a_floor() -> None:
    folders = {path.relative_to(PACKAGE).parts[0] for path in FILES}
    assert folders <= set(FLOORS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_only(path: Path) -> None:
    floor = FLOORS[path.relative_to(PACKAGE).parts[0]]
    above = [name for name in _imports(path) if FLOORS.get(name.split(".")[1], -1) > floor]
    assert not above, f"{path.name} (floor {floor}) imports from above: {above}"


def test_import_is_light() -> None:
    code = "import sys, handhold; print([m for m in ('torch', 'cv2', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
