"""HOISDF's search grid, and the points that are found in it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from tests.models.hoisdf_sample import TINY, labelled_batch, tiny_network
from torch import Tensor

from handhold.hand.model import HandModel
from handhold.models.hoisdf import grid as grid_module
from handhold.models.hoisdf.field import PixelTable, SDFDecoder, WeightNormLinear, read_pixels
from handhold.models.hoisdf.grid import candidates, grid_points, nearest_points
from handhold.models.hoisdf.inputs import HOISDFBatch
from handhold.models.hoisdf.model import HOISDFConfig
from handhold.models.hoisdf.search import guesses, node_positions, smallest
from handhold.models.nn.detr import Perceptron


@pytest.fixture(scope="module")
def batch(hand: HandModel) -> HOISDFBatch:
    return labelled_batch(hand)


def test_both_grids() -> None:
    size = 8
    regular = grid_points(size, "regular", torch.device("cpu"))
    line = np.linspace(-1, 1, size)
    expected = np.stack(np.meshgrid(line, line, line, indexing="ij"), -1).reshape(-1, 3)
    np.testing.assert_allclose(regular, expected, atol=1e-6)
    sheared = grid_points(size, "sheared", torch.device("cpu"))
    steps = np.rint((expected + 1) * (size - 1) / 2)  # x, y, z in cells
    y = steps[:, 1] + steps[:, 2] / size
    x = steps[:, 0] + y / size
    wanted = np.stack((x, y, steps[:, 2]), -1) * 2 / (size - 1) - 1
    np.testing.assert_allclose(sheared, wanted, atol=1e-6)
    assert sheared[:, 1].max() > 1
    assert float(grid_points(64, "sheared", torch.device("cpu")).max()) == pytest.approx(
        1 + 2 * (63 / 64 + 63 / 4096) / 63, abs=1e-5
    )


def test_box_is_strict_and_fills_up() -> None:
    pixels = torch.tensor([[1.0, 5], [1.01, 5], [5, 9], [5, 8.99], [5, 12], [0, 5]])
    box = torch.tensor([1.0, 1, 9, 9])
    assert candidates(pixels, box, 1).tolist() == [1, 3]
    # the two on the border, then the one a pixel away
    assert candidates(pixels, box, 4).tolist() == [0, 1, 2, 3]
    assert candidates(pixels, box, 5).tolist() == [0, 1, 2, 3, 5]


class _Plane(SDFDecoder):
    """Distance to the plane z = 0.1, normalised, as the decoder's stand-in."""

    def __init__(self) -> None:
        super().__init__(1, 64, 0.0)

    def forward(self, features: Tensor, points: Tensor) -> Tensor:
        return points[:, 2] - 0.1


@pytest.mark.parametrize("kind", ["sheared", "regular"])
def test_nearest_points_lie_on_the_surface(hand: HandModel, batch: Any, kind: Any) -> None:
    config = dataclasses.replace(TINY, grid=21, grid_kind=kind)
    network = tiny_network(config, hand)
    maps = [torch.zeros(c, 2, 2) for c in network.decoder.channels]
    table = PixelTable(maps, network.sdf_mlp, config.input_size)
    box = torch.tensor([20.0, 20, 45, 45])
    found = nearest_points(config, _Plane(), table, batch.root[0], batch.intrinsics[0], box, 30)
    distances = found["distances"].numpy()
    assert (np.diff(np.abs(distances)) >= 0).all()
    np.testing.assert_allclose(distances, found["points"][:, 2] - 0.1, atol=1e-6)
    # brute force over all points in the box
    grid = grid_points(21, kind, torch.device("cpu")).numpy()
    camera = grid / config.scale + batch.root[0].numpy()
    pixels = 100 * camera[:, :2] / camera[:, 2:] + 31.5
    inside = ((pixels > 20) & (pixels < 45)).all(axis=1)
    assert len(found["all_distances"]) == inside.sum()
    ranked = np.sort(np.abs(grid[inside, 2] - 0.1))
    np.testing.assert_allclose(np.abs(distances), ranked[:30], atol=1e-6)


