"""What HFL-Net and our small networks say about the object, from its RoI crop (B, C, R, R)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handhold.models.nn.soft_argmax import cell_centres

POINTS = 21


class ObjectHead(nn.Module):
    """In every cell, where it sees the 21 control points and how sure it is."""

    def __init__(self, width: int, slope: float, coord_factor: float) -> None:
        super().__init__()
        half = width // 2
        self.slope, self.factor = slope, coord_factor
        self.narrow = nn.ModuleList(nn.Conv2d(width, half, 1) for _ in range(3))
        self.narrow_norm = nn.ModuleList(nn.BatchNorm2d(half) for _ in range(3))
        self.wide = nn.ModuleList(nn.Conv2d(half, width, 3, padding=1) for _ in range(3))
        self.wide_norm = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(3))
        self.out = nn.Conv2d(width, 3 * POINTS, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, C, R, R) -> obj_map (B, 63, R, R); obj_conf, obj_x, obj_y (B, R, R, 21): row, column,
        control point; positions relative to the object box."""
        for i in range(3):
            x = F.leaky_relu(self.narrow_norm[i](self.narrow[i](x)), self.slope)
            x = F.leaky_relu(self.wide_norm[i](self.wide[i](x)), self.slope)
        found = self.out(x)
        size = found.shape[-1]
        column, row = cell_centres(size, found.device, torch.float32)
        logits, x_raw, y_raw = found.float().permute(0, 2, 3, 1).split(POINTS, dim=-1)
        return {
            "obj_map": found,
            "obj_conf": logits.sigmoid(),
            "obj_x": x_raw / self.factor + column[..., None],
            "obj_y": y_raw / self.factor + row[..., None],
        }


class CropClassifier(nn.Module):
    """Which of `classes` a RoI crop shows (not in the papers): an object of the catalogue, or
    whether the hand grasps. context: channels of a vector about the whole crop, 0: none."""

    def __init__(self, width: int, classes: int, slope: float, context: int = 0) -> None:
        super().__init__()
        self.slope = slope
        self.conv = nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.norm = nn.BatchNorm2d(2 * width)
        self.out = nn.Linear(2 * width + context, classes)

    def forward(self, crop: Tensor, context: Tensor | None = None) -> Tensor:
        """crop (B, C, R, R), context (B, context) -> logits (B, classes) float32."""
        x = F.leaky_relu(self.norm(self.conv(crop)), self.slope).mean((2, 3))
        return self.out(x if context is None else torch.cat((x, context), dim=1)).float()
