"""Methods that see whole photos in the Estimator and on the command line, with made-up weights."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from tests.models.photo_sample import photo

from handhold.cli.main import main
from handhold.errors import InputError
from handhold.hand.model import HandModel
from handhold.hand.regressor import joint_regressor
from handhold.inference.estimator import Estimator
from handhold.inference.results import read_scene
from handhold.models.handos.batch import HandOSPrediction, PhotoBatch
from handhold.models.handos.config import HandOSConfig
from handhold.models.handos.sides import normalised_volume
from handhold.models.photo_registry import LoadedPhotoModel, build_photo_model
from handhold.models.weights import save_weights
from handhold.scene import Camera, Hand, Sample, Scene

NAME = "handos-small"
TINY: dict[str, Any] = {
    "detector": "hand-detr",
    "detector_options": {
        "input_size": 128,
        "stem": (8, 8),
        "widths": (8, 16, 16, 16),
        "width": 16,
        "queries": 12,
    },
    "input_size": 128,
    "width": 32,
    "feedforward": 64,
    "vertices": 49,
    "layers_2d": 1,
    "layers_mesh": 1,
    "side_width": 16,
    "side_hidden": 16,
    "score_threshold": 0.0,  # the detector knows nothing yet, and this takes all it says
    "max_hands": 4,
}


def made(**changes: Any) -> LoadedPhotoModel:
    config = dataclasses.replace(HandOSConfig.small(), **(TINY | changes))
    return build_photo_model(NAME, config=config, seed=1)


@pytest.fixture(scope="module")
def hand() -> HandModel:
    return HandModel.free("right")


@pytest.fixture(scope="module")
def whole() -> LoadedPhotoModel:
    return made()


def on_boxes(**changes: Any) -> LoadedPhotoModel:
    told = {"detector": "boxes", "detector_options": {"width": 16}, "score_threshold": 0.1}
    return made(**(told | changes))


def same(one: Scene, other: Scene) -> None:
    assert one.image == other.image and len(one.hands) == len(other.hands) > 0
    for a, b in zip(one.hands, other.hands, strict=True):
        assert a.side == b.side and a.score == pytest.approx(b.score, abs=1e-6)
        for name in ("vertices", "joints", "joints2d", "box"):
            x, y = getattr(a, name), getattr(b, name)
            np.testing.assert_allclose(x, y, atol=1e-4, rtol=1e-4)


def test_the_estimator_is_network_and_processor(whole: LoadedPhotoModel, hand: HandModel) -> None:
    samples = [photo(hand, seed, width=192, height=edge) for seed, edge in ((0, 96), (1, 160))]
    estimator = Estimator(whole, objects="none", detector="none")
    for sample in samples:
        batch = whole.processor.encode_photos([sample.image], [sample.camera])
        with torch.no_grad():
            found = whole.network(batch)
        (expected,) = whole.processor.decode(found, batch, [sample.camera], names=[sample.key])
        scene = estimator(sample.image, intrinsics=sample.camera.intrinsics, name=sample.key)
        assert scene.model == NAME and scene.objects == (None,) * len(scene.hands)
        same(scene, expected)
        assert all(one.grasping is None for one in scene.hands)


def test_a_folder_is_one_batch_and_equals_its_photos(
    whole: LoadedPhotoModel, hand: HandModel, tmp_path: Path
) -> None:
    paths = []
    for seed in range(3):
        paths.append(tmp_path / f"{seed}.png")
        cv2.imwrite(str(paths[-1]), photo(hand, seed, width=160, height=96 + 8 * seed).image)
    (tmp_path / "b.png").write_bytes(b"no picture")
    estimator = Estimator(whole, objects="none")
    calls: list[int] = []
    network = estimator.whole.network  # pyright: ignore[reportOptionalMemberAccess]
    hook = network.register_forward_pre_hook(lambda _, given: calls.append(len(given[0])))
    outcomes = list(estimator.predict_many([*paths, tmp_path / "b.png"]))
    assert calls == [3] and outcomes[3].error is not None
    for path, outcome in zip(paths, outcomes[:3], strict=True):
        assert outcome.scene is not None
        same(outcome.scene, estimator(path))
    hook.remove()


def test_no_hands_is_an_empty_list(hand: HandModel) -> None:
    estimator = Estimator(made(score_threshold=0.9))
    sample = photo(hand, 0)
    scene = estimator(sample.image)
    assert scene.hands == () and scene.objects == () and scene.model == NAME
    assert estimator(np.zeros((4, 300, 3), np.uint8)).hands == ()


# ------------------------------------------------------------------------- a network that knows


class Knowing(torch.nn.Module):
    """Says the labels of a photo's hands, in the order given, whatever it sees."""

    def __init__(self, hands: tuple[Hand, ...], faces: torch.Tensor) -> None:
        super().__init__()
        self.hands, self.faces, self.detector = hands, faces, None
        self.regressor = torch.from_numpy(joint_regressor(HandModel.free("right"))).float()

    def forward(self, batch: PhotoBatch, thin: Any = None) -> HandOSPrediction:
        count, zero = len(self.hands), torch.zeros(())
        affine, size = batch.affine[0].double().numpy(), batch.valid_size[0].double().numpy()

        def shares(points: np.ndarray) -> np.ndarray:
            return (points @ affine[:2, :2].T + affine[:2, 2] + 0.5) / size

        boxes, joints2d, vertices, wrists = [], [], [], []
        for one in self.hands:
            assert one.box is not None and one.joints2d is not None and one.vertices is not None
            low, high = shares(one.box[:2]), shares(one.box[2:])
            boxes.append(np.concatenate([(low + high) / 2, 1.25 * (high - low)]))
            joints2d.append(shares(one.joints2d))
            wrists.append((self.regressor.double().numpy() @ one.vertices)[0])
            vertices.append(one.vertices - wrists[-1])
        mesh = torch.from_numpy(np.stack(vertices)).float()
        return HandOSPrediction(
            image=torch.zeros(count, dtype=torch.long),
            target=torch.full((count,), -1),
            scores=torch.linspace(0.9, 0.5, count),
            boxes=torch.from_numpy(np.stack(boxes)).float(),
            joints2d=torch.from_numpy(np.stack(joints2d)).float()[:, None],
            faces=self.faces,
            face_pairs=zero,
            anchor=zero,
            drift=zero,
            vertices=mesh[:, None],
            joints=(self.regressor @ mesh)[:, None],
            translation=torch.from_numpy(np.stack(wrists)).float()[:, None],
            volume=normalised_volume(mesh, self.faces),
        )


