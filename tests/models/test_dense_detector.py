"""The first detector as HandOS's frozen one says what `HandDetector` says."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from handhold.geometry import boxes as box_tools
from handhold.models.detector import DetectorConfig, HandDetector, HandDetectorNetwork
from handhold.models.detector.processor import PADDING, grow_box, letterbox
from handhold.models.detector.weights import default_weights
from handhold.models.handos.bases import load_base
from handhold.models.handos.detectors.dense import DenseHandDetector
from handhold.models.handos.detectors.hand_detr.loss import edges
from handhold.synthesis.scenes import SceneConfig, make_scene

SIZE = 64


def small() -> HandDetectorNetwork:
    torch.manual_seed(0)
    network = HandDetectorNetwork(DetectorConfig(input_size=SIZE, width=16)).eval()
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.copy_(0.1 * torch.randn(module.num_features, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(module.num_features, generator=generator))
    for branch in [*network.classify, *network.regress]:
        branch.out.weight.data.normal_(std=0.5, generator=generator)  # pyright: ignore
    return network


def test_it_finds_what_the_detector_finds() -> None:
    detector, options = load_base("hand-detector", {}, default_weights())
    assert isinstance(detector, DenseHandDetector)
    assert options["input_size"] == detector.preprocess.size
    first = HandDetector(detector.network)
    config = SceneConfig(width=160, height=120, hand_size=(0.5, 0.8))
    found_any = 0
    for number in range(6):
        image = make_scene(4, number, config).image
        known = first.detect([image], score_threshold=0.3, max_hands=1)[0]
        size = detector.preprocess.size
        photo = torch.from_numpy(letterbox(image, size)).permute(2, 0, 1)
        height = -(-photo.shape[1] // 32) * 32
        canvas = torch.zeros(1, 3, height, size, dtype=torch.uint8)
        canvas[0, :, : photo.shape[1]] = photo
        valid = torch.zeros(1, height, size, dtype=torch.bool)
        valid[:, : photo.shape[1]] = True
        told = detector(canvas, valid)
        if not known:
            assert float(told.scores.max()) < 0.31
            continue
        found_any += 1
        best = int(told.scores[0].argmax())
        np.testing.assert_allclose(float(told.scores[0, best]), known[0].score, rtol=1e-3)
        # of the photo's edges, in 0..1 -> pixels; the detector's are tight again
        box = edges(told.boxes[0, best]).double().numpy() * [160, 120, 160, 120] - 0.5
        expected = grow_box(known[0].box, detector.box_growth)
        assert float(box_tools.iou(box, expected)) > 0.97
    assert found_any >= 2


def test_queries_are_read_where_their_boxes_come_from() -> None:
    network = small()
    detector = DenseHandDetector(network, queries=7)
    images = torch.rand(2, 3, SIZE, SIZE)
    found = detector(images)
    with torch.no_grad():
        plain = network(images)
    assert [tuple(x.shape[-2:]) for x in found.shallow] == found.shapes == [(8, 8), (4, 4), (2, 2)]
    assert [x.shape[1] for x in found.shallow] == list(detector.shallow_channels)
    order = plain.score.argsort(dim=1, descending=True)[:, :7]
    for image in range(2):
        for row, place in enumerate(order[image].tolist()):
            level, before = (0, 0) if place < 64 else (1, 64) if place < 80 else (2, 80)
            stride = detector.strides[level]
            y, x = divmod(place - before, SIZE // stride)
            torch.testing.assert_close(
                found.scores[image, row], plain.score[image, place].sigmoid()
            )
            torch.testing.assert_close(
                found.memory[image, place], plain.features[f"p{stride}"][image, :, y, x]
            )
            coarse = plain.features["p32"][image, :, y * stride // 32, x * stride // 32]
            first = torch.cat([found.memory[image, place], coarse])
            torch.testing.assert_close(found.query_first[image, row], first)
            last = [plain.features[f"{part}{stride}"][image, :, y, x] for part in "cr"]
            torch.testing.assert_close(found.query_last[image, row], torch.cat(last))
            box = (edges(found.boxes[image, row]) * SIZE) - 0.5
            torch.testing.assert_close(box, plain.boxes[image, place], atol=1e-3, rtol=1e-4)


def test_it_stays_as_it_is_and_grey_is_beside_the_photo() -> None:
    detector = DenseHandDetector(small(), queries=7)
    before = {key: value.clone() for key, value in detector.state_dict().items()}
    images = torch.rand(1, 3, SIZE, SIZE)
    valid = torch.zeros(1, SIZE, SIZE, dtype=torch.bool)
    valid[:, :48, :32] = True
    detector.train()
    found = detector(images, valid)
    grey = torch.where(valid[:, None], images, torch.tensor(PADDING / 255))
    same = detector(grey)
    torch.testing.assert_close(found.scores, same.scores)
    torch.testing.assert_close(found.boxes, same.boxes * torch.tensor([2.0, 4 / 3, 2.0, 4 / 3]))
    assert not any(parameter.requires_grad for parameter in detector.parameters())
    after: dict[str, Tensor] = detector.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
