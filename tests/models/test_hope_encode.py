"""The processor's promise: pixels, labels and camera of a crop agree."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.models.hope_sample import (
    FLIP,
    TURNED,
    hand_in_crop,
    made_sample,
    make_processor,
)
from tests.models.posed_sample import STILL

from handhold.errors import InputError
from handhold.geometry import boxes
from handhold.geometry.camera import mirror_intrinsics, project
from handhold.models.nn.hope_augmentation import Augmentation, colour, degrade
from handhold.models.nn.hope_processor import HopeProcessor, HopeProcessorConfig
from handhold.scene import Camera, Hand, Sample


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from(["left", "right"]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_labels_and_camera_agree(
    seed: int, side, turned: bool, official: bool, alone: bool
) -> None:
    sample = made_sample(seed, side, with_object=not alone)
    processor = make_processor(TURNED if turned else STILL, truncate_centres=official)
    batch = processor.encode([(sample, 0)], np.random.default_rng(seed))
    joints, turn = hand_in_crop(sample, batch)
    assert turn[2] == pytest.approx([0, 0, 1], abs=1e-5)  # about the optical axis only
    if not turned:
        assert turn == pytest.approx(np.eye(3), abs=1e-5)
    assert batch.root[0].numpy() == pytest.approx(joints[0], abs=1e-6)
    pixels = project(joints, batch.intrinsics[0].double().numpy())
    assert batch.joints2d[0].numpy() == pytest.approx(pixels, abs=0.02)
    # the way back to the photo, flip included
    flat = batch.joints2d[0].double().numpy()
    if batch.mirrored[0]:
        flat = (flat * [-1, 1]) + [127, 0]
    photo = boxes.apply_affine(np.linalg.inv(batch.crop[0].double().numpy()), flat)
    known = project(np.array(sample.hands[0].joints), sample.camera.intrinsics)
    assert photo == pytest.approx(known, abs=0.02)
    # the boxes hold their points: 1.1 times the extent (the centre may be truncated by a pixel)
    box = batch.hand_box[0].numpy()
    extent = np.ptp(batch.joints2d[0].numpy(), axis=0)
    assert box[2:] - box[:2] == pytest.approx(1.1 * extent, rel=1e-3)
    middle = (batch.joints2d[0].amin(0) + batch.joints2d[0].amax(0)).numpy() / 2
    assert np.abs((box[2:] + box[:2]) / 2 - middle).max() < (1.01 if official else 0.01)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("turned", [False, True])
def test_pixels_follow_the_labels(side, turned: bool) -> None:
    sample = made_sample(5, side)
    places = project(np.array(sample.hands[0].joints), sample.camera.intrinsics)
    y, x = np.mgrid[:480, :640]
    processor = make_processor(TURNED if turned else STILL)
    for joint in (0, 4, 20):
        dot = (x - places[joint, 0]) ** 2 + (y - places[joint, 1]) ** 2 < 6**2
        image = np.repeat(dot[..., None] * np.uint8(255), 3, axis=2)
        shown = dataclasses.replace(sample, image=image)
        batch = processor.encode([(shown, 0)], np.random.default_rng(2))
        weight = batch.image[0, 0].double().numpy()
        v, u = np.mgrid[:128, :128]
        found = np.array([(weight * u).sum(), (weight * v).sum()]) / weight.sum()
        assert found == pytest.approx(batch.joints2d[0, joint].numpy(), abs=0.15)


@pytest.mark.parametrize("side", ["left", "right"])
def test_object_mask_is_the_picture_in_the_object_box(side) -> None:
    sample = made_sample(8, side)
    image = np.repeat(sample.object_mask[..., None] * np.uint8(255), 3, axis=2)
    sample = dataclasses.replace(sample, image=image)
    batch = make_processor(TURNED).encode([(sample, 0)], np.random.default_rng(4))
    x0, y0, x1, y1 = batch.object_box[0].numpy()
    cells = (np.arange(32) + 0.5) / 32
    u = np.rint(x0 + cells * (x1 - x0)).astype(int)
    v = np.rint(y0 + cells * (y1 - y0)).astype(int)
    inside = ((v >= 0) & (v < 128))[:, None] & ((u >= 0) & (u < 128))[None]
    seen = batch.image[0, 0].numpy()[np.clip(v, 0, 127)][:, np.clip(u, 0, 127)] > 0.5
    mask = batch.object_mask[0].numpy()
    assert 0.05 < mask.mean() < 0.95
    assert ((mask > 0.5) == (seen & inside)).mean() > 0.97


@pytest.mark.parametrize("official", [True, False])
def test_left_hand_is_the_right_hand_of_the_mirrored_photo(official: bool) -> None:
    sample = made_sample(9, "left")
    hand = sample.hands[0]
    points2d = project(np.array(hand.joints), sample.camera.intrinsics)
    mirrored = dataclasses.replace(
        sample,
        image=np.ascontiguousarray(sample.image[:, ::-1]),
        camera=Camera(
            intrinsics=mirror_intrinsics(sample.camera.intrinsics, 640), width=640, height=480
        ),
        hands=(
            dataclasses.replace(
                hand,
                side="right",
                joints=hand.joints * FLIP,
                joints2d=points2d * [-1, 1] + [639, 0],
                pose=hand.pose * [1, -1, -1],
            ),
        ),
        object=None,
    )
    sample = dataclasses.replace(sample, object=None)
    config = HopeProcessorConfig() if official else HopeProcessorConfig.deployable()
    processor = HopeProcessor(config)
    for seed in (None, 3):
        rngs = [None if seed is None else np.random.default_rng(seed) for _ in range(2)]
        ours = processor.encode([(sample, 0)], rngs[0])
        theirs = processor.encode([(mirrored, 0)], rngs[1])
        assert bool(ours.mirrored[0]) and not bool(theirs.mirrored[0])
        for name in ("pose", "betas", "root", "joints2d", "hand_box", "intrinsics"):
            first, second = getattr(ours, name).numpy(), getattr(theirs, name).numpy()
            assert first == pytest.approx(second, rel=1e-4, abs=2e-3), name
        difference = (ours.image - theirs.image).abs()
        assert difference.mean() <= (0.0 if official else 0.002)


def test_crop_rules() -> None:
    def scale(sample: Sample, **options) -> float:
        batch = make_processor(**options).encode([(sample, 0)])
        return float(torch.linalg.det(batch.crop[0, :2, :2]).sqrt())

    holding, free = made_sample(11), made_sample(11, grasping=False)
    bare = dataclasses.replace(holding, object=None)
    alone = scale(bare)
    assert scale(holding) < alone  # the union is larger, so fewer crop pixels per photo pixel
    assert scale(free) == alone
    assert scale(free, crop_rule="boxes") == scale(holding)
    assert scale(holding, crop_rule="hand") == alone
    assert scale(holding, largest_crop=1.0001) == alone
    # the object's box stays the true one where the crop is the hand's
    batch = make_processor(crop_rule="hand").encode([(holding, 0), (bare, 0)])
    points = batch.object_points2d[0].numpy()
    middle = (points.min(0) + points.max(0)) / 2
    box = batch.object_box[0].numpy()
    assert (box[:2] + box[2:]) / 2 == pytest.approx(middle, abs=1.0)
    # no object: harmless values
    assert batch.object_box[1].tolist() == [0, 0, 128, 128]
    assert batch.object_class.tolist() == [2, -1]
    assert batch.object_mask[1].sum() == 0 and batch.object_points2d[1].abs().sum() == 0


def test_photos_with_2d_labels_only() -> None:
    full = made_sample(12)
    points = project(np.array(full.hands[0].joints), full.camera.intrinsics)
    valid = np.ones(21, bool)
    valid[[3, 9]] = False
    points[3] = np.nan
    hand = Hand(
        side="left",
        joints2d=points,
        joints2d_valid=valid,
        box=np.array([250.0, 200, 350, 310]),
    )
    sample = Sample(key="photo", image=full.image, camera=full.camera, hands=(hand,))
    batch = make_processor().encode([(sample, 0)])
    assert not batch.has_pose[0] and not batch.has_grasping[0] and not batch.grasping[0]
    assert batch.pose.abs().sum() == 0 and batch.betas.abs().sum() == 0
    assert batch.joints2d_valid[0].tolist() == valid.tolist()
    assert torch.isfinite(batch.joints2d).all()
    # the given box decides the crop when a joint is missing: 1.1 / 1.5 of the crop's longer side
    box = batch.hand_box[0].numpy()
    assert (box[2:] - box[:2]).max() == pytest.approx(128 * 1.1 / 1.5, rel=1e-5)
    blind = Sample(key="blind", image=full.image, camera=full.camera, hands=(Hand(side="left"),))
    with pytest.raises(InputError, match=r"blind.*neither 2D joints"):
        make_processor().encode([(blind, 0)])


@pytest.mark.parametrize(
    ("grasping", "visibility", "bare", "pair"),
    [(True, 0.5, True, True), (True, 0.95, True, False), (False, 0.5, True, False)]
    + [(True, 0.5, False, False), (True, 0.9, True, True)],
)
def test_pairs(grasping: bool, visibility: float, bare: bool, pair: bool) -> None:
    sample = made_sample(13, grasping=grasping, visibility=visibility)
    if not bare:
        sample = dataclasses.replace(sample, bare_image=None)
    batch = make_processor(paired=True).encode([(sample, 0)])
    assert bool(batch.is_filtered[0]) is not pair
    if pair:  # the bare image is the negative of the photo
        both = batch.image + batch.paired_image
        assert both[both > 0].mean() == pytest.approx(1, abs=0.01)
    else:
        assert torch.equal(batch.image, batch.paired_image)


def test_both_images_of_a_pair_change_alike() -> None:
    sample = made_sample(14)
    sample = dataclasses.replace(sample, bare_image=sample.image.copy())
    for config in (
        HopeProcessorConfig(paired=True),
        HopeProcessorConfig.deployable(paired=True),
    ):
        batch = HopeProcessor(config).encode([(sample, 0)] * 6, np.random.default_rng(0))
        assert not batch.is_filtered.any()
        assert torch.equal(batch.image, batch.paired_image)


@pytest.mark.parametrize(
    "config", [HopeProcessorConfig(), HopeProcessorConfig.deployable()], ids=["official", "small"]
)
def test_the_generator_decides_everything(config: HopeProcessorConfig) -> None:
    items = [(made_sample(15, "left"), 0), (made_sample(16), 0)]
    processor = HopeProcessor(config)
    first, again, other = (
        processor.encode(items, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    for name in ("image", "joints2d", "hand_box", "object_box", "object_mask", "intrinsics"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert not torch.equal(first.image, other.image)
    assert not torch.equal(first.joints2d, other.joints2d)


def test_prediction_boxes_give_the_same_batch_as_labels() -> None:
    full = made_sample(17)
    found = []
    sides = ["right", "left"]
    given = [np.array([200.0, 180, 300, 300]), np.array([400.0, 100, 520, 230])]
    for processor in (make_processor(), HopeProcessor()):  # bilinear and nearest
        batch = processor.encode_boxes(full.image, given, sides, None, full.camera)
        for i in range(2):
            hand = Hand(side=sides[i], box=given[i])
            sample = Sample(key="x", image=full.image, camera=full.camera, hands=(hand,))
            single = processor.encode([(sample, 0)])
            for name in ("image", "hand_box", "object_box", "crop", "mirrored", "intrinsics"):
                assert torch.equal(getattr(batch, name)[i], getattr(single, name)[0]), name
        found.append(batch)
    assert found[0].joints2d is None
    wide = make_processor().encode_boxes(full.image, given, sides, [given[1], None], full.camera)
    assert wide.crop[0, 0, 0] < found[0].crop[0, 0, 0]
    assert torch.equal(wide.crop[1], found[0].crop[1])


def test_hands_outside_the_photo_stay_finite() -> None:
    sample = made_sample(18, with_object=False)
    for shift in ([2.0, 0, 0], [-2.0, -2.0, 0]):
        hand = dataclasses.replace(sample.hands[0], joints=sample.hands[0].joints + shift)
        moved = dataclasses.replace(sample, hands=(hand,))
        for processor in (HopeProcessor(), HopeProcessor(HopeProcessorConfig.deployable())):
            batch = processor.encode([(moved, 0)], np.random.default_rng(0))
            assert torch.isfinite(batch.joints2d).all() and torch.isfinite(batch.crop).all()


def test_detector_like_boxes() -> None:
    settings_ = dataclasses.replace(STILL, box_jitter=0.1, drop_object=1.0)
    sample = made_sample(19)
    exact = make_processor(STILL, crop_rule="boxes", truncate_centres=False)
    rough = make_processor(settings_, crop_rule="boxes", truncate_centres=False)
    rng = np.random.default_rng(0)
    batch = rough.encode([(sample, 0)] * 60, rng)
    assert (batch.object_class == -1).all()
    assert exact.encode([(sample, 0)]).object_class[0] == 2
    extent = np.ptp(batch.joints2d.numpy(), axis=1)
    ratio = (batch.hand_box[:, 2:] - batch.hand_box[:, :2]).numpy() / extent
    # two independent sides of sigma 0.1, times the factor 1.1
    assert ratio.mean() == pytest.approx(1.1, abs=0.05)
    assert ratio.std() == pytest.approx(1.1 * 0.1 * np.sqrt(2), rel=0.25)


def test_official_draws() -> None:
    rng = np.random.default_rng(0)
    angles = np.degrees([Augmentation.dexycb().draw_rotation(rng) for _ in range(4000)])
    assert (angles != 0).mean() == pytest.approx(0.6, abs=0.03)
    assert np.abs(angles).max() == pytest.approx(60)
    assert angles[angles != 0].std() == pytest.approx(30 * 0.959, rel=0.05)  # clipped normal
    angles = np.degrees([Augmentation.ho3d().draw_rotation(rng) for _ in range(4000)])
    assert angles.std() == pytest.approx(360 / np.sqrt(12), rel=0.05)
    scales = np.array([Augmentation().draw_scale(rng) for _ in range(4000)])
    assert scales.min() == pytest.approx(0.8) and scales.max() == pytest.approx(1.2)


def test_colour_steps() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(20, 230, (64, 64, 3), dtype=np.uint8)
    assert (colour(image, STILL, rng) == image).all()
    bright = colour(image, dataclasses.replace(STILL, brightness=0.5), np.random.default_rng(1))
    share = bright.astype(float) / image
    kept = bright < 255
    assert share[kept].std() < 0.02 and abs(share[kept].mean() - 1) > 0.05
    # contrast keeps the mean grey, saturation every pixel's grey, hue the brightness (max)
    narrow = np.clip(image, 100, 150)
    for name, measure in (
        ("contrast", lambda x: (x @ [0.299, 0.587, 0.114]).mean()),
        ("saturation", lambda x: x @ [0.299, 0.587, 0.114]),
        ("hue", lambda x: x.max(-1).astype(float)),
    ):
        only = dataclasses.replace(STILL, **{name: 0.4})
        largest = 0
        for seed in range(6):
            changed = colour(narrow, only, np.random.default_rng(seed))
            assert np.abs(measure(changed) - measure(narrow)).max() < 3, name
            largest = max(largest, int(np.abs(changed.astype(int) - narrow).max()))
        assert largest > 8, name


@pytest.mark.parametrize(
    "changes",
    [
        {"low_resolution_chance": 1.0},
        {"motion_chance": 1.0},
        {"noise_chance": 1.0},
        {"grey_chance": 1.0},
        {"gamma": 0.5},
        {"jpeg_chance": 1.0},
        {"patch_chance": 1.0},
    ],
    ids=lambda c: next(iter(c)),
)
def test_every_degradation_acts_and_stays_near(changes: dict[str, float]) -> None:
    ramp = np.linspace(0, 255, 96).astype(np.uint8)
    image = np.stack([np.tile(ramp, (96, 1)), np.tile(ramp[:, None], (1, 96))[::-1]], -1)
    image = np.dstack([image, np.roll(image[..., :1], 30, axis=1)])
    before = image.copy()
    found = degrade(image, dataclasses.replace(STILL, **changes), np.random.default_rng(0))
    assert found.shape == image.shape and found.dtype == np.uint8
    assert (image == before).all(), "the input was changed in place"
    difference = np.abs(found.astype(int) - image).mean()
    assert 0 < difference < 60
    if "grey_chance" in changes:
        assert (found == found[..., :1]).all()


def test_bad_input_is_told() -> None:
    sample, processor = made_sample(20), make_processor()
    with pytest.raises(InputError, match="none number 1"):
        processor.encode([(sample, 1)])
    with pytest.raises(InputError, match="x0 < x1"):
        processor.encode_boxes(sample.image, [[5, 5, 5, 9]], ["left"], None, sample.camera)
    with pytest.raises(InputError, match="one per box"):
        processor.encode_boxes(sample.image, [[5, 5, 9, 9]], [], None, sample.camera)
    with pytest.raises(InputError, match="crop_rule"):
        HopeProcessorConfig(crop_rule="none")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="hue"):
        Augmentation(hue=0.7)
    with pytest.raises(InputError, match="noise_chance"):
        Augmentation(noise_chance=1.5)
    with pytest.raises(InputError, match=r"expected \(21, 3\)"):
        HopeProcessor(control_points={"x": np.zeros((8, 3))})
