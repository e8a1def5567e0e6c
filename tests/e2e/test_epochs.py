"""One epoch and an evaluation from the command line: methods and data sets against each other.

The networks see crops of 64 pixels and learn next to nothing; what is looked at is which terms a
set's labels feed, and that numbers come out at the other end.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tests.e2e.sets import MINIATURES, write_all

from handhold.cli.main import main
from handhold.evaluation import plots
from handhold.training import curves

pytestmark = pytest.mark.filterwarnings("ignore:mow. the labels are parameters")
HOPE = ("hflnet-small", "unihope-small")
OTHERS = (
    "semihand-small",
    "handoccnet-small",
    "mobrecon-small",
    "h2onet-small",
    "simplehand-small",
    "keypoint-transformer-small",
    "hoisdf-small",
)
# terms that 2D joints alone feed, and priors; all others need more
FLAT = ("joints2d", "joints2d_l1", "heatmap", "reprojection", "token_class")
PRIORS = ("shape_prior", "shape_regulariser", "pose_regulariser")
SPARSE = ("object_class", "object_translation", "object_corners")  # no class of the network's


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HANDHOLD_HOME", str(tmp_path_factory.mktemp("home")))
        # pictures have their own tests and take longer than these trainings
        patch.setattr(curves, "draw_curves", lambda *_, **__: None)
        patch.setattr(plots, "plot_report", lambda _, path: path)
        yield write_all(tmp_path_factory.mktemp("sets"))


def train(method: str, out: Path, *data: str, more: tuple[str, ...] = ()) -> dict[str, float]:
    """One epoch; the terms of the last step and what validation found."""
    words = ["train", method, "--data", *data, "--epochs", "1", "--batch-size", "4", "--out", out]
    fixed = ["--workers", "0", "--threads", "1", "--quiet", *more]
    assert main([str(word) for word in [*words, *fixed]]) == 0
    assert load_file(out / "weights.safetensors")
    found: dict[str, float] = {}
    for line in (out / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        found |= {k: v for k, v in row.items() if isinstance(v, int | float)}
    assert all(math.isfinite(value) for value in found.values())
    return found


def terms(found: dict[str, float]) -> dict[str, float]:
    """The loss terms alone."""
    named = {k.partition("/")[2]: v for k, v in found.items() if k.startswith("loss/")}
    assert named.pop("total") > 0
    return named


def evaluate(method: str, out: Path, data: str, protocol: str) -> dict[str, Any]:
    """The sections of the report; none of its numbers is NaN."""
    weights = out / "weights.safetensors"
    words = ["eval", method, "--weights", weights, "--data", data, "--protocol", protocol]
    assert main([str(word) for word in [*words, "--count", "2", "--out", out, "--worst", "0"]]) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["protocol"].startswith(f"protocol {protocol}: given image")
    return report["sections"]


@pytest.mark.parametrize("name", list(MINIATURES))
@pytest.mark.parametrize("method", HOPE)
def test_one_epoch_of_each_set(method: str, name: str, top: Path, tmp_path: Path) -> None:
    mini = MINIATURES[name]
    more = ("--network", "input_size=64")
    found = train(method, tmp_path, f"{name}:{top / name}", more=more)
    each = terms(found)
    posed, object_known = "pose" in mini.labels, "object" in mini.labels
    for term, value in each.items():
        if term in FLAT:
            assert value > 0, term
        elif term.startswith("object") and term not in SPARSE:
            assert value == 0 or object_known, term
        elif term == "switch":
            assert (value > 0) is ("grasp" in mini.labels)
        elif term not in (*PRIORS, *SPARSE):
            assert (value > 0) is posed, term
    assert (f"{name}/mpjpe_mm" in found) is posed
    assert f"{name}/pck20" in found
    table = mini.tables[HOPE.index(method)]
    sections = evaluate(method, tmp_path, f"{name}/{mini.test}:{top / name}", table)
    assert sections["detection"]["recall"] == 1
    assert ("hand: all" in sections) is (name not in ("hint", "coco-wholebody"))


@pytest.mark.parametrize("method", OTHERS)
def test_other_methods_with_every_kind_of_labels(method: str, top: Path, tmp_path: Path) -> None:
    more = ("--network", "input_size=64")
    each = terms(train(method, tmp_path / "flat", f"hint:{top / 'hint'}", more=more))
    taught = {term for term, value in each.items() if value > 0}
    assert taught and taught <= {*FLAT, *PRIORS}
    sets = [f"{name}:{top / name}" for name in ("dexycb", "freihand")]
    found = train(method, tmp_path / "posed", *sets, more=more)
    silent = {term for term, value in terms(found).items() if value == 0}
    assert silent <= {*SPARSE, *PRIORS, "object_points", "object_confidence", "object_sdf"}
    assert found["dexycb/mpjpe_mm"] > 0 and found["freihand/mpjpe_mm"] > 0
    data = f"dexycb/s0-test:{top / 'dexycb'}"
    sections = evaluate(method, tmp_path / "posed", data, "dexycb/official")
    assert math.isfinite(sections["hand: all"]["pa_mpjpe_mm"])
