"""What every method for whole photos must do: `test_contract`'s checks, for many hands a photo.

Large configurations keep their widths but have one layer of a kind and small photos, and stand on
colours instead of a detector; the `-small` one is trained.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.models.photo_sample import photo
from torch import nn

from handhold.errors import InputError, WeightsError
from handhold.geometry.alignment import procrustes
from handhold.hand.model import HandModel
from handhold.models.photo_registry import PHOTO_MODELS, build_photo_model, load_photo_model
from handhold.models.photo_sizes import measure_network, outlined
from handhold.models.weights import save_weights
from handhold.scene import Scene

BOXES = {"width": 256, "strides": (8, 16, 32, 64)}
SHRUNK: dict[str, dict[str, Any]] = {
    "handos-paper": {"detector": "boxes", "detector_options": BOXES, "vertices": 98},
    "handos-base": {"detector": "boxes", "detector_options": BOXES, "vertices": 98},
    "handos-small": {"detector": "boxes", "detector_options": {"width": 128}},
}
# narrowed, but built as they are: base projects its queries and paper does not, both have four
# scales and all vertices for queries, and small has coarse ones that it upsamples
NARROW: dict[str, dict[str, Any]] = {
    "handos-paper": {"detector_options": BOXES | {"width": 32}, "heads": 2, "points": 2},
    "handos-base": {"detector_options": BOXES | {"width": 48}, "heads": 2, "points": 2},
    "handos-small": {"detector_options": {"width": 32}, "square": True},
}
STEPS = {"handos-paper": 160, "handos-base": 200, "handos-small": 150}
FEW = {"input_size": 64, "square": True, "layers_2d": 1, "layers_mesh": 1}


@pytest.fixture(scope="module", params=list(PHOTO_MODELS))
def case(request: pytest.FixtureRequest, hand: HandModel) -> SimpleNamespace:
    """One method: fresh weights, two photos with a right and a left hand each."""
    entry = PHOTO_MODELS[request.param]
    config = dataclasses.replace(entry.config(), **SHRUNK[request.param], **FEW)
    model = build_photo_model(request.param, config=config, seed=3)
    samples = [photo(hand, 0), photo(hand, 1, height=96)]
    batch = model.processor.encode([(sample, 0) for sample in samples])
    return SimpleNamespace(
        name=request.param, entry=entry, model=model, batch=batch, samples=samples
    )


@pytest.mark.parametrize("name", PHOTO_MODELS)
def test_parameter_count_equals_the_card(name: str) -> None:
    with torch.device("meta"):
        network = outlined(PHOTO_MODELS[name].config())
    learns = sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert learns == PHOTO_MODELS[name].parameters
    card = Path(PHOTO_MODELS[name].network.__module__.replace(".", "/"))
    text = (Path(__file__).parents[2] / "src" / card.with_name("README.md")).read_text()
    assert f"{learns:,}" in text


def test_sizes_by_closed_form() -> None:
    """The value projections of a photo, and what one more layer costs each hand."""
    base = dataclasses.replace(PHOTO_MODELS["handos-base"].config(), layers_mesh=0)
    size, fewer = (
        measure_network("a", dataclasses.replace(base, layers_2d=layers)) for layers in (2, 1)
    )
    tokens = sum(-(-720 // s) * -(-1280 // s) for s in (8, 16, 32, 64))
    assert size.values == 2 * 2 * tokens * 512 * 256
    n, d = 21, 256
    products = 2 * n * n * d + n * d * (4 * d + d + 3 * 128 + 2 * 2048)  # attention, linear layers
    positions, joints = n * 3 * d * d, n * (2 * d * d + 4 * d)
    assert size.hand - fewer.hand == 2 * (products + positions + joints)


def test_units_and_shapes(case: SimpleNamespace) -> None:
    network, batch = case.model.network, case.batch
    with torch.no_grad():
        found = network.eval()(batch)
    assert found.image.tolist() == [0, 0, 1, 1] and found.target.tolist() == [-1] * 4
    assert found.joints2d.shape == (4, 2, 21, 2)
    assert found.vertices.shape == (4, 1, 778, 3) and found.joints.shape == (4, 1, 21, 3)
    assert bool(((found.joints2d >= 0) & (found.joints2d <= 1)).all())
    for value in (found.vertices, found.joints, found.translation, found.volume):
        assert value.dtype == torch.float32 and bool(value.isfinite().all())
    regressed = torch.einsum("jv,kmvc->kmjc", network.regressor, found.vertices)
    torch.testing.assert_close(found.joints, regressed)
    cameras = [sample.camera for sample in case.samples]
    scenes = case.model.processor.decode(found, batch, cameras, names=["a", "b"])
    assert all(isinstance(scene, Scene) and len(scene.hands) == 2 for scene in scenes)


def test_gradient_in_every_parameter(case: SimpleNamespace) -> None:
    """After one step: before it the last layers of heads are zero, and hide those under them."""
    model = build_photo_model(case.name, config=case.model.config, seed=3)
    network, loss = model.network.train(), case.entry.loss
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(2):
        optimiser.zero_grad()
        terms = loss(network(case.batch), case.batch, case.entry.loss_config())
        named = sum(value for name, value in terms.items() if name != "total")
        torch.testing.assert_close(torch.as_tensor(named), terms["total"], rtol=1e-4, atol=1e-6)
        terms["total"].backward()
        optimiser.step()
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None and name.startswith("detector."), name
            continue
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name
        assert not name.endswith("weight") or bool(parameter.grad.any()), name


@pytest.mark.parametrize("name", PHOTO_MODELS)
def test_overfits_one_photo_with_both_hands(hand: HandModel, name: str) -> None:
    """Meshes to 3 mm after alignment, sides by the meshes, 2D joints to 2 pixels."""
    changes: dict[str, Any] = {"detector": "boxes", "width": 64, "feedforward": 128}
    changes |= {"side_width": 32, "side_hidden": 32, "max_positives": 1, "input_size": 128}
    changes |= {"layers_2d": 1, "layers_mesh": 1}
    entry, steps = PHOTO_MODELS[name], STEPS[name]
    config = dataclasses.replace(entry.config(), **(changes | NARROW[name]))
    model = build_photo_model(name, config=config, seed=0)
    batch = model.processor.encode([(photo(hand, 0), 0)])
    network = model.network.train()
    weights = dataclasses.replace(entry.loss_config(), vertices=100.0, joints2d=100.0)
    rate = 4e-3
    factors = {"mesh.matrix": 0.05, "lift.matrix": 10.0}  # as the recipe has them
    groups = [
        {"params": [p], "lr": rate * factors.get(name, 1.0)}
        for name, p in network.named_parameters()
        if p.requires_grad
    ]
    rates = [group["lr"] for group in groups]
    optimiser = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rates, steps, pct_start=0.1)
    totals: list[float] = []
    for _ in range(steps):
        optimiser.zero_grad()
        total = entry.loss(network(batch), batch, weights)["total"]
        total.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        totals.append(float(total.detach()))
    assert totals[-1] < 0.2 * totals[0]
    with torch.no_grad():
        found = network.eval()(batch)
    sample = photo(hand, 0)
    (scene,) = model.processor.decode(found, batch, [sample.camera])
    assert [one.side for one in scene.hands] == ["right", "left"]
    for one, label in zip(scene.hands, sample.hands, strict=True):
        assert one.vertices is not None and label.vertices is not None
        aligned = procrustes(one.vertices, label.vertices).aligned
        assert np.linalg.norm(aligned - label.vertices, axis=-1).mean() < 0.003
        assert one.joints2d is not None and label.joints2d is not None
        assert np.linalg.norm(one.joints2d - label.joints2d, axis=-1).mean() < 2
        assert one.joints is not None and label.joints is not None
        seen = sample.camera.project(one.joints)
        assert np.linalg.norm(seen - label.joints2d, axis=-1).mean() < 3


def test_deterministic_and_photos_do_not_meet(case: SimpleNamespace) -> None:
    network, batch = case.model.network.eval(), case.batch
    alone = case.model.processor.encode([(case.samples[1], 0)])
    with torch.no_grad():
        first, second, one = network(batch), network(batch), network(alone)
    assert torch.equal(first.vertices, second.vertices)
    torch.testing.assert_close(first.vertices[2:], one.vertices, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(first.joints2d[2:], one.joints2d, atol=1e-5, rtol=1e-4)


def test_save_and_load(case: SimpleNamespace, tmp_path: Path) -> None:
    model = case.model
    extra = {"processor": dataclasses.asdict(model.processor.config)}
    path = tmp_path / "a.safetensors"
    save_weights(path, model.network.eval(), model=case.name, extra=extra)
    again = load_photo_model(case.name, weights=path)
    assert again.config == model.config and again.processor.config == model.processor.config
    with torch.no_grad():
        expected, found = model.network(case.batch), again.network(case.batch)
    assert torch.equal(found.vertices, expected.vertices)
    others = [name for name in PHOTO_MODELS if name != case.name]
    with pytest.raises(WeightsError, match=others[0]):
        load_photo_model(others[0], weights=path)
    path.unlink()


def test_unknown_names_are_told() -> None:
    with pytest.raises(InputError, match="handos-small"):
        build_photo_model("handos-tiny")
