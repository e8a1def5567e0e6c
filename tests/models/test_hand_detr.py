"""The small DETR-like detector: it learns what it is shown, its loss follows its formulas, and the
frozen detector says the same as the network, also in ONNX Runtime."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.models.drawn_hands import made_samples
from torch import Tensor, nn

from handhold.errors import InputError, MissingFileError, WeightsError
from handhold.geometry import boxes as box_tools
from handhold.models.detector import DetectorConfig, DetectorProcessor, HandDetectorNetwork
from handhold.models.detector.model import DetectorBatch
from handhold.models.handos.detectors import FrozenDetector
from handhold.models.handos.detectors.hand_detr import (
    HandDetr,
    HandDetrConfig,
    HandDetrNetwork,
    HandDetrPrediction,
    load_hand_detr,
    save_hand_detr,
)
from handhold.models.handos.detectors.hand_detr.loss import (
    HandDetrLossConfig,
    edges,
    loss,
    match,
    to_pixels,
    to_shares,
)
from handhold.models.handos.detectors.hand_detr.model import ANCHOR, LiteBackbone, anchor_logits
from handhold.models.nn.self_attention import SelfAttention, sine_code
from handhold.models.weights import save_weights

SMALL = HandDetrConfig(
    input_size=128,
    stem=(8, 16),
    widths=(16, 32, 48, 64),
    blocks=(1, 1, 1, 1),
    width=64,
    feedforward=128,
    layers=2,
    queries=20,
)


def small(seed: int = 0) -> HandDetrNetwork:
    torch.manual_seed(seed)
    return HandDetrNetwork(SMALL)


def randomised(network: HandDetrNetwork) -> HandDetrNetwork:
    """Norms and last layers that do something."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    for box in network.box:
        nn.init.normal_(box.layers[-1].weight, std=0.2)
    for layer in network.layers:
        nn.init.normal_(layer.deformable.attention.weight, std=0.2)
        nn.init.normal_(layer.deformable.offsets.weight, std=0.2)
    return network.eval()


def test_overfits_four_photos_which_the_frozen_detector_then_finds() -> None:
    samples = made_samples()
    batch = DetectorProcessor(DetectorConfig(input_size=128)).encode(samples)
    network = small()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    for _ in range(110):
        terms = loss(network(batch), batch)
        optimizer.zero_grad()
        terms["total"].backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    detector = HandDetr(network)
    valid = torch.zeros(len(samples), 128, 128, dtype=torch.bool)
    for row, sample in enumerate(samples):
        scale = 128 / max(sample.image.shape[:2])
        height, width = (round(edge * scale) for edge in sample.image.shape[:2])
        valid[row, :height, :width] = True
    found = detector(batch.image, valid)
    for row, sample in enumerate(samples):
        size = np.array([sample.camera.width, sample.camera.height] * 2)
        told = edges(found.boxes[row]).numpy() * size  # of the photo itself: not of the letterbox
        best = found.scores[row].topk(len(sample.hands)).indices
        assert float(found.scores[row][best].min()) > 0.3
        for hand in sample.hands:
            tight = box_tools.box_from_points(hand.joints2d, 1.25)
            assert box_tools.iou(told[best], tight).max() > 0.7


def test_size_is_that_of_the_design() -> None:
    parameters = sum(p.numel() for p in HandDetrNetwork().parameters())
    assert parameters == 3_374_684


def test_anchors_are_squares_around_the_cells() -> None:
    shapes = [(8, 12), (4, 6), (2, 3)]  # of an input of 64 x 96 pixels
    anchors = anchor_logits(shapes)[0].sigmoid() * torch.tensor([96.0, 64, 96, 64])
    place = 96 + 24 + 1 * 3 + 2  # row 1, column 2 of the coarsest level, stride 32
    expected = torch.tensor([80.0, 48, *([ANCHOR * 4 * 96] * 2)])
    torch.testing.assert_close(anchors[place], expected)
    torch.testing.assert_close(anchors[12 + 3, :2], torch.tensor([28.0, 12]))


