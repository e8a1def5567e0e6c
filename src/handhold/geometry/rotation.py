"""Rotations in every representation that the project meets; torch, any batch shape, differentiable.

Axis-angle: (..., 3), radians. Matrices: (..., 3, 3), acting on column vectors. Quaternions:
(..., 4), real part first (w, x, y, z). 6D (Zhou et al., CVPR 2019, "On the Continuity of Rotation
Representations in Neural Networks", section 3): (..., 6), the first two columns one after another.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import roma
import torch
from torch import Tensor

from handhold.errors import InputError

RotationType: TypeAlias = Literal["axis_angle", "matrix", "6d", "quaternion"]

MANOPTH_OFFSET = 1e-8  # added to every component before the norm, as manopth does


def _require(name: str, value: Tensor, *tail: int) -> None:
    if tuple(value.shape[-len(tail) :]) != tail:
        shape = ", ".join(str(n) for n in tail)
        raise InputError(f"{name}: expected shape (..., {shape}), found {tuple(value.shape)}")


def axis_angle_to_matrix(axis_angle: Tensor) -> Tensor:
    """Rodrigues' formula: (..., 3) -> (..., 3, 3). InputError when the last axis is not 3."""
    _require("axis_angle", axis_angle, 3)
    return roma.rotvec_to_rotmat(axis_angle)


def axis_angle_to_matrix_manopth(axis_angle: Tensor) -> Tensor:
    """The matrix as manopth's MANO layer makes it: (..., 3) -> (..., 3, 3).

    angle = ||a + 1e-8||, axis = a / angle, then through a normalised quaternion. A zero vector
    gives the identity, with a finite gradient. Agrees with `axis_angle_to_matrix` to about 1e-6.
    Raises InputError when the last axis is not 3.
    """
    _require("axis_angle", axis_angle, 3)
    shifted = axis_angle + MANOPTH_OFFSET
    angle = torch.linalg.vector_norm(shifted, dim=-1, keepdim=True).clamp_min(1e-12)
    half = 0.5 * angle
    quaternion = torch.cat((torch.cos(half), torch.sin(half) * (axis_angle / angle)), dim=-1)
    return quaternion_to_matrix(quaternion)


def matrix_to_axis_angle(matrix: Tensor) -> Tensor:
    """The shortest axis-angle (angle in 0..pi): (..., 3, 3) -> (..., 3).

    Goes through the quaternion, so values and gradients stay finite at the identity and at half
    turns (where the sign of the axis is arbitrary). Raises InputError for other shapes.
    """
    _require("matrix", matrix, 3, 3)
    return roma.unitquat_to_rotvec(roma.rotmat_to_unitquat(matrix))


def quaternion_to_matrix(quaternion: Tensor) -> Tensor:
    """(..., 4) w, x, y, z of any non-zero length -> (..., 3, 3). InputError for other shapes."""
    _require("quaternion", quaternion, 4)
    length = torch.linalg.vector_norm(quaternion, dim=-1, keepdim=True).clamp_min(1e-12)
    w, x, y, z = (quaternion / length).unbind(-1)
    rows = (
        w * w + x * x - y * y - z * z,
        2 * (x * y - w * z),
        2 * (w * y + x * z),
        2 * (w * z + x * y),
        w * w - x * x + y * y - z * z,
        2 * (y * z - w * x),
        2 * (x * z - w * y),
        2 * (w * x + y * z),
        w * w - x * x - y * y + z * z,
    )
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def matrix_to_quaternion(matrix: Tensor) -> Tensor:
    """(..., 3, 3) -> unit quaternion (..., 4) w, x, y, z with w >= 0. InputError otherwise."""
    _require("matrix", matrix, 3, 3)
    quaternion = torch.roll(roma.rotmat_to_unitquat(matrix), 1, dims=-1)
    return torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)


def sixd_to_matrix(sixd: Tensor) -> Tensor:
    """Gram-Schmidt: (..., 6) -> (..., 3, 3) with columns b1, b2, b1 x b2.

    a1 = the first three numbers, a2 = the last three; b1 = a1 normalised, b2 = a2 less its part
    along b1, normalised. Raises InputError when the last axis is not 6.
    """
    _require("sixd", sixd, 6)
    columns = torch.stack((sixd[..., :3], sixd[..., 3:]), dim=-1)
    # roma annotates epsilon as int but takes any number
    return roma.special_gramschmidt(columns, epsilon=1e-8)  # pyright: ignore[reportArgumentType]


def matrix_to_sixd(matrix: Tensor) -> Tensor:
    """The first column, then the second: (..., 3, 3) -> (..., 6). InputError for other shapes."""
    _require("matrix", matrix, 3, 3)
    return torch.cat((matrix[..., :, 0], matrix[..., :, 1]), dim=-1)


def to_matrix(rotation: Tensor, rotation_type: RotationType) -> Tensor:
    """Any representation -> (..., 3, 3); axis-angles by the manopth rule. InputError if unknown."""
    if rotation_type == "axis_angle":
        return axis_angle_to_matrix_manopth(rotation)
    if rotation_type == "matrix":
        _require("matrix", rotation, 3, 3)
        return rotation
    if rotation_type == "6d":
        return sixd_to_matrix(rotation)
    if rotation_type == "quaternion":
        return quaternion_to_matrix(rotation)
    raise InputError(
        "rotation_type: expected 'axis_angle', 'matrix', '6d' or 'quaternion', "
        f"found {rotation_type!r}"
    )
