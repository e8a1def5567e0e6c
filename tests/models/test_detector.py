"""The detector learns what it is shown; boxes, sides and overlaps follow their definitions."""

import numpy as np
import pytest
import torch
from tests.models.drawn_hands import camera, made_samples

from handhold.errors import InputError, MissingFileError, WeightsError
from handhold.geometry import boxes as box_tools
from handhold.models.detector import (
    DetectorConfig,
    DetectorProcessor,
    DetectorProcessorConfig,
    HandDetector,
    HandDetectorNetwork,
    joint_box,
    load_detector,
    save_detector,
)
from handhold.models.detector.detect import fold_batch_norms, select, suppress
from handhold.models.detector.loss import DetectorLossConfig, assign, giou, loss, pairwise_iou
from handhold.models.detector.model import decode_object_boxes, encode_object_boxes
from handhold.scene import Hand, RigidObject, Sample

SMALL = DetectorConfig(input_size=160)


def test_overfits_four_images_to_tight_boxes_and_right_sides():
    torch.manual_seed(0)
    samples = made_samples()
    batch = DetectorProcessor(SMALL).encode(samples)
    network = HandDetectorNetwork(SMALL)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(80):
        terms = loss(network(batch), batch)
        optimizer.zero_grad()
        terms["total"].backward()
        optimizer.step()
    detector = HandDetector(network)
    for sample, found in zip(samples, detector.detect([s.image for s in samples]), strict=True):
        assert len(found) == len(sample.hands)
        for hand in sample.hands:
            tight = box_tools.box_from_points(hand.joints2d)
            best = max(found, key=lambda one: box_tools.iou(one.box, tight))
            assert box_tools.iou(best.box, tight) > 0.8
            assert best.side == hand.side
            assert (best.holding > 0.5) == hand.grasping


def test_size_stays_within_the_budget():
    network = HandDetectorNetwork().eval()
    work = 0

    def count(module, inputs, output):
        nonlocal work
        work += output.numel() * module.weight.numel() // module.out_channels

    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(count)
    with torch.inference_mode():
        prediction = network(torch.zeros(1, 3, 320, 320))
    assert work <= 0.45e9
    assert sum(p.numel() for p in network.parameters()) <= 3_000_000
    assert prediction.score.shape == (1, 40 * 40 + 20 * 20 + 10 * 10)