def knowing(whole: LoadedPhotoModel, sample: Sample) -> LoadedPhotoModel:
    network = Knowing(sample.hands, whole.network.hand.faces)
    return dataclasses.replace(whole, network=network)


def mirrored(sample: Sample) -> Sample:
    width = sample.camera.width
    matrix = sample.camera.intrinsics.copy()
    matrix[0, 2] = width - 1 - matrix[0, 2]
    flip, hands = np.array([-1.0, 1, 1]), []
    for one in sample.hands:
        assert one.box is not None and one.joints2d is not None
        x0, y0, x1, y1 = one.box
        assert one.joints is not None and one.vertices is not None
        hands.append(
            Hand(
                side="left" if one.side == "right" else "right",
                box=np.array([width - 1 - x1, y0, width - 1 - x0, y1]),
                joints2d=np.stack([width - 1 - one.joints2d[:, 0], one.joints2d[:, 1]], axis=1),
                joints=one.joints * flip,
                vertices=one.vertices * flip,
            )
        )
    camera = dataclasses.replace(sample.camera, intrinsics=matrix)
    image = np.ascontiguousarray(sample.image[:, ::-1])
    return dataclasses.replace(sample, image=image, camera=camera, hands=tuple(hands))


def test_the_mirrored_photo_gives_the_mirrored_scene(
    whole: LoadedPhotoModel, hand: HandModel
) -> None:
    """And both the truth: a photo larger than the canvas, the camera off its middle."""
    plain = photo(hand, 3, width=300, height=200)
    matrix = plain.camera.intrinsics + np.array([[0, 0, 12.0], [0, 0, -5], [0, 0, 0]])
    camera = Camera(intrinsics=matrix, width=300, height=200)
    hands = tuple(
        dataclasses.replace(one, joints2d=camera.project(np.asarray(one.joints)))
        for one in plain.hands
    )
    plain = dataclasses.replace(plain, camera=camera, hands=hands)
    for sample in (plain, mirrored(plain)):
        estimator = Estimator(knowing(whole, sample), objects="none")
        scene = estimator(sample.image, intrinsics=sample.camera.intrinsics)
        assert len(scene.hands) == len(sample.hands) == 2
        for one, label in zip(scene.hands, sample.hands, strict=True):
            assert one.side == label.side
            assert one.vertices is not None and label.vertices is not None
            assert one.joints2d is not None and label.joints2d is not None
            assert one.box is not None and label.box is not None
            np.testing.assert_allclose(one.vertices, label.vertices, atol=1e-5)
            np.testing.assert_allclose(one.joints2d, label.joints2d, atol=0.01)
            np.testing.assert_allclose(one.box, np.clip(label.box, 0, (299, 199) * 2), atol=0.02)


