"""Left or right from the mesh alone: the sign of the volume that its surface encloses.

Axes are counted from the front: along axes counted from the end, ONNX Runtime leaves tensors of no
hands as they are instead of summing them.
"""

from __future__ import annotations

from torch import Tensor


def _corners(vertices: Tensor, faces: Tensor) -> Tensor:
    """(..., F, 3 corners, 3), about the mean of the vertices."""
    centred = vertices - vertices.mean(vertices.ndim - 2, keepdim=True)
    return centred.index_select(-2, faces.flatten()).unflatten(-2, tuple(faces.shape))


def signed_volume(vertices: Tensor, faces: Tensor) -> Tensor:
    """Volume (...) of vertices (..., V, 3) by the faces (F, 3) of the **right** hand, m^3: positive
    for a right hand, whose normals then point out, negative for a left one.

    Sum of the signed tetrahedra to the mean of the vertices; it does not change when the mesh is
    turned or moved, and a small hole such as MANO's wrist does not matter.
    """
    a, b, c = _corners(vertices, faces).unbind(-2)
    faces_axis = vertices.ndim - 2
    return (a * b.cross(c, dim=-1)).sum(faces_axis + 1).sum(faces_axis) / 6


def surface_area(vertices: Tensor, faces: Tensor) -> Tensor:
    """Area (...) in m^2."""
    a, b, c = _corners(vertices, faces).unbind(-2)
    faces_axis = vertices.ndim - 2
    return (b - a).cross(c - a, dim=-1).norm(dim=faces_axis + 1).sum(faces_axis) / 2


def normalised_volume(vertices: Tensor, faces: Tensor) -> Tensor:
    """Signed volume / area^1.5 (...): 0.094 in size for a ball, above 0.02 for hands. Its sign is
    the side (positive: right), its size says how sure that is. 0 for a mesh without area."""
    area = surface_area(vertices, faces).clamp(min=1e-12)
    return signed_volume(vertices, faces) / area**1.5
