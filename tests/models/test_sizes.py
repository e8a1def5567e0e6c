"""Counting parameters and multiply-adds as the papers do."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from handhold.cli import models as command
from handhold.models import registry, sizes
from handhold.models.nn.attention import MapAttention
from handhold.models.nn.flops import measure


def test_counting_by_hand() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1),  # 2 x 8 x 5 x 5 outputs, 27 multiply-adds each
        nn.BatchNorm2d(8),
        nn.LeakyReLU(),
        nn.Conv2d(8, 8, 3, groups=4),  # 2 x 8 x 3 x 3 outputs, 18 each
        nn.Flatten(2),
        nn.Linear(9, 5),  # 2 x 8 rows
        nn.LayerNorm(5),
    )
    size = measure(network, lambda: network(torch.zeros(2, 3, 10, 10)))
    assert size.macs == 2 * 8 * 25 * 27 + 2 * 8 * 9 * 18 + 2 * 8 * 9 * 5
    assert size.norm_operations == 4 * (2 * 8 * 25 + 2 * 8 * 5)
    assert size.counted == size.macs + size.norm_operations
    assert size.parameters == (27 * 8 + 8) + 16 + (8 * 18 + 8) + (45 + 5) + 10


def test_transposed_convolutions_as_the_papers_charge_them() -> None:
    """2 x 6 inputs of 4 x 4 give 2 x 8 outputs of 8 x 8."""
    layer = nn.ConvTranspose2d(6, 8, 2, 2, bias=False)
    size = measure(layer, lambda: layer(torch.zeros(2, 6, 4, 4)))
    assert size.macs == 2 * 6 * 16 * 8 * 4
    assert size.counted == 2 * 8 * 64 * 6 * 4


def test_only_layers_that_run_are_counted() -> None:
    network = nn.ModuleDict({"used": nn.Linear(3, 4), "idle": nn.Linear(5, 6)})
    network.register_parameter("scale", nn.Parameter(torch.ones(7)))
    size = measure(network, lambda: network["used"](network["used"](torch.zeros(1, 3)).T.T[:, :3]))
    assert size.parameters == 16 + 36 + 7
    assert size.counted_parameters == 16


def test_shared_layers_count_each_time_they_run() -> None:
    layer = nn.Linear(4, 4)
    size = measure(layer, lambda: layer(layer(torch.zeros(1, 4))))
    assert (size.parameters, size.macs) == (20, 32)


def test_attention_products_stand_apart() -> None:
    block = MapAttention(8, 2)
    size = measure(block, lambda: block(torch.zeros(1, 8, 4, 4), torch.zeros(1, 8, 2, 5)))
    assert size.attention_macs == 2 * 16 * 10 * 8
    assert size.macs == 16 * 64 + 2 * 10 * 64 + 16 * (8 * 32 * 2)


# Table H of the UniHOPE paper: millions of parameters and billions of operations
TABLE = {
    "hflnet": (46.08, 10.01),
    "unihope": (46.38, 10.04),
    "semihand": (34.48, 39.44),
    "handoccnet": (37.22, 15.48),
    "mobrecon": (8.23, 0.46),
    "h2onet": (25.88, 0.74),
    "simplehand": (48.89, 9.96),
    "keypoint-transformer": (52.79, 12.66),
}
ROWS = (*TABLE, "unihope-small")


@pytest.fixture(scope="module")
def rows() -> dict[str, sizes.SizeRow]:
    return {name: sizes.compare(name)[0] for name in ROWS}


def test_papers_sizes(rows: dict[str, sizes.SizeRow]) -> None:
    for name, (millions, billions) in TABLE.items():
        row = rows[name]
        assert row.size.counted_parameters / 1e6 == pytest.approx(millions, rel=0.01), name
        assert row.size.counted / 1e9 == pytest.approx(billions, rel=0.015), name  # two digits
        assert row.paper_parameters is not None and row.paper_gmacs is not None
        assert row.paper_parameters / 1e6 == pytest.approx(millions, abs=0.006), name
        assert row.paper_gmacs == pytest.approx(billions, abs=0.006), name
    hflnet, unihope = rows["hflnet"], rows["unihope"]
    assert hflnet.size.parameters == 46_080_659
    assert unihope.size.parameters == 46_375_703
    assert hflnet.size.counted / 1e9 == pytest.approx(10.009, abs=2e-3)
    assert hflnet.size.macs / 1e9 == pytest.approx(9.966, abs=2e-3)
    assert unihope.size.counted / 1e9 == pytest.approx(10.04, abs=5e-3)
    with_products = hflnet.size.macs + hflnet.size.attention_macs
    assert with_products / 1e9 == pytest.approx(11.577, abs=2e-3)
    assert all(row.agrees(0.01) for row in rows.values())


def test_small_is_small(rows: dict[str, sizes.SizeRow]) -> None:
    size = rows["unihope-small"].size
    assert size.parameters <= 8_000_000
    assert size.macs + size.attention_macs <= 450_000_000


def test_a_mismatch_is_flagged(
    rows: dict[str, sizes.SizeRow],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wrong = dataclasses.replace(rows["hflnet"], paper_gmacs=10.2)
    monkeypatch.setattr(registry, "MODELS", {"hflnet": registry.MODELS["hflnet"]})
    monkeypatch.setattr(sizes, "compare", lambda name: [wrong])
    assert command.models(sizes=True) == 1
    assert "DIFFERS" in capsys.readouterr().out
    monkeypatch.setattr(sizes, "compare", lambda name: [rows["hflnet"]])
    assert command.models(sizes=True) == 0
    assert "46,080,659" in capsys.readouterr().out


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.models() == 0
    said = capsys.readouterr().out
    assert all(name in said for name in registry.MODELS)


def test_cards_state_the_parameters() -> None:
    """The numbers of the registry stand in the methods' README files."""
    for name, entry in registry.MODELS.items():
        folder = Path(registry.__file__).parent / name.removesuffix("-small").replace("-", "_")
        assert f"{entry.parameters:,}" in (folder / "README.md").read_text(), name