# --------------------------------------------------------------------------- grasps and objects


def test_grasp_and_object_are_those_of_the_method_for_crops(
    whole: LoadedPhotoModel, hand: HandModel
) -> None:
    """The default: hands by HandOS, the rest as unihope-small says of the same boxes and sides."""
    sample = photo(hand, 3, width=300, height=200)
    known = knowing(whole, sample)
    scene = Estimator(known)(sample.image, intrinsics=sample.camera.intrinsics)
    bare = Estimator(known, objects="none")(sample.image, intrinsics=sample.camera.intrinsics)
    boxes = [{"box": one.box, "side": one.side} for one in bare.hands]
    told = Estimator()(sample.image, intrinsics=sample.camera.intrinsics, boxes=boxes)
    same(scene, bare)
    assert len(scene.objects) == len(told.objects) == 2
    for one, other in zip(scene.hands, told.hands, strict=True):
        assert one.grasping is not None and one.grasping == other.grasping
        assert one.grasp_score == pytest.approx(other.grasp_score, abs=1e-5)
    for thing, other in zip(scene.objects, told.objects, strict=True):
        assert (thing is None) == (other is None)
        if thing is not None and other is not None:
            assert thing.name == other.name
            np.testing.assert_allclose(thing.translation, other.translation, atol=1e-4)


def test_hands_beyond_the_border_are_not_asked_for(whole: LoadedPhotoModel) -> None:
    """A box that is cut down to nothing stays a hand, without grasp."""
    estimator = Estimator(whole, objects="none")
    assert estimator.whole is not None
    asked: list[Any] = []

    def road(photos: Any, cameras: Any, given: Any) -> list[Scene]:
        asked.append([len(boxes) for boxes in given])
        thing = tuple(None for _ in given[0])
        hands = tuple(Hand(side=box.side, grasping=True) for box in given[0])
        return [Scene(image="", camera=cameras[0], model="", hands=hands, objects=thing)]

    estimator.whole.objects = road
    camera = Camera(intrinsics=np.diag([50.0, 50, 1]), width=64, height=48)
    boxes = [np.array([63.0, 5, 63, 20]), np.array([5.0, 5, 30, 30])]
    hands = tuple(Hand(side="left", box=box) for box in boxes)
    scene = Scene(image="a", camera=camera, model="m", hands=hands, objects=(None, None))
    photos: Any = [SimpleNamespace(image=np.zeros((48, 64, 3), np.uint8), name="a")] * 2
    empty = Scene(image="b", camera=camera, model="m")
    found = estimator.whole._with_objects(photos, [scene, empty])
    assert asked == [[1]] and [one.grasping for one in found[0].hands] == [None, True]
    assert found[1].hands == ()


# ------------------------------------------------------------------------------- boxes, bad input


def test_given_boxes_are_for_weights_on_boxes(whole: LoadedPhotoModel, hand: HandModel) -> None:
    sample = photo(hand, 0, width=256, height=160)
    boxes = [
        {"box": one.box, "score": score}
        for one, score in zip(sample.hands, (0.4, 0.7), strict=True)
    ]
    estimator = Estimator(on_boxes(), objects="none")
    scene = estimator(sample.image, boxes=boxes)
    assert [one.score for one in scene.hands] == pytest.approx([0.7, 0.4])
    for one, label in zip(scene.hands, sample.hands[::-1], strict=True):
        assert one.box is not None and label.box is not None
        limits = [255, 159, 255, 159]
        np.testing.assert_allclose(one.box, np.clip(label.box, 0, limits), atol=0.02)
    assert estimator(sample.image, boxes=[]).hands == ()
    with pytest.raises(InputError, match="boxes must be given"):
        estimator(sample.image)
    with pytest.raises(InputError, match="outside the photo"):
        estimator(sample.image, boxes=[[300, 5, 320, 40]])
    with pytest.raises(InputError, match="finds the hands itself"):
        Estimator(whole, objects="none")(sample.image, boxes=boxes)


def test_bad_choices_are_named(whole: LoadedPhotoModel) -> None:
    with pytest.raises(InputError, match="expected a method for crops"):
        Estimator(whole, objects=NAME)
    with pytest.raises(InputError, match="tells them itself"):
        Estimator("unihope-small", objects="none")
    with pytest.raises(InputError, match="whole photos expect one of eager, best, folded, onnx"):
        Estimator(whole, objects="none", engine="openvino")
    with pytest.raises(InputError, match="weights"):
        Estimator(whole, weights="a.safetensors")


