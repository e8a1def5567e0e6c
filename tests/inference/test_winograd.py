"""Winograd's convolutions against plain ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from handhold.inference.winograd import filtering, line_tables, transformed, with_winograd


def test_a_tile_by_hand() -> None:
    draw = np.random.default_rng(0)
    x, w = draw.normal(size=6), draw.normal(size=3)
    scatter, gather, spread = filtering()
    found = scatter @ ((gather @ w) * (spread @ x))
    np.testing.assert_allclose(found, np.correlate(x, w, "valid"), atol=1e-12)


def test_a_map_in_tiles() -> None:
    """The tables of lines, the rim's zeros included, against PyTorch (float64)."""
    draw = np.random.default_rng(0)
    image, weight = draw.normal(size=(3, 8, 12)), draw.normal(size=(2, 3, 3, 3))
    (rows_in, rows_out), (columns_in, columns_out) = line_tables(8), line_tables(12)
    spread = (rows_in @ image @ columns_in.T).reshape(3, 6, 2, 6, 3)
    product = np.einsum("cayit,aick->kayit", spread, transformed(weight).reshape(6, 6, 3, 2))
    found = rows_out @ product.reshape(2, 12, 18) @ columns_out.T
    expected = F.conv2d(torch.from_numpy(image)[None], torch.from_numpy(weight), padding=1)[0]
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-12)


@pytest.mark.parametrize(
    ("channels", "results", "height", "width", "how", "replaced"),
    [
        (128, 160, 16, 24, {}, 1),
        (128, 64, 16, 16, {}, 0),  # few channels
        (128, 128, 18, 16, {}, 0),  # no whole tiles
        (128, 128, 8, 16, {}, 0),  # small
        (128, 128, 16, 16, {"stride": 2}, 0),
        (128, 128, 16, 16, {"padding": 0}, 0),
        (128, 128, 16, 16, {"dilation": 2, "padding": 2}, 0),
    ],
)
def test_in_openvino(
    channels: int, results: int, height: int, width: int, how: dict[str, int], replaced: int
) -> None:
    import openvino
    from openvino import opset13 as op

    draw = np.random.default_rng(0)
    image = draw.normal(size=(1, channels, height, width)).astype(np.float32)
    weight = (0.03 * draw.normal(size=(results, channels, 3, 3))).astype(np.float32)
    asked: dict[str, Any] = {"stride": 1, "padding": 1, "dilation": 1} | how
    pads = [asked["padding"]] * 2
    given = op.parameter(list(image.shape), np.float32)
    conv = op.convolution(
        given, op.constant(weight), [asked["stride"]] * 2, pads, pads, [asked["dilation"]] * 2
    )
    network = openvino.Model([op.relu(conv)], [given])
    assert with_winograd(network) == replaced
    exact = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(network, "CPU", exact)
    found = next(iter(compiled(image).values()))
    expected = F.conv2d(torch.from_numpy(image), torch.from_numpy(weight), **asked).relu().numpy()
    np.testing.assert_allclose(found, expected, atol=2e-5 * float(expected.max()))
