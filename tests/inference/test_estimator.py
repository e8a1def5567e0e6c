"""Photos in, metric hands out: checked against hands whose place in space is known."""

import cv2
import numpy as np
import pytest

from handhold.errors import FileFormatError, InputError, WeightsError
from handhold.inference.estimator import Estimator
from handhold.models.detector import Detection
from handhold.scene import RigidObject


@pytest.fixture
def two_photos(model, detector, make_camera, make_hand):
    """A photo with a left and a right hand, and one with a right hand that holds something."""
    rng = np.random.default_rng(0)
    truths = []
    for width, height, places in [
        (320, 240, [("left", (-0.1, 0.02, 0.5)), ("right", (0.1, 0.0, 0.6))]),
        (200, 260, [("right", (0.02, -0.03, 0.45))]),
    ]:
        camera = make_camera(width, height)
        hands = [make_hand(side, at, camera, rng, len(places) == 1) for side, at in places]
        truths.append((np.full((height, width, 3), 90, np.uint8), camera, hands))
        detector.found[(width, height)] = [
            Detection(box=hand.box, side=hand.side, score=0.9 - 0.1 * i)
            for i, hand in enumerate(hands)
        ]
    model.network.truths = [hand for _, _, hands in truths for hand in hands]
    return truths


def test_true_intrinsics_give_metric_hands_of_both_sides(model, detector, two_photos):
    estimator = Estimator(model, detector=detector)
    for image, camera, truths in two_photos:
        scene = estimator(image, intrinsics=camera.intrinsics)
        assert scene.camera.source == "given"
        assert [hand.side for hand in scene.hands] == [truth.side for truth in truths]
        for hand, truth in zip(scene.hands, truths, strict=True):
            np.testing.assert_allclose(hand.joints, truth.joints, atol=2e-4)
            np.testing.assert_allclose(hand.vertices, truth.vertices, atol=2e-4)
            np.testing.assert_allclose(hand.joints2d, truth.joints2d, atol=0.02)
            np.testing.assert_allclose(hand.box, truth.box)
            assert hand.grasping == truth.grasping


def test_half_the_focal_length_halves_the_distance(model, detector, two_photos):
    image, camera, (truth,) = two_photos[1]
    fx, cx, cy = camera.intrinsics[0, 0], camera.intrinsics[0, 2], camera.intrinsics[1, 2]
    scene = Estimator(model, detector=detector)(image, intrinsics=(fx / 2, fx / 2, cx, cy))
    ratio = scene.hands[0].joints[:, 2].mean() / truth.joints[:, 2].mean()
    assert ratio == pytest.approx(0.5, abs=0.05)


def test_many_files_give_what_each_gives_alone(model, detector, two_photos, tmp_path):
    paths = []
    for i, (image, _, _) in enumerate(two_photos * 3):
        paths.append(tmp_path / f"{i}.png")
        cv2.imwrite(str(paths[-1]), image)
    broken = tmp_path / "broken.jpg"
    broken.write_text("no picture")
    paths.insert(2, broken)
    estimator = Estimator(model, detector=detector, batch_size=4)
    outcomes = list(estimator.predict_many(paths, fov=50.0))
    assert [outcome.path for outcome in outcomes] == paths
    assert isinstance(outcomes[2].error, FileFormatError)
    assert max(model.network.calls) > 1, "hands of several photos were not run together"
    for path, outcome in zip(paths, outcomes, strict=True):
        if path == broken:
            continue
        alone = estimator(path, fov=50.0)
        assert outcome.scene.camera.source == "fov"
        assert len(alone.hands) == len(outcome.scene.hands) > 0
        for one, other in zip(alone.hands, outcome.scene.hands, strict=True):
            np.testing.assert_allclose(one.joints, other.joints, atol=1e-6)


def test_one_failing_photo_does_not_take_its_group_along(model, detector, two_photos, tmp_path):
    paths = []
    for i, (image, _, _) in enumerate(two_photos):
        paths.append(tmp_path / f"{i}.png")
        cv2.imwrite(str(paths[-1]), image)
    boxes = {"0.png": [[500.0, 500, 600, 600]]}
    outcomes = list(Estimator(model, detector=detector).predict_many(paths, boxes=boxes))
    assert "outside" in str(outcomes[0].error)
    assert len(outcomes[1].scene.hands) == 1


