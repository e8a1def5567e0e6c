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
            behind = [node]
            while (following := _pointwise(behind[-1])) is not None:
                behind.append(following)
            replaced = _written_out(node, behind[1:])
            replaced.set_friendly_name(f"{node.get_friendly_name()}/winograd")
            for reader in behind[-1].output(0).get_target_inputs():
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


def _pointwise(node: Any) -> Any | None:
    """The only reader of a convolution's results, where it is a bias, ReLU or leaky ReLU."""
    inputs = node.output(0).get_target_inputs()
    readers = [r for r in (i.get_node() for i in inputs) if r.get_type_name() != "ShapeOf"]
    if len(readers) != 1:
        return None
    kind = readers[0].get_type_name()
    if kind == "Relu":
        return readers[0]
    if kind not in ("Add", "PRelu"):
        return None
    number = readers[0].input_value(1)
    shape = [1, node.output(0).get_shape()[1], 1, 1] if kind == "Add" else [1]
    fits = number.get_node().get_type_name() == "Constant" and list(number.get_shape()) == shape
    return readers[0] if fits else None


def _written_out(node: Any, behind: Sequence[Any]) -> Any:
    """(1, C, H, W) -> (1, K, H, W) as matrix products, then the pointwise operations `behind`."""
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
    rows, columns = line_table(height), line_table(width)
    down, across = height // TILE, width // TILE
    x = shaped(ordered(node.input_value(0), 0, 2, 3, 1), height, width * channels)
    x = op.matmul(constant(rows), x, False, False)  # (6 down, W C)
    x = shaped(x, NUMBERS * down, width, channels)
    x = op.matmul(constant(columns), x, False, False)  # (6 down, 6 across, C)
    x = ordered(shaped(x, NUMBERS, down, NUMBERS, across, channels), 0, 2, 1, 3, 4)
    x = shaped(x, NUMBERS**2, down * across, channels)
    x = op.matmul(x, constant(kernels), False, False)  # (36, tiles, K)
    scatter = constant(filtering()[0])
    x = op.matmul(scatter, shaped(x, NUMBERS, -1), False, False)
    x = op.matmul(scatter, shaped(x, TILE, NUMBERS, -1), False, False)
    x = shaped(x, TILE**2, down * across, results)
    for step in behind:  # here they run through memory in order
        numbers = [constant(i.get_node().data.reshape(-1)) for i in step.input_values()[1:]]
        x = getattr(op, step.get_type_name().lower())(x, *numbers)
    x = ordered(shaped(x, TILE, TILE, down, across, results), 2, 0, 3, 1, 4)
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


def line_table(size: int) -> NDArray[np.float64]:
    """(6 size / 4, size): from a line of `size` values, a multiple of 4, to the six numbers of
    every tile, number first."""
    _, _, spread = filtering()
    tiles = size // TILE
    table = np.zeros((NUMBERS, tiles, size + 2))
    for tile in range(tiles):
        table[:, tile, TILE * tile : TILE * tile + NUMBERS] = spread
    return table[..., 1:-1].reshape(-1, size)