def test_queries_are_the_best_places() -> None:
    """The selection, from the memory with the definition's words."""
    network = randomised(small())
    with torch.no_grad():
        found = network(torch.rand(2, 3, 128, 96))
        entered = network.enter(found.memory)
        scores = network.score[0](entered)[..., 0]
    assert found.shapes == [(16, 12), (8, 6), (4, 3)]
    anchors = anchor_logits(found.shapes)[0]
    for row in range(2):
        order = scores[row].argsort(descending=True)[:20]
        torch.testing.assert_close(found.logits[0, row], scores[row][order])
        torch.testing.assert_close(found.queries[0, row], entered[row][order])
        boxes = (anchors[order] + network.box[0](entered[row][order])).sigmoid()
        torch.testing.assert_close(found.boxes[0, row], boxes)


def test_every_part_learns_and_boxes_pass_no_gradient_between_layers() -> None:
    batch = DetectorProcessor(DetectorConfig(input_size=128)).encode(made_samples())
    network = small()
    for module in [*network.box, *network.score]:  # the last layers begin as zeros
        nn.init.normal_((module.layers[-1] if hasattr(module, "layers") else module).weight)
    found = network(batch)
    loss(found, batch)["total"].backward()
    lacking = [
        name
        for name, p in network.named_parameters()
        if p.grad is None or not bool((p.grad != 0).any())
    ]
    # softmax does not see what is the same for every key
    assert all(name.endswith("key.bias") for name in lacking), lacking
    network.zero_grad()
    network(batch).boxes[-1].sum().backward()
    for inside in (network.box[0], network.box[1], network.score[0]):
        assert all(p.grad is None or not bool(p.grad.any()) for p in inside.parameters())


def test_matching_is_the_cheapest() -> None:
    torch.manual_seed(3)
    config = HandDetrLossConfig()
    for _ in range(10):
        logits, boxes, labels = torch.randn(5), torch.rand(5, 4) + 0.1, torch.rand(3, 4) + 0.1
        rows, columns = match(logits, boxes, labels, config)
        cost = np.zeros((5, 3))
        for q, g in itertools.product(range(5), range(3)):
            p = 1 / (1 + np.exp(-float(logits[q])))
            cost[q, g] = 2 * (0.25 * (1 - p) ** 2 * -np.log(p) - 0.75 * p**2 * -np.log(1 - p))
            cost[q, g] += 5 * float((boxes[q] - labels[g]).abs().sum())
            cost[q, g] -= 2 * _giou(boxes[q], labels[g])
        best = min(
            itertools.permutations(range(5), 3),
            key=lambda qs: sum(cost[q, g] for g, q in enumerate(qs)),
        )
        assert {(int(q), int(g)) for q, g in zip(rows, columns, strict=True)} == {
            (q, g) for g, q in enumerate(best)
        }


def _giou(a: Tensor, b: Tensor) -> float:
    """Of two boxes cx, cy, w, h, by areas."""
    a, b = a.double().numpy(), b.double().numpy()
    low_a, high_a = a[:2] - a[2:] / 2, a[:2] + a[2:] / 2
    low_b, high_b = b[:2] - b[2:] / 2, b[:2] + b[2:] / 2
    shared = np.prod(np.clip(np.minimum(high_a, high_b) - np.maximum(low_a, low_b), 0, None))
    union = a[2] * a[3] + b[2] * b[3] - shared
    hull = np.prod(np.maximum(high_a, high_b) - np.minimum(low_a, low_b))
    return float(shared / union - (hull - union) / hull)


def _batch(boxes: Tensor, ignored: Tensor, negative_weight: float = 1.0) -> DetectorBatch:
    """One photo of 100 x 50 pixels; boxes (N, 4) in shares."""
    count = len(boxes)
    return DetectorBatch(
        image=torch.zeros(1, 3, 50, 100, dtype=torch.uint8),
        boxes=to_pixels(boxes, 100, 50)[None],
        valid=torch.ones(1, count, dtype=torch.bool),
        ignored=ignored[None],
        side=torch.ones(1, count),
        holding=torch.zeros(1, count),
        object_boxes=torch.zeros(1, count, 4),
        has_object=torch.zeros(1, count, dtype=torch.bool),
        negative_weight=torch.tensor([negative_weight]),
    )


def _prediction(logits: list[float], boxes: Tensor) -> HandDetrPrediction:
    shape = (1, 1, len(logits))
    return HandDetrPrediction(
        logits=torch.tensor(logits).reshape(shape).requires_grad_(),
        boxes=boxes.reshape(*shape, 4).clone().requires_grad_(),
        queries=torch.zeros(*shape, 2),
        memory=torch.zeros(1, 1, 2),
    )


