"""RoIAlign (He et al., ICCV 2017) of upright boxes as two small matrix products.

Bilinear sampling and averaging are separable, so the crop of a map F is Wy @ F @ Wx^T. Values equal
the compiled RoIAlign with `aligned=False` (torchvision's legacy rule, ONNX's "output_half_pixel").
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EXPORTED_SAMPLES = 4  # a traced graph cannot read the boxes: at most so many samples per cell


def roi_align(
    features: Tensor,
    boxes: Tensor,
    size: int,
    scale: float,
    sampling_ratio: int = 0,
) -> Tensor:
    """Crop one box per map.

    features: (B, C, H, W). boxes: (B, 4) x0, y0, x1, y1 in pixels of the image; they may leave it.
    size: output cells per side. scale: map pixels per image pixel. sampling_ratio: samples per cell
    and axis; 0: ceil(box size / size), for every box on its own (inside `torch.export` at most
    EXPORTED_SAMPLES). Boxes smaller than one map pixel count as one map pixel wide. Returns
    (B, C, size, size). Differentiable in the features; the boxes get no gradient.
    """
    height, width = features.shape[-2:]
    scaled = boxes.detach().to(torch.float32) * scale
    columns = sampling_matrix(scaled[:, 0], scaled[:, 2], size, width, sampling_ratio)
    rows = sampling_matrix(scaled[:, 1], scaled[:, 3], size, height, sampling_ratio)
    columns, rows = columns.to(features.dtype), rows.to(features.dtype)
    if torch.compiler.is_compiling():
        return _channels_last(rows, features, columns)
    return torch.matmul(torch.matmul(rows[:, None], features), columns.transpose(1, 2)[:, None])


def smoothed_roi_align(
    features: Tensor,
    smooth: nn.Conv2d,
    boxes: Tensor,
    size: int,
    scale: float,
    sampling_ratio: int = 0,
) -> Tensor:
    """`roi_align` of smooth(features), with the convolution only where the crop looks.

    smooth: 3x3, stride 1, padding 1, with bias. A crop of the map and of the map shifted by a pixel
    in all directions lie interleaved, so that the convolution takes them with a stride of 3: the
    same sums in another order. It pays for maps with many more cells than the crops. The others: as
    in `roi_align`.
    """
    width = features.shape[-1]
    matrices = []
    for axis, pixels in ((0, width), (1, features.shape[-2])):
        scaled = boxes.detach().to(torch.float32) * scale
        low, high = scaled[:, axis], scaled[:, axis + 2]
        found = sampling_matrix(low, high, size, pixels, sampling_ratio)
        matrices.append(found.to(features.dtype))
    columns, rows = matrices
    x = _channels_last(_shifted(rows), features, _shifted(columns))  # (B, C, 3 size, 3 size)
    x = F.conv2d(x, smooth.weight, stride=3)
    if smooth.bias is None:
        return x
    covered = rows.sum(2)[:, :, None] * columns.sum(2)[:, None]  # outside the map nothing is read
    return x + smooth.bias[:, None, None] * covered[:, None]


def _channels_last(rows: Tensor, features: Tensor, columns: Tensor) -> Tensor:
    """rows (B, R, H) @ features (B, C, H, W) @ columns (B, S, W) transposed -> (B, C, R, S), with
    the channels last in memory, as engines want them."""
    x = rows @ features.permute(0, 2, 3, 1).flatten(2)  # (B, R, W C)
    x = columns[:, None] @ x.unflatten(2, (features.shape[-1], -1))  # (B, R, S, C)
    return x.permute(0, 3, 1, 2)


def _shifted(matrix: Tensor) -> Tensor:
    """(B, cells, pixels) -> (B, 3 cells, pixels): row 3 i + k takes from pixel p + k - 1 what row i
    takes from pixel p; what leaves the line is 0."""
    wide = F.pad(matrix, (1, 1))
    moved = (wide[..., 2:], matrix, wide[..., :-2])
    return torch.stack(moved, dim=2).flatten(1, 2)


def sampling_matrix(
    low: Tensor, high: Tensor, cells: int, pixels: int, sampling_ratio: int = 0
) -> Tensor:
    """(B, cells, pixels): what each of `cells` equal parts of low..high (B,) takes from a line.

    A sample at p < -1 or p > pixels counts as 0; others are clamped into 0..pixels - 1.
    """
    length = (high - low).clamp_min(1.0)
    part = length / cells
    if sampling_ratio > 0:
        most, count = sampling_ratio, torch.full_like(part, float(sampling_ratio))
    else:
        count = part.ceil()
        most = EXPORTED_SAMPLES if torch.compiler.is_compiling() else int(count.max())
        count = count.clamp_max(float(most))
    cell = torch.arange(cells, device=low.device, dtype=low.dtype)
    sample = torch.arange(most, device=low.device, dtype=low.dtype)
    within = (sample + 0.5) / count[:, None] * part[:, None]  # (B, most)
    start = low[:, None] + cell * part[:, None]  # (B, cells)
    place = start[:, :, None] + within[:, None]  # (B, cells, most)
    used = (sample < count[:, None])[:, None] & (place >= -1.0) & (place <= float(pixels))
    centre = torch.arange(pixels, device=low.device, dtype=low.dtype)
    distance = (place.clamp(0.0, pixels - 1.0)[..., None] - centre).abs()
    weight = (1.0 - distance).clamp_min(0.0) * used[..., None]
    return weight.sum(dim=2) / count[:, None, None]
