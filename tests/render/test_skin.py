"""Skin, nails and subdivision."""

import numpy as np
import pytest
import trimesh
from scipy.spatial import cKDTree

from handhold.errors import InputError
from handhold.render.hand_pattern import HandPattern, SkinFeatures, free_hand_features
from handhold.render.lights import DirectionalLight, Lighting
from handhold.render.noise import WaveNoise
from handhold.render.raycast import RenderMesh, Scene3D, cast, surfaces
from handhold.render.skin import ClothMaterial, SkinMaterial, lab_to_linear, random_skin
from handhold.render.subdivision import loop_subdivision
from handhold.scene import Camera


def test_loop_subdivision_equals_trimesh() -> None:
    """A closed mesh, as a point set (trimesh orders the new vertices its own way)."""
    ball = trimesh.creation.icosphere(1)
    vertices = ball.vertices + np.random.default_rng(0).normal(0, 0.05, ball.vertices.shape)
    fine = loop_subdivision(ball.faces, len(vertices), levels=2)
    wanted, wanted_faces = trimesh.remesh.subdivide_loop(vertices, ball.faces, iterations=2)
    assert fine.faces.shape == wanted_faces.shape
    distance, match = cKDTree(fine(vertices)).query(wanted)
    assert distance.max() < 1e-5 and len(set(match)) == len(wanted)
    np.testing.assert_allclose(np.asarray(fine.matrix.sum(axis=1)).ravel(), 1, atol=1e-6)


def test_borders_become_cubic_splines() -> None:
    """The rim of a square sheet equals the uniform cubic B-spline refinement of its polygon."""
    corners = np.array([[0, 0, 0], [1, 0, 0.2], [1, 1, 0], [0, 1, 0.1]])
    fine = loop_subdivision(np.array([[0, 1, 2], [0, 2, 3]]), 4)(corners)
    doubled = np.zeros((8, 3))
    doubled[::2] = corners
    mask = np.array([1, 4, 6, 4, 1]) / 8
    rim = sum(w * np.roll(doubled, k - 2, axis=0) for k, w in enumerate(mask))
    assert cKDTree(fine).query(rim)[0].max() < 1e-6


def test_subdivision_keeps_winding_and_labels() -> None:
    ball = trimesh.creation.icosphere(1)
    fine = loop_subdivision(ball.faces, len(ball.vertices))
    mesh = trimesh.Trimesh(fine(ball.vertices), fine.faces, process=False)
    assert mesh.is_watertight and mesh.volume > 0
    labels = (ball.vertices[:, 2] > 0.3).astype(int)
    np.testing.assert_array_equal(fine.labels(labels)[: len(labels)], labels)


def test_noise_statistics_gradient_and_cut_off() -> None:
    noise = WaveNoise(np.random.default_rng(1), (0.004, 0.02), 20)
    points = np.random.default_rng(2).uniform(0, 1, (20000, 3))
    values = noise.value(points)
    assert abs(values.mean()) < 0.05 and abs(values.std() - 1) < 0.05
    # The height field's own gradient, by central differences of its definition.
    waves = noise.waves.T.astype(float)

    def height(places: np.ndarray) -> np.ndarray:
        parts = np.sin(places @ waves + noise.phases) / np.linalg.norm(waves, axis=0)
        return parts.sum(axis=1) * float(noise.amplitude)

    step = 1e-6
    for axis in range(3):
        shift = np.eye(3)[axis] * step
        slope = (height(points[:50] + shift) - height(points[:50] - shift)) / (2 * step)
        np.testing.assert_allclose(noise.gradient(points[:50])[:, axis], slope, atol=1e-3)
    assert np.abs(noise.value(points[:5], footprint=0.1)).max() == 0


def test_lab_of_known_colors() -> None:
    """White, and sRGB red whose CIELAB is (53.24, 80.09, 67.20)."""
    rgb = lab_to_linear(np.array([[100.0, 0, 0], [53.24, 80.09, 67.20], [0, 0, 0]]))
    np.testing.assert_allclose(rgb, [[1, 1, 1], [1, 0, 0], [0, 0, 0]], atol=3e-3)


@pytest.fixture(scope="module")
def bare_hand() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    from handhold.hand.model import HandModel  # heavy: brings torch

    model = HandModel.free()
    labels = model.weights.argmax(1).numpy()
    return model.template.numpy(), model.faces.numpy(), labels


def _look(
    template: np.ndarray, normal: np.ndarray, point: np.ndarray
) -> tuple[Camera, np.ndarray, np.ndarray]:
    """A camera 12 cm before a point of the rest pose, looking against a direction."""
    z = -normal / np.linalg.norm(normal)
    x = np.cross([0.3, 0.2, 1.0], z)
    x /= np.linalg.norm(x)
    rotation = np.stack([x, np.cross(z, x), z])
    camera = Camera(
        intrinsics=np.array([[400.0, 0, 48], [0, 400, 48], [0, 0, 1]]), width=97, height=97
    )
    return camera, rotation, np.array([0, 0, 0.12]) - rotation @ point


