"""Look-alikes: closed, of the published size, in the published frame; same shape every time."""

import numpy as np
import pytest
import trimesh

from handhold.errors import InputError
from handhold.geometry.signed_distance import MeshDistance
from handhold.objects.catalogue import YCB, info
from handhold.objects.procedural import make_object, random_object


@pytest.fixture(scope="module")
def objects():
    rng = np.random.default_rng(3)
    return {item.name: make_object(item.name, rng) for item in YCB}


@pytest.mark.parametrize("name", [item.name for item in YCB])
def test_box_closedness_and_texture(objects, name):
    mesh, item = objects[name], info(name)
    low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
    assert (high - low) == pytest.approx(item.extent, abs=1e-5)
    assert (high + low) / 2 == pytest.approx(item.box_centre, abs=1e-5)
    solid = trimesh.Trimesh(*mesh.surface, process=False)
    assert solid.is_watertight and solid.is_winding_consistent
    assert solid.volume > 0
    assert 300 <= len(mesh.faces) <= 3000
    assert mesh.uv.min() >= 0 and mesh.uv.max() <= 1
    assert mesh.texture.shape == (256, 256, 3)
    assert mesh.texture.std() > 2


@pytest.mark.parametrize("name", [item.name for item in YCB])
def test_every_face_looks_out_of_the_solid(objects, name):
    vertices, faces = objects[name].surface
    distance = MeshDistance(vertices, faces)
    solid = trimesh.Trimesh(vertices, faces, process=False)
    inner = distance.winding(solid.triangles_center - 1e-4 * solid.face_normals)
    outer = distance.winding(solid.triangles_center + 1e-4 * solid.face_normals)
    assert inner.min() > 0.5
    assert np.isclose(inner - outer, 1, atol=0.1).mean() > 0.9  # others: where pieces cross


def test_known_insides_and_outsides(objects):
    """Hollow things are hollow, solid ones solid, handles are loops."""

    def sign(name, point_mm):
        distance = MeshDistance(*objects[name].surface)
        return np.sign(distance.distance(np.asarray(point_mm) / 1000.0))

    assert sign("003_cracker_box", info(2).centre_mm) < 0
    assert sign("024_bowl", info(13).centre_mm) > 0
    mug = np.array(info(14).centre_mm)
    assert sign("025_mug", mug + (-12, 0, 0)) > 0
    assert sign("025_mug", mug + (38, 0, 0)) > 0  # between body and handle
    assert sign("025_mug", mug + (55, 0, 0)) < 0  # the handle
    assert sign("005_tomato_soup_can", info(4).centre_mm) < 0


def test_volumes_are_those_of_simple_solids(objects):
    can = trimesh.Trimesh(*objects["005_tomato_soup_can"].surface, process=False)
    assert can.volume == pytest.approx(np.pi * 0.0335**2 * 0.1019, rel=0.06)
    block = trimesh.Trimesh(*objects["036_wood_block"].surface, process=False)
    assert block.volume == pytest.approx(0.090 * 0.0906 * 0.206, rel=0.08)


def test_geometry_is_fixed_and_print_varies():
    first = make_object("mug", np.random.default_rng(1))
    same = make_object("mug", np.random.default_rng(1))
    other = make_object("mug", np.random.default_rng(2))
    assert np.array_equal(first.texture, same.texture)
    assert np.array_equal(first.vertices, other.vertices)
    assert not np.array_equal(first.texture, other.texture)
    with pytest.raises(InputError, match="spoon"):
        make_object("spoon", np.random.default_rng(0))


def test_random_objects_are_closed_handy_and_reproducible():
    rng, again = np.random.default_rng(8), np.random.default_rng(8)
    longest = []
    for _ in range(60):
        mesh, twin = random_object(rng), random_object(again)
        assert np.array_equal(mesh.vertices, twin.vertices)
        assert np.array_equal(mesh.texture, twin.texture)
        solid = trimesh.Trimesh(*mesh.surface, process=False)
        assert solid.is_watertight and solid.volume > 0
        assert len(mesh.faces) <= 3000
        extent = np.ptp(mesh.vertices, axis=0)
        longest.append(extent.max())
        assert 0.015 < extent.max() < 0.27
        centre = (mesh.vertices.max(axis=0) + mesh.vertices.min(axis=0)) / 2
        assert np.abs(centre).max() < 1e-6
    assert max(longest) > 0.12 and min(longest) < 0.08
