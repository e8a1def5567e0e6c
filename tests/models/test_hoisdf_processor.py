"""HOISDF's processor: origins, points and labels of a crop, and the way back to the photo."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from tests.models.hoisdf_sample import TINY, tiny_network
from tests.models.posed_sample import (
    FLIP,
    MODEL,
    NAME,
    STILL,
    TURNED,
    in_crop,
    placed_points,
    posed_sample,
)

from handhold.cli.eval import _predictor
from handhold.errors import FileFormatError, InputError
from handhold.evaluation.protocols import protocol
from handhold.geometry.camera import project
from handhold.geometry.signed_distance import MeshDistance
from handhold.hand.model import HandModel
from handhold.hand.topology import closed_faces
from handhold.inference.estimator import Estimator
from handhold.inference.given_boxes import parse_boxes
from handhold.models.hoisdf.inputs import HOISDFBatch
from handhold.models.hoisdf.model import HOISDFConfig
from handhold.models.hoisdf.processor import (
    HAND_EXTENT,
    HO3D_DEPTH,
    HoisdfProcessor,
    HoisdfProcessorConfig,
    lookalike,
)
from handhold.scene import Hand, Prediction, Sample

SIDES = pytest.mark.parametrize("side", ["right", "left"])
TURNS = pytest.mark.parametrize("turned", [False, True])
ROOTS = pytest.mark.parametrize("root", ["label", "box"])


def _processor(turned: bool = False, *, points: bool = False, **options: Any) -> HoisdfProcessor:
    config = HoisdfProcessorConfig(
        augmentation=TURNED if turned else STILL,
        interpolation="bilinear",
        truncate_centres=False,
        hand_points=60,
        object_points=40,
        **options,
    )
    return HoisdfProcessor(
        config,
        control_points={NAME: MODEL},
        hand=HandModel.free(),
        meshes=lookalike if points else None,
    )


def _encode(processor: HoisdfProcessor, sample: Sample, seed: int = 0) -> HOISDFBatch:
    batch = processor.encode([(sample, 0)], np.random.default_rng(seed))
    assert isinstance(batch, HOISDFBatch)
    return batch


def _array(value: Any) -> np.ndarray:
    return value[0].double().numpy()


def _into_photo(points: np.ndarray, sample: Sample, batch: HOISDFBatch) -> np.ndarray:
    """Camera points of the crop -> of the photo. The turn is found from the labelled pose alone."""
    pose = np.array(sample.hands[0].pose[0])
    if batch.mirrored[0]:
        pose = pose * [1, -1, -1]
    turn = Rotation.from_rotvec(_array(batch.pose)[0]) * Rotation.from_rotvec(pose).inv()
    points = points @ turn.as_matrix()  # its inverse
    return points * FLIP if batch.mirrored[0] else points


@SIDES
@TURNS
@ROOTS
def test_labels_are_where_the_picture_shows_them(side: Any, turned: bool, root: Any) -> None:
    for seed in range(3):
        sample = posed_sample(seed, side)
        batch = _encode(_processor(turned, root=root), sample, seed)
        intrinsics, origin = _array(batch.intrinsics), _array(batch.root)
        joints = np.asarray(sample.hands[0].joints)
        votes = _array(batch.vote_joints) + origin
        assert project(votes, intrinsics) == pytest.approx(in_crop(joints, sample, batch), abs=0.1)
        assert _into_photo(votes, sample, batch) == pytest.approx(joints, abs=1e-5)
        if root == "label":
            assert origin == pytest.approx(votes[0], abs=1e-6)
        # the object: its centre lies in the middle of its box, its pose is the labelled one
        centre = _array(batch.object_center)
        box = _array(batch.object_box)
        middle = (box[:2] + box[2:]) / 2
        assert project(centre[None], intrinsics)[0] == pytest.approx(middle, abs=0.05)
        assert centre[2] == pytest.approx(origin[2], rel=1e-5)
        shown = MODEL * (FLIP if side == "left" else 1.0)
        turn = Rotation.from_rotvec(_array(batch.object_rotation)).as_matrix()
        placed = shown @ turn.T + _array(batch.object_translation) + centre
        expected = in_crop(placed_points(sample), sample, batch)
        assert project(placed, intrinsics) == pytest.approx(expected, abs=0.1)
        assert bool(batch.has_object[0]) and bool(batch.has_pixels[0])
        assert batch.hand_sdf_points is None


@SIDES
@TURNS
def test_points_have_the_distances_of_the_true_surfaces(side: Any, turned: bool) -> None:
    sample = posed_sample(3, side)
    batch = _encode(_processor(turned, points=True, root="box"), sample, 1)
    hand, thing = sample.hands[0], sample.object
    model = HandModel.free(side)
    truth = {
        "hand": MeshDistance(hand.vertices, closed_faces(model.faces.numpy())),
        "object": lookalike(NAME),
    }
    for target, origin in (("hand", batch.root), ("object", batch.object_center)):
        for kind in ("sdf_points", "query_points"):
            cloud = _array(getattr(batch, f"{target}_{kind}")) + _array(origin)
            photo = _into_photo(cloud, sample, batch)
            if target == "object":
                photo = (photo - thing.translation) @ thing.rotation
            exact = truth[target].distance(photo)
            if kind == "sdf_points":
                assert len(exact) == {"hand": 60, "object": 40}[target]
                assert _array(getattr(batch, f"{target}_sdf")) == pytest.approx(exact, abs=1e-4)
                assert (exact < 0).any() and (exact > 0).any()
            else:  # within 5 cm, then moved by at most 0.07 / 3.1 m on each axis
                assert np.abs(exact).max() < 0.05 + np.sqrt(3) * 0.07 / 3.1


@SIDES
@TURNS
@ROOTS
def test_decode_undoes_encode(side: Any, turned: bool, root: Any) -> None:
    for seed in range(3):
        sample = posed_sample(seed, side)
        processor = _processor(turned, root=root)
        batch = _encode(processor, sample, seed)
        prediction = _perfect(batch)
        ((hand, thing),) = processor.decode(prediction, batch, [sample.camera], object_names=[NAME])
        truth, known = sample.hands[0], sample.object
        assert hand.side == side
        assert np.abs(hand.joints - truth.joints).max() < 1e-3
        assert np.abs(hand.vertices - truth.vertices).max() < 1e-3
        expected = project(np.asarray(truth.joints), sample.camera.intrinsics)
        assert hand.joints2d == pytest.approx(expected, abs=0.1)
        turns = [Rotation.from_rotvec(np.array(p)) for p in (hand.pose, truth.pose)]
        assert (turns[0].inv() * turns[1]).magnitude().max() < 1e-3
        assert thing.rotation == pytest.approx(known.rotation, abs=1e-5)
        assert np.abs(thing.translation - known.translation).max() < 1e-4
        assert thing.name == NAME and thing.box is not None
        nameless = processor.decode(prediction, batch, [sample.camera])[0][1]
        assert nameless.name is None and nameless.box is None


def _perfect(batch: HOISDFBatch) -> Prediction:
    """What a network says that says the labels."""
    posed = HandModel.free()(batch.pose, batch.betas, center=0)
    rotations = Rotation.from_rotvec(_array(batch.pose)).as_matrix()
    turn = Rotation.from_rotvec(_array(batch.object_rotation)).as_matrix()
    return Prediction(
        joints=posed.joints,
        vertices=posed.vertices,
        joints2d=batch.joints2d,
        rotations=torch.from_numpy(rotations)[None],
        betas=batch.betas,
        features={
            "voted_joints": batch.vote_joints[:, 1:],
            "object_rotation": torch.from_numpy(turn)[None],
            "object_translation": batch.object_translation + batch.object_center,
        },
    )


def test_estimated_root() -> None:
    """A flat square of the usual size, straight ahead, is found at its distance."""
    half, depth = HAND_EXTENT / 2, 0.6
    corners = np.array([[x, y, depth] for x in (-half, half) for y in (-half, half)])
    sample = posed_sample(0, "right")
    intrinsics = np.array([[600.0, 0, 320], [0, 500.0, 240], [0, 0, 1]])
    camera = dataclasses.replace(sample.camera, intrinsics=intrinsics)
    pixels = project(corners, intrinsics)
    box = np.concatenate([pixels.min(0), pixels.max(0)])
    things = [None, box + [40, 0, 60, 30]]
    batch = _processor().encode_boxes(sample.image, [box, box], ["right", "left"], things, camera)
    for i in range(2):
        assert batch.root[i].numpy() == pytest.approx([0, 0, depth], abs=2e-3)
    assert torch.equal(batch.object_center[0], batch.root[0])
    assert batch.object_center[1, 2] == batch.root[1, 2]
    far = _processor(object_depth=HO3D_DEPTH)
    batch = far.encode_boxes(sample.image, [box], ["right"], things[1:], camera)
    assert float(batch.object_center[0, 2]) == pytest.approx(HO3D_DEPTH)


def test_in_use_as_in_training() -> None:
    """Boxes alone give the same inputs as labels that hold no more."""
    sample = posed_sample(4, "left")
    pixels = project(np.asarray(sample.hands[0].joints), sample.camera.intrinsics)
    box = np.concatenate([pixels.min(0), pixels.max(0)])
    known = _processor(root="box").encode([(dataclasses.replace(sample, object=None), 0)])
    used = _processor().encode_boxes(sample.image, [box], ["left"], None, sample.camera)
    for name in ("image", "hand_box", "root", "object_center", "intrinsics", "crop"):
        torch.testing.assert_close(getattr(known, name), getattr(used, name))


@SIDES
def test_maps_are_the_picture(side: Any) -> None:
    sample = posed_sample(7, side)
    image = np.zeros((480, 640, 3), np.uint8)
    image[sample.hand_mask, 0], image[sample.object_mask, 1] = 255, 255
    batch = _encode(_processor(True), dataclasses.replace(sample, image=image), 3)
    for channel, found in enumerate((batch.hand_pixels, batch.object_pixels)):
        seen = batch.image[0, channel, ::2, ::2] > 0.5
        assert 0.01 < seen.float().mean() < 0.9
        assert ((found[0] == 1) == seen).float().mean() > 0.98


def test_what_is_not_labelled() -> None:
    sample = posed_sample(8, "right")
    processor = _processor(points=True)
    nameless = dataclasses.replace(sample.object, name="random_3")
    batch = _encode(processor, dataclasses.replace(sample, object=nameless, object_mask=None))
    assert not bool(batch.has_object[0]) and not bool(batch.has_pixels[0])
    pixels = project(np.asarray(sample.hands[0].joints), sample.camera.intrinsics)
    flat = dataclasses.replace(sample, hands=(Hand(side="left", joints2d=pixels),), object=None)
    batch = processor.encode([(sample, 0), (flat, 0)], np.random.default_rng(0))
    assert batch.has_object.tolist() == [True, False]
    assert batch.has_pose.tolist() == [True, False]
    for name in ("hand_sdf_points", "object_sdf_points", "hand_query_points", "vote_joints"):
        assert torch.isfinite(getattr(batch, name)).all()
    # a pose whose place nobody knows: the votes' targets are the hand model's joints
    hand = dataclasses.replace(sample.hands[0], joints=None, joints2d=pixels)
    batch = _encode(processor, dataclasses.replace(sample, hands=(hand,)))
    joints = HandModel.free()(batch.pose, batch.betas, center=0).joints
    torch.testing.assert_close(batch.vote_joints, joints)
    with pytest.raises(InputError, match="hand model"):
        HoisdfProcessor(meshes=lookalike).encode([(sample, 0)])


def test_objects_that_are_decoded() -> None:
    sample = posed_sample(9, "right")
    bare = dataclasses.replace(sample, object=None)
    for objects, with_object, without in (
        ("grasped", True, False),
        ("all", True, True),
        ("none", False, False),
    ):
        processor = _processor(objects=objects)
        for shown, expected in ((sample, with_object), (bare, without)):
            batch = _encode(processor, shown)
            found = processor.decode(_perfect(batch), batch, [sample.camera])[0][1]
            assert (found is not None) == expected


def test_settings() -> None:
    official = HoisdfProcessorConfig.trained_on("ho3d")
    assert (official.hand_factor, official.object_depth) == (1.2, HO3D_DEPTH)
    assert HoisdfProcessorConfig.trained_on("dexycb") == HoisdfProcessorConfig()
    ours = HoisdfProcessorConfig.trained_on("deployable")
    assert (ours.root, ours.crop_rule, ours.objects) == ("box", "boxes", "grasped")
    fitted = ours.fitted(HOISDFConfig(input_size=128, hand_points=50, object_points=30))
    assert (fitted.input_size, fitted.hand_points, fitted.object_points) == (128, 50, 30)
    assert lookalike("random_1") is None
    for wrong in ({"root": "elbow"}, {"spare": 0}, {"object_depth": -1.0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            HoisdfProcessorConfig(**wrong)


@SIDES
def test_given_wrist(side: Any) -> None:
    """A network trained with the true wrist takes it in use, one trained with the estimate not."""
    sample = posed_sample(4, side)
    hand = sample.hands[0]
    pixels = project(np.asarray(hand.joints), sample.camera.intrinsics)
    box = np.concatenate([pixels.min(0), pixels.max(0)])
    bare = dataclasses.replace(sample, object=None)
    given = ([box], [side], None, sample.camera, [np.asarray(hand.joints)[0]])
    used = _processor().encode_boxes(sample.image, *given)
    known = _processor().encode([(bare, 0)])
    for name in ("root", "object_center", "intrinsics"):
        torch.testing.assert_close(getattr(used, name), getattr(known, name))
    thing = box + [40, 0, 60, 30]
    held = _processor().encode_boxes(sample.image, [box], [side], [thing], *given[3:])
    torch.testing.assert_close(held.root, known.root)
    assert held.object_center[0, 2] == held.root[0, 2]
    assert not torch.equal(held.object_center, held.root)
    own = _processor(root="box")
    estimate = own.encode_boxes(sample.image, *given[:4])
    torch.testing.assert_close(own.encode_boxes(sample.image, *given).root, estimate.root)
    assert float((used.root - estimate.root).norm()) > 0.01
    with pytest.raises(InputError, match="wrists"):
        own.encode_boxes(sample.image, *given[:4], [])


@pytest.mark.parametrize("name", ["official", "boxes", "deployable"])
def test_only_the_official_protocol_tells_the_wrist(
    name: str, hand: HandModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the estimator, as `handhold eval` runs it."""
    processor = HoisdfProcessor(HoisdfProcessorConfig(input_size=64), hand=hand, meshes=None)
    model: Any = SimpleNamespace(
        network=tiny_network(TINY, hand), processor=processor, name="hoisdf"
    )
    roots: list[torch.Tensor] = []
    encode: Any = processor.encode_boxes

    def watched(*given: Any) -> Any:
        batch = encode(*given)
        roots.append(batch.root)
        return batch

    monkeypatch.setattr(processor, "encode_boxes", watched)
    sample = posed_sample(4, "left")
    pixels = project(np.asarray(sample.hands[0].joints), sample.camera.intrinsics)
    labelled = dataclasses.replace(sample.hands[0], joints2d=pixels)
    sample = dataclasses.replace(sample, hands=(labelled,))
    estimator = Estimator(model, detector="default" if name == "deployable" else "none")
    _predictor(estimator, protocol(name))(sample)
    wrist = torch.from_numpy(np.asarray(sample.hands[0].joints)[0] * (-1, 1, 1)).float()
    if name == "deployable":
        assert not any(torch.allclose(found[0], wrist, atol=1e-3) for found in roots)
    else:
        assert torch.allclose(roots[0][0], wrist, atol=1e-5) == (name == "official")


@pytest.mark.parametrize("wrist", [[0.1, 0.2], [0.1, 0.2, -0.5], [0, 0, float("nan")], "here"])
def test_bad_wrists_are_named(wrist: Any) -> None:
    with pytest.raises(FileFormatError, match=r"boxes\[0\]\.wrist"):
        parse_boxes([{"box": [1, 2, 30, 40], "wrist": wrist}])
