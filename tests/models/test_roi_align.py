"""RoIAlign as matrix products against a plain loop and against ONNX Runtime's operator."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from handhold.models.nn.roi_align import (
    EXPORTED_SAMPLES,
    roi_align,
    sampling_matrix,
    smoothed_roi_align,
)

SCALE = 0.25
BOXES = torch.tensor(
    [
        [4.3, 8.1, 50.7, 44.9],  # inside
        [-30.5, -12.2, 20.0, 25.3],  # left of and above the image
        [40.1, 30.7, 95.6, 120.2],  # right of and below
        [-90.0, -95.0, 170.0, 160.0],  # much larger than the image: many samples a cell
        [10.0, 10.0, 10.5, 11.0],  # smaller than a pixel of the map
        [30.0, 40.0, 12.0, 20.0],  # turned inside out, as intersections of apart boxes are
    ]
)


def _loop(feature: np.ndarray, box: np.ndarray, size: int, ratio: int) -> np.ndarray:
    """The rule, written out (float64)."""
    channels, height, width = feature.shape
    x0, y0, x1, y1 = (float(np.float32(v) * np.float32(SCALE)) for v in box)
    part_x, part_y = max(x1 - x0, 1.0) / size, max(y1 - y0, 1.0) / size
    many_x = ratio or math.ceil(part_x)
    many_y = ratio or math.ceil(part_y)
    out = np.zeros((channels, size, size))

    def value(y: float, x: float) -> np.ndarray:
        if y < -1 or y > height or x < -1 or x > width:
            return np.zeros(channels)
        y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
        top, left = int(y), int(x)
        low, right = min(top + 1, height - 1), min(left + 1, width - 1)
        v, u = y - top, x - left
        upper = (1 - u) * feature[:, top, left] + u * feature[:, top, right]
        lower = (1 - u) * feature[:, low, left] + u * feature[:, low, right]
        return (1 - v) * upper + v * lower

    for row in range(size):
        for column in range(size):
            for i in range(many_y):
                for j in range(many_x):
                    y = y0 + (row + (i + 0.5) / many_y) * part_y
                    x = x0 + (column + (j + 0.5) / many_x) * part_x
                    out[:, row, column] += value(y, x)
    return out / (many_x * many_y)


def _features(height: int = 16, width: int = 14) -> torch.Tensor:
    return torch.randn(len(BOXES), 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [4, 7])
@pytest.mark.parametrize("ratio", [0, 1, 3])
def test_against_a_plain_loop(size: int, ratio: int) -> None:
    features = _features()
    found = roi_align(features, BOXES, size, SCALE, ratio).numpy()
    for i, box in enumerate(BOXES.numpy()):
        expected = _loop(features[i].numpy().astype(np.float64), box, size, ratio)
        np.testing.assert_allclose(found[i], expected, atol=3e-6)


@pytest.mark.parametrize("size", [4, 16, 32])
@pytest.mark.parametrize("ratio", [0, 2])
def test_against_onnx_runtime(size: int, ratio: int) -> None:
    node = helper.make_node(
        "RoiAlign",
        ["x", "boxes", "index"],
        ["y"],
        mode="avg",
        output_height=size,
        output_width=size,
        sampling_ratio=ratio,
        spatial_scale=SCALE,
        coordinate_transformation_mode="output_half_pixel",
    )
    features, number = _features(), TensorProto.FLOAT
    inputs = [
        helper.make_tensor_value_info("x", number, list(features.shape)),
        helper.make_tensor_value_info("boxes", number, list(BOXES.shape)),
        helper.make_tensor_value_info("index", TensorProto.INT64, [len(BOXES)]),
    ]
    output = helper.make_tensor_value_info("y", number, [len(BOXES), 3, size, size])
    graph = helper.make_graph([node], "roi", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feed = {"x": features.numpy(), "boxes": BOXES.numpy(), "index": np.arange(len(BOXES))}
    expected = session.run(None, feed)[0]
    found = roi_align(features, BOXES, size, SCALE, ratio).numpy()
    np.testing.assert_allclose(found, expected, atol=3e-6)


def test_samples_outside_count_as_zero() -> None:
    """One sample a cell at -1.5, -0.5, 0.5, ... of a line of ones; -1.5 is too far out."""
    low, high = torch.tensor([-2.0]), torch.tensor([4.0])
    weight = sampling_matrix(low, high, 6, 4, 1).sum(dim=2)[0]
    assert weight.tolist() == [0, 1, 1, 1, 1, 1]
    beyond = sampling_matrix(torch.tensor([3.0]), torch.tensor([7.0]), 4, 4, 1).sum(dim=2)[0]
    assert beyond.tolist() == [1, 0, 0, 0]  # 3.5 is clamped, 4.5 is not


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
def test_smoothing_the_crop_is_cropping_the_smoothed(ratio: int, bias: bool) -> None:
    """At the map's rim, too, where the convolution reads zeros, and beyond it."""
    torch.manual_seed(0)
    smooth = torch.nn.Conv2d(3, 5, 3, padding=1, bias=bias).requires_grad_(False)
    features = _features()
    expected = roi_align(smooth(features), BOXES, 6, SCALE, ratio)
    found = smoothed_roi_align(features, smooth, BOXES, 6, SCALE, ratio)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)


def test_every_box_has_its_own_number_of_samples() -> None:
    """The sampling of one box must not depend on which others are in the batch."""
    features = _features()
    together = roi_align(features, BOXES, 4, SCALE)
    for i in range(len(BOXES)):
        alone = roi_align(features[i : i + 1], BOXES[i : i + 1], 4, SCALE)
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-6, rtol=1e-6)


def test_export_gives_the_same_numbers() -> None:
    class Crop(torch.nn.Module):
        def forward(self, features: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
            return roi_align(features, boxes, 8, SCALE)

    keep = [0, 1, 2, 4]
    features, boxes = _features()[keep], BOXES[keep]
    assert float((boxes[:, 2:] - boxes[:, :2]).max()) * SCALE / 8 <= EXPORTED_SAMPLES
    exported = torch.export.export(Crop(), (features, boxes)).module()
    torch.testing.assert_close(exported(features, boxes), Crop()(features, boxes))


def test_gradient() -> None:
    features = _features(6, 5).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda f: roi_align(f, BOXES, 3, SCALE).double(), (features,))
