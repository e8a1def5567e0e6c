"""Winograd's convolutions against plain ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from handhold.inference.winograd import filtering, line_table, transformed, with_winograd


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
    spread = (line_table(8) @ image @ line_table(12).T).reshape(3, 6, 2, 6, 3)
    product = np.einsum("cayit,aick->kayit", spread, transformed(weight).reshape(6, 6, 3, 2))
    scatter, _, _ = filtering()
    found = np.einsum("ma,ni,kayit->kymtn", scatter, scatter, product).reshape(2, 8, 12)
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
    bias = draw.normal(size=(1, results, 1, 1)).astype(np.float32)
    leaky = op.prelu(op.add(conv, op.constant(bias)), op.constant(np.array([0.1], np.float32)))
    factor = np.linspace(0.5, 2.0, results, dtype=np.float32)[:, None, None]
    scaled = op.relu(op.multiply(leaky, op.constant(factor)))
    network = openvino.Model([scaled, leaky], [given])
    assert with_winograd(network) == replaced
    exact = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(network, "CPU", exact)
    plain = F.conv2d(torch.from_numpy(image), torch.from_numpy(weight), **asked)
    once = F.leaky_relu(plain + torch.from_numpy(bias), 0.1)
    twice = (once * torch.from_numpy(factor)).relu()
    for found, expected in zip(compiled(image).values(), (twice, once), strict=True):
        atol = 2e-5 * float(expected.abs().max())
        np.testing.assert_allclose(found, expected.numpy(), atol=atol)


def test_what_is_read_twice_stays() -> None:
    """A bias behind a convolution that something else reads, too; one that is no constant."""
    import openvino
    from openvino import opset13 as op

    draw = np.random.default_rng(0)
    image = draw.normal(size=(1, 128, 16, 16)).astype(np.float32)
    weight = (0.03 * draw.normal(size=(128, 128, 3, 3))).astype(np.float32)
    given = op.parameter(list(image.shape), np.float32)
    ones = [1, 1]
    conv = op.convolution(given, op.constant(weight), ones, ones, ones, ones)
    bias = op.constant(draw.normal(size=(1, 128, 1, 1)).astype(np.float32))
    network = openvino.Model([op.add(conv, bias), op.add(op.relu(conv), given)], [given])
    assert with_winograd(network) == 1
    exact = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(network, "CPU", exact)
    plain = F.conv2d(torch.from_numpy(image), torch.from_numpy(weight), padding=1).numpy()
    results = (plain + bias.data, np.maximum(plain, 0) + image)
    for found, expected in zip(compiled(image).values(), results, strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-5 * float(np.abs(expected).max()))
