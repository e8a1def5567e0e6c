"""Object meshes: what a renderer and a distance field need, and safe readers for files of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from handhold.errors import FileFormatError, InputError, MissingFileError
from handhold.scene import FloatArray

GENERIC_STEMS = ("textured", "textured_simple", "nontextured", "mesh", "model")
MESH_SUFFIXES = (".npz", ".obj", ".ply", ".stl", ".glb", ".gltf", ".off")


@dataclass(frozen=True, kw_only=True)
class ObjectMesh:
    """A triangle mesh in the object's own frame, metres, faces wound outward.

    vertices (V, 3) float32, faces (F, 3) int64. uv (V, 2), v upward, with texture (h, w, 3) uint8
    RGB: texel row (1 - v) * h. vertex_colors (V, 3) uint8. Vertices may repeat along texture seams;
    closed_vertices (W, 3), closed_faces (F, 3) is the same surface without repeats, for distances
    (made by merging equal vertices when not given).
    Raises InputError for wrong shapes, faces out of range, non-finite vertices, no faces.
    """

    name: str
    vertices: FloatArray
    faces: NDArray[np.int64]
    uv: FloatArray | None = None
    texture: NDArray[np.uint8] | None = None
    vertex_colors: NDArray[np.uint8] | None = None
    closed_vertices: FloatArray | None = None
    closed_faces: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        vertices, faces = checked(self.name, self.vertices, self.faces)
        object.__setattr__(self, "vertices", vertices)
        object.__setattr__(self, "faces", faces)
        count = len(vertices)
        if self.uv is not None:
            uv = np.asarray(self.uv, dtype=np.float32)
            if uv.shape != (count, 2) or not np.isfinite(uv).all():
                raise InputError(f"{self.name}: uv: expected finite ({count}, 2), found {uv.shape}")
            object.__setattr__(self, "uv", uv)
        if self.texture is not None:
            found = np.asarray(self.texture)
            if found.dtype != np.uint8 or found.ndim != 3 or found.shape[2] != 3 or not found.size:
                raise InputError(
                    f"{self.name}: texture: expected uint8 (h, w, 3), found {found.shape}"
                )
        if self.vertex_colors is not None:
            found = np.asarray(self.vertex_colors)
            if found.shape != (count, 3) or found.dtype != np.uint8:
                raise InputError(
                    f"{self.name}: vertex_colors: expected uint8 ({count}, 3), found {found.shape}"
                )
        if self.closed_vertices is None or self.closed_faces is None:
            closed = weld(vertices, faces)
        else:
            closed = checked(self.name, self.closed_vertices, self.closed_faces)
        object.__setattr__(self, "closed_vertices", closed[0])
        object.__setattr__(self, "closed_faces", closed[1])

    @property
    def surface(self) -> tuple[FloatArray, NDArray[np.int64]]:
        """The closed vertices and faces, for distances."""
        if self.closed_vertices is None or self.closed_faces is None:
            raise InputError(f"{self.name}: no surface")  # __post_init__ always fills it
        return self.closed_vertices, self.closed_faces


def checked(name: str, vertices: Any, faces: Any) -> tuple[FloatArray, NDArray[np.int64]]:
    """`vertices` as (V, 3) float32 and `faces` as (F, 3) int64, or InputError naming `name`."""
    vertices = np.ascontiguousarray(vertices, dtype=np.float32)
    faces = np.asarray(faces)
    if vertices.ndim != 2 or vertices.shape[1] != 3 or not len(vertices):
        raise InputError(f"{name}: vertices: expected (V, 3), found {vertices.shape}")
    if not np.isfinite(vertices).all():
        raise InputError(f"{name}: vertices: NaN or infinite numbers, expected finite metres")
    if faces.ndim != 2 or faces.shape[1] != 3 or not len(faces) or faces.dtype.kind not in "iu":
        raise InputError(f"{name}: faces: expected integers (F, 3), found {faces.shape}")
    faces = np.ascontiguousarray(faces, dtype=np.int64)
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise InputError(
            f"{name}: faces: expected indices 0 to {len(vertices) - 1}, "
            f"found {faces.min()} to {faces.max()}"
        )
    return vertices, faces


def weld(vertices: FloatArray, faces: NDArray[np.int64]) -> tuple[FloatArray, NDArray[np.int64]]:
    """The same surface with vertices closer than a hundredth of a millimetre made one."""
    keys = np.round(np.asarray(vertices, dtype=np.float64) * 1e5).astype(np.int64)
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    welded = inverse.reshape(-1)[faces]
    a, b, c = welded.T
    kept = welded[(a != b) & (b != c) & (c != a)]
    return np.asarray(vertices, dtype=np.float32)[first], kept


def object_name(path: Path) -> str:
    """The object of a mesh file: its stem, or its folder's name for a generic file name."""
    return path.parent.name if path.stem in GENERIC_STEMS else path.stem


