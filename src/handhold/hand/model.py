"""THE hand: MANO's linear blend skinning (Romero, Tzionas, Black, SIGGRAPH Asia 2017, section 3).

Same arithmetic as the manopth layer that the published methods use, in metres instead of
millimetres. Everything is float32 (or the model's own type), also under autocast.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from handhold.errors import FileFormatError, InputError, MissingFileError
from handhold.geometry.rotation import RotationType, to_matrix
from handhold.hand.convention import (
    MANO_TO_CANONICAL,
    PARENTS_MANO,
    fix_left_shapedirs,
    mirror_pose,
    tip_vertices,
)
from handhold.hand.files import (
    FREE_HAND,
    MANO_VARIABLE,
    HandArrays,
    find_mano,
    read_hand,
    side_of_name,
)
from handhold.scene import Side

_TAILS: dict[str, tuple[int, ...]] = {
    "axis_angle": (16, 3),
    "matrix": (16, 3, 3),
    "6d": (16, 6),
    "quaternion": (16, 4),
}


@dataclass(frozen=True, kw_only=True)
class HandOutput:
    """vertices (..., 778, 3), joints (..., 21, 3) canonical order, joints16 (..., 16, 3) MANO's
    order; metres, all three in the same frame."""

    vertices: Tensor
    joints: Tensor
    joints16: Tensor


class HandModel(nn.Module):
    """A hand of one side: pose and shape in, vertices and joints out.

    side; faces (F, 3) int64; template (778, 3); weights (778, 16); tips (5,) vertex ids, thumb to
    little; parents (16 joints); hands_mean (45,); hands_components (45, 45), rows are components;
    is_free: True for the hand that ships with the package. extras: further arrays of the file, as
    stored there (of a mirrored model: those of the other side). Buffers are never saved in
    checkpoints.
    """

    faces: Tensor
    template: Tensor
    weights: Tensor
    tips: Tensor
    hands_mean: Tensor
    hands_components: Tensor
    _shape_basis: Tensor
    _pose_basis: Tensor
    _joint_basis: Tensor
    _rest_joints: Tensor
    _order: Tensor

    def __init__(
        self,
        arrays: HandArrays,
        *,
        side: Side,
        tips: str | tuple[int, ...] = "manopth",
        is_free: bool = False,
    ) -> None:
        super().__init__()
        if side not in ("left", "right"):
            raise InputError(f"side: expected 'left' or 'right', found {side!r}")
        ids = tip_vertices(tips, side) if isinstance(tips, str) else tuple(int(t) for t in tips)
        if len(ids) != 5 or not all(0 <= t < 778 for t in ids):
            raise InputError(f"tips: expected five vertex ids 0..777, found {ids}")
        self.side: Side = side
        self.is_free = is_free
        self.parents = PARENTS_MANO
        self.arrays = arrays
        self.extras = arrays.extras
        regressor = arrays.J_regressor.astype(np.float64)
        rest = regressor @ arrays.v_template
        joint_basis = np.einsum("jv,vck->kjc", regressor, arrays.shapedirs)
        constants: dict[str, Any] = {
            "faces": arrays.faces,
            "template": arrays.v_template,
            "weights": arrays.weights,
            "tips": np.asarray(ids, np.int64),
            "hands_mean": arrays.hands_mean,
            "hands_components": arrays.hands_components,
            # (directions, 3 * 778): x of all vertices, then y, then z
            "_shape_basis": arrays.shapedirs.transpose(2, 1, 0).reshape(10, -1),
            "_pose_basis": arrays.posedirs.transpose(2, 1, 0).reshape(135, -1),
            "_joint_basis": joint_basis.reshape(10, 48).astype(np.float32),
            "_rest_joints": rest.astype(np.float32),
            "_order": np.asarray(MANO_TO_CANONICAL, np.int64),
        }
        for name, value in constants.items():
            tensor = torch.from_numpy(np.array(value, order="C"))
            self.register_buffer(name, tensor, persistent=False)

    # ---------------------------------------------------------------------------- constructors

    @classmethod
    def from_file(
        cls,
        path: Path | str,
        side: Side | None = None,
        *,
        tips: str | tuple[int, ...] | None = None,
        left_shape_fix: bool = False,
    ) -> HandModel:
        """Read MANO_RIGHT.pkl / MANO_LEFT.pkl, the official zip, or an npz of the same schema.

        side: None reads it from the file's name. tips: a table of `TIP_VERTICES`, "manopth", or
        five vertex ids; None takes the file's own `tips`, else manopth's. left_shape_fix: negate
        the x component of a left file's shape basis (see `fix_left_shapedirs`). Raises
        MissingFileError, FileFormatError, and InputError when no side is known.
        """
        side = side or side_of_name(Path(path))
        if side is None:
            raise InputError(
                f"{path}: the name does not tell the side; give side='right' or 'left'"
            )
        arrays = read_hand(path, side)
        if left_shape_fix and side == "left":
            arrays = _replace(arrays, shapedirs=fix_left_shapedirs(arrays.shapedirs))
        return cls(arrays, side=side, tips=_tips_of(arrays) if tips is None else tips)

    @classmethod
    def free(cls, side: Side = "right") -> HandModel:
        """The free hand that ships with the package; the left one is the right one's mirror image.

        Raises MissingFileError when the package came without it.
        """
        if not FREE_HAND.is_file():
            raise MissingFileError(
                f"{FREE_HAND}: the free hand is missing from this installation;"
                " reinstall handhold, or give MANO's own files"
            )
        arrays = _read_cached(FREE_HAND)
        right = cls(arrays, side="right", tips=_tips_of(arrays), is_free=True)
        return right if side == "right" else right.mirrored()

    @classmethod
    def load(
        cls, mano: Path | str | None = None, side: Side = "right", *, left_shape_fix: bool = False
    ) -> HandModel:
        """MANO's hand from the folder or file `mano` or HANDHOLD_MANO, else the free hand.

        Raises MissingFileError when a place is given but holds no hand model.
        """
        if mano is None and not os.environ.get(MANO_VARIABLE):
            return cls.free(side)
        return cls.from_file(find_mano(mano, side), side, left_shape_fix=left_shape_fix)

    def mirrored(self) -> HandModel:
        """The same hand on the other side: `mirrored()(mirror_pose(p))` = x-negated `self(p)`.

        Face winding is flipped, so that normals still point outward. Tips stay the same vertices.
        """
        flip = np.asarray((-1, 1, 1), np.float32)
        feature = np.tile(np.outer(flip, flip).reshape(9), 15)  # of a mirrored rotation matrix
        old = self.arrays
        components = mirror_pose(old.hands_components.reshape(45, 15, 3)).reshape(45, 45)
        arrays = _replace(
            old,
            v_template=old.v_template * flip,
            shapedirs=old.shapedirs * flip[:, None],
            posedirs=old.posedirs * flip[:, None] * feature,
            hands_components=components,
            hands_mean=mirror_pose(old.hands_mean.reshape(15, 3)).reshape(45),
            faces=np.ascontiguousarray(old.faces[:, ::-1]),
        )
        other: Side = "left" if self.side == "right" else "right"
        return self._remade(arrays, other, tuple(self.tips.tolist()))

    def with_tips(self, tips: str | tuple[int, ...]) -> HandModel:
        """The same hand with other tip vertices (a table of `TIP_VERTICES`, or five ids)."""
        return self._remade(self.arrays, self.side, tips)

    def _remade(self, arrays: HandArrays, side: Side, tips: str | tuple[int, ...]) -> HandModel:
        new = HandModel(arrays, side=side, tips=tips, is_free=self.is_free)
        new.train(self.training)
        return new.to(device=self.template.device, dtype=self.template.dtype)

    # ---------------------------------------------------------------------------------- forward

    def rest_joints(self, betas: Tensor | None = None) -> Tensor:
        """The 16 joints of the shaped hand at rest: (..., 10) -> (..., 16, 3); None: (16, 3)."""
        if betas is None:
            return self._rest_joints
        self._check("betas", betas, 10)
        offset = betas.to(self._joint_basis.dtype) @ self._joint_basis
        return self._rest_joints + offset.unflatten(-1, (16, 3))

    def full_pose(self, pose: Tensor, *, flat: bool = True, pca: bool = False) -> Tensor:
        """Axis-angles (..., 16, 3), flat convention, of the parameters `forward` accepts.

        pca: pose is (..., 3 + n): the global axis-angle, then n <= 45 coefficients. Otherwise
        (..., 16, 3) or (..., 48). flat=False adds the mean to the fingers.
        """
        pose = pose.to(self.template.dtype)
        if pca:
            count = pose.shape[-1] - 3
            if not 0 < count <= 45:
                raise InputError(
                    f"pose: expected (..., 3 + n) with 1 to 45 PCA coefficients,"
                    f" found {tuple(pose.shape)}"
                )
            fingers = pose[..., 3:] @ self.hands_components[:count]
            pose = torch.cat((pose[..., :3], fingers), dim=-1)
        if pose.ndim and pose.shape[-1] == 48:
            pose = pose.unflatten(-1, (16, 3))
        self._check("pose", pose, 16, 3)
        if flat:
            return pose
        mean = self.hands_mean.reshape(15, 3)
        return torch.cat((pose[..., :1, :], pose[..., 1:, :] + mean), dim=-2)

    def forward(
        self,
        pose: Tensor,
        betas: Tensor | None = None,
        translation: Tensor | None = None,
        *,
        rotation_type: RotationType = "axis_angle",
        flat: bool = True,
        pca: bool = False,
        center: int | None = None,
    ) -> HandOutput:
        """Pose the hand.

        pose: (..., 16, 3) axis-angle (or (..., 48)), (..., 16, 3, 3) "matrix", (..., 16, 6) "6d",
        (..., 16, 4) "quaternion" (w first); with pca, (..., 3 + n): the global axis-angle and n
        coefficients. betas: (..., 10), None for the mean shape. translation: (..., 3) metres. flat:
        False adds the mean pose to the fingers (axis-angle and pca only). center: a joint of the
        canonical order that becomes the origin; then the translation is added. (manopth does not
        centre when a non-zero translation is given: leave `center` out for that.) Without both, the
        wrist rests at J0(betas) whatever the rotation. The batch shapes are broadcast.
        Raises InputError for wrong shapes and impossible combinations.
        """
        if torch.is_autocast_enabled(pose.device.type):
            with torch.autocast(pose.device.type, enabled=False):
                return self.forward(
                    pose,
                    betas,
                    translation,
                    rotation_type=rotation_type,
                    flat=flat,
                    pca=pca,
                    center=center,
                )
        dtype = self.template.dtype
        if rotation_type == "axis_angle":
            rotations = to_matrix(self.full_pose(pose, flat=flat, pca=pca), "axis_angle")
        elif pca or not flat:
            raise InputError(f"pose: pca and flat=False need axis-angles, not {rotation_type!r}")
        else:
            self._check("pose", pose, *_TAILS.get(rotation_type, (16, 3)))
            rotations = to_matrix(pose.to(dtype), rotation_type)
        lead = rotations.shape[:-3]
        if betas is not None:
            self._check("betas", betas, 10)
            lead = _broadcast(lead, betas.shape[:-1])
        if translation is not None:
            self._check("translation", translation, 3)
            lead = _broadcast(lead, translation.shape[:-1])
            translation = translation.to(dtype).expand(*lead, 3).reshape(-1, 1, 3)
        if betas is not None:
            betas = betas.to(dtype).expand(*lead, 10).reshape(-1, 10)
        rotations = rotations.expand(*lead, 16, 3, 3).reshape(-1, 16, 3, 3)
        vertices, joints16 = self._skin(rotations, betas)
        joints = torch.cat((joints16, vertices[:, self.tips]), dim=1)[:, self._order]
        shift = translation
        if center is not None:
            if not 0 <= center < 21:
                raise InputError(f"center: expected a joint 0..20, found {center}")
            origin = joints[:, center : center + 1]
            shift = -origin if translation is None else translation - origin
        if shift is not None:
            vertices, joints, joints16 = vertices + shift, joints + shift, joints16 + shift
        return HandOutput(
            vertices=vertices.reshape(*lead, 778, 3),
            joints=joints.reshape(*lead, 21, 3),
            joints16=joints16.reshape(*lead, 16, 3),
        )

    def _skin(self, rotations: Tensor, betas: Tensor | None) -> tuple[Tensor, Tensor]:
        """Rotations (B, 16, 3, 3), betas (B, 10) -> vertices (B, 778, 3), joints (B, 16, 3)."""
        size = rotations.shape[0]
        shaped = self.template.t().reshape(1, -1)  # (1, 3 * 778)
        rest = self._rest_joints[None]
        if betas is not None:
            shaped = shaped + betas @ self._shape_basis
            rest = self.rest_joints(betas)
        identity = torch.eye(3, dtype=rotations.dtype, device=rotations.device)
        feature = (rotations[:, 1:] - identity).reshape(size, 135)
        posed = (shaped + feature @ self._pose_basis).reshape(size, 3, 778)
        turned, joints = self._chain(rotations, rest.expand(size, 16, 3))
        moved = joints - (turned @ rest[..., None]).squeeze(-1)
        # columns x, y, z of the rotations, then the translations: (B, 4 * 3, 16)
        columns = torch.cat((turned.permute(0, 3, 2, 1), moved.transpose(1, 2)[:, None]), dim=1)
        blended = (columns.reshape(-1, 16) @ self.weights.t()).reshape(size, 4, 3, 778)
        vertices = blended[:, 3]
        for axis in range(3):
            vertices = torch.addcmul(vertices, blended[:, axis], posed[:, axis : axis + 1])
        return vertices.transpose(1, 2).contiguous(), joints

    @staticmethod
    def _chain(rotations: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
        """World rotations (B, 16, 3, 3) and positions (B, 16, 3), level by level.

        MANO's joints 1, 4, 7, ... are the first of a finger, 2, 5, 8, ... the second, and so on.
        """
        turned, place, at_rest = rotations[:, :1], rest[:, :1], rest[:, :1]
        all_turned, all_places = [], []
        for level in (1, 2, 3):
            bone = (rest[:, level::3] - at_rest)[..., None]
            place = place + (turned @ bone).squeeze(-1)
            turned = turned @ rotations[:, level::3]
            at_rest = rest[:, level::3]
            all_turned.append(turned)
            all_places.append(place)
        fingers = torch.stack(all_turned, dim=2).flatten(1, 2)  # (B, 5, 3, 3, 3) -> (B, 15, 3, 3)
        places = torch.stack(all_places, dim=2).flatten(1, 2)
        return (
            torch.cat((rotations[:, :1], fingers), dim=1),
            torch.cat((rest[:, :1], places), dim=1),
        )

    @staticmethod
    def _check(name: str, value: Tensor, *tail: int) -> None:
        if tuple(value.shape[-len(tail) :]) != tail:
            shape = ", ".join(str(n) for n in tail)
            raise InputError(f"{name}: expected shape (..., {shape}), found {tuple(value.shape)}")


@functools.lru_cache(maxsize=1)
def _read_cached(path: Path) -> HandArrays:
    return read_hand(path)


def _broadcast(first: torch.Size, second: torch.Size) -> torch.Size:
    try:
        return torch.broadcast_shapes(first, second)
    except RuntimeError:
        raise InputError(
            f"pose, betas, translation: batch shapes {tuple(first)} and {tuple(second)} do not fit"
        ) from None


def _tips_of(arrays: HandArrays) -> str | tuple[int, ...]:
    """The tips a file brings along, else manopth's."""
    tips = arrays.extras.get("tips")
    if tips is None:
        return "manopth"
    if tips.shape != (5,) or tips.dtype.kind not in "iu" or tips.min() < 0 or tips.max() > 777:
        raise FileFormatError(f"{arrays.source}: tips: expected five vertex ids, found {tips}")
    return tuple(int(t) for t in tips)


def _replace(arrays: HandArrays, **changes: Any) -> HandArrays:
    fields = {name: getattr(arrays, name) for name in HandArrays.__dataclass_fields__}
    return HandArrays(**{**fields, **changes})
