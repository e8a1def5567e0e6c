"""What HandOS learns from one labelled hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handhold.hand.convention import mirror_points
from handhold.hand.model import HandModel
from handhold.hand.regressor import joint_regressor
from handhold.scene import FloatArray, Hand

MIRROR = np.array([-1.0, 1.0, 1.0])


@dataclass(frozen=True, kw_only=True)
class HandLabels:
    """As in `PhotoBatch`, of one hand."""

    box: FloatArray
    joints2d: FloatArray
    joints2d_valid: NDArray[np.bool_]
    vertices: FloatArray
    joints: FloatArray
    has_vertices: bool
    has_joints: bool
    right: float

    def turned(self, rotation: FloatArray, flipped: bool) -> HandLabels:
        """Mirrored where `flipped`, then turned by the matrix (3, 3) about the optical axis."""
        sign = MIRROR if flipped else np.ones(3)
        right = 1 - self.right if flipped and self.right >= 0 else self.right
        return dataclasses.replace(
            self,
            vertices=(self.vertices * sign) @ rotation.T,
            joints=(self.joints * sign) @ rotation.T,
            right=right,
        )

    @staticmethod
    def stack(labels: Sequence[HandLabels]) -> dict[str, Tensor]:
        """The fields of a batch, by name."""
        shapes: dict[str, tuple[int, ...]] = {
            "box": (4,),
            "joints2d": (21, 2),
            "joints2d_valid": (21,),
            "vertices": (778, 3),
            "joints": (21, 3),
            "has_vertices": (),
            "has_joints": (),
            "right": (),
        }
        fields: dict[str, Any] = {}
        for name, shape in shapes.items():
            values = np.array([getattr(label, name) for label in labels], dtype=np.float32)
            tensor = torch.from_numpy(values.reshape(len(labels), *shape))
            flag = name.startswith("has_") or name.endswith("_valid")
            fields["boxes" if name == "box" else name] = tensor.bool() if flag else tensor
        return fields


def label_hand(hand: Hand, model: HandModel) -> HandLabels:
    """The labels of a hand in its photo, before any change of view. model: the right hand.

    Vertices: the label's, or else those of its pose and betas. Joints: regressed from the vertices
    where there are any, as the network's are; else the label's. Both relative to the wrist.
    """
    joints2d, valid = np.zeros((21, 2)), np.zeros(21, np.bool_)
    if hand.joints2d is not None:
        joints2d = hand.joints2d.astype(np.float64)
        valid[:] = np.isfinite(joints2d).all(axis=1)
        if hand.joints2d_valid is not None:
            valid &= hand.joints2d_valid
    vertices = None if hand.vertices is None else hand.vertices.astype(np.float64)
    if vertices is None and hand.pose is not None and hand.side is not None:
        vertices = _posed(hand, model)
    joints = None if hand.joints is None else hand.joints.astype(np.float64)
    if vertices is not None:
        joints = joint_regressor(model).astype(np.float64) @ vertices
        vertices = vertices - joints[0]
    if joints is not None:
        joints = joints - joints[0]
    return HandLabels(
        box=np.zeros(4),
        joints2d=joints2d,
        joints2d_valid=valid,
        vertices=np.zeros((778, 3)) if vertices is None else vertices,
        joints=np.zeros((21, 3)) if joints is None else joints,
        has_vertices=vertices is not None,
        has_joints=joints is not None,
        right={"right": 1.0, "left": 0.0, None: -1.0}[hand.side],
    )


def _posed(hand: Hand, model: HandModel) -> FloatArray:
    from handhold.hand.convention import mirror_pose

    pose = torch.from_numpy(np.asarray(hand.pose, np.float32))
    betas = None if hand.betas is None else torch.from_numpy(np.asarray(hand.betas, np.float32))
    if hand.side == "left":
        pose = mirror_pose(pose)
    with torch.no_grad():
        vertices = model(pose[None], None if betas is None else betas[None]).vertices[0]
    if hand.side == "left":
        vertices = mirror_points(vertices)
    return vertices.double().numpy()
