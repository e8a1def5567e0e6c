"""The fast network says what the plain one says: folding is algebra, the engines are other
libraries."""

from __future__ import annotations

import dataclasses
import importlib.util
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handhold.errors import InputError, MissingExtraError
from handhold.inference import fast as module
from handhold.inference.estimator import Estimator
from handhold.inference.fast import best_engine, fast, flattened
from handhold.models.loading import build_model
from handhold.models.nn.fold import fold
from handhold.models.registry import MODELS
from handhold.scene import Batch

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def randomise(network: nn.Module, seed: int = 0) -> None:
    """Norms that do something: with fresh ones folding could not go wrong."""
    draw = torch.Generator().manual_seed(seed)
    for norm in network.modules():
        if isinstance(norm, NORMS):
            for value, low in ((norm.weight, 0.5), (norm.running_var, 0.5), (norm.bias, -0.1)):
                value.data = low + 0.5 * torch.rand(value.shape, generator=draw)
            norm.running_mean = 0.3 * torch.randn(norm.bias.shape, generator=draw)


def case(name: str, **changes: Any) -> tuple[nn.Module, Batch]:
    config = dataclasses.replace(MODELS[name].config(), **changes)
    model = build_model(name, config=config, seed=1)
    randomise(model.network)
    draw = torch.Generator().manual_seed(2)
    size = config.input_size
    box = torch.tensor([[0.1, 0.2, 0.7, 0.8], [0.3, 0.1, 0.9, 0.6], [0.2, 0.2, 0.8, 0.9]]) * size
    image = torch.rand(3, 3, size, size, generator=draw)
    return model.network, Batch(image=image, hand_box=box, object_box=box.flip(0) + 3)


def one(batch: Batch) -> Batch:
    return batch.map(lambda t: t[:1])


def compare(found: Any, expected: Any, tolerance: float = 1e-4) -> None:
    mine, theirs = flattened(found), flattened(expected)
    assert list(mine) == list(theirs)
    for key, value in theirs.items():
        assert mine[key].dtype == value.dtype, key
        scale = float(value.abs().max()) if value.is_floating_point() else 1.0
        torch.testing.assert_close(mine[key] / scale, value / scale, atol=tolerance, rtol=0)


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("mobrecon-small", 0),  # pointwise, depthwise, and linear layers of squeeze and excitation
        ("hflnet-small", 17),  # the first norms of pre-activation units, which read sums
        ("simplehand-small", 2),  # those before attention
    ],
)
def test_folded_equals_plain(name: str, left: int) -> None:
    network, batch = case(name, input_size=64)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    folded = fold(network, one(batch))
    with torch.no_grad():
        compare(folded(batch), network(batch))
        # branches are merged for good: their weights are no longer looked at
        for module_ in folded.modules():
            if hasattr(module_, "folded") and isinstance(getattr(module_, "norm", None), nn.Module):
                nn.init.constant_(next(module_.norm.parameters(), torch.zeros(1)), 7.0)
        compare(folded(batch), network(batch))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    called: set[str] = set()
    for path, part in folded.named_modules():
        if isinstance(part, NORMS):
            part.register_forward_hook(lambda *_, path=path: called.add(path))
    with torch.no_grad():
        folded(batch)
    assert len(called) == left, called


class Forked(nn.Module):
    """What must not be folded: a result that something else reads, a norm of two layers; and what
    can: a transposed convolution, layers of one and no spatial dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.read_twice, self.norm_a = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.first, self.second = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.shared_norm = nn.BatchNorm2d(4)
        self.up, self.norm_b = nn.ConvTranspose2d(4, 6, 2, 2), nn.BatchNorm2d(6)
        self.line, self.norm_c = nn.Conv1d(6, 5, 1), nn.BatchNorm1d(5)
        self.full, self.norm_d = nn.Linear(5, 7), nn.BatchNorm1d(7)

    def forward(self, batch: Any) -> Tensor:
        x = self.read_twice(batch.image)
        x = self.norm_a(x) + x
        x = self.shared_norm(self.first(x)) + self.shared_norm(self.second(x))
        x = F.relu(self.norm_b(self.up(x)))
        x = F.relu(self.norm_c(self.line(x.flatten(2))))
        return self.norm_d(self.full(x.mean(2)))


def test_folds_only_what_belongs_together() -> None:
    torch.manual_seed(0)
    network = Forked().eval()
    randomise(network)
    batch: Any = SimpleNamespace(image=torch.rand(2, 3, 5, 5))
    folded = fold(network, batch)
    left = {name for name, part in folded.named_modules() if isinstance(part, NORMS)}
    assert left == {"norm_a", "shared_norm"}
    torch.testing.assert_close(folded(batch), network(batch))


@pytest.fixture(scope="module")
def exported() -> tuple[nn.Module, Batch, tuple[bytes, list[str]]]:
    network, batch = case("mobrecon-small", input_size=64)
    return network, batch, module.export(network, batch)


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_exported_equals_plain(engine: str, exported: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file serves any number of hands; tensors that the network never reads are not in it."""
    network, batch, file = exported
    exports: list[Any] = []
    monkeypatch.setattr(module, "export", lambda *told: exports.append(told) or file)
    quick = fast(network, engine, threads=1)
    with torch.no_grad():
        for hands in (one(batch), batch):
            compare(quick(hands), network(hands))
    assert len(exports) == 1


def test_estimator_takes_an_engine() -> None:
    model = build_model("mobrecon-small", seed=1)
    randomise(model.network)
    photo = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    boxes = [{"box": [20, 10, 80, 70], "side": "left"}]
    plain = Estimator(model, detector="none")(photo, boxes=boxes)
    folded = Estimator(model, detector="none", engine="folded")
    assert isinstance(folded.network, module.FoldedNetwork)
    hand, expected = folded(photo, boxes=boxes).hands[0], plain.hands[0]
    assert hand.vertices is not None and expected.vertices is not None
    np.testing.assert_allclose(hand.vertices, expected.vertices, atol=1e-4)
    with pytest.raises(InputError, match="engine"):
        Estimator(model, detector="none", engine="fastest")


def test_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    network: Any = nn.Identity()
    with pytest.raises(InputError, match="engine: expected one of eager, best, folded"):
        fast(network, "fastest")
    hoisdf = MODELS["hoisdf"].network
    assert best_engine(hoisdf.__new__(hoisdf)) == "folded"
    with pytest.raises(InputError, match="HOISDF cannot be exported for onnx"):
        fast(hoisdf.__new__(hoisdf), "onnx")
    there = importlib.util.find_spec
    missing = ("onnxruntime", "openvino")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in missing else there(name)
    )
    with pytest.raises(MissingExtraError, match=r"onnxruntime: pip install 'handhold\[export\]'"):
        fast(network, "onnx")
    with pytest.raises(MissingExtraError, match=r"openvino: pip install 'handhold\[fast\]'"):
        fast(network, "openvino")
    assert best_engine(network) == "folded"