@pytest.mark.parametrize("kind", ["varifocal", "focal"])
def test_loss_by_hand(kind: Any) -> None:
    """A hit, a miss at weight 0.5 in an incomplete photo, and a query on an ignored hand."""
    hand, hidden = [0.3, 0.4, 0.2, 0.4], [0.8, 0.5, 0.2, 0.3]
    labels = torch.tensor([hand, hidden])
    found = torch.tensor([[0.32, 0.4, 0.2, 0.5], [0.6, 0.1, 0.1, 0.1], [0.81, 0.52, 0.5, 0.5]])
    batch = _batch(labels, torch.tensor([False, True]), negative_weight=0.5)
    prediction = _prediction([0.7, -1.0, 2.0], found)
    terms = loss(prediction, batch, HandDetrLossConfig(kind=kind))
    iou = 0.18 * 0.4 / (0.2 * 0.4 + 0.2 * 0.5 - 0.18 * 0.4)
    p_hit, p_miss = 1 / (1 + np.exp(-0.7)), 1 / (1 + np.exp(1.0))
    if kind == "varifocal":
        hit = iou * -(iou * np.log(p_hit) + (1 - iou) * np.log(1 - p_hit))
        miss = 0.75 * p_miss**2 * -np.log(1 - p_miss)
    else:
        hit = 0.25 * (1 - p_hit) ** 2 * -np.log(p_hit)
        miss = 0.75 * p_miss**2 * -np.log(1 - p_miss)
    assert float(terms["score"].detach()) == pytest.approx(hit + 0.5 * miss, rel=1e-4)
    assert float(terms["l1"].detach()) == pytest.approx(5 * 0.12, rel=1e-4)
    wide = 2 * (1 - _giou(found[0], labels[0]))
    assert float(terms["giou"].detach()) == pytest.approx(wide, rel=1e-4)
    terms["total"].backward()
    assert prediction.logits.grad is not None and float(prediction.logits.grad[0, 0, 2]) == 0


def test_photos_without_hands_have_a_loss() -> None:
    prediction = _prediction([0.5, -2.0], torch.rand(2, 4))
    terms = loss(prediction, _batch(torch.zeros(0, 4), torch.zeros(0, dtype=torch.bool)))
    p = 1 / (1 + np.exp(-np.array([0.5, -2.0])))
    expected = float((0.75 * p**2 * -np.log(1 - p)).sum())
    assert float(terms["score"].detach()) == pytest.approx(expected, rel=1e-4)
    assert float(terms["l1"].detach()) == float(terms["giou"].detach()) == 0
    terms["total"].backward()
    assert prediction.boxes.grad is not None


def test_shares_and_pixels() -> None:
    """The first pixel's middle is 0: a box around all of 100 x 50 pixels is -0.5 ... 99.5."""
    whole = torch.tensor([-0.5, -0.5, 99.5, 49.5])
    assert torch.equal(to_shares(whole, 100, 50), torch.tensor([0.5, 0.5, 1.0, 1.0]))
    boxes = torch.rand(6, 4)
    torch.testing.assert_close(to_shares(to_pixels(boxes, 100, 50), 100, 50), boxes)


def test_attention_equals_torch() -> None:
    torch.manual_seed(0)
    ours, theirs = SelfAttention(16, 4), nn.MultiheadAttention(16, 4, batch_first=True)
    with torch.no_grad():
        parts = (ours.query, ours.key, ours.value)
        theirs.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        theirs.in_proj_bias.copy_(torch.randn(48))
        for part, bias in zip(parts, theirs.in_proj_bias.split(16), strict=True):
            part.bias.copy_(bias)
        theirs.out_proj.load_state_dict(ours.out.state_dict())
        tokens, position = torch.randn(2, 9, 16), torch.randn(1, 9, 16)
        placed = tokens + position
        expected, _ = theirs(placed, placed, tokens, need_weights=False)
        torch.testing.assert_close(ours(tokens, position), expected)


