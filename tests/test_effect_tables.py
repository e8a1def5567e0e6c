"""The tables of the benchmark of made data, with made-up results."""

from __future__ import annotations

import copy
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "effect_tables.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("effect_tables", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def one(plain: float, aligned: float, groups: tuple[float | None, ...] = (None,) * 4) -> Any:
    return {"mpjpe_mm": plain, "pa_mpjpe_mm": aligned, "groups": list(groups)}


@pytest.fixture
def found() -> dict[str, Any]:
    return {
        "told": "Made up.",
        "base": "alone",
        "arms": {
            "alone": {"runs": {"0": one(50.0, 20.0), "1": one(54.0, 22.0)}},
            "helped": {"runs": {"0": one(40.0, 20.5), "1": one(43.0, 21.0)}},
            "harmed": {"runs": {"0": one(60.0, 30.0), "1": one(63.0, 31.0)}},
            "other": {"left_out": "no denoiser"},
        },
        "conditions": {"seeds": "0, 1"},
    }


def test_changes_are_taken_seed_by_seed(script: ModuleType, found: dict[str, Any]) -> None:
    arms = found["arms"]
    assert script.changes(arms["helped"], arms["alone"], "mpjpe_mm") == [10.0, 11.0]
    del arms["alone"]["runs"]["0"]
    assert script.changes(arms["helped"], arms["alone"], "mpjpe_mm") == [11.0]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([10.0, 11.0], "better"),
        ([-10.0, -11.0, -9.0], "worse"),
        ([-0.5, 1.0], "within the spread of the seeds"),
        ([0.0, 0.0], "within the spread of the seeds"),
        ([1.0, 4.0], "within the spread of the seeds"),  # one sign, but the mean is 2.5
        ([3.0], "one seed only, says nothing"),
        ([], "no seed in common"),
    ],
)
def test_words_for_changes(script: ModuleType, values: list[float], words: str) -> None:
    assert script.verdict(values) == words


def test_a_table(script: ModuleType, found: dict[str, Any]) -> None:
    lines = script.table(found)
    assert lines[2] == "| alone | 52.0 (50.0, 54.0) | 21.0 (20.0, 22.0) |  |  |"
    assert lines[3] == (
        "| helped | 41.5 (40.0, 43.0) | 20.8 (20.5, 21.0) | -10.5, -0.2 "
        "| better; within the spread of the seeds |"
    )
    assert lines[4].endswith("| +9.5, +9.5 | worse |")
    assert lines[5] == "| other | not run | not run |  | no denoiser |"
    assert len({line.count("|") for line in lines}) == 1


def test_errors_by_visible_share(script: ModuleType, found: dict[str, Any]) -> None:
    found["groups"] = True
    found["arms"] = {
        "alone": {
            "runs": {
                "0": one(1.0, 1.0, (None, 4.0, 3.0, 2.0)),
                "1": one(1.0, 1.0, (None, None, 5.0, 3.0)),
            }
        }
    }
    lines = script.table(found)
    assert lines[-3].endswith("| 0-25 % | 25-50 % | 50-75 % | 75-100 % |")
    assert lines[-1] == "| alone | - | 4.0 | 4.0 | 2.5 |"


def test_tables_are_kept_beside_each_other(
    script: ModuleType, found: dict[str, Any], tmp_path: Path
) -> None:
    results = tmp_path / "effect.json"
    script.save("data", found, results)
    other = copy.deepcopy(found) | {"told": "Another."}
    script.save("sampling", other, results)
    script.save("data", found | {"told": "Made anew."}, results)
    figures = json.loads(results.read_text())
    assert [(name, value["told"]) for name, value in figures.items()] == [
        ("data", "Made anew."),
        ("sampling", "Another."),
    ]
    page = results.with_suffix(".md").read_text()
    assert page.index("## data") < page.index("Made anew.") < page.index("## sampling")
    assert "Made up." not in page and "- seeds: 0, 1" in page
    assert page.count("Not run yet") == 1 and page.index("## pairs") < page.index("Not run yet")
    assert results.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
