"""Light against closed forms: Lambert, square shadows, penumbra, compositing."""

import numpy as np
import pytest
import trimesh

from handhold.errors import InputError
from handhold.render.lights import DirectionalLight, Lighting, PointLight, random_lighting
from handhold.render.material import Material, to_linear, to_srgb
from handhold.render.raycast import RenderMesh, Scene3D
from handhold.render.shade import render
from handhold.scene import Camera

CAMERA = Camera(
    intrinsics=np.array([[160.0, 0, 63.5], [0, 160, 63.5], [0, 0, 1]]), width=128, height=128
)
MATT = Material(color=(0.5, 0.5, 0.5), roughness=1.0, reflectance=0.0)
DARK = {"sky": (0.0, 0.0, 0.0), "ground": (0.0, 0.0, 0.0), "occlusion_reach": 0.0}


def square(z: float, half: float, x: float = 0.0, material: Material = MATT, **more) -> RenderMesh:
    vertices = np.array([[-1, -1, 0], [-1, 1, 0], [1, 1, 0], [1, -1, 0]]) * half + [x, 0, z]
    return RenderMesh(
        vertices=vertices, faces=np.array([[0, 1, 2], [0, 2, 3]]), material=material, **more
    )


def test_srgb_round_trip_and_known_value() -> None:
    codes = np.arange(256, dtype=np.uint8)
    back = np.round(to_srgb(to_linear(codes)) * 255)
    assert np.abs(back - codes).max() <= 1
    assert abs(float(to_linear(np.uint8(188))) - 0.5) < 0.005  # mid grey of linear light


@pytest.mark.parametrize("angle", [0.0, 30.0, 60.0])
def test_lambert(angle: float) -> None:
    towards = (float(np.sin(np.radians(angle))), 0.0, float(-np.cos(np.radians(angle))))
    lighting = Lighting(lights=(DirectionalLight(towards=towards, color=(1.0, 0.8, 0.6)),), **DARK)
    image = render(Scene3D([square(0.5, 1.0)]), CAMERA, lighting).image
    wanted = 0.5 * np.array([1.0, 0.8, 0.6]) * np.cos(np.radians(angle))
    np.testing.assert_allclose(to_linear(image[64, 64]), wanted, atol=0.006)


def test_point_light_falls_with_the_square() -> None:
    light = PointLight(position=(0.0, 0.0, 0.1), color=(1.0, 1.0, 1.0), reference=0.4)
    near = render(Scene3D([square(0.5, 1.0)]), CAMERA, Lighting(lights=(light,), **DARK)).image
    far = render(Scene3D([square(0.9, 1.0)]), CAMERA, Lighting(lights=(light,), **DARK)).image
    ratio = to_linear(near[64, 64, 0]) / to_linear(far[64, 64, 0])
    assert abs(ratio - 4) < 0.15


def test_shadow_of_a_square_on_a_plane() -> None:
    """A light at 45 degrees moves the shadow by the height of the square over the plane."""
    wall, blocker = square(0.6, 1.0), square(0.5, 0.03, x=-0.08)
    sun = DirectionalLight(towards=(-1.0, 0.0, -1.0), size=0.0)
    picture = render(Scene3D([wall, blocker]), CAMERA, Lighting(lights=(sun,), **DARK))
    rows, columns = np.mgrid[:128, :128]
    x, y = (columns - 63.5) / 160 * 0.6, (rows - 63.5) / 160 * 0.6
    gap = np.maximum(np.abs(x - 0.02), np.abs(y)) - 0.03
    on_wall = picture.hits.mesh == 0
    brightness = to_linear(picture.image)[..., 0]
    lit, dark = on_wall & (gap > 0.008), on_wall & (gap < -0.008)
    assert dark.sum() > 80 and lit.sum() > 5000
    assert brightness[dark].max() < 0.01
    np.testing.assert_allclose(brightness[lit], 0.5 / np.sqrt(2), atol=0.01)


def test_larger_lights_have_wider_penumbrae() -> None:
    def partly_lit(size: float) -> int:
        sun = DirectionalLight(towards=(-1.0, 0.0, -1.0), size=size)
        meshes = [square(0.6, 1.0), square(0.5, 0.03, x=-0.08)]
        image = render(Scene3D(meshes), CAMERA, Lighting(lights=(sun,), **DARK), samples=1).image
        light = to_linear(image)[..., 0]
        return int(((light > 0.03) & (light < 0.32)).sum())

    assert partly_lit(0.2) > 1.8 * partly_lit(0.0)