def test_sine_code_by_hand() -> None:
    code = sine_code(3, 5, 8).reshape(3, 5, 8)
    expected = [np.sin(4), np.sin(0.04), np.cos(4), np.cos(0.04)]
    expected += [np.sin(2), np.sin(0.02), np.cos(2), np.cos(0.02)]
    np.testing.assert_allclose(code[2, 4].numpy(), expected, atol=1e-6)


def test_the_light_backbone_is_the_first_detectors() -> None:
    theirs, ours = HandDetectorNetwork(DetectorConfig(input_size=64)).eval(), LiteBackbone().eval()
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if k in ours.state_dict()})
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = theirs.stage4(theirs.stage3(theirs.stage2(theirs.stage1(theirs.stem(image)))))
        torch.testing.assert_close(ours(image)[2], expected)
    lite = HandDetrNetwork(HandDetrConfig(backbone="lite", input_size=64))
    assert lite.shallow_channels == (40, 112, 192)


def test_the_frozen_detector_says_what_the_network_says() -> None:
    network = randomised(small())
    detector = HandDetr(network)
    assert isinstance(detector, FrozenDetector) and not detector.train().network.training
    images = torch.rand(2, 3, 128, 128)
    valid = torch.zeros(2, 128, 128, dtype=torch.bool)
    valid[0], valid[1, :96, :64] = True, True
    grey = torch.where(valid[:, None], images, torch.tensor(114 / 255))
    with torch.no_grad():
        plain = network(grey)
    found = detector(images, valid)
    torch.testing.assert_close(found.scores, plain.logits[-1].sigmoid())
    torch.testing.assert_close(found.boxes[0], plain.boxes[-1, 0])
    stretch = torch.tensor([2.0, 4 / 3, 2.0, 4 / 3])
    torch.testing.assert_close(found.boxes[1], plain.boxes[-1, 1] * stretch)
    assert torch.equal(found.query_first, plain.queries[0])
    assert found.query_layers is not None and torch.equal(found.query_layers[-1], found.query_last)
    assert found.memory.shape == (2, sum(h * w for h, w in found.shapes), detector.width)
    assert [x.shape[1] for x in found.shallow] == list(detector.shallow_channels)
    torch.testing.assert_close(found.valid_ratios[1, 0], torch.tensor([0.5, 0.75]))


def test_onnx_runtime_gives_the_same(tmp_path: Path) -> None:
    import onnxruntime

    detector = HandDetr(randomised(small()))
    images = torch.rand(1, 3, 128, 128)
    names = ("scores", "boxes", "query_first", "query_last", "memory")

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.detector = detector

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            found = self.detector(images)
            return (*(getattr(found, name) for name in names), *found.shallow)

    flat = Flat().eval()
    with torch.no_grad():
        expected = flat(images)
        program = torch.onnx.export(flat, (images,), dynamo=True, opset_version=18, verbose=False)
    assert program is not None
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    found = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        scale = float(theirs.abs().max())
        np.testing.assert_allclose(ours / scale, theirs.numpy() / scale, atol=1e-4)


def test_weights_come_back(tmp_path: Path) -> None:
    network = randomised(small())
    path = save_hand_detr(tmp_path / "own.safetensors", network)
    detector = HandDetr(config=HandDetrConfig(input_size=64)).load(path)
    assert (detector.config, detector.weights_id) == (SMALL, "own.safetensors")
    images = torch.rand(1, 3, 128, 128)
    expected = HandDetr(network)(images)
    torch.testing.assert_close(detector(images).memory, expected.memory, atol=1e-2, rtol=1e-2)
    assert not any(p.requires_grad for p in detector.parameters())
    with pytest.raises(MissingFileError):
        load_hand_detr(tmp_path / "none.safetensors")
    other = HandDetectorNetwork(DetectorConfig(input_size=64, width=16))
    save_weights(tmp_path / "other.safetensors", other, model="hand-detector")
    with pytest.raises(WeightsError, match="expected the weights of 'hand-detr'"):
        load_hand_detr(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"input_size": 100}, "input_size: expected a multiple of 32"),
        ({"backbone": "vgg"}, "backbone: expected cross-stage or lite, found 'vgg'"),
        ({"width": 90}, "width: expected a multiple"),
        ({"input_size": 64, "queries": 85}, "queries: expected 1 to 84"),
        ({"layers": 0}, "expected layers"),
    ],
)
def test_configurations_that_cannot_work(change: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        HandDetrConfig(**change)