def load_object(path: str | Path) -> ObjectMesh:
    """Read one mesh; its name is `object_name`.

    `.npz`: arrays `vertices`, `faces` and optionally `uv`, `texture`, `vertex_colors`,
    `welded_vertices`, `welded_faces`. Other formats (obj, ply, stl, glb, off) go through trimesh,
    with texture or vertex colours where the file has them. Units: metres.
    Raises MissingFileError, FileFormatError (both name the file).
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"{path}: no such mesh file")
    suffix = path.suffix.lower()
    if suffix not in MESH_SUFFIXES:
        raise FileFormatError(
            f"{path}: expected a mesh ({', '.join(MESH_SUFFIXES)}), found {suffix!r}"
        )
    name = object_name(path)
    try:
        return _load_npz(path, name) if suffix == ".npz" else _load_trimesh(path, name)
    except InputError as error:
        raise FileFormatError(f"{path}: {error}") from error


def _load_npz(path: Path, name: str) -> ObjectMesh:
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = {key: archive[key] for key in archive.files}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise FileFormatError(f"{path}: not a readable npz file ({error})") from error
    for key in ("vertices", "faces"):
        if key not in found:
            raise FileFormatError(
                f"{path}: expected arrays 'vertices' and 'faces', found {sorted(found)}"
            )
    return ObjectMesh(
        name=name,
        vertices=found["vertices"],
        faces=found["faces"],
        uv=found.get("uv"),
        texture=found.get("texture"),
        vertex_colors=found.get("vertex_colors"),
        closed_vertices=found.get("welded_vertices"),
        closed_faces=found.get("welded_faces"),
    )


def _load_trimesh(path: Path, name: str) -> ObjectMesh:
    import trimesh

    try:
        loaded: Any = trimesh.load(path, force="mesh", process=False)
    except Exception as error:  # trimesh raises whatever its parsers raise
        raise FileFormatError(f"{path}: not a readable mesh ({error})") from error
    if not isinstance(loaded, trimesh.Trimesh) or not len(loaded.faces):
        raise FileFormatError(f"{path}: expected a mesh with triangles, found none")
    uv = texture = colors = None
    visual: Any = loaded.visual
    if visual is not None and visual.kind == "texture" and visual.uv is not None:
        material = visual.material
        image = getattr(material, "image", None) or getattr(material, "baseColorTexture", None)
        if image is not None:
            uv = np.asarray(visual.uv, dtype=np.float32)[:, :2]
            texture = np.asarray(image.convert("RGB"), dtype=np.uint8)
    elif visual is not None and visual.kind in ("vertex", "face"):
        colors = np.asarray(visual.vertex_colors, dtype=np.uint8)[:, :3]
    return ObjectMesh(
        name=name,
        vertices=loaded.vertices,
        faces=loaded.faces,
        uv=uv,
        texture=texture,
        vertex_colors=colors,
    )


def object_files(folder: str | Path) -> list[Path]:
    """The meshes of a folder, in sorted order: its mesh files, and, for each subfolder, its
    `textured_simple.obj`, `textured.obj` or first mesh file (the layout of YCB and DexYCB).

    Raises MissingFileError when there is no folder or no mesh in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MissingFileError(f"{folder}: no such folder of meshes")
    paths: list[Path] = []
    for entry in sorted(folder.iterdir()):
        if entry.is_file() and entry.suffix.lower() in MESH_SUFFIXES:
            paths.append(entry)
        elif entry.is_dir():
            inside = sorted(p for p in entry.iterdir() if p.suffix.lower() in MESH_SUFFIXES)
            preferred = [
                p for stem in ("textured_simple", "textured") for p in inside if p.stem == stem
            ]
            paths += (preferred or inside)[:1]
    if not paths:
        raise MissingFileError(f"{folder}: expected mesh files {MESH_SUFFIXES}, found none")
    return paths


def load_objects(folder: str | Path) -> dict[str, ObjectMesh]:
    """All meshes of `object_files` by name.

    Raises MissingFileError when there is no folder or no mesh in it; InputError for a name twice.
    """
    meshes: dict[str, ObjectMesh] = {}
    for path in object_files(folder):
        mesh = load_object(path)
        if mesh.name in meshes:
            raise InputError(f"{path}: a second mesh named {mesh.name!r} in {folder}")
        meshes[mesh.name] = mesh
    return meshes