def test_contact_darkens_the_sky_by_the_form_factor() -> None:
    lighting = Lighting(
        lights=(), sky=(0.8, 0.8, 0.8), ground=(0.8, 0.8, 0.8), occlusion_reach=0.05
    )
    ball = trimesh.creation.icosphere(3, 0.03)
    resting = RenderMesh(vertices=ball.vertices + [0, 0, 0.57], faces=ball.faces, material=MATT)
    picture = render(Scene3D([square(0.6, 1.0), resting]), CAMERA, lighting)
    light = to_linear(picture.image)[..., 0]
    wall = picture.hits.mesh == 0
    radius = np.hypot(*(np.mgrid[:128, :128] - 63.5)) / 160 * 0.6
    far = wall & (radius > 0.12)
    np.testing.assert_allclose(light[far], 0.4, atol=0.01)
    # Form factor of a ball that touches a plane, and the light that the grey ball throws back.
    for low, high in ((0.034, 0.038), (0.04, 0.045), (0.05, 0.055)):
        ring = wall & (radius > low) & (radius < high)
        away = np.hypot(0.03, (low + high) / 2)
        free = 1 - (0.03 / away) ** 2 * (0.03 / away)
        wanted = 0.4 * free / (1 - 0.5 * (1 - free) * 0.8)
        assert ring.sum() > 40
        np.testing.assert_allclose(light[ring].mean(), wanted, atol=0.03)


def test_texture_lands_where_uv_says() -> None:
    texture = np.zeros((4, 4, 3), np.uint8)
    texture[:2, :2] = [255, 0, 0]  # upper left: u < 0.5, v > 0.5
    texture[2:, 2:] = [0, 0, 255]
    uv = np.array([[0, 1], [0, 0], [1, 0], [1, 1.0]])
    paper = Material(roughness=1.0, reflectance=0.0)
    mesh = square(0.5, 0.15, material=paper, uv=uv, texture=texture)
    sun = DirectionalLight(towards=(0.0, 0.0, -1.0), color=(0.6, 0.6, 0.6))
    image = render(Scene3D([mesh]), CAMERA, Lighting(lights=(sun,), **DARK)).image
    light = to_linear(image)
    np.testing.assert_allclose(light[35, 35], [0.6, 0, 0], atol=0.01)
    np.testing.assert_allclose(light[92, 92], [0, 0, 0.6], atol=0.01)
    np.testing.assert_allclose(light[35, 92], [0, 0, 0], atol=0.01)


def test_outline_pixels_hold_the_covered_share() -> None:
    """A vertical edge half way between two sub-columns covers half of its pixel column."""
    half = (20 + 0.0) / 160 * 0.5
    sun = DirectionalLight(towards=(0.0, 0.0, -1.0), color=(1.0, 1.0, 1.0))
    camera = Camera(
        intrinsics=np.array([[160.0, 0, 64], [0, 160, 64], [0, 0, 1]]), width=128, height=128
    )
    black = np.zeros((128, 128, 3), np.uint8)
    image = render(
        Scene3D([square(0.5, half)]), camera, Lighting(lights=(sun,), **DARK), black
    ).image
    light = to_linear(image)[..., 0]
    np.testing.assert_allclose(light[64, 70], 0.5, atol=0.01)
    np.testing.assert_allclose(light[64, 84], 0.25, atol=0.01)
    assert light[64, 85] == 0


def test_background_is_kept_and_rendering_repeats() -> None:
    background = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    scene = Scene3D([square(0.5, 0.05)])
    lighting = random_lighting(np.random.default_rng(3), background)
    first = render(scene, CAMERA, lighting, background)
    second = render(scene, CAMERA, lighting, background)
    np.testing.assert_array_equal(first.image, second.image)
    away = np.ones((128, 128), bool)
    away[44:84, 44:84] = False
    np.testing.assert_array_equal(first.image[away], background[away])
    assert (first.image[60:68, 60:68] != background[60:68, 60:68]).any()
    empty = render(Scene3D([]), CAMERA, lighting, background)
    np.testing.assert_array_equal(empty.image, background)


def test_bad_input_is_named() -> None:
    with pytest.raises(InputError, match="background"):
        render(Scene3D([square(0.5, 0.1)]), CAMERA, background=np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(InputError, match="samples"):
        render(Scene3D([square(0.5, 0.1)]), CAMERA, samples=3)
    with pytest.raises(InputError, match="roughness"):
        Material(roughness=0.0)
