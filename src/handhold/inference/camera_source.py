"""Which camera took the photo: given intrinsics, a given field of view, EXIF, or an assumption."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from handhold.errors import InputError
from handhold.geometry.camera import (
    intrinsics_from_35mm,
    intrinsics_from_focal_plane,
    intrinsics_from_fov,
)
from handhold.inference.images import Lens, Photo
from handhold.scene import Camera

DEFAULT_FOV_DEG = 60.0  # across the longer side: between a webcam and a phone's main camera
PLAUSIBLE_FOV_DEG = (5.0, 150.0)  # of EXIF: outside of it, it is taken to be wrong

Intrinsics = Sequence[float] | NDArray[np.floating]


def parse_intrinsics(text: str) -> tuple[float, float, float, float]:
    """fx, fy, cx, cy of the text "fx,fy,cx,cy" (pixels). Raises InputError unless these are four
    finite numbers and the focal lengths positive.
    """
    try:
        fx, fy, cx, cy = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(
            f"intrinsics: expected four numbers fx,fy,cx,cy (pixels), found {text!r}"
        ) from None
    check_intrinsics(np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]))
    return fx, fy, cx, cy


def check_intrinsics(matrix: NDArray[np.floating]) -> None:
    """Raise InputError unless (3, 3), finite, with positive focal lengths and last row 0, 0, 1."""
    if matrix.shape != (3, 3):
        raise InputError(f"intrinsics: expected fx, fy, cx, cy or (3, 3), found {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise InputError(f"intrinsics: expected finite numbers, found {matrix.ravel().tolist()}")
    if not (matrix[0, 0] > 0 and matrix[1, 1] > 0):
        raise InputError(
            f"intrinsics: focal lengths must be positive, found {matrix[0, 0]}, {matrix[1, 1]}"
        )
    if not np.allclose(matrix[2], (0, 0, 1)):
        raise InputError(f"intrinsics: expected the last row 0, 0, 1, found {matrix[2].tolist()}")


def check_fov(fov_deg: float) -> None:
    """Raise InputError unless 0 < fov_deg < 180."""
    if not (math.isfinite(fov_deg) and 0 < fov_deg < 180):
        raise InputError(f"fov: expected between 0 and 180 degrees, found {fov_deg}")


def camera_of(
    photo: Photo, intrinsics: Intrinsics | None = None, fov_deg: float | None = None
) -> Camera:
    """The photo's camera. intrinsics: fx, fy, cx, cy or (3, 3), of the upright photo, pixels.
    fov_deg: across the longer side. Without both EXIF decides, without EXIF DEFAULT_FOV_DEG;
    `source` says which. Raises InputError when both are given or one is unusable.
    """
    height, width = photo.image.shape[:2]
    if intrinsics is not None and fov_deg is not None:
        raise InputError("camera: give the intrinsics or the field of view, not both")
    if intrinsics is not None:
        matrix = np.asarray(intrinsics, dtype=np.float64)
        if matrix.shape == (4,):
            fx, fy, cx, cy = matrix
            matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
        check_intrinsics(matrix)
        return Camera(intrinsics=matrix, width=width, height=height, source="given")
    if fov_deg is not None:
        check_fov(fov_deg)
        matrix = intrinsics_from_fov(fov_deg, width, height, across="longer")
        return Camera(intrinsics=matrix, width=width, height=height, source="fov")
    matrix = None if photo.lens is None else _from_exif(photo.lens, width, height)
    if matrix is not None:
        return Camera(intrinsics=matrix, width=width, height=height, source="exif")
    matrix = intrinsics_from_fov(DEFAULT_FOV_DEG, width, height, across="longer")
    return Camera(intrinsics=matrix, width=width, height=height, source="default")


def _from_exif(lens: Lens, width: int, height: int) -> NDArray[np.floating] | None:
    """From the 35 mm equivalent, else from the focal length and the sensor's resolution."""
    candidates = []
    if lens.focal_35mm:
        candidates.append(intrinsics_from_35mm(lens.focal_35mm, width, height))
    longer = max(width, height)
    if lens.focal_mm and lens.pixels_per_mm and lens.taken_longer_side:
        scale = longer / lens.taken_longer_side
        candidates.append(
            intrinsics_from_focal_plane(lens.focal_mm, lens.pixels_per_mm * scale, width, height)
        )
    for matrix in candidates:
        fov_deg = math.degrees(2 * math.atan(longer / 2 / matrix[0, 0]))
        if PLAUSIBLE_FOV_DEG[0] <= fov_deg <= PLAUSIBLE_FOV_DEG[1]:
            return matrix
    return None
