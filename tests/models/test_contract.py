"""What every method of the registry must do, checked with no code of its own.

Large configurations run with small crops, so that the whole stays quick.
"""

from __future__ import annotations

import dataclasses
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
from handhold.models.hflnet import loss as hflnet_loss
from handhold.models.hflnet.official import convert as convert_hflnet
from handhold.models.registry import MODELS, LoadedModel, build_model, load_model
from handhold.models.unihope import loss as unihope_loss
from handhold.models.unihope.model import UniHOPE
from handhold.models.unihope.official import convert as convert_unihope
from handhold.models.weights import save_weights
from handhold.scene import Batch, Camera, Prediction

MakeBatch = Callable[..., Batch]
LARGE = ("hflnet", "unihope")
QUARTER = {
    "widths": (16, 32, 64, 128),
    "stem_width": 16,
    "pyramid_width": 64,
    "mano_widths": (256, 128),
}
CONVERT = {"hflnet": convert_hflnet, "unihope": convert_unihope}
KEYS = Path(__file__).parents[1] / "golden" / "data"


@pytest.fixture(scope="module", params=list(MODELS))
def case(request: pytest.FixtureRequest, make_batch: MakeBatch) -> SimpleNamespace:
    """One method: network with fresh weights, a batch with all targets, and its loss."""
    name: str = request.param
    config = MODELS[name].config()
    if name in LARGE:
        config = dataclasses.replace(
            config, input_size=64, roi_size=8, hourglass_depth=3, init="kaiming"
        )
    model = build_model(name, config=config, seed=3)
    batch = make_batch(config)
    _settle(model.network, make_batch(config, 8, seed=1))
    loss = unihope_loss.loss if isinstance(model.network, UniHOPE) else hflnet_loss.loss
    return SimpleNamespace(name=name, model=model, batch=batch, loss=loss)


def _settle(network: nn.Module, batch: Batch) -> None:
    """Give the norms the statistics of a batch: without them fresh activations explode."""
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        network.train()(batch)
    for norm in norms:
        norm.momentum = 0.1
    network.eval()


def _loss_config(model: LoadedModel) -> Any:
    if isinstance(model.network, UniHOPE):
        return unihope_loss.UniHOPELossConfig.small()
    return hflnet_loss.HFLNetLossConfig.small()


def test_parameter_count_equals_the_card(case: SimpleNamespace) -> None:
    entry = MODELS[case.name]
    with torch.device("meta"):
        network = entry.network(entry.config(), case.model.network.hand)
    assert sum(p.numel() for p in network.parameters()) == entry.parameters


def test_units_and_shapes(case: SimpleNamespace) -> None:
    config, batch = case.model.config, case.batch
    with torch.no_grad():
        found: Prediction = case.model.network.eval()(batch)
    count, cells = len(batch), config.roi_size**2
    assert found.joints.shape == (count, 21, 3)
    assert found.vertices.shape == (count, 778, 3)
    assert found.joints2d.shape == (count, 21, 2)
    assert found.rotations.shape == (count, 16, 3, 3)
    assert found.betas.shape == (count, 10)
    assert found.object_points2d.shape == (count, cells, 21, 2)
    assert found.object_confidence.shape == (count, cells, 21)
    assert all(t.dtype == torch.float32 for t in (found.joints, found.vertices, found.betas))
    # metres: from the wrist to the farthest tip
    reach = (found.joints - found.joints[:, :1]).norm(dim=-1).amax(1)
    assert bool(((reach > 0.05) & (reach < 0.3)).all())
    eye = torch.eye(3).expand(count, 16, 3, 3)
    torch.testing.assert_close(
        found.rotations @ found.rotations.transpose(-1, -2), eye, atol=1e-4, rtol=0
    )
    torch.testing.assert_close(torch.linalg.det(found.rotations), torch.ones(count, 16))
    assert bool(((found.object_confidence >= 0) & (found.object_confidence <= 1)).all())
    box = batch.hand_box[:, None]
    assert bool(((found.joints2d >= box[..., :2]) & (found.joints2d <= box[..., 2:])).all())
    if isinstance(case.model.network, UniHOPE):
        assert found.grasp_logits.shape == (count, 2)
    if config.object_classes:
        assert found.object_class_logits.shape == (count, config.object_classes)


def test_gradient_in_every_parameter(case: SimpleNamespace) -> None:
    network, batch = case.model.network.train(), case.batch
    network.zero_grad()
    config, unused = _loss_config(case.model), ()
    if isinstance(network, UniHOPE):
        config = dataclasses.replace(config, enhancement=True)
        unused = network.parameters_without_gradient(paired=True)
        first, second = network.forward_pair(batch)
        terms = case.loss(first, batch, config, second=second)
    else:
        terms = case.loss(network(batch), batch, config)
    assert all(bool(torch.isfinite(value)) for value in terms.values())
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


