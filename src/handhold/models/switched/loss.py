"""The grasp classifier's loss. A pair has none: its parts are trained one by one."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from handhold.errors import InputError
from handhold.models.nn.hope_losses import masked_mean, need
from handhold.scene import Batch, Prediction


@dataclass(frozen=True, kw_only=True)
class GraspLossConfig:
    """grasp: weight of the only term, the cross-entropy of the grasp label."""

    grasp: float = 1.0

    def __post_init__(self) -> None:
        if not self.grasp >= 0:
            raise InputError(f"GraspLossConfig.grasp: expected not negative, found {self.grasp}")


def loss(
    prediction: Prediction, batch: Batch, config: GraspLossConfig | None = None
) -> dict[str, Tensor]:
    """The weighted term `grasp`, a mean over the samples whose grasp is labelled (`has_grasping`),
    and `total`. Raises InputError when label or logits are missing."""
    config = GraspLossConfig() if config is None else config
    logits = need("prediction.grasp_logits", prediction.grasp_logits).float()
    label = need("batch.grasping", batch.grasping).bool()
    known = label.new_ones(len(batch)) if batch.has_grasping is None else batch.has_grasping
    value = F.cross_entropy(logits, label.long(), reduction="none")
    term = config.grasp * masked_mean(value, known)
    return {"grasp": term, "total": term}