def test_folding_batch_norms_changes_nothing():
    torch.manual_seed(1)
    network = HandDetectorNetwork(SMALL)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    network.eval()
    image = torch.rand(2, 3, 96, 160)
    with torch.inference_mode():
        before = network(image)
        after = fold_batch_norms(network)(image)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in network.modules())
    torch.testing.assert_close(after.boxes, before.boxes, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(after.score, before.score, rtol=1e-3, atol=1e-3)


def test_uint8_and_float_images_are_the_same_to_the_network():
    network = HandDetectorNetwork(SMALL).eval()
    image = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        one, other = network(image), network(image.float() / 255)
    torch.testing.assert_close(one.score, other.score)


def test_joint_box_prefers_complete_joints_and_falls_back():
    joints = np.random.default_rng(0).uniform(5, 50, (21, 2))
    box = np.array([0.0, 0.0, 60.0, 60.0])
    tight = np.concatenate([joints.min(0), joints.max(0)])
    np.testing.assert_allclose(joint_box(Hand(side="left", joints2d=joints, box=box)), tight)
    valid = np.ones(21, bool)
    valid[4] = False
    some = Hand(side="left", joints2d=joints, joints2d_valid=valid, box=box)
    assert np.array_equal(joint_box(some), box)
    alone = joint_box(Hand(side="left", joints2d=joints, joints2d_valid=valid))
    known = joints[valid]
    np.testing.assert_allclose(alone, np.concatenate([known.min(0), known.max(0)]))
    assert joint_box(Hand(side="left")) is None


@pytest.mark.parametrize("seed", range(6))
def test_augmentation_moves_pixels_and_labels_alike(seed):
    """A hand drawn as one bright rectangle: its label must cover just the bright pixels."""
    rng = np.random.default_rng(seed)
    image = np.zeros((240, 320, 3), np.uint8)
    image[100:160, 90:170] = 255
    joints = np.array([[90.0, 100.0], [169.0, 100.0], [90.0, 159.0], [169.0, 159.0]])
    joints = joints[np.arange(21) % 4]
    hand = Hand(side="right", joints2d=joints, grasping=True)
    held = RigidObject(
        name=None, rotation=np.eye(3), translation=np.ones(3), box=np.array([90.0, 100, 169, 159])
    )
    sample = Sample(key="a", image=image, camera=camera(320, 240), hands=(hand,), object=held)
    config = DetectorConfig(box_growth=1.0)
    augmentation = DetectorProcessorConfig(
        distortion=0, mosaic=0, zoom=(0.7, 1.2), hand_size=(30, 150), turn=0.5
    )
    batch = DetectorProcessor(config, augmentation).encode([sample] * 4, rng)
    flips = 0
    for pixels, box, side, thing in zip(
        batch.image.numpy(),
        batch.boxes[:, 0],
        batch.side[:, 0],
        batch.object_boxes[:, 0],
        strict=True,
    ):
        bright = (pixels.min(axis=0) > 200) & (np.ptp(pixels.astype(int), axis=0) < 3)
        rows, columns = np.nonzero(bright)
        if len(rows) and not (pixels[:, 0, 0] > 200).all():
            seen = [columns.min(), rows.min(), columns.max(), rows.max()]
            assert np.abs(box.numpy() - seen).max() <= 2.5
            inner = (thing[:2] <= box[:2] + 1.5).all() and (thing[2:] >= box[2:] - 1.5).all()
            assert inner
        flips += int(side == 0)
    assert 0 <= flips <= 4
    assert batch.holding[:, 0].tolist() == [1.0] * 4


def test_flip_swaps_the_side_and_mirrors_the_box():
    image = np.zeros((160, 160, 3), np.uint8)
    joints = np.random.default_rng(0).uniform(20, 60, (21, 2))
    sample = Sample(
        key="a", image=image, camera=camera(160, 160), hands=(Hand(side="left", joints2d=joints),)
    )
    still = {"distortion": 0, "mosaic": 0, "zoom": (1, 1), "sized": 0, "rotate": 0, "turn": 0}
    rng = np.random.default_rng(0)
    kept, flipped = (
        DetectorProcessor(SMALL, DetectorProcessorConfig(flip=p, **still)).encode([sample], rng)
        for p in (0.0, 1.0)
    )
    assert kept.side.item() == 0
    assert flipped.side.item() == 1
    box = kept.boxes[0, 0]
    mirror = 159 - box[[2, 1, 0, 3]]
    mirror[[1, 3]] = box[[1, 3]]
    torch.testing.assert_close(flipped.boxes[0, 0], mirror)


def test_encoding_is_repeatable_and_mosaics_stay_inside():
    samples = made_samples()
    processor = DetectorProcessor(SMALL, DetectorProcessorConfig(mosaic=1.0))
    one, other = (processor.encode(samples, np.random.default_rng(5)) for _ in range(2))
    assert torch.equal(one.image, other.image)
    assert torch.equal(one.boxes, other.boxes)
    middles = (one.boxes[..., :2] + one.boxes[..., 2:]) / 2
    assert middles.min() >= 0
    assert middles.max() <= 159
    assert one.valid.sum() > len(samples)


def test_hidden_hands_and_incomplete_photos_are_not_negatives():
    sample = made_samples()[0]
    hand = sample.hands[0]
    hidden = Hand(side=hand.side, joints2d=hand.joints2d, visibility=0.02)
    hidden_sample = Sample(key="h", image=sample.image, camera=sample.camera, hands=(hidden,))
    open_sample = Sample(key="o", image=sample.image, camera=sample.camera, hands_complete=False)
    batch = DetectorProcessor(SMALL).encode([hidden_sample, open_sample])
    assert batch.ignored[0, 0]
    assert batch.negative_weight[1] < 0.2
    torch.manual_seed(0)
    prediction = HandDetectorNetwork(SMALL)(batch)
    index, _, on_ignored = assign(prediction, batch, DetectorLossConfig())
    assert (index == -1).all()
    inside = on_ignored[0]
    box = batch.boxes[0, 0]
    centers = prediction.centers
    expected = ((centers > box[:2]) & (centers < box[2:])).all(dim=1)
    assert torch.equal(inside, expected)
    terms = loss(prediction, batch)
    terms["total"].backward()
    assert all(terms[name].item() == 0 for name in ("box", "side", "holding", "object_box"))


def test_loss_of_a_batch_without_hands_is_finite():
    sample = made_samples()[0]
    empty = Sample(key="e", image=sample.image, camera=sample.camera)
    batch = DetectorProcessor(SMALL).encode([empty])
    terms = loss(HandDetectorNetwork(SMALL)(batch), batch)
    assert torch.isfinite(terms["total"])
    assert terms["score"].item() > 0


def test_every_hand_gets_a_location_even_when_two_overlap():
    torch.manual_seed(0)
    samples = made_samples()
    batch = DetectorProcessor(SMALL).encode(samples)
    prediction = HandDetectorNetwork(SMALL)(batch)
    index, reached, _ = assign(prediction, batch, DetectorLossConfig())
    for row in range(len(samples)):
        for hand in range(int(batch.valid[row].sum())):
            assert (index[row] == hand).any()
    assert (reached[index < 0] == 0).all()


def test_iou_and_giou_agree_with_counting_pixels():
    rng = np.random.default_rng(0)
    corners = np.sort(rng.integers(0, 40, (12, 2, 2)), axis=1).reshape(12, 4)
    corners[:, 2:] += 1
    masks = np.zeros((12, 50, 50), bool)
    for mask, (x0, y0, x1, y1) in zip(masks, corners, strict=True):
        mask[y0:y1, x0:x1] = True
    boxes = torch.from_numpy(corners).float()
    iou = pairwise_iou(boxes[:6], boxes[6:])
    for i in range(6):
        for j in range(6):
            both = (masks[i] & masks[6 + j]).sum()
            either = (masks[i] | masks[6 + j]).sum()
            assert iou[i, j] == pytest.approx(both / either, abs=1e-6)
            low = np.minimum(corners[i, :2], corners[6 + j, :2])
            high = np.maximum(corners[i, 2:], corners[6 + j, 2:])
            hull = np.prod(high - low)
            expected = both / either - (hull - either) / hull
            assert giou(boxes[i], boxes[6 + j]) == pytest.approx(expected, abs=1e-6)


def test_object_box_code_round_trip():
    hands = torch.tensor([[10.0, 20, 60, 50], [0, 0, 12, 30]])
    objects = torch.tensor([[-5.0, 30, 80, 90], [2, 2, 9, 11]])
    code = encode_object_boxes(objects, hands)
    torch.testing.assert_close(decode_object_boxes(code, hands), objects)


def test_a_part_of_a_hand_is_no_second_hand():
    whole, part, beside = [0, 0, 100, 100], [10, 10, 50, 60], [80, 0, 160, 90]
    boxes = np.array([whole, part, beside], dtype=float)
    same, other = np.array([True, True, True]), np.array([True, False, True])
    assert suppress(boxes, same, 0.5, 0.7) == [0, 1, 2]
    assert suppress(boxes, same, 0.5, 0.7, 0.7) == [0, 2]
    assert suppress(boxes[[1, 0, 2]], same, 0.5, 0.7, 0.7) == [0, 2]  # the better one stays
    assert suppress(boxes, other, 0.5, 0.7, 0.7) == [0, 1, 2]


def test_suppression_lets_two_sides_overlap_more():
    boxes = np.array([[0.0, 0, 10, 10], [0, 0, 10, 6], [0, 0, 10, 9.5], [30, 30, 40, 40]])
    same = np.ones(4, bool)
    assert suppress(boxes, same, 0.5, 0.7) == [0, 3]
    other = np.array([True, False, False, True])
    assert suppress(boxes, other, 0.5, 0.7) == [0, 1, 3]


def test_selected_boxes_are_shrunk_and_limited_in_number():
    network = HandDetectorNetwork(SMALL).eval()
    with torch.inference_mode():
        prediction = network(torch.rand(1, 3, 160, 160))
    found = select(prediction, SMALL, 1e-4, 3)[0]
    assert len(found) == 3
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    best = int(prediction.score[0].argmax())
    raw = prediction.boxes[0, best].numpy()
    size = (found[0].box[2:] - found[0].box[:2]) * SMALL.box_growth
    np.testing.assert_allclose(size, raw[2:] - raw[:2], rtol=1e-4)


def test_bad_images_and_configurations_are_refused():
    detector = HandDetector(HandDetectorNetwork(SMALL))
    with pytest.raises(InputError, match="uint8"):
        detector.detect([np.zeros((10, 10, 3), np.float32)])
    with pytest.raises(InputError, match="multiple of 32"):
        DetectorConfig(input_size=100)
    with pytest.raises(InputError, match="at least one sample"):
        DetectorProcessor(SMALL).encode([])
    assert detector.detect([]) == []
    assert len(detector.detect([np.zeros((1, 1, 3), np.uint8)])) == 1


def test_weights_round_trip_and_wrong_files(tmp_path):
    from safetensors.torch import load_file, save_file

    torch.manual_seed(0)
    network = HandDetectorNetwork(DetectorConfig(input_size=96, width=32))
    path = tmp_path / "d.safetensors"
    save_detector(path, network, {"steps": 3}, half=False)
    again = load_detector(path)
    assert again.config == network.config
    own = network.state_dict()
    assert all(torch.equal(value, own[key]) for key, value in again.state_dict().items())
    save_detector(path, network)
    halved = load_detector(path).state_dict()
    assert all(
        torch.allclose(value, own[key], rtol=1e-3, atol=1e-6) for key, value in halved.items()
    )
    for model, config in (("unihope", "{}"), ("hand-detector", "{}")):  # {}: wider than these
        header = {"format": "handhold-1", "model": model, "config": config, "extra": "{}"}
        save_file(load_file(path), tmp_path / f"{model}.safetensors", metadata=header)
    with pytest.raises(WeightsError, match=r"expected the weights of 'hand-detector'"):
        load_detector(tmp_path / "unihope.safetensors")
    with pytest.raises(WeightsError, match=r"hand-detector\.safetensors: does not fit"):
        load_detector(tmp_path / "hand-detector.safetensors")
    with pytest.raises(MissingFileError):
        load_detector(tmp_path / "none.safetensors")


def test_describing_a_box_gives_the_side_of_the_hand_in_it():
    """Locations are answered by overlap: of two known predictions the one under the box speaks."""
    detector = HandDetector(HandDetectorNetwork(SMALL))
    image = np.zeros((160, 160, 3), np.uint8)
    ((_, prediction),) = detector._run([image])
    prediction = prediction.map(torch.clone)
    for place, side in ((5, "left"), (300, "right")):
        prediction.side[0, place] = 4.0 if side == "right" else -4.0
        prediction.score[0, place] = 3.0
        prediction.boxes[0, place] = torch.tensor([10.0, 10, 60, 60]) + place / 5
    detector._run = lambda images: [([0], prediction)]
    boxes = np.array([[16.0, 16, 56, 56], [75, 75, 115, 115]])
    assert [hand.side for hand in detector.describe(image, boxes)] == ["left", "right"]
