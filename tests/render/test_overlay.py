"""Drawings leave the photo alone where nothing is drawn, and say what they show."""

import numpy as np
import pytest
import trimesh

from handhold.errors import InputError
from handhold.render.overlay import contact_sheet, draw_overlay, make_panel, side_view
from handhold.scene import Camera, Hand, RigidObject, Scene

BALL = trimesh.creation.icosphere(3, 0.04)
FACES = {"right": BALL.faces, "left": BALL.faces[:, ::-1]}


def _vertices(centre: list[float]) -> np.ndarray:
    """A ball padded to a hand's number of vertices."""
    out = np.zeros((778, 3))
    out[: len(BALL.vertices)] = BALL.vertices
    return out + centre


def _scene(*hands: Hand, objects: tuple = ()) -> Scene:
    camera = Camera(
        intrinsics=np.array([[200.0, 0, 80], [0, 200, 60], [0, 0, 1]]), width=160, height=120
    )
    objects = objects or (None,) * len(hands)
    return Scene(image="photo.jpg", camera=camera, model="test", hands=hands, objects=objects)


def _photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)


def test_far_pixels_stay_and_the_mesh_is_blended() -> None:
    photo = _photo()
    scene = _scene(Hand(side="right", vertices=_vertices([0, 0, 0.4])))
    out = draw_overlay(photo, scene, FACES)
    radius = np.hypot(np.arange(160)[None] - 80, np.arange(120)[:, None] - 60)
    np.testing.assert_array_equal(out[radius > 24], photo[radius > 24])
    inner = radius < 15
    changed = (out[inner] != photo[inner]).any(axis=1)
    assert changed.mean() > 0.95
    # The mesh is orange, and the photo shines through it.
    mean = out[inner].astype(float).mean(axis=0)
    assert mean[0] > mean[1] > mean[2]
    assert np.corrcoef(out[inner].ravel(), photo[inner].ravel())[0, 1] > 0.3
    assert (draw_overlay(photo, scene, FACES, opacity=0.0) == photo).all()


def test_left_and_right_have_their_colors_and_nearest_wins() -> None:
    photo = np.full((120, 160, 3), 128, np.uint8)
    near = Hand(side="left", vertices=_vertices([0, 0, 0.38]))
    far = Hand(side="right", vertices=_vertices([0.0, 0, 0.6]))
    out = draw_overlay(photo, _scene(far, near), FACES, opacity=1.0)
    assert out[60, 80, 2] > out[60, 80, 0]


def test_skeleton_box_label_and_missing_joints() -> None:
    photo = np.zeros((120, 160, 3), np.uint8)
    points = np.stack([np.linspace(40, 120, 21), np.linspace(30, 90, 21)], axis=1)
    points[8] = np.nan
    hand = Hand(side="left", joints2d=points, box=np.array([30.0, 25.0, 130.0, 95.0]), score=0.5)
    bare = draw_overlay(photo, _scene(hand), FACES, boxes=False)
    for joint in (0, 4, 12, 20):
        x, y = np.round(points[joint]).astype(int)
        assert bare[y, x].max() > 80
    boxed = draw_overlay(photo, _scene(hand), FACES)
    assert boxed[95, 60:100].max(axis=1).min() > 80
    hidden = Hand(side="left", joints2d=points, joints2d_valid=np.zeros(21, bool))
    assert draw_overlay(photo, _scene(hidden), FACES).max() == 0


def test_objects_are_drawn_at_their_pose() -> None:
    photo = np.full((120, 160, 3), 20, np.uint8)
    item = RigidObject(name="ball", rotation=np.eye(3), translation=np.array([0.06, 0, 0.4]))
    scene = _scene(Hand(side="right"), objects=(item,))
    out = draw_overlay(photo, scene, FACES, {"ball": (BALL.vertices, BALL.faces)})
    assert out[60, 110, 1] > 60 and (out[60, 60] == 20).all()
    assert (draw_overlay(photo, scene, FACES) == photo).all()


def test_no_hands_leaves_a_note_only() -> None:
    photo = np.full((120, 160, 3), 90, np.uint8)
    out = draw_overlay(photo, _scene(), FACES)
    assert (out != photo).any() and (out[40:] == photo[40:]).all()
    assert side_view(_scene(), FACES, size=(80, 60)).shape == (60, 80, 3)
    assert make_panel(photo, _scene(), FACES).shape == (120, 160 + 4 + 160 + 4 + 120, 3)


def test_side_view_shows_depth() -> None:
    """Seen from the side, of two hands in line the farther stands beside the nearer."""
    near = Hand(side="right", vertices=_vertices([0, 0, 0.4]))
    far = Hand(side="left", vertices=_vertices([0, 0, 0.6]))
    out = side_view(_scene(near, far), FACES, size=(200, 200), turn_deg=90).astype(int)
    warm = np.argwhere(out[..., 0] - out[..., 2] > 60)
    cold = np.argwhere(out[..., 2] - out[..., 0] > 60)
    assert len(warm) > 300 and len(cold) > 300
    assert abs(warm[:, 1].mean() - cold[:, 1].mean()) > 40


def test_contact_sheet_places_images() -> None:
    images = [np.full((10, 20, 3), 10 * number, np.uint8) for number in range(1, 6)]
    sheet = contact_sheet(images, columns=3, gap=2)
    assert sheet.shape == (42, 64, 3)
    for number, (row, column) in enumerate([(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)], start=1):
        assert (sheet[row * 22 + 10, column * 22 + 10] == 10 * number).all()
    assert (sheet[32, 54] == 255).all()
    with pytest.raises(InputError, match="contact_sheet"):
        contact_sheet([], 3)


def test_bad_photo_is_named() -> None:
    with pytest.raises(InputError, match=r"draw_overlay\.image"):
        draw_overlay(np.zeros((5, 5, 3), np.uint8), _scene(), FACES)
    with pytest.raises(InputError, match="right"):
        draw_overlay(_photo(), _scene(Hand(side="right", vertices=_vertices([0, 0, 0.4]))), {})
