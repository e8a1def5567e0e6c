"""From a feature vector to the pose and shape of the hand model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handhold.geometry.rotation import sixd_to_matrix


class ManoHead(nn.Module):
    """Two hidden layers, then 16 rotations as 6 numbers each and 10 shape numbers."""

    def __init__(self, channels_in: int, widths: tuple[int, int], slope: float) -> None:
        super().__init__()
        self.slope = slope
        self.hidden1 = nn.Linear(channels_in, widths[0])
        self.hidden2 = nn.Linear(widths[0], widths[1])
        self.pose = nn.Linear(widths[1], 96)
        self.shape = nn.Linear(widths[1], 10)

    def forward(self, encoding: Tensor) -> dict[str, Tensor]:
        """encoding (B, C) -> mano_features (B, widths[1]), pose6d (B, 96), shape (B, 10),
        rotations (B, 16, 3, 3), the last three in float32."""
        hidden = F.leaky_relu(self.hidden1(encoding), self.slope)
        hidden = F.leaky_relu(self.hidden2(hidden), self.slope)
        sixd = self.pose(hidden).float()
        # two zero columns have no direction; NaN would poison the whole batch
        rotations = torch.nan_to_num(sixd_to_matrix(sixd.unflatten(1, (16, 6))))
        shape = self.shape(hidden).float()
        return {"mano_features": hidden, "pose6d": sixd, "shape": shape, "rotations": rotations}
