"""What every method of the registry must do, checked with no code of its own.

Large configurations run with small crops, so that the whole stays quick; where a method has a
`-small` configuration, that one is trained for both.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from handhold.hand.convention import mirror_pose
from handhold.models.loading import build_model, load_model
from handhold.models.nn.detr import Decoder
from handhold.models.processors import make_processor
from handhold.models.registry import MODELS
from handhold.models.weights import save_weights
from handhold.scene import Batch, Camera, Prediction

MakeItems = Callable[..., list[Any]]
# a large configuration's fields of these names, and what they become here
SHRUNK = {
    "input_size": 64,
    "roi_size": 8,
    "hourglass_depth": 3,
    "init": "kaiming",
    "freeze_norms": False,
    "frozen_norms": False,
    "grid": 20,
    "hand_points": 60,
    "object_points": 20,
    "dropout": 0.0,
    "sdf_dropout": 0.0,
    "drop_path": 0.0,  # a branch dropped for all hands has no gradient
    "head_drop": 0.0,
}
TRAINED = [name for name in MODELS if f"{name}-small" not in MODELS]
KEYS = Path(__file__).parents[1] / "golden" / "data"
FEW = ("grid", "hand_points", "object_points")
KEYS_OF = {"keypoint-transformer": "kypt"}  # where the file has another name
FIELDS = ("joints", "vertices", "joints2d", "object_points2d", "object_confidence")


@pytest.fixture(scope="module", params=list(MODELS))
def case(request: pytest.FixtureRequest, make_items: MakeItems) -> SimpleNamespace:
    """One method: network with fresh weights, a batch with all targets, and its loss."""
    name: str = request.param
    entry = MODELS[name]
    config = entry.config()
    if not name.endswith("-small"):
        fields = {item.name for item in dataclasses.fields(config)}
        changes = {field: value for field, value in SHRUNK.items() if field in fields}
        config = dataclasses.replace(config, **changes)
    model = build_model(name, config=config, seed=3)
    _settle(model.network, encode(name, model, make_items(8, seed=1)))
    return SimpleNamespace(
        name=name, entry=entry, model=model, batch=encode(name, model, make_items(2))
    )


def encode(name: str, model: Any, items: list[Any]) -> Batch:
    """All targets, UniHOPE's pairs included, by the method's own processor."""
    settings = model.processor.config
    if hasattr(model.network, "forward_pair"):
        settings = dataclasses.replace(settings, paired=True)
    processor = make_processor(settings, model.config, model.network.hand)
    return MODELS[name].targets(model.network, processor.encode(items, None))


def _settle(network: nn.Module, batch: Batch) -> None:
    """Give the norms the statistics of a batch: without them fresh activations explode."""
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        network.train()(batch)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    network.eval()


def _loss_config(name: str) -> Any:
    return MODELS[name if f"{name}-small" not in MODELS else f"{name}-small"].loss_config()


def test_parameter_count_equals_the_card(case: SimpleNamespace) -> None:
    with torch.device("meta"):
        network = case.entry.network(case.entry.config(), case.model.network.hand)
    assert sum(p.numel() for p in network.parameters()) == case.entry.parameters


def test_units_and_shapes(case: SimpleNamespace) -> None:
    config, batch = case.model.config, case.batch
    with torch.no_grad():
        found: Prediction = case.model.network.eval()(batch)
    count, side = len(batch), config.input_size
    assert found.joints.shape == (count, 21, 3)
    given = [t for t in (found.joints, found.vertices, found.betas) if t is not None]
    assert all(t.dtype == torch.float32 and bool(t.isfinite().all()) for t in given)
    if found.vertices is not None:
        assert found.vertices.shape == (count, 778, 3)
    if found.joints2d is not None:
        assert found.joints2d.shape == (count, 21, 2)
        assert float(found.joints2d.abs().max()) < 20 * side  # pixels
    if "joints2d_box" in found.features:  # from heat maps of the hand's box
        box = batch.hand_box[:, None]
        assert bool(((found.joints2d >= box[..., :2]) & (found.joints2d <= box[..., 2:])).all())
    if found.rotations is not None:
        assert found.rotations.shape == (count, 16, 3, 3)
        assert found.betas is not None and found.betas.shape == (count, 10)
        # metres: from the wrist to the farthest tip
        reach = (found.joints - found.joints[:, :1]).norm(dim=-1).amax(1)
        assert bool(((reach > 0.05) & (reach < 0.5)).all())
        eye = torch.eye(3).expand(count, 16, 3, 3)
        turned = found.rotations @ found.rotations.transpose(-1, -2)
        torch.testing.assert_close(turned, eye, atol=1e-4, rtol=0)
        torch.testing.assert_close(torch.linalg.det(found.rotations), torch.ones(count, 16))
    if found.object_points2d is not None:
        cells = found.object_points2d.shape[1]
        assert found.object_points2d.shape == (count, cells, 21, 2)
        assert found.object_confidence is not None
        assert found.object_confidence.shape == (count, cells, 21)
        sure = found.object_confidence
        assert bool(((sure >= 0) & (sure <= 1)).all())
    if found.grasp_logits is not None:
        assert found.grasp_logits.shape == (count, 2)
    classes = getattr(config, "object_classes", 0)
    if classes:
        assert found.object_class_logits is not None
        assert found.object_class_logits.shape == (count, classes)


def test_gradient_in_every_parameter(case: SimpleNamespace) -> None:
    torch.manual_seed(0)
    network, batch, loss = case.model.network.train(), case.batch, case.entry.loss
    network.zero_grad()
    config = _loss_config(case.name)
    if hasattr(network, "forward_pair"):
        config = dataclasses.replace(config, enhancement=True)
        unused = network.parameters_without_gradient(paired=True)
        first, second = network.forward_pair(batch)
        terms = loss(first, batch, config, second=second)
    else:
        unused = getattr(network, "parameters_without_gradient", tuple)()
        terms = loss(network(batch), batch, config)
    assert all(bool(torch.isfinite(value)) for value in terms.values())
    named = sum(value for name, value in terms.items() if name != "total")
    torch.testing.assert_close(torch.as_tensor(named), terms["total"], rtol=1e-4, atol=1e-6)
    terms["total"].backward()
    for name, parameter in network.named_parameters():
        if name.startswith(unused):
            assert parameter.grad is None or not parameter.grad.abs().max() > 1e-6, name
        else:
            assert parameter.grad is not None, name
            assert bool(torch.isfinite(parameter.grad).all()), name
            # a bias before a norm over the batch, or in a softmax, moves nothing
            moves = name.endswith("weight") and "key" not in name
            assert not moves or bool(parameter.grad.any()), name
    network.zero_grad()
    network.eval()


@pytest.mark.parametrize("name", TRAINED)
def test_overfits_two_samples(name: str, make_items: MakeItems) -> None:
    """70 steps on crops of 64 pixels: 3D joints to 4 mm, 2D joints to 4 pixels, the loss well
    down. Networks that put out vertices without pose learn more slowly: 200 steps; queries of a
    transformer: 160 steps at a lower rate."""
    config = MODELS[name].config()
    fields = {item.name for item in dataclasses.fields(config)}
    few = {key: value for key, value in SHRUNK.items() if key in fields and key in FEW}
    config = dataclasses.replace(config, input_size=64, **few)
    model = build_model(name, config=config, seed=3)
    batch, weights = encode(name, model, make_items(2)), _loss_config(name)
    with torch.no_grad():
        posed = model.network(batch).rotations is not None
    network = model.network.train()
    (steps, clip), rate = (70, 100.0) if posed else (200, 1.0), 3e-3
    if any(isinstance(part, Decoder) for part in network.modules()):
        steps, rate = 160, 1e-3
    optimiser = torch.optim.Adam(network.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, steps, pct_start=0.1)
    totals: list[float] = []
    for _ in range(steps):
        optimiser.zero_grad()
        terms = MODELS[name].loss(network(batch), batch, weights)
        terms["total"].backward()
        nn.utils.clip_grad_norm_(network.parameters(), clip)
        optimiser.step()
        schedule.step()
        totals.append(float(terms["total"].detach()))
    assert totals[-1] < 0.45 * totals[0]
    with torch.no_grad():
        prediction = network(batch)
    found, truth = prediction.joints, batch.joints
    assert truth is not None
    error = ((found - found[:, :1]) - (truth - truth[:, :1])).norm(dim=-1).mean()
    assert float(error) < 0.004
    assert float((prediction.joints2d - batch.joints2d).norm(dim=-1).mean()) < 4.0


def test_deterministic_in_eval(case: SimpleNamespace) -> None:
    network = case.model.network.eval()
    with torch.no_grad():
        first, second = network(case.batch), network(case.batch)
        swapped = network(case.batch.map(lambda t: t.flip(0)))
    for field in FIELDS:
        one: Any = getattr(first, field)
        other: Any = getattr(second, field)
        if one is None or other is None:
            assert one is other, field
        else:
            assert torch.equal(one, other), field
    off = (swapped.joints.flip(0) - first.joints).abs().max()  # hands do not see each other
    assert float(off) < 1e-3 * float(first.joints.abs().max())


def test_mirrored_input_gives_the_mirrored_hand(case: SimpleNamespace) -> None:
    model = case.model
    draw = np.random.default_rng(0)
    coarse = torch.from_numpy(draw.random((1, 3, 6, 8))).float()
    smooth = nn.functional.interpolate(coarse, (120, 160), mode="bilinear")[0]
    image = (smooth.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    width = image.shape[1]
    focal = np.array([[200.0, 0, (width - 1) / 2], [0, 200.0, 59.5], [0, 0, 1]])
    camera = Camera(intrinsics=focal, width=width, height=image.shape[0])
    box, thing = np.array([30.0, 25, 90, 95]), np.array([60.0, 50, 120, 100])

    def flip(b: np.ndarray) -> np.ndarray:
        return np.array([width - 1 - b[2], b[1], width - 1 - b[0], b[3]])

    def encode(image: np.ndarray, box: np.ndarray, thing: np.ndarray, side: Any) -> Batch:
        return model.processor.encode_boxes(image, [box], [side], [thing], camera)

    def run(batch: Batch) -> Any:
        with torch.no_grad():
            prediction = model.network.eval()(batch)
        fitted = prediction.rotations is None  # to points that are no hand yet
        return model.processor.decode(prediction, batch, [camera])[0][0], fitted

    batch = encode(image, box, thing, "right")
    mirrored = encode(np.ascontiguousarray(image[:, ::-1]), flip(box), flip(thing), "left")
    torch.testing.assert_close(batch.hand_box, mirrored.hand_box)
    # where the crop shrinks the photo, the pixels that are averaged begin at another one
    assert float((batch.image - mirrored.image).abs().max()) <= 5 / 255
    assert float((batch.image - mirrored.image).abs().mean()) <= 0.5 / 255
    # the network sees the same pixels: the peaks that some look for can hang on a single one
    (hand, fitted), (other, _) = run(batch), run(dataclasses.replace(mirrored, image=batch.image))
    assert (hand.side, other.side) == ("right", "left")
    turned = (hand.joints - hand.joints[0]) * (-1, 1, 1)
    np.testing.assert_allclose(other.joints - other.joints[0], turned, atol=2e-3)
    np.testing.assert_allclose(other.joints2d[:, 0], width - 1 - hand.joints2d[:, 0], atol=0.5)
    np.testing.assert_allclose(other.joints2d[:, 1], hand.joints2d[:, 1], atol=0.5)
    assert (hand.pose is None) == (other.pose is None)
    if hand.pose is not None and not fitted:
        expected = mirror_pose(torch.from_numpy(np.asarray(hand.pose)))
        np.testing.assert_allclose(other.pose, expected, atol=2e-2)


def test_save_and_load(case: SimpleNamespace, tmp_path: Path) -> None:
    model = case.model
    path = save_weights(tmp_path / "a.safetensors", model.network.eval(), model=case.name)
    again = load_model(case.name, weights=path)
    assert again.config == model.config
    with torch.no_grad():
        expected, found = model.network(case.batch), again.network(case.batch)
    assert torch.equal(found.joints, expected.joints)
    path.unlink()


def test_official_keys(case: SimpleNamespace) -> None:
    """Every key of the original has one of ours and the other way round."""
    if case.entry.importer is None:
        assert case.name.endswith("-small")
        return
    told = json.loads((KEYS / f"{KEYS_OF.get(case.name, case.name)}.json").read_text())[
        "state_dict"
    ]
    entries = {k: torch.zeros(tuple(shape), device="meta") for k, shape in told.items()}
    with torch.device("meta"):
        network = case.entry.network(case.entry.config(), case.model.network.hand)
    convert = importlib.import_module(case.entry.importer.__module__).convert
    assert set(convert(entries)) == set(network.state_dict())


class _Plain(nn.Module):
    """Tensors in, tensors out."""

    def __init__(self, network: nn.Module, kind: type[Batch], names: list[str]) -> None:
        super().__init__()
        self.network, self.kind, self.names = network, kind, names

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        fields: dict[str, Any] = dict(zip(self.names, tensors, strict=True))
        found = self.network(self.kind(**fields))
        if found.object_points2d is not None:  # without confidence they mean nothing
            shown = found.object_points2d * (found.object_confidence > 0)[..., None]
            found = dataclasses.replace(found, object_points2d=shown)
        given = (getattr(found, field) for field in FIELDS)
        return tuple(value for value in given if value is not None)


def test_export(case: SimpleNamespace) -> None:
    if not getattr(case.entry.network, "exportable", True):
        pytest.skip("its card says that it cannot be exported")
    image = (case.batch.image[0].permute(1, 2, 0) * 255).byte().numpy()
    side = image.shape[0]
    camera = Camera(intrinsics=np.diag([300.0, 300.0, 1.0]), width=side, height=side)
    box = np.array([0.2, 0.2, 0.6, 0.7]) * side
    batch = case.model.processor.encode_boxes(
        image, [box, box + 3], ["right", "left"], [box + 5, box - 2], camera
    )
    given = {k: v for k, v in vars(batch).items() if isinstance(v, Tensor)}
    network = _Plain(case.model.network.eval(), type(batch), list(given)).eval()
    with torch.no_grad():
        exported = torch.export.export(network, tuple(given.values())).module()
        # other numbers than those it was traced with
        given["image"] = 1 - given["image"]
        given["hand_box"], given["object_box"] = given["hand_box"] + 3.3, given["object_box"] - 5.1
        other = tuple(given.values())
        for found, expected in zip(exported(*other), network(*other), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