@pytest.mark.parametrize("hands", [0, 1, 2, 10])
def test_every_given_hand_is_there_once(hands: int) -> None:
    """Also two that cross and those that the border cuts off."""
    image = np.random.default_rng(5).integers(0, 256, (240, 320, 3), np.uint8)
    boxes = np.array([[30.0 * i, 10 + 20 * i, 30 * i + 50, 60 + 20 * i] for i in range(10)])
    boxes[1] = boxes[0] + 18  # crossing
    boxes[9] = [290, 200, 340, 260]  # beyond two borders
    boxes = boxes[[0, 1, 9, *range(2, 9)]][:hands]
    scene = Estimator(on_boxes(max_hands=12), objects="none")(image, boxes=list(boxes))
    found = [hand.box for hand in scene.hands]
    assert len(found) == hands
    wanted = np.clip(boxes, 0, [319, 239, 319, 239])
    for box in found:
        assert np.abs(wanted - box).max(axis=1).min() < 0.05
    assert all(np.isfinite(np.asarray(hand.vertices)).all() for hand in scene.hands)


# -------------------------------------------------------------------------------- command line


def test_photos_of_every_kind(whole: LoadedPhotoModel, tmp_path: Path, hand: HandModel) -> None:
    """Grey, half transparent, 16 bits, 12 megapixels, a narrow one, a single pixel: none fails."""
    weights, folder = tmp_path / "a.safetensors", tmp_path / "in"
    folder.mkdir()
    save_weights(weights, whole.network, model=NAME)
    image = photo(hand, 0, width=160, height=120).image
    alpha = np.linspace(0, 255, image[..., 0].size).reshape(image.shape[:2]).astype(np.uint8)
    pictures = {
        "grey.png": image[..., 0],
        "transparent.png": np.dstack([image, alpha]),
        "deep.png": image[..., 0].astype(np.uint16) * 257,
        "large.jpg": np.kron(image[..., :1], np.ones((25, 25, 1), np.uint8)),
        "narrow.png": image[:3],
        "pixel.png": image[:1, :1],
    }
    for name, picture in pictures.items():
        cv2.imwrite(str(folder / name), picture)
    words = ["predict", str(folder), "--model", NAME, "--weights", str(weights)]
    out = tmp_path / "out"
    assert main([*words, "--objects-by", "none", "--format", "json", "--out", str(out)]) == 0
    scenes = {name: read_scene(out / f"{Path(name).stem}.json") for name in pictures}
    assert (scenes["large.jpg"].camera.width, scenes["large.jpg"].camera.height) == (4000, 3000)
    small = ("narrow.png", "pixel.png")
    assert all((len(scene.hands) == 0) == (name in small) for name, scene in scenes.items())
    deep, grey = scenes["deep.png"].hands, scenes["grey.png"].hands
    for one, other in zip(deep, grey, strict=True):  # the same picture
        np.testing.assert_allclose(np.asarray(one.joints), np.asarray(other.joints), atol=1e-5)


def test_predict_and_eval(
    whole: LoadedPhotoModel, tmp_path: Path, hand: HandModel, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "a.safetensors"
    extra = {"processor": dataclasses.asdict(whole.processor.config)}
    save_weights(weights, whole.network, model=NAME, extra=extra)
    sample = photo(hand, 0, width=160, height=120)
    file = tmp_path / "hand.png"
    cv2.imwrite(str(file), sample.image[..., ::-1])
    words = ["--model", NAME, "--weights", str(weights)]
    for given in ("none", "unihope-small"):
        out = tmp_path / given
        assert main(["predict", str(file), *words, "--out", str(out), "--objects-by", given]) == 0
        assert {path.name for path in out.iterdir()} == {"hand.png", "hand.glb", "hand.json"}
        told = read_scene(out / "hand.json")
        expected = Estimator(NAME, weights=weights, objects=given)(file)
        assert told.model == NAME and len(told.hands) == len(expected.hands) > 0
        for one, kept in zip(told.hands, expected.hands, strict=True):
            assert one.side == kept.side and (one.grasping is None) == (given == "none")
            assert kept.joints is not None and one.joints is not None
            np.testing.assert_allclose(one.joints, kept.joints, atol=1e-5)
    capsys.readouterr()
    out = tmp_path / "report"
    words = ["eval", NAME, "--weights", str(weights), "--count", "1", "--objects-by", "none"]
    assert main([*words, "--out", str(out)]) == 0
    assert f"{NAME} on 1 samples of synthetic" in capsys.readouterr().out
    assert NAME in json.loads((out / "report.json").read_text())["title"]