def test_given_boxes_replace_the_search(model, detector, two_photos):
    image, camera, truths = two_photos[0]
    estimator = Estimator(model, detector=detector)
    given = [{"box": truths[1].box.tolist(), "side": "right", "score": 0.7}]
    scene = estimator(image, intrinsics=camera.intrinsics, boxes=given)
    assert [hand.score for hand in scene.hands] == [0.7]
    np.testing.assert_allclose(scene.hands[0].joints, truths[1].joints, atol=2e-4)
    assert estimator(image, boxes=[]).hands == ()


def test_given_boxes_without_detector_need_sides(model, two_photos):
    image, _, truths = two_photos[0]
    estimator = Estimator(model, detector="none")
    with pytest.raises(InputError, match="side"):
        estimator(image, boxes=[truths[0].box])
    with pytest.raises(InputError, match="boxes must be given"):
        estimator(image)
    scene = estimator(image, boxes=[{"box": truths[0].box, "side": "left"}])
    assert scene.hands[0].side == "left"


def test_a_side_that_is_not_given_is_the_detectors_guess(model, detector, two_photos):
    image, _, truths = two_photos[0]
    scene = Estimator(model, detector=detector)(image, boxes=[truths[0].box])
    assert scene.hands[0].side == detector.describe(image, truths[0].box[None])[0].side


def test_object_only_where_the_network_says_held(model, detector, two_photos):
    thing = RigidObject(name="003_cracker_box", rotation=np.eye(3), translation=np.ones(3))
    decode = model.processor.decode
    model.processor.decode = lambda *a, **k: [(hand, thing) for hand, _ in decode(*a, **k)]
    estimator = Estimator(model, detector=detector)
    free, held = (estimator(image) for image, _, _ in two_photos)
    assert free.objects == (None, None)
    assert held.objects == (thing,)


def test_the_crop_takes_the_detectors_object_in(model, detector, two_photos):
    image, _, (truth,) = two_photos[1]
    seen = []
    encode = model.processor.encode_boxes
    model.processor.encode_boxes = lambda *a: seen.append(encode(*a)) or seen[-1]
    estimator = Estimator(model, detector=detector)
    for thing in (None, truth.box + np.array([-30.0, 0, 30, 0])):
        detection = Detection(box=truth.box, side="right", score=1.0, object_box=thing)
        detector.found[(200, 260)] = [detection]
        estimator(image)
    alone, both = (float(batch.crop[0, 0, 0]) for batch in seen)
    assert both < alone, "the crop with an object shows more of the photo"


def test_no_hands_and_tiny_photos_give_empty_scenes(model, detector):
    estimator = Estimator(model, detector=detector)
    assert estimator(np.zeros((50, 60, 3), np.uint8)).hands == ()
    detector.found[(1, 1)] = [Detection(box=np.array([0.0, 0, 1, 1]), side="left", score=1.0)]
    assert estimator(np.zeros((1, 1, 3), np.uint8)).hands == ()


def test_unusable_arguments(model, detector, tmp_path):
    with pytest.raises(InputError, match="batch_size"):
        Estimator(model, detector=detector, batch_size=0)
    with pytest.raises(InputError, match="device"):
        Estimator(model, detector=detector, device="toaster")
    estimator = Estimator(model, detector=detector)
    for image in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(InputError, match="uint8 RGB"):
            estimator(image)
    broken = tmp_path / "weights.safetensors"
    broken.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{this is no js}")
    with pytest.raises(WeightsError, match=r"weights\.safetensors"):
        Estimator(model, detector=broken)


def test_given_object_names_reach_the_decoding(model, detector, two_photos, monkeypatch):
    image, camera, (truth,) = two_photos[1]
    asked = []
    decode = model.processor.decode

    def watched(*given, object_names):
        asked.append(object_names)
        return decode(*given, object_names=object_names)

    monkeypatch.setattr(model.processor, "decode", watched)
    estimator = Estimator(model, detector=detector)
    box = {"box": truth.box, "side": "right", "object_box": None}
    estimator(image, intrinsics=camera.intrinsics, boxes=[box])
    box["object_name"] = "025_mug"
    estimator(image, intrinsics=camera.intrinsics, boxes=[box])
    assert asked == [None, ["025_mug"]]
    with pytest.raises(FileFormatError, match=r"boxes\[0\]\.object_name: expected a text"):
        estimator(image, boxes=[box | {"object_name": 14}])