def test_search_ranks_before_it_clamps(hand: HandModel, batch: Any) -> None:
    """With every distance beyond the clamp the order is still that of the distances."""
    network = tiny_network(TINY, hand)
    with torch.no_grad():
        network.hand_field.out.bias.fill_(1.0)
    free = dataclasses.replace(batch, hand_query_points=None)
    seen: dict[str, Tensor] = {}
    network(free, seen)
    every = seen["hand_grid_0"].abs().sort().values
    assert float(every[0]) > TINY.clamp
    torch.testing.assert_close(
        seen["hand_distances"], torch.full((2, 12), TINY.clamp), rtol=0, atol=0
    )
    # the same distances again, each point read on its own
    given = dataclasses.replace(batch, hand_query_points=seen["hand_points"] / TINY.scale)
    again: dict[str, Tensor] = {}
    network(given, again)
    torch.testing.assert_close(again["hand_queried"][0].abs(), every[:12], atol=1e-5, rtol=0)


def test_table_reads_what_pixels_give() -> None:
    draw = torch.Generator().manual_seed(0)
    maps = [torch.randn(1, c, s, s, generator=draw) for c, s in ((3, 32), (5, 16), (7, 8))]
    mlp = Perceptron((15, 4, 3), last_relu=True)
    pixels = 90 * torch.rand(1, 300, 2, generator=draw) - 13  # also beyond the borders
    expected = mlp(read_pixels(maps, pixels, 64))[0]
    found = PixelTable([m[0] for m in maps], mlp, 64).read(pixels[0])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


# ------------------------------------------------------------------ coarse to fine: the same points


INTRINSICS = torch.tensor([[420.0, 0, 128], [0, 420, 128], [0, 0, 1]])
BOXES = {
    "large": torch.tensor([20.0, 30, 235, 240]),
    "usual": torch.tensor([60.0, 50, 190, 200]),
    "small": torch.tensor([110.0, 100, 165, 150]),
    "border": torch.tensor([-20.0, 90, 80, 290]),
    "tiny": torch.tensor([126.0, 126, 130, 130]),
}


class _Asked(SDFDecoder):
    """Counts the points it is asked for."""

    count = 0

    def forward(self, features: Tensor, points: Tensor) -> Tensor:
        self.count += len(points)
        return super().forward(features, points)


