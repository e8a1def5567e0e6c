"""Reading meshes: values survive, bad files give one clear error."""

import numpy as np
import pytest
import trimesh

from handhold.errors import FileFormatError, InputError, MissingFileError
from handhold.objects.mesh import ObjectMesh, load_object, load_objects, weld
from handhold.objects.procedural import make_object


def cube() -> trimesh.Trimesh:
    return trimesh.creation.box([0.1, 0.2, 0.3])


def test_npz_round_trip(tmp_path):
    mesh = make_object("025_mug", np.random.default_rng(0))
    path = tmp_path / "025_mug.npz"
    np.savez(
        path,
        vertices=mesh.vertices,
        faces=mesh.faces,
        uv=mesh.uv,
        texture=mesh.texture,
        welded_vertices=mesh.closed_vertices,
        welded_faces=mesh.closed_faces,
    )
    again = load_object(path)
    assert again.name == "025_mug"
    for field in ("vertices", "faces", "uv", "texture", "closed_vertices", "closed_faces"):
        assert np.array_equal(getattr(again, field), getattr(mesh, field)), field


@pytest.mark.parametrize("suffix", ["obj", "ply", "stl", "glb", "off"])
def test_other_formats_keep_the_solid(tmp_path, suffix):
    path = tmp_path / f"cube.{suffix}"
    cube().export(path)
    mesh = load_object(path)
    assert mesh.name == "cube"
    assert np.ptp(mesh.vertices, axis=0) == pytest.approx([0.1, 0.2, 0.3], abs=1e-6)
    closed = trimesh.Trimesh(*mesh.surface, process=False)
    assert closed.is_watertight
    assert closed.volume == pytest.approx(0.006, rel=1e-5)


def test_textures_of_obj_files_are_read(tmp_path):
    (tmp_path / "a.mtl").write_text("newmtl m\nmap_Kd a.png\n")
    import cv2

    picture = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    (tmp_path / "a.obj").write_text(
        "mtllib a.mtl\nusemtl m\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\nf 1/1 2/2 3/3\n"
    )
    mesh = load_object(tmp_path / "a.obj")
    assert np.array_equal(mesh.texture, picture[..., ::-1])
    corner = int(np.flatnonzero(mesh.vertices[:, 1] == 1)[0])
    assert mesh.uv[corner] == pytest.approx([0, 1])


def test_welding_joins_seams_only():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1e-7, 0, 0], [1, 0, 0], [0, 0, 1.0]])
    welded, faces = weld(vertices, np.array([[0, 1, 2], [3, 5, 4], [0, 3, 1]]))
    assert len(welded) == 4
    assert len(faces) == 2  # the face between equal vertices is gone


def test_folder_layouts(tmp_path):
    cube().export(tmp_path / "b.ply")
    inner = tmp_path / "003_cracker_box"
    inner.mkdir()
    cube().export(inner / "textured_simple.obj")
    cube().export(inner / "nontextured.stl")
    (tmp_path / "notes.txt").write_text("not a mesh")
    assert sorted(load_objects(tmp_path)) == ["003_cracker_box", "b"]


def test_bad_files_are_named(tmp_path):
    with pytest.raises(MissingFileError, match=r"none\.npz"):
        load_object(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(FileFormatError, match=r"text\.npz"):
        load_object(tmp_path / "text.npz")
    (tmp_path / "bad.jpg").write_text("hello")
    with pytest.raises(FileFormatError, match="expected a mesh"):
        load_object(tmp_path / "bad.jpg")
    (tmp_path / "bad.ply").write_text("hello")
    with pytest.raises(FileFormatError, match=r"bad\.ply"):
        load_object(tmp_path / "bad.ply")
    np.savez(tmp_path / "other.npz", points=np.zeros(3))
    with pytest.raises(FileFormatError, match="points"):
        load_object(tmp_path / "other.npz")
    np.savez(tmp_path / "range.npz", vertices=np.zeros((3, 3)), faces=np.array([[0, 1, 7]]))
    with pytest.raises(FileFormatError, match=r"range\.npz.*0 to 2"):
        load_object(tmp_path / "range.npz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingFileError, match="empty"):
        load_objects(tmp_path / "empty")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("uv", np.zeros((2, 2))),
        ("texture", np.zeros((4, 4), np.uint8)),
        ("vertex_colors", np.zeros((8, 3))),
        ("vertices", np.full((8, 3), np.inf)),
        ("faces", np.zeros((2, 3))),
    ],
)
def test_wrong_fields_are_refused(field, value):
    fields = {"vertices": cube().vertices, "faces": cube().faces, field: value}
    with pytest.raises(InputError, match=field):
        ObjectMesh(name="x", **fields)
