"""GLB files read back with trimesh."""

from pathlib import Path

import numpy as np
import pytest
import trimesh

from handhold.errors import InputError
from handhold.render.gltf import write_glb
from handhold.scene import Camera, Hand, RigidObject, Scene


def _scene() -> tuple[Scene, dict, dict]:
    ball = trimesh.creation.icosphere(3, 0.04)
    vertices = np.zeros((778, 3))
    vertices[: len(ball.vertices)] = ball.vertices
    vertices += [0.02, -0.01, 0.5]
    box = trimesh.creation.box((0.05, 0.06, 0.07))
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    item = RigidObject(name="003_cracker_box", rotation=turn, translation=np.array([0.1, 0, 0.6]))
    camera = Camera(
        intrinsics=np.array([[200.0, 0, 80], [0, 200, 60], [0, 0, 1]]), width=160, height=120
    )
    hands = (Hand(side="right", vertices=vertices), Hand(side="left", vertices=-vertices))
    scene = Scene(image="a.jpg", camera=camera, model="t", hands=hands, objects=(item, None))
    faces = {"right": ball.faces, "left": ball.faces[:, ::-1]}
    return scene, faces, {"003_cracker_box": (box.vertices, box.faces)}


def test_round_trip(tmp_path: Path) -> None:
    scene, faces, objects = _scene()
    path = write_glb(tmp_path / "deep" / "scene.glb", scene, faces, objects)
    assert [p.name for p in path.parent.iterdir()] == ["scene.glb"]
    read = trimesh.load(path, process=False)
    assert set(read.graph.nodes_geometry) == {
        "hand_0_right",
        "hand_1_left",
        "object_0_003_cracker_box",
    }
    used = faces["right"].max() + 1
    right = read.geometry["hand_0_right"]
    np.testing.assert_allclose(
        right.vertices[:used], scene.hands[0].vertices[:used] * [1, -1, -1], atol=1e-6
    )
    np.testing.assert_array_equal(right.faces, faces["right"])
    vertices, _ = objects["003_cracker_box"]
    item = scene.objects[0]
    placed = (vertices @ item.rotation.T + item.translation) * [1, -1, -1]
    box = read.geometry["object_0_003_cracker_box"]
    np.testing.assert_allclose(box.vertices, placed, atol=1e-6)
    for mesh in read.geometry.values():
        assert mesh.volume > 0  # faces look outward
    color = right.visual.material.baseColorFactor
    assert color[0] > color[2] and color[3] == 255


def test_errors_leave_no_file(tmp_path: Path) -> None:
    scene, faces, objects = _scene()
    with pytest.raises(InputError, match="left"):
        write_glb(tmp_path / "a.glb", scene, {"right": faces["right"]}, objects)
    empty = Scene(image="a.jpg", camera=scene.camera, model="t")
    with pytest.raises(InputError, match="no hand and no object"):
        write_glb(tmp_path / "a.glb", empty, faces, objects)
    assert not list(tmp_path.iterdir())