def test_nails_lie_where_the_landmarks_say(bare_hand: tuple) -> None:
    template, faces, labels = bare_hand
    features = free_hand_features()
    pattern = HandPattern.build(features, template, faces, labels)
    polish = (0.0, 0.6, 0.0)
    for digit in range(5):
        camera, rotation, shift = _look(
            template, features.nail_normals[digit], features.nail_centres[digit]
        )
        skin = SkinMaterial(pattern=pattern, nail_color=polish)
        mesh = RenderMesh(
            vertices=template @ rotation.T + shift,
            faces=faces,
            material=skin,
            rest=template,
            labels=labels,
        )
        hits = cast(Scene3D([mesh]), camera)
        (surface,) = surfaces(Scene3D([mesh]), hits, 400.0)
        albedo = np.zeros((97 * 97, 3))
        albedo[surface.index] = skin.evaluate(surface).albedo
        green = (albedo[:, 1] > 2.5 * albedo[:, 0]).reshape(97, 97)
        assert green[48, 48]
        area = green.sum() * (0.12 / 400) ** 2
        across, along = features.nail_half_sizes[digit]
        assert 0.55 < area / (4 * across * along) < 1.1


def test_palm_is_lighter_and_tips_redder_than_the_back(bare_hand: tuple) -> None:
    template, faces, labels = bare_hand
    features = free_hand_features()
    pattern = HandPattern.build(features, template, faces, labels)
    skin = SkinMaterial(tone=(38.0, 11.0, 16.0), pattern=pattern, folds=0, hair=0, blotches=0.0)

    def color(direction: np.ndarray, point: np.ndarray) -> np.ndarray:
        camera, rotation, shift = _look(template, direction, point)
        mesh = RenderMesh(
            vertices=template @ rotation.T + shift,
            faces=faces,
            material=skin,
            rest=template,
            labels=labels,
        )
        scene = Scene3D([mesh])
        hits = cast(scene, camera)
        (surface,) = surfaces(scene, hits, 400.0)
        near = np.flatnonzero(np.isin(surface.index, 48 * 97 + np.arange(44, 53)))
        return skin.evaluate(surface).albedo[near].mean(axis=0)

    middle = (features.joints[0] + features.joints[4]) / 2
    palm, back = color(features.palm_direction, middle), color(-features.palm_direction, middle)
    tip = color(
        features.palm_direction, features.tips[2] - 0.4 * (features.tips[2] - features.joints[6])
    )
    assert palm.mean() > 1.3 * back.mean()
    assert tip[0] / tip[1] > 1.03 * palm[0] / palm[1]


def test_skin_sticks_to_a_moving_hand(bare_hand: tuple) -> None:
    """The same place has the same colour wherever the hand is."""
    template, faces, labels = bare_hand
    pattern = HandPattern.build(free_hand_features(), template, faces, labels)
    skin = random_skin(np.random.default_rng(5), pattern)
    scene_a = RenderMesh(
        vertices=template + [0, 0, 0.5], faces=faces, material=skin, rest=template, labels=labels
    )
    camera = Camera(
        intrinsics=np.array([[200.0, 0, 48], [0, 200, 48], [0, 0, 1]]), width=97, height=97
    )
    shifted = Camera(
        intrinsics=np.array([[200.0, 0, 58], [0, 200, 48], [0, 0, 1]]), width=107, height=97
    )
    albedo = []
    for view in (camera, shifted):
        (surface,) = surfaces(Scene3D([scene_a]), cast(Scene3D([scene_a]), view), 200.0)
        image = np.zeros((view.height * view.width, 3))
        image[surface.index] = skin.evaluate(surface).albedo
        albedo.append(image.reshape(view.height, view.width, 3))
    np.testing.assert_allclose(albedo[0][:, :90], albedo[1][:, 10:100], atol=2e-3)


def test_light_wraps_red_into_the_shadow_side() -> None:
    ball = trimesh.creation.icosphere(4, 0.05)
    skin = SkinMaterial(slope=0.0, blotches=0.0, reflectance=0.0)
    mesh = RenderMesh(
        vertices=ball.vertices + [0, 0, 0.4], faces=ball.faces, material=skin, rest=ball.vertices
    )
    lighting = Lighting(
        lights=(DirectionalLight(towards=(1.0, 0.0, 0.0)),),
        sky=(0.0, 0.0, 0.0),
        ground=(0.0, 0.0, 0.0),
        occlusion_reach=0.0,
    )
    from handhold.render.material import to_linear
    from handhold.render.shade import render

    camera = Camera(
        intrinsics=np.array([[200.0, 0, 48], [0, 200, 48], [0, 0, 1]]), width=97, height=97
    )
    light = to_linear(render(Scene3D([mesh]), camera, lighting).image)
    lit, edge, night = light[48, 66], light[48, 47], light[48, 32]
    assert edge[0] / edge[2] > 1.5 * lit[0] / lit[2] and edge[0] > 0.01
    assert night.max() < 0.01


def test_materials_without_rest_positions_say_so() -> None:
    ball = trimesh.creation.icosphere(1, 0.05)
    camera = Camera(intrinsics=np.array([[50.0, 0, 8], [0, 50, 8], [0, 0, 1]]), width=17, height=17)
    for material in (SkinMaterial(), ClothMaterial()):
        mesh = RenderMesh(vertices=ball.vertices + [0, 0, 0.4], faces=ball.faces, material=material)
        (surface,) = surfaces(Scene3D([mesh]), cast(Scene3D([mesh]), camera))
        with pytest.raises(InputError, match="rest"):
            material.evaluate(surface)
    with pytest.raises(InputError, match="nail_centres"):
        SkinFeatures.from_arrays({"v_template": ball.vertices})
