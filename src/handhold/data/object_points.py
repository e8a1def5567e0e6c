"""The objects' points from a data set's `models` folder, else the catalogue's boxes."""

from __future__ import annotations

import io
from collections.abc import Iterable

import numpy as np

from handhold.data.files import Files
from handhold.errors import FileFormatError
from handhold.objects.catalogue import info
from handhold.objects.control_points import control_points, control_points_of_box
from handhold.scene import FloatArray


class ObjectPoints:
    """Points of the YCB objects by name, read when first asked for.

    folder: of the models in the tree: `<folder>/<name>/points.xyz`, or `textured_simple.obj`.
    """

    def __init__(self, files: Files, folder: str = "models") -> None:
        self.files, self.folder = files, folder
        self._points: dict[str, FloatArray | None] = {}
        self._control: dict[str, FloatArray] = {}

    def points(self, name: str) -> FloatArray | None:
        """Points (P, 3) on the object, metres, its own frame; None where there is no model.

        Raises FileFormatError for a file without points."""
        if name not in self._points:
            self._points[name] = self._read(name)
        return self._points[name]

    def of_all(self, names: Iterable[str]) -> dict[str, FloatArray]:
        """The points of those objects that have a model here."""
        found = {name: self.points(name) for name in names}
        return {name: points for name, points in found.items() if points is not None}

    def of(self, name: str) -> FloatArray:
        """The 21 control points (21, 3); without a model those of the catalogue's box.

        Raises InputError for an object that is neither there nor in the catalogue."""
        if name not in self._control:
            points = self.points(name)
            if points is None:
                thing = info(name)
                low = thing.box_centre - thing.extent / 2
                self._control[name] = control_points_of_box(low, low + thing.extent)
            else:
                self._control[name] = control_points(points)
        return self._control[name]

    def _read(self, name: str) -> FloatArray | None:
        xyz = f"{self.folder}/{name}/points.xyz"
        obj = f"{self.folder}/{name}/textured_simple.obj"
        chosen = next((file for file in (xyz, obj) if self.files.has(file)), None)
        if chosen is None:
            return None
        where = self.files.place(chosen)
        return read_points(self.files.read(chosen), where, obj=chosen == obj)


def read_points(data: bytes, where: str, *, obj: bool) -> FloatArray:
    """Points (P, 3) of a file's bytes: the vertices of an OBJ file, or rows of x y z.

    Raises FileFormatError for a file without points."""
    try:
        if obj:
            lines = data.decode("utf-8", "replace").splitlines()
            rows = [line.split()[1:4] for line in lines if line.startswith("v ")]
            points = np.array(rows, np.float64).reshape(-1, 3)
        else:
            points = np.loadtxt(io.BytesIO(data), np.float64, ndmin=2)
    except ValueError as error:
        raise FileFormatError(f"{where}: expected rows of x y z: {error}") from error
    if points.ndim != 2 or points.shape[1] < 3 or not len(points):
        raise FileFormatError(f"{where}: expected rows of x y z, found {points.shape}")
    if not np.isfinite(points).all():
        raise FileFormatError(f"{where}: holds NaN or infinite numbers")
    return points[:, :3]
