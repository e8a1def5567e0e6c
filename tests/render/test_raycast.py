"""Hits against a brute-force ray-triangle loop and closed forms."""

import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from handhold.errors import InputError
from handhold.render.raycast import RenderMesh, Scene3D, cast, ray_directions, visible
from handhold.scene import Camera


def camera_of(width: int, height: int, focal: float) -> Camera:
    intrinsics = np.array(
        [[focal, 0, width / 2 - 0.3], [0, focal * 1.1, height / 2 + 0.4], [0, 0, 1]]
    )
    return Camera(intrinsics=intrinsics, width=width, height=height)


def moeller_trumbore(directions: np.ndarray, triangles: np.ndarray) -> tuple:
    """Nearest hit of rays from the origin: distance, triangle, u, v (Moeller, Trumbore 1997)."""
    a, edge1, edge2 = (
        triangles[:, 0],
        triangles[:, 1] - triangles[:, 0],
        triangles[:, 2] - triangles[:, 0],
    )
    p = np.cross(directions[:, None], edge2[None])
    determinant = np.einsum("rfc,fc->rf", p, edge1)
    with np.errstate(divide="ignore", invalid="ignore"):
        u = np.einsum("rfc,fc->rf", p, -a) / determinant
        q = np.cross(-a, edge1)
        v = directions @ q.T / determinant
        t = np.einsum("fc,fc->f", q, edge2)[None] / determinant
    inside = (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 1e-6)
    t = np.where(inside, t, np.inf)
    face = t.argmin(axis=1)
    rows = np.arange(len(directions))
    return (
        t[rows, face],
        np.where(np.isfinite(t[rows, face]), face, -1),
        u[rows, face],
        v[rows, face],
    )


def square(z: float, half: float, x: float = 0.0, y: float = 0.0) -> RenderMesh:
    vertices = np.array([[-1, -1, 0], [-1, 1, 0], [1, 1, 0], [1, -1, 0]]) * half + [x, y, z]
    return RenderMesh(vertices=vertices, faces=np.array([[0, 1, 2], [0, 2, 3]]))


def two_bodies() -> tuple[RenderMesh, RenderMesh]:
    ball = trimesh.creation.icosphere(2, 0.05)
    box = trimesh.creation.box((0.08, 0.05, 0.12))
    first = RenderMesh(vertices=ball.vertices + [0.01, 0.0, 0.4], faces=ball.faces)
    second = RenderMesh(vertices=box.vertices, faces=box.faces).placed(
        Rotation.from_rotvec([0.4, 0.7, -0.2]).as_matrix(), np.array([-0.03, 0.02, 0.37])
    )
    return first, second


def test_hits_equal_brute_force() -> None:
    meshes = two_bodies()
    camera = camera_of(53, 41, 90.0)
    hits = cast(Scene3D(meshes), camera)
    triangles = np.concatenate([mesh.camera_vertices[mesh.faces] for mesh in meshes]).astype(float)
    directions = hits.directions.reshape(-1, 3).astype(float)
    depth, face, u, v = moeller_trumbore(directions, triangles)
    found = hits.face.ravel() + np.where(hits.mesh.ravel() == 1, len(meshes[0].faces), 0)
    assert (face >= 0).sum() > 300
    same = found == face
    # Rays through an edge may fall to either of its two faces.
    assert same.mean() > 0.99
    hit = (face >= 0) & (hits.mesh.ravel() >= 0)
    assert ((face >= 0) == (hits.mesh.ravel() >= 0)).all()
    np.testing.assert_allclose(hits.depth.ravel()[hit], depth[hit], rtol=2e-5)
    np.testing.assert_allclose(hits.u.ravel()[hit & same], u[hit & same], atol=2e-3)
    np.testing.assert_allclose(hits.v.ravel()[hit & same], v[hit & same], atol=2e-3)
    assert (hits.depth.ravel()[~hit] == 0).all()


def test_pixel_centres_follow_the_intrinsics() -> None:
    camera = camera_of(20, 10, 33.0)
    points = np.array([[0.0, 0.0], [19.0, 9.0], [3.25, 7.5]], np.float32)
    np.testing.assert_allclose(camera.project(ray_directions(camera, points)), points, atol=1e-4)
    assert cast(Scene3D([square(0.5, 0.01)]), camera).directions.shape == (10, 20, 3)


def test_sphere_depth_and_normal_closed_form() -> None:
    radius, centre = 0.05, np.array([0.012, -0.02, 0.45])
    ball = trimesh.creation.icosphere(5, radius)
    scene = Scene3D([RenderMesh(vertices=ball.vertices + centre, faces=ball.faces)])
    hits = cast(scene, camera_of(64, 64, 180.0))
    d = hits.directions.astype(float)
    a, b, c = (d * d).sum(-1), d @ centre, centre @ centre - radius**2
    root = b * b - a * c
    inner = root > 2e-5  # away from the rim, where the polyhedron and the sphere part
    depth = (b - np.sqrt(np.maximum(root, 0))) / a
    assert inner.sum() > 400 and (hits.mesh[inner] == 0).all()
    np.testing.assert_allclose(hits.depth[inner], depth[inner], atol=1.5e-4)
    normal = (d * depth[..., None] - centre) / radius
    np.testing.assert_allclose(hits.normals(scene)[inner], normal[inner], atol=1e-2)
    np.testing.assert_allclose(hits.positions()[inner], (d * depth[..., None])[inner], atol=2e-4)
    assert (hits.mesh[root < -2e-5] == -1).all()


