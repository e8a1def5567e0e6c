"""Objects by name, loaded one by one, so that a broken mesh stops nothing but itself."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from handhold.objects.catalogue import YCB_NAMES
from handhold.objects.mesh import ObjectMesh, load_object, object_files, object_name
from handhold.objects.procedural import make_object

CATALOGUE = "catalogue"


def mesh_loaders(objects: str | Path) -> dict[str, Callable[[], ObjectMesh]]:
    """Functions that load the meshes of a folder by name; "catalogue": look-alikes of the 21 YCB
    objects. Raises what `object_files` raises."""
    if str(objects) == CATALOGUE:
        return {
            name: functools.partial(make_object, name, np.random.default_rng(0))
            for name in YCB_NAMES
        }
    found: dict[str, Callable[[], ObjectMesh]] = {}
    for path in object_files(objects):
        found[object_name(path)] = functools.partial(load_object, path)
    return found