def _scene(seed: int, contrast: float, gain: float = 2.0) -> tuple[_Asked, PixelTable]:
    """A field with random weights over noisy maps."""
    torch.manual_seed(seed)
    maps = [contrast * torch.randn(c, 256 // s, 256 // s) for c, s in ((8, 2), (12, 4), (16, 16))]
    table = PixelTable(maps, Perceptron((36, 32, 16), last_relu=True), 256)
    decoder = _Asked(16, 96, 0.0).eval()
    with torch.no_grad():
        for layer in decoder.hidden:
            assert isinstance(layer, WeightNormLinear)
            layer.gain.mul_(gain)
    return decoder, table


def _both_ways(
    decoder: _Asked, table: PixelTable, box: Tensor, count: int, kind: Any = "sheared"
) -> tuple[dict[str, Tensor], int, int]:
    """The dense result, once the other agrees to the bit, and how many points each asked for."""
    config, origin = HOISDFConfig(grid_kind=kind), torch.tensor([0.02, -0.015, 0.62])
    asked, found = [], []
    for dense in (True, False):
        decoder.count = 0
        found.append(
            nearest_points(config, decoder, table, origin, INTRINSICS, box, count, dense=dense)
        )
        asked.append(decoder.count)
    assert torch.equal(found[0]["points"], found[1]["points"])
    assert torch.equal(found[0]["distances"], found[1]["distances"])
    return found[0], asked[0], asked[1]


@pytest.mark.parametrize("kind", ["sheared", "regular"])
@pytest.mark.parametrize(("seed", "contrast"), [(0, 0.1), (1, 0.1), (2, 0.3), (3, 1.0), (4, 0.0)])
def test_the_same_points_of_random_fields(kind: Any, seed: int, contrast: float) -> None:
    decoder, table = _scene(seed, contrast)
    for name, box in BOXES.items():
        count = (200, 600)[seed % 2]
        found, dense, fewer = _both_ways(decoder, table, box, count, kind)
        assert len(found["points"]) == count
        if name == "usual" and contrast < 0.2:
            assert fewer < 0.6 * dense
        if name == "tiny":
            assert fewer == dense


def test_the_same_points_of_a_fitted_field() -> None:
    """A decoder fitted to the distance from a sphere, as a trained one is to the hand's."""
    decoder, table = _scene(5, 0.0, gain=1.0)
    draw = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(decoder.parameters(), 3e-3)
    for _ in range(150):
        near = torch.randn(512, 3, generator=draw)
        near = 0.3 * near / near.norm(dim=1, keepdim=True)
        near = near + 0.07 * torch.randn(512, 3, generator=draw)
        points = torch.cat((2 * torch.rand(512, 3, generator=draw) - 1, near))
        wanted = (points.norm(dim=1) - 0.3).clamp(-0.15, 0.15)
        features = table.read(torch.full((1024, 2), 100.0)).detach()
        loss = (decoder(features, points).clamp(-0.15, 0.15) - wanted).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    for box, count in (("usual", 600), ("large", 200), ("small", 200)):
        found, dense, fewer = _both_ways(decoder, table, BOXES[box], count)
        assert fewer < 0.6 * dense
        away = (found["points"].norm(dim=1) - 0.3).abs()
        assert float(away.median()) < 0.05


@pytest.mark.parametrize("guess", ["zero", "noise", "opposite", "nan", "good"])
def test_smallest_trusts_no_guess(guess: str) -> None:
    draw = torch.Generator().manual_seed(1)
    values = torch.randn(4000, generator=draw).mul(50).round() / 50  # with many ties
    noise = torch.randn(4000, generator=draw)
    given = {
        "zero": torch.zeros(4000),
        "noise": noise,
        "opposite": 2 - values.abs(),
        "nan": torch.where(noise > 0, values, torch.nan),
        "good": values + 0.003 * noise.clamp(-3, 3),
    }[guess]
    asked: list[int] = []

    def exact(index: Tensor) -> Tensor:
        asked.extend(index.tolist())
        return values[index]

    index, found = smallest(given, exact, 100)
    expected = torch.sort(values.abs(), stable=True).indices[:100]
    assert torch.equal(index, expected)
    assert torch.equal(found, values[expected])
    assert len(asked) == len(set(asked))
    if guess == "good":
        assert len(asked) < 600


@pytest.mark.parametrize("size", [12, 13])
@pytest.mark.parametrize("kind", ["sheared", "regular"])
def test_guesses_of_a_parabola_are_exact(size: int, kind: Any) -> None:
    """Parabolas survive the interpolation everywhere, cubics but for the border of a region."""
    grid = grid_points(size, kind, torch.device("cpu")).double()
    positions = node_positions(size, kind, torch.device("cpu")).double()
    low, high = torch.tensor([-0.5, -0.9, -1.1]), torch.tensor([0.7, 0.6, 1.1])
    inside = ((grid > low) & (grid < high)).all(dim=1).nonzero()[:, 0]

    def parabola(p: Tensor) -> Tensor:
        x, y, z = p.unbind(-1)
        return x**2 - 2 * y**2 + 0.5 * z**2 + x * y - y * z + 0.3 * x + 0.1

    asked: list[Tensor] = []

    def ask(needed: Tensor) -> Tensor:
        asked.append(needed)
        return parabola(positions[needed]).float()

    found = guesses(inside, size, ask)
    expected = parabola(grid[inside]).float()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    # only nodes beside the region
    cell = 2 / (size - 1)
    assert not (
        (positions[asked[0]] < low - 2 * cell) | (positions[asked[0]] > high + 2 * cell)
    ).any()


def test_search_of_the_network(hand: HandModel, batch: Any, monkeypatch: Any) -> None:
    """In use from coarse to fine; densely for captures, in training and where it is asked for."""
    calls: list[int] = []

    def watched(guess: Tensor, exact: Any, count: int) -> tuple[Tensor, Tensor]:
        calls.append(count)
        return smallest(guess, exact, count)

    monkeypatch.setattr(grid_module, "smallest", watched)
    config = dataclasses.replace(TINY, grid=48)
    network = tiny_network(config, hand)
    free = dataclasses.replace(batch, hand_query_points=None, object_query_points=None)
    with torch.no_grad():
        seen: dict[str, Tensor] = {}
        dense = network(free, seen)
        network.config = dataclasses.replace(config, search="dense")
        asked = network(free)
        network.config = config
        assert not calls
        found = network(free)
        assert calls == [12, 12, 8, 8]
        network.train()(free)
    assert len(calls) == 4
    assert "hand_grid_0" in seen
    for other in (asked, found):
        assert torch.equal(dense.features["query_points"], other.features["query_points"])
        torch.testing.assert_close(dense.vertices, other.vertices)
        torch.testing.assert_close(
            dense.features["object_translation"], other.features["object_translation"]
        )