def test_overfits_two_samples(case: SimpleNamespace, make_batch: MakeBatch) -> None:
    """70 steps on crops of 64 pixels: 3D joints to 4 mm, 2D joints to 4 pixels, the loss well down
    (large ones at a quarter of their width)."""
    config = dataclasses.replace(case.model.config, input_size=64)
    if case.name in LARGE:
        config = dataclasses.replace(config, mano_center=0, **QUARTER)
    model = build_model(case.name, config=config, seed=3)
    network, batch, weights = model.network.train(), make_batch(config), _loss_config(model)
    steps, rate = 70, 3e-3
    optimiser = torch.optim.Adam(network.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, steps, pct_start=0.1)
    totals: list[float] = []
    for _ in range(steps):
        optimiser.zero_grad()
        terms = case.loss(network(batch), batch, weights)
        terms["total"].backward()
        nn.utils.clip_grad_norm_(network.parameters(), 100.0)
        optimiser.step()
        schedule.step()
        totals.append(float(terms["total"].detach()))
    assert totals[-1] < 0.45 * totals[0]
    with torch.no_grad():
        prediction = network(batch)
    found, truth = prediction.joints, batch.joints
    error = ((found - found[:, :1]) - (truth - truth[:, :1])).norm(dim=-1).mean()
    assert float(error) < 0.004
    assert float((prediction.joints2d - batch.joints2d).norm(dim=-1).mean()) < 4.0


def test_deterministic_in_eval(case: SimpleNamespace) -> None:
    network = case.model.network.eval()
    with torch.no_grad():
        first, second = network(case.batch), network(case.batch)
        alone = network(case.batch.map(lambda t: t[1:]))
    assert torch.equal(first.vertices, second.vertices)
    assert torch.equal(first.object_points2d, second.object_points2d)
    torch.testing.assert_close(alone.vertices[0], first.vertices[1], atol=2e-5, rtol=1e-3)


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

    def run(image: np.ndarray, box: np.ndarray, thing: np.ndarray, side: Any) -> Any:
        batch = model.processor.encode_boxes(image, [box], [side], [thing], camera)
        with torch.no_grad():
            prediction = model.network.eval()(batch)
        return batch, model.processor.decode(prediction, batch, [camera])[0][0]

    batch, hand = run(image, box, thing, "right")
    mirrored, other = run(np.ascontiguousarray(image[:, ::-1]), flip(box), flip(thing), "left")
    torch.testing.assert_close(batch.hand_box, mirrored.hand_box)
    assert float((batch.image - mirrored.image).abs().max()) <= 1.01 / 255
    assert (hand.side, other.side) == ("right", "left")
    turned = (hand.joints - hand.joints[0]) * (-1, 1, 1)
    np.testing.assert_allclose(other.joints - other.joints[0], turned, atol=2e-3)
    np.testing.assert_allclose(other.joints2d[:, 0], width - 1 - hand.joints2d[:, 0], atol=0.5)
    np.testing.assert_allclose(other.joints2d[:, 1], hand.joints2d[:, 1], atol=0.5)
    expected = mirror_pose(torch.from_numpy(np.asarray(hand.pose)))
    np.testing.assert_allclose(other.pose, expected, atol=2e-2)


def test_save_and_load(case: SimpleNamespace, tmp_path: Path) -> None:
    model = case.model
    path = save_weights(tmp_path / "a.safetensors", model.network.eval(), model=case.name)
    again = load_model(case.name, weights=path)
    assert again.config == model.config
    with torch.no_grad():
        expected, found = model.network(case.batch), again.network(case.batch)
    assert torch.equal(found.vertices, expected.vertices)
    assert torch.equal(found.object_confidence, expected.object_confidence)
    path.unlink()


def test_official_keys(case: SimpleNamespace) -> None:
    """Every key of the original has one of ours and the other way round."""
    if case.name not in CONVERT:
        assert not MODELS[case.name].imports
        return
    told = json.loads((KEYS / f"{case.name}.json").read_text())["state_dict"]
    entries = {k: torch.zeros(tuple(shape), device="meta") for k, shape in told.items()}
    entry = MODELS[case.name]
    with torch.device("meta"):
        network = entry.network(entry.config(), case.model.network.hand)
    assert set(CONVERT[case.name](entries)) == set(network.state_dict())


class _Plain(nn.Module):
    """Tensors in, tensors out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, hand_box: Tensor, object_box: Tensor) -> tuple[Tensor, ...]:
        found = self.network(Batch(image=image, hand_box=hand_box, object_box=object_box))
        return found.joints, found.vertices, found.joints2d, found.object_confidence


def test_export(case: SimpleNamespace) -> None:
    network = _Plain(case.model.network.eval()).eval()
    batch = case.batch
    given = (batch.image, batch.hand_box, batch.object_box)
    with torch.no_grad():
        exported = torch.export.export(network, given).module()
        # other numbers than those it was traced with
        other = (1 - batch.image, batch.hand_box + 3.3, batch.object_box - 5.1)
        for found, expected in zip(exported(*other), network(*other), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
