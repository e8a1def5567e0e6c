"""The reproduction ledger: its page is made from it, its cells are told, its commands parse."""

from __future__ import annotations

import copy
import functools
import importlib.util
import inspect
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import tyro

from handhold.cli.eval import _source, evaluate
from handhold.cli.fid import fid
from handhold.data.sources import SetSpec
from handhold.evaluation.protocols import PROTOCOLS
from handhold.models.photo_registry import PHOTO_MODELS
from handhold.models.registry import MODELS

HERE = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("ledger", HERE / "benchmarks" / "ledger.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def ledger() -> dict[str, Any]:
    return json.loads((HERE / "benchmarks" / "ledger.json").read_text(encoding="utf-8"))


def test_page_is_up_to_date(script: Any, ledger: dict[str, Any]) -> None:
    stored = (HERE / "docs" / "ledger.md").read_text(encoding="utf-8")
    assert stored == script.page(ledger), "run python benchmarks/ledger.py"


def test_every_cell_is_a_figure_or_a_reason(script: Any, ledger: dict[str, Any]) -> None:
    assert script.check(ledger) == []
    broken = copy.deepcopy(ledger)
    cells = broken["rows"][0]["cells"]
    cells[0]["ours"], cells[1]["paper"], cells[2]["number"] = 12.9, "somewhere", "luck"
    told = "\n".join(script.check(broken))
    assert "mpjpe_mm: a measured figure needs seed and date" in told
    assert "no reason 'somewhere'" in told and "does not print luck" in told


@functools.wraps(evaluate)
def asked(*words: Any, **options: Any) -> dict[str, Any]:
    """What the command would be called with."""
    return dict(inspect.signature(evaluate).bind(*words, **options).arguments)


@functools.wraps(fid)
def compared(*words: Any, **options: Any) -> dict[str, Any]:
    """What the command would be called with."""
    return dict(inspect.signature(fid).bind(*words, **options).arguments)


def test_commands_parse_and_fit_their_protocol(ledger: dict[str, Any]) -> None:
    commands = [row for row in ledger["rows"] if row["command"] not in ledger["reasons"]]
    assert len(commands) > 20
    for row in commands:
        words = shlex.split(row["command"])
        if row["protocol"] is None:
            assert words[:2] == ["handhold", "fid"]
            made: Any = tyro.cli(compared, args=words[2:])
            assert made["real"] == f"{row['data']}:FOLDER" and made["made"] == "MADE"
            assert SetSpec.parse(made["real"]) is not None
            continue
        assert words[:2] == ["handhold", "eval"]
        told: Any = tyro.cli(asked, args=words[2:])
        assert told["model"] == row["method"] and told["model"] in {**MODELS, **PHOTO_MODELS}
        assert told["protocol"] == row["protocol"] and told["data"] == f"{row['data']}:FOLDER"
        source = _source(told["data"], PROTOCOLS[told["protocol"]])
        assert source is not None and f"{source.name}/{source.split}" == row["data"]
    with pytest.raises(SystemExit):
        tyro.cli(asked, args=["hflnet", "--dataset", "x"])


def test_every_published_table_has_a_row(ledger: dict[str, Any]) -> None:
    rows = {row["protocol"] for row in ledger["rows"]}
    general = {"dexycb/official", "hint/hamer", "ho3d-v3/server"}  # of no method here
    assert all(row["command"] not in ledger["reasons"] for row in ledger["rows"])
    assert {name for name, found in PROTOCOLS.items() if found.table} - rows == general