def test_placed_mesh_equals_moved_vertices() -> None:
    box = trimesh.creation.box((0.08, 0.05, 0.12))
    rotation = Rotation.from_rotvec([0.3, -1.1, 0.8]).as_matrix()
    shift = np.array([0.02, -0.01, 0.5])
    camera = camera_of(48, 48, 120.0)
    mesh = RenderMesh(vertices=box.vertices, faces=box.faces)
    placed = Scene3D([mesh.placed(rotation, shift)])
    moved = Scene3D([RenderMesh(vertices=box.vertices @ rotation.T + shift, faces=box.faces)])
    first, second = cast(placed, camera), cast(moved, camera)
    assert (first.mesh == second.mesh).mean() > 0.998
    both = (first.mesh == 0) & (second.mesh == 0)
    np.testing.assert_allclose(first.depth[both], second.depth[both], atol=1e-5)
    difference = np.abs(first.normals(placed) - second.normals(moved))[
        both & (first.face == second.face)
    ]
    assert difference.max() < 1e-3
    assert mesh.placed(rotation, shift).accelerator is mesh.accelerator


def test_amodal_and_visible_masks() -> None:
    near, far = square(0.4, 0.02, x=0.01), square(0.8, 0.06)
    camera = Camera(
        intrinsics=np.array([[100.0, 0, 32], [0, 100, 32], [0, 0, 1]]), width=65, height=65
    )
    hits = cast(Scene3D([near, far]), camera)
    rows, columns = np.mgrid[:65, :65]

    def inside(z: float, half: float, x: float) -> np.ndarray:
        u, v = (columns - 32) / 100 * z, (rows - 32) / 100 * z
        return (np.abs(u - x) < half) & (np.abs(v) < half)

    # The outlines lie between pixel centres, so the masks are exact.
    first, second = inside(0.4, 0.02, 0.01), inside(0.8, 0.06, 0.0)
    np.testing.assert_array_equal(hits.amodal_mask(0), first)
    np.testing.assert_array_equal(hits.amodal_mask(1), second)
    np.testing.assert_array_equal(hits.visible_mask(0), first)
    np.testing.assert_array_equal(hits.visible_mask(1), second & ~first)


def test_points_behind_a_plane_are_hidden() -> None:
    camera = Camera(
        intrinsics=np.array([[100.0, 0, 32], [0, 100, 32], [0, 0, 1]]), width=65, height=65
    )
    points = np.array(
        [
            [0.0, 0.0, 0.3],  # before the plane
            [0.0, 0.0, 0.6],  # behind it
            [0.1, 0.0, 0.6],  # beside it
            [0.0, 0.0, -0.3],  # behind the camera
            [0.5, 0.0, 0.6],  # outside the image
            [0.0, 0.0, 0.4005],  # behind it by less than the clearance
        ]
    )
    wanted = [True, False, True, False, False, True]
    np.testing.assert_array_equal(visible(Scene3D([square(0.4, 0.02)]), points, camera), wanted)


def test_own_flesh_does_not_hide_but_other_fingers_do() -> None:
    finger = trimesh.creation.capsule(height=0.06, radius=0.008, count=(16, 16))
    turned = finger.vertices @ Rotation.from_rotvec([np.pi / 2, 0, 0]).as_matrix().T
    ahead, behind = turned + [0, 0, 0.382], turned + [0, 0, 0.4]
    hand = RenderMesh(
        vertices=np.concatenate([ahead, behind]),
        faces=np.concatenate([finger.faces, finger.faces + len(turned)]),
        labels=np.repeat([1, 4], len(turned)),
    )
    camera = Camera(
        intrinsics=np.array([[200.0, 0, 32], [0, 200, 32], [0, 0, 1]]), width=65, height=65
    )
    middle = turned.mean(axis=0)
    joints = np.array([middle + [0, 0, 0.382], middle + [0, 0, 0.4]])
    scene = Scene3D([hand])
    part_of_label = np.array([-1, 0, 0, 0, 1, 1, 1])
    # 8 mm under its own skin: visible. 26 mm under the other finger: hidden by depth alone ...
    np.testing.assert_array_equal(visible(scene, joints, camera, own=0), [True, False])
    # ... and, with a generous tolerance, only by knowing whose skin it is.
    np.testing.assert_array_equal(
        visible(scene, joints, camera, own=0, tolerance=0.04), [True, True]
    )
    aware = visible(
        scene,
        joints,
        camera,
        own=0,
        tolerance=0.04,
        point_parts=np.array([0, 1]),
        part_of_label=part_of_label,
    )
    np.testing.assert_array_equal(aware, [True, False])
    # An object inside the flesh does not hide what the skin in front of it shows.
    inside = square(0.379, 0.02)
    np.testing.assert_array_equal(
        visible(Scene3D([hand, inside]), joints[:1], camera, own=0), [True]
    )
    before = square(0.35, 0.02)
    np.testing.assert_array_equal(
        visible(Scene3D([hand, before]), joints[:1], camera, own=0), [False]
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vertices": np.full((3, 3), np.nan)}, "vertices"),
        ({"faces": np.array([[0, 1, 3]])}, "faces"),
        ({"uv": np.zeros((2, 2))}, "uv"),
        ({"rotation": np.eye(3)}, "rotation"),
    ],
)
def test_bad_meshes_are_named(changes: dict, message: str) -> None:
    good = {"vertices": np.eye(3), "faces": np.array([[0, 1, 2]])}
    with pytest.raises(InputError, match=message):
        RenderMesh(**{**good, **changes})
