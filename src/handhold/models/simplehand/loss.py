"""SimpleHand's losses (paper section 3.3; weights of the released code)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from handhold.errors import InputError
from handhold.models.nn.hope_losses import known_pose, masked_mean, need, with_hand_targets
from handhold.scene import Batch, Prediction

__all__ = ["SimpleHandLossConfig", "loss", "with_hand_targets"]

WRIST, MIDDLE = 0, 9  # canonical joints


@dataclass(frozen=True, kw_only=True)
class SimpleHandLossConfig:
    """Weights of the terms (0 leaves one out): joints2d in 0..1 of the crop, joints and vertices in
    metres; each the mean over points of the sum of absolute coordinate differences.

    origin: where the labels' origin is put. "camera_wrist": the hand model's own frame less the
    wrist's place in the camera, which UniHOPE's code does: the network must also learn the hand's
    negative translation, which its evaluation then removes. "middle": the first joint of the middle
    finger (joint 9), as in the authors' repository. "wrist": the wrist, the sound choice when
    training anew in UniHOPE's setting.
    """

    joints2d: float = 1.0
    joints: float = 10.0
    vertices: float = 10.0
    origin: Literal["camera_wrist", "middle", "wrist"] = "camera_wrist"

    def __post_init__(self) -> None:
        for name in ("joints2d", "joints", "vertices"):
            if not getattr(self, name) >= 0:
                raise InputError(
                    f"SimpleHandLossConfig.{name}: expected not negative, "
                    f"found {getattr(self, name)}"
                )
        if self.origin not in ("camera_wrist", "middle", "wrist"):
            raise InputError(
                "SimpleHandLossConfig.origin: expected camera_wrist, middle or wrist, "
                f"found {self.origin!r}"
            )

    @classmethod
    def original(cls) -> SimpleHandLossConfig:
        """As in the authors' repository."""
        return cls(origin="middle")

    @classmethod
    def sound(cls) -> SimpleHandLossConfig:
        """Labels relative to the wrist."""
        return cls(origin="wrist")

    @classmethod
    def small(cls) -> SimpleHandLossConfig:
        """For the small network: labels relative to the wrist."""
        return cls.sound()


def loss(
    prediction: Prediction, batch: Batch, config: SimpleHandLossConfig | None = None
) -> dict[str, Tensor]:
    """Named, weighted terms and their sum `total`.

    prediction: of SimpleHand, with features `joints`, `vertices` as the network says them. batch:
    `joints2d`, and `joints`, `vertices` of the hand model (`with_hand_targets`, not centred), and
    `root` for the origin "camera_wrist". As in the original, a 2D joint that is not valid or lies
    outside the crop counts as met, and so does a hand in 3D whose wrist and middle finger's first
    joint are both of that kind. Samples without 3D pose take no part in the 3D terms, those without
    any valid 2D joint none in 2D. Raises InputError when a label or output is missing.
    """
    config = SimpleHandLossConfig() if config is None else config
    target2d = need("batch.joints2d", batch.joints2d).float() / batch.image.shape[-1]
    found2d = need("prediction.joints2d", prediction.joints2d).float() / batch.image.shape[-1]
    valid = batch.joints2d_valid
    valid = torch.ones_like(target2d[..., 0], dtype=torch.bool) if valid is None else valid.bool()
    seen = valid & ((target2d >= 0) & (target2d <= 1)).all(dim=-1)
    flag = seen[:, WRIST] | seen[:, MIDDLE]
    terms = {"joints2d": masked_mean(_distance(found2d, target2d, seen), valid.any(dim=1))}
    if config.joints > 0 or config.vertices > 0:
        known, origin = known_pose(batch), _origin(batch, config)
        if config.origin == "camera_wrist":  # its place may be unknown: all zeros then
            known = known & (origin != 0).flatten(1).any(dim=1)
        for name in ("joints", "vertices"):
            found = need(f"prediction.features[{name!r}]", prediction.features.get(name)).float()
            target = need(f"batch.{name}", getattr(batch, name)).float() - origin
            terms[name] = masked_mean(_distance(found, target, flag[:, None]), known)
    weights = {name: float(getattr(config, name)) for name in terms}
    result = {name: weights[name] * terms[name] for name in terms if weights[name] > 0}
    return result | {"total": sum(result.values(), start=found2d.new_zeros(()))}


def _distance(found: Tensor, target: Tensor, taken: Tensor) -> Tensor:
    """(B, N, D), (B, N, D), (B, N or 1) bool -> (B,): mean over the points of the summed absolute
    differences, points not taken as 0."""
    error = (found - target).abs().sum(dim=-1)
    return torch.where(taken, error, 0.0).mean(dim=1)


def _origin(batch: Batch, config: SimpleHandLossConfig) -> Tensor:
    """What is subtracted from the labels: (B, 1, 3)."""
    if config.origin == "camera_wrist":
        return need("batch.root", batch.root).float()[:, None]
    joint = MIDDLE if config.origin == "middle" else WRIST
    return need("batch.joints", batch.joints).float()[:, joint : joint + 1]
