"""3x3 convolutions by Winograd's minimal filtering (Lavin and Gray, CVPR 2016, section 4), F(4x4,
3x3): tiles of 4 x 4 results from 36 products a pair of channels instead of 144. OpenVINO has none;
these are matrix products over maps with channels last. Exact but for rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

TILE, KERNEL = 4, 3
NUMBERS = TILE + KERNEL - 1  # that represent a line of a tile
# where the polynomials are evaluated, beside infinity; these keep rounding small
PLACES = (0.0, math.sqrt(0.5), -math.sqrt(0.5), math.sqrt(2.0), -math.sqrt(2.0))
# with fewer channels and on other maps the transforms cost more than is saved
LEAST_CHANNELS, LEAST_SIDE, LARGEST_SIDE = 128, 16, 64


def with_winograd(model: Any) -> int:
    """Replace the convolutions of an OpenVINO model, in place, that gain; returns how many.

    Those of one image of known size, 3x3, stride 1, padding 1, between many channels.
    """
    count = 0
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Convolution" and _gains(node):
            replaced = _written_out(node)
            replaced.set_friendly_name(f"{node.get_friendly_name()}/winograd")
            for reader in node.output(0).get_target_inputs():
                reader.replace_source_output(replaced.output(0))
            count += 1
    return count


def _gains(node: Any) -> bool:
    weight, image = node.input_value(1), node.input_value(0).get_partial_shape()
    if weight.get_node().get_type_name() != "Constant" or image.is_dynamic or len(image) != 4:
        return False
    batch, channels, *sides = image.to_shape()
    told = node.get_attributes()
    return (
        batch == 1
        and list(weight.get_shape())[2:] == [KERNEL, KERNEL]
        and min(channels, weight.get_shape()[0]) >= LEAST_CHANNELS
        and list(told["strides"]) == list(told["dilations"]) == [1, 1]
        and list(told["pads_begin"]) == list(told["pads_end"]) == [1, 1]
        and told.get("auto_pad", "explicit") in ("explicit", "notset")
        and all(side % TILE == 0 and LEAST_SIDE <= side <= LARGEST_SIDE for side in sides)
    )


def _written_out(node: Any) -> Any:
    """(1, C, H, W) -> (1, K, H, W) as matrix products."""
    from openvino import opset13 as op

    def constant(value: Any) -> Any:
        return op.constant(np.ascontiguousarray(value, dtype=np.float32))

    def shaped(x: Any, *shape: int) -> Any:
        return op.reshape(x, op.constant(np.array(shape, np.int64)), special_zero=False)

    def ordered(x: Any, *order: int) -> Any:
        return op.transpose(x, op.constant(np.array(order, np.int64)))

    _, channels, height, width = node.input_value(0).get_shape()
    kernels = transformed(node.input_value(1).get_node().data)
    results = kernels.shape[2]
    (rows_in, rows_out), (columns_in, columns_out) = line_tables(height), line_tables(width)
    down, across = height // TILE, width // TILE
    x = shaped(ordered(node.input_value(0), 0, 2, 3, 1), height, width * channels)
    x = op.matmul(constant(rows_in), x, False, False)  # (6 down, W C)
    x = shaped(x, NUMBERS * down, width, channels)
    x = op.matmul(constant(columns_in), x, False, False)  # (6 down, 6 across, C)
    x = ordered(shaped(x, NUMBERS, down, NUMBERS, across, channels), 0, 2, 1, 3, 4)
    x = shaped(x, NUMBERS**2, down * across, channels)
    x = op.matmul(x, constant(kernels), False, False)  # (36, tiles, K)
    x = ordered(shaped(x, NUMBERS, NUMBERS, down, across, results), 0, 2, 1, 3, 4)
    x = shaped(x, NUMBERS * down, NUMBERS * across * results)
    x = shaped(op.matmul(constant(rows_out), x, False, False), height, NUMBERS * across, results)
    x = op.matmul(constant(columns_out), x, False, False)  # (H, W, K)
    return ordered(shaped(x, 1, height, width, results), 0, 3, 1, 2)


def transformed(weight: NDArray[Any]) -> NDArray[np.float64]:
    """Kernels (K, C, 3, 3) -> (36, C, K), the weights of the products."""
    _, gather, _ = filtering()
    wide = weight.astype(np.float64)
    found = np.einsum("ai,kcij,bj->abck", gather, wide, gather, optimize=True)
    return found.reshape(NUMBERS**2, *found.shape[2:])


def filtering() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """scatter (4, 6), gather (6, 3), spread (6, 6): correlating six numbers x with three
    numbers w gives (4,) scatter @ ((gather @ w) * (spread @ x))."""
    places = np.array(PLACES)
    scatter, gather = np.zeros((TILE, NUMBERS)), np.zeros((NUMBERS, KERNEL))
    spread = np.zeros((NUMBERS, NUMBERS))
    scatter[:, :-1] = places ** np.arange(TILE)[:, None]
    scatter[-1, -1] = gather[-1, -1] = 1.0
    for index, place in enumerate(PLACES):
        others = [other for other in PLACES if other != place]
        gather[index] = place ** np.arange(KERNEL) / math.prod(place - o for o in others)
        spread[index, :-1] = _polynomial(others)
    spread[-1] = _polynomial(PLACES)
    return scatter, gather, spread


def _polynomial(roots: Sequence[float]) -> NDArray[np.float64]:
    """Coefficients of the product of (x - root), the constant one first."""
    return np.polynomial.polynomial.polyfromroots(roots).astype(np.float64)


def line_tables(size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For a line of `size` values, a multiple of 4: (6 size / 4, size), from values to the
    six numbers of every tile, number first; (size, 6 size / 4), from products to values.
    """
    scatter, _, spread = filtering()
    tiles = size // TILE
    into, out = np.zeros((NUMBERS, tiles, size + 2)), np.zeros((size, NUMBERS, tiles))
    for tile in range(tiles):
        into[:, tile, TILE * tile : TILE * tile + NUMBERS] = spread
        out[TILE * tile : TILE * (tile + 1), :, tile] = scatter
    return into[..., 1:-1].reshape(-1, size), out.reshape(size, -1)
