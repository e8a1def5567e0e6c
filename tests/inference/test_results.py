"""Scenes survive the way through JSON; what is no scene is refused by field."""

import dataclasses
import json

import numpy as np
import pytest

from handhold.errors import FileFormatError, MissingFileError
from handhold.inference.given_boxes import parse_boxes, read_boxes
from handhold.inference.results import read_scene, scene_from_json, scene_text, scene_to_json
from handhold.scene import Hand, RigidObject, Scene


@pytest.fixture
def scene(make_camera):
    rng = np.random.default_rng(0)

    def hand(side, **more):
        return Hand(
            side=side,
            score=0.75,
            box=rng.uniform(0, 100, 4),
            joints2d=rng.uniform(0, 100, (21, 2)),
            joints=rng.normal(size=(21, 3)),
            vertices=rng.normal(size=(778, 3)),
            pose=rng.normal(size=(16, 3)),
            betas=rng.normal(size=10),
            translation=rng.normal(size=3),
            **more,
        )

    thing = RigidObject(
        name="025_mug", rotation=np.eye(3)[::-1], translation=np.array([0.1, 0, 0.5]), score=0.5
    )
    return Scene(
        image="ä photo.jpg",
        camera=make_camera(320, 240, source="exif"),
        model="unihope-small",
        hands=(hand("left", grasping=True, grasp_score=0.9), hand("right", grasping=False)),
        objects=(thing, None),
    )


def test_round_trip(scene, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(scene_text(scene), encoding="utf-8")
    again = read_scene(path)
    assert again.image == scene.image
    assert again.camera.source == "exif"
    np.testing.assert_allclose(again.camera.intrinsics, scene.camera.intrinsics)
    for one, other in zip(again.hands, scene.hands, strict=True):
        assert (one.side, one.grasping, one.score) == (other.side, other.grasping, other.score)
        np.testing.assert_allclose(one.joints, other.joints, atol=1e-6)
        np.testing.assert_allclose(one.joints2d, other.joints2d, atol=0.006)
        np.testing.assert_allclose(one.pose, other.pose, atol=1e-5)
    assert again.objects[1] is None
    assert again.objects[0].name == "025_mug"
    np.testing.assert_allclose(again.objects[0].rotation, scene.objects[0].rotation)


def test_hands_of_a_video_keep_their_numbers(scene):
    """Hands of a photo have none, and their documents do not mention it."""
    first, second = scene.hands
    tracked = dataclasses.replace(scene, hands=(dataclasses.replace(first, hand_id=7), second))
    document = scene_to_json(tracked)
    assert document["hands"][0]["hand_id"] == 7 and "hand_id" not in document["hands"][1]
    assert [hand.hand_id for hand in scene_from_json(document).hands] == [7, None]
    for wrong in ("7", True, 7.5):
        document["hands"][0]["hand_id"] = wrong
        with pytest.raises(FileFormatError, match=r"hands\[0\].hand_id: expected a whole number"):
            scene_from_json(document)


def test_fields_of_the_schema(scene):
    document = json.loads(scene_text(scene))
    assert document == json.loads(json.dumps(scene_to_json(scene)))
    assert list(document) == ["schema", "image", "size", "camera", "model", "hands"]
    assert document["schema"] == "handhold.scene/1"
    assert document["size"] == [320, 240]
    assert set(document["camera"]) == {"fx", "fy", "cx", "cy", "source"}
    expected = "side score box joints2d joints3d pose betas translation grasping grasp_score object"
    assert set(document["hands"][0]) == set(expected.split())
    shapes = {
        "box": (4,),
        "joints2d": (21, 2),
        "joints3d": (21, 3),
        "pose": (16, 3),
        "betas": (10,),
    }
    for key, shape in shapes.items():
        assert np.shape(document["hands"][0][key]) == shape
    assert document["hands"][1]["object"] is None


def test_no_hands(make_camera):
    empty = Scene(image="a.jpg", camera=make_camera(10, 10), model="m")
    assert json.loads(scene_text(empty))["hands"] == []
    assert scene_from_json(scene_to_json(empty)).hands == ()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda d: d.update(schema="other/1"), "schema"),
        (lambda d: d.update(size=[1]), "size"),
        (lambda d: d["camera"].update(fx=None), "fx"),
        (lambda d: d["camera"].update(fx=-1.0), "camera"),
        (lambda d: d["camera"].update(source="guess"), "source"),
        (lambda d: d.update(hands={}), "hands"),
        (lambda d: d["hands"][1].update(side="both"), r"hands\[1\]"),
        (lambda d: d["hands"][0].update(joints3d=[[0, 0, 0]]), r"hands\[0\]\.joints3d"),
        (lambda d: d["hands"][0].update(pose=float("nan")), r"hands\[0\]\.pose"),
        (lambda d: d["hands"][0]["object"].update(rotation=3), r"object\.rotation"),
        (lambda d: d["hands"][0].update(grasping="yes"), "grasping"),
    ],
)
def test_broken_documents_name_the_field(scene, change, field):
    document = json.loads(scene_text(scene))
    change(document)
    with pytest.raises(FileFormatError, match=field):
        scene_from_json(document, name="a.json")


def test_files_that_are_no_json(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(FileFormatError, match=r"a\.json"):
        read_scene(tmp_path / "a.json")
    with pytest.raises(MissingFileError):
        read_scene(tmp_path / "none.json")


def test_boxes_from_outside(tmp_path):
    path = tmp_path / "boxes.json"
    entries = [{"box": [1, 2, 30, 40], "side": None}, [5, 6, 70, 80]]
    path.write_text(json.dumps({"a.jpg": entries}))
    first, second = read_boxes(path)["a.jpg"]
    assert first.side is None
    assert first.box.tolist() == [1, 2, 30, 40]
    assert second.score == 1.0
    path.write_text(json.dumps(entries[:1]))
    assert len(read_boxes(path)) == 1


@pytest.mark.parametrize(
    "entry",
    [
        {"box": [1, 2, 3]},
        {"box": [10, 2, 3, 40]},
        {"box": [1, 2, float("nan"), 4]},
        {"box": "1234"},
        {"box": [1, 2, 30, 40], "side": "both"},
        {"box": [1, 2, 30, 40], "score": "high"},
        {},
        None,
    ],
)
def test_bad_boxes_name_the_entry(entry):
    with pytest.raises(FileFormatError, match=r"boxes\[1\]"):
        parse_boxes([[0, 0, 1, 1], entry])
