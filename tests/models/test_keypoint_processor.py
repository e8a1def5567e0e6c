"""Keypoint Transformer's processor: labels agree with the picture, decoding undoes encoding."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
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

from handhold.errors import InputError
from handhold.geometry.camera import project
from handhold.hand.model import HandModel
from handhold.models.keypoint_transformer.batch import KeypointBatch
from handhold.models.keypoint_transformer.model import KeypointTransformerConfig
from handhold.models.keypoint_transformer.processor import (
    KeypointProcessor,
    KeypointProcessorConfig,
)
from handhold.models.nn.posed_objects import nearest_rotation
from handhold.scene import Hand, Prediction, Sample

SIDES = pytest.mark.parametrize("side", ["right", "left"])
TURNS = pytest.mark.parametrize("turned", [False, True])
ORIGINS = pytest.mark.parametrize("origin", ["model", "wrist"])


def _processor(turned: bool = False, **options: Any) -> KeypointProcessor:
    config = KeypointProcessorConfig(augmentation=TURNED if turned else STILL, **options)
    return KeypointProcessor(config, control_points={NAME: MODEL}, hand=HandModel.free())


def _encode(processor: KeypointProcessor, sample: Sample, seed: int = 0) -> KeypointBatch:
    batch = processor.encode([(sample, 0)], np.random.default_rng(seed))
    assert isinstance(batch, KeypointBatch)
    return batch


def _perfect(batch: KeypointBatch, origin: str, **features: Any) -> Prediction:
    """What a network says that says the labels."""
    posed = HandModel.free()(batch.pose, batch.betas)
    joints = posed.joints - (posed.joints[:, :1] if origin == "wrist" else 0)
    rotation = torch.from_numpy(Rotation.from_rotvec(batch.pose[0].numpy()).as_matrix())[None]
    told = {
        "object_rotation": batch.object_rotation,
        "object_translation": batch.object_translation,
    }
    angles = origin == "model"
    return Prediction(
        joints=joints,
        vertices=posed.vertices if angles else None,
        joints2d=batch.joints2d,
        rotations=rotation if angles else None,
        betas=batch.betas if angles else None,
        features=told | features,
    )


@SIDES
@TURNS
@ORIGINS
def test_labels_are_where_the_picture_shows_them(side: Any, turned: bool, origin: Any) -> None:
    for seed in range(3):
        sample = posed_sample(seed, side)
        batch = _encode(_processor(turned, origin=origin), sample, seed)
        joints = in_crop(np.asarray(sample.hands[0].joints), sample, batch)
        assert batch.joints2d[0].numpy() == pytest.approx(joints, abs=0.02)
        corners = in_crop(placed_points(sample)[:8], sample, batch)
        assert batch.object_corners2d[0].numpy() == pytest.approx(corners, abs=0.02)
        assert int(batch.object_number[0]) == 35
        # the same from the 3D labels and the crop's camera: hand and object about one origin
        own = HandModel.free()(batch.pose, batch.betas).joints[0]
        own = (own - own[0] if origin == "wrist" else own).double().numpy()
        place = batch.root[0].double().numpy() - own[0]
        intrinsics = batch.intrinsics[0].double().numpy()
        assert project(own + place, intrinsics) == pytest.approx(joints, abs=0.1)
        rotation = batch.object_rotation[0].double().numpy()
        assert np.linalg.det(rotation) == pytest.approx(1, abs=1e-5)
        thing = batch.object_corners[0].double().numpy() @ rotation.T
        thing = thing + batch.object_translation[0].double().numpy()
        assert project(thing + place, intrinsics) == pytest.approx(corners, abs=0.1)


@SIDES
@TURNS
@ORIGINS
def test_decode_undoes_encode(side: Any, turned: bool, origin: Any) -> None:
    for seed in range(3):
        sample = posed_sample(seed, side)
        processor = _processor(turned, origin=origin)
        batch = _encode(processor, sample, seed)
        prediction = _perfect(batch, origin)
        found = processor.decode(prediction, batch, [sample.camera], object_names=[NAME])
        ((hand, thing),) = found
        truth, known = sample.hands[0], sample.object
        assert hand.side == side
        assert np.abs(hand.joints - truth.joints).max() < 1e-3
        if origin == "model":
            assert np.abs(hand.vertices - truth.vertices).max() < 1e-3
            assert np.abs(hand.translation - truth.translation).max() < 1e-3
            turns = [Rotation.from_rotvec(np.array(p)) for p in (hand.pose, truth.pose)]
            assert (turns[0].inv() * turns[1]).magnitude().max() < 1e-3
        assert thing.rotation == pytest.approx(known.rotation, abs=1e-5)
        assert np.abs(thing.translation - known.translation).max() < 1e-3
        assert thing.name == NAME
        pixels = project(placed_points(sample), sample.camera.intrinsics)
        expected = np.concatenate([pixels.min(0), pixels.max(0)])
        assert thing.box == pytest.approx(expected, abs=1.5)


def test_objects_need_no_name_and_no_exact_rotation() -> None:
    sample = posed_sample(4, "left")
    processor = _processor(objects="grasped")
    batch = _encode(processor, sample)
    skewed = batch.object_rotation * torch.tensor([1.0, 0.8, 1.3])
    logits = torch.zeros(1, 2, 4, 44)
    labels = torch.tensor([[1, 43, 0, 0]])
    told = {"object_rotation": skewed, "token_logits": logits}
    prediction = _perfect(batch, "model", tokens_label=labels, **told)
    ((_, thing),) = processor.decode(prediction, batch, [sample.camera])
    assert thing.name is None and thing.box is None and thing.control_points is None
    assert thing.rotation == pytest.approx(sample.object.rotation, abs=1e-5)
    # no key point on an object: no object
    prediction = _perfect(batch, "model", tokens_label=labels.clamp_max(21), **told)
    assert processor.decode(prediction, batch, [sample.camera])[0][1] is None
    always = _processor(objects="all").decode(prediction, batch, [sample.camera])
    assert always[0][1] is not None
    assert _processor(objects="none").decode(prediction, batch, [sample.camera])[0][1] is None


def test_nearest_rotation_against_scipy() -> None:
    draw = np.random.default_rng(0)
    for _ in range(20):
        matrix = draw.normal(size=(3, 3))
        found = nearest_rotation(matrix)
        expected, _ = Rotation.align_vectors(matrix.T, np.eye(3))  # Kabsch on the columns
        assert found == pytest.approx(expected.as_matrix(), abs=1e-7)


def test_crop_rule() -> None:
    """The tight box of both, 10 pixels more on each side, square, times 1.25."""
    sample = posed_sample(5, "right")
    pixels = project(np.asarray(sample.hands[0].joints), sample.camera.intrinsics)
    both = np.concatenate([pixels, project(placed_points(sample)[:8], sample.camera.intrinsics)])
    for points, options in ((both, {}), (pixels, {"crop_rule": "hand"})):
        batch = _encode(_processor(**options), sample)
        side = 1.25 * (np.ptp(points, axis=0).max() + 20)
        crop = batch.crop[0].numpy()
        assert crop[0, 0] == pytest.approx(256 / side, rel=1e-5)
        middle = (points.min(0) + points.max(0)) / 2
        assert crop[:2, :2] @ middle + crop[:2, 2] == pytest.approx([128, 128], abs=0.01)
    hand_alone = 1.25 * (np.ptp(pixels, axis=0).max() + 20)
    narrow = _encode(_processor(largest_crop=1.0001), sample)
    assert narrow.crop[0, 0, 0] == pytest.approx(256 / hand_alone, rel=1e-5)


def test_original_draws() -> None:
    sample, processor = posed_sample(6, "right"), KeypointProcessor()
    still = _encode(_processor(), sample)
    size = still.crop[0, 0, 0]
    middle = torch.linalg.inv(still.crop[0].double()) @ torch.tensor([128.0, 128, 1]).double()
    scales, shifts, angles = [], [], []
    for seed in range(60):
        crop = _encode(processor, sample, seed).crop[0].double()
        scale = float(torch.linalg.det(crop[:2, :2]).sqrt() / size)
        scales.append(1 / scale)
        angles.append(float(torch.atan2(crop[1, 0], crop[0, 0])))
        # the crop's centre in the photo, in sides of the crop before it grows
        back = torch.linalg.inv(crop) @ torch.tensor([128.0, 128, 1]).double()
        shifts.append(((back - middle)[:2] * size / 256).numpy())
    assert 0.75 <= min(scales) < 0.85 and 1.15 < max(scales) <= 1.2501
    assert 0.12 < np.abs(shifts).max() <= 0.1501
    assert np.degrees(max(angles)) > 45 and np.degrees(np.abs(angles).max()) <= 90.01
    assert 0.2 < np.mean(np.array(angles) == 0) < 0.6


@SIDES
def test_object_map_is_the_picture(side: Any) -> None:
    sample = posed_sample(7, side)
    image = np.repeat(sample.object_mask[..., None] * np.uint8(255), 3, axis=2)
    batch = _encode(_processor(True), dataclasses.replace(sample, image=image), 3)
    seen = batch.image[0, 0, ::2, ::2] > 0.5
    assert batch.object_map.shape == (1, 128, 128)
    assert 0.03 < seen.float().mean() < 0.9
    assert ((batch.object_map[0] == 1) == seen).float().mean() > 0.98


def test_what_is_not_labelled() -> None:
    sample = posed_sample(8, "right")
    processor = _processor()
    bare = dataclasses.replace(sample, object=None, object_mask=None)
    assert (_encode(processor, bare).object_map == 0).all()  # labelled pixels, and no object
    unknown = dataclasses.replace(sample, hand_mask=None, object_mask=None)
    assert (_encode(processor, unknown).object_map == -1).all()
    nameless = dataclasses.replace(sample.object, name="random_3")
    flat = Hand(side="left", joints2d=project(sample.hands[0].joints, sample.camera.intrinsics))
    for changed in (
        bare,
        dataclasses.replace(sample, object=nameless),
        dataclasses.replace(sample, hands=(flat,)),
    ):
        batch = _encode(processor, changed)
        assert int(batch.object_number[0]) == -1
        assert torch.isfinite(batch.object_corners2d).all()
    given = processor.encode_boxes(
        sample.image, [np.array([200.0, 100, 300, 220])], ["left"], None, sample.camera
    )
    assert given.object_map is None and given.joints2d is None and bool(given.mirrored[0])


def test_left_hand_is_the_right_hand_of_the_mirrored_photo() -> None:
    sample = posed_sample(9, "left")
    ours = _encode(_processor(True), sample, 5)
    hand = sample.hands[0]
    width = sample.camera.width
    intrinsics = np.array(sample.camera.intrinsics)
    intrinsics[0, 2] = width - 1 - intrinsics[0, 2]
    flipped = dataclasses.replace(
        sample,
        image=np.ascontiguousarray(sample.image[:, ::-1]),
        camera=dataclasses.replace(sample.camera, intrinsics=intrinsics),
        hands=(
            dataclasses.replace(
                hand,
                side="right",
                joints=hand.joints * FLIP,
                translation=hand.translation * FLIP,
                vertices=None,
                pose=hand.pose * [1, -1, -1],
            ),
        ),
        object=dataclasses.replace(
            sample.object,
            rotation=np.diag(FLIP) @ sample.object.rotation @ np.diag(FLIP),
            translation=sample.object.translation * FLIP,
            control_points=MODEL * FLIP,
        ),
        hand_mask=np.ascontiguousarray(sample.hand_mask[:, ::-1]),
        object_mask=np.ascontiguousarray(sample.object_mask[:, ::-1]),
    )
    theirs = _encode(_processor(True), flipped, 5)
    for item in dataclasses.fields(KeypointBatch):
        first, second = getattr(ours, item.name), getattr(theirs, item.name)
        if item.name in ("crop", "mirrored", "image", "object_map", "keys", "object_mask"):
            continue
        if isinstance(first, torch.Tensor):
            assert first.double().numpy() == pytest.approx(
                second.double().numpy(), rel=1e-4, abs=3e-3, nan_ok=True
            ), item.name
    assert (ours.object_map == theirs.object_map).float().mean() > 0.995
    assert (ours.image - theirs.image).abs().mean() < 0.003


def test_settings() -> None:
    assert KeypointProcessorConfig.trained_on("ho3d") == KeypointProcessorConfig()
    ours = KeypointProcessorConfig.trained_on("deployable")
    assert (ours.crop_factor, ours.objects, ours.augmentation.box_jitter > 0) == (
        1.25,
        "grasped",
        True,
    )
    vectors = KeypointTransformerConfig.ho3d()
    assert ours.fitted(vectors).origin == "wrist"
    assert ours.fitted(KeypointTransformerConfig(input_size=128)).origin == "model"
    assert ours.fitted(KeypointTransformerConfig(input_size=128)).input_size == 128
    with pytest.raises(InputError, match="origin"):
        KeypointProcessorConfig(origin="elbow")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="margin_px"):
        KeypointProcessorConfig(margin_px=-1)
