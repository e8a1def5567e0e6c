"""Rotations against scipy, and gradients where formulas usually break."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from handhold.errors import InputError
from handhold.geometry import rotation as rot


@pytest.fixture(scope="module")
def vectors():
    """Axis-angles from tiny to half a turn, (3, 40, 3) float64."""
    rng = np.random.default_rng(0)
    axis = rng.normal(size=(3, 40, 3))
    axis /= np.linalg.norm(axis, axis=-1, keepdims=True)
    angle = np.concatenate(([0.0, 1e-9, 1e-6, 1e-3, math.pi - 1e-6], rng.uniform(0, math.pi, 35)))
    return torch.from_numpy(axis * angle[:, None])


def scipy_matrix(vectors):
    flat = Rotation.from_rotvec(vectors.reshape(-1, 3).numpy()).as_matrix()
    return torch.from_numpy(flat).reshape(*vectors.shape[:-1], 3, 3)


def test_axis_angle_to_matrix(vectors):
    truth = scipy_matrix(vectors)
    torch.testing.assert_close(rot.axis_angle_to_matrix(vectors), truth, rtol=0, atol=1e-7)
    manopth = rot.axis_angle_to_matrix_manopth(vectors)
    torch.testing.assert_close(manopth, truth, rtol=0, atol=5e-8)
    single = rot.axis_angle_to_matrix_manopth(vectors.float())
    torch.testing.assert_close(single.double(), truth, rtol=0, atol=1e-6)


def test_manopth_rule_adds_before_the_norm():
    """At 1e-8 the offset doubles the angle's denominator, as the formula says."""
    a = torch.tensor([1e-8, 0.0, 0.0], dtype=torch.float64)
    angle = math.sqrt(4e-16 + 1e-16 + 1e-16)
    sine = math.sin(angle / 2) * 1e-8 / angle
    matrix = rot.axis_angle_to_matrix_manopth(a)
    assert matrix[2, 1].item() == pytest.approx(2 * sine, rel=1e-9)


def test_matrix_to_axis_angle_inverts(vectors):
    back = rot.matrix_to_axis_angle(scipy_matrix(vectors))
    torch.testing.assert_close(back, vectors, rtol=0, atol=1e-7)


def test_half_turns():
    axes = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0.6, 0.8, 0], [0.6, 0, -0.8]])
    matrices = 2 * axes[:, :, None] * axes[:, None, :] - torch.eye(3)
    vectors = rot.matrix_to_axis_angle(matrices)
    torch.testing.assert_close(vectors.norm(dim=-1), torch.full((5,), math.pi))
    torch.testing.assert_close(rot.axis_angle_to_matrix(vectors), matrices, rtol=0, atol=1e-6)


@pytest.mark.parametrize("angle", [0.0, 1e-7, 1.0, math.pi - 1e-4, math.pi])
def test_gradients_are_finite(angle):
    start = torch.tensor([0.0, 0.6, 0.8], dtype=torch.float64) * angle
    for function in (rot.axis_angle_to_matrix, rot.axis_angle_to_matrix_manopth):
        vector = start.clone().requires_grad_()
        function(vector).sum().backward()
        assert torch.isfinite(vector.grad).all()
    matrix = rot.axis_angle_to_matrix(start).requires_grad_()
    rot.matrix_to_axis_angle(matrix).sum().backward()
    assert torch.isfinite(matrix.grad).all()


def test_gradients_are_right(vectors):
    some = vectors[0, 5:9].clone().requires_grad_()
    assert torch.autograd.gradcheck(rot.axis_angle_to_matrix_manopth, (some,))
    sixd = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.autograd.gradcheck(rot.sixd_to_matrix, (sixd.requires_grad_(),))
    assert torch.autograd.gradcheck(
        lambda v: rot.matrix_to_axis_angle(rot.axis_angle_to_matrix(v)), (some,)
    )


def test_gradient_at_zero_is_the_generator():
    """dR/da at a = 0 is the cross product matrix of the unit vector, for the manopth rule too."""
    zero = torch.zeros(3, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(rot.axis_angle_to_matrix_manopth, zero)
    truth = torch.zeros(3, 3, 3, dtype=torch.float64)
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        truth[i, j, k], truth[j, i, k] = -1.0, 1.0
    torch.testing.assert_close(jacobian, truth, rtol=0, atol=1e-6)


def test_quaternions(vectors):
    truth = scipy_matrix(vectors)
    xyzw = Rotation.from_matrix(truth.reshape(-1, 3, 3).numpy()).as_quat(canonical=True)
    wxyz = torch.from_numpy(xyzw[:, [3, 0, 1, 2]]).reshape(3, 40, 4)
    ours = rot.matrix_to_quaternion(truth)
    assert (ours[..., 0] >= 0).all()
    torch.testing.assert_close(ours, wxyz, rtol=0, atol=1e-7)
    torch.testing.assert_close(rot.quaternion_to_matrix(-3 * wxyz), truth, rtol=0, atol=1e-7)


def test_sixd(vectors):
    truth = scipy_matrix(vectors)
    sixd = rot.matrix_to_sixd(truth)
    torch.testing.assert_close(sixd[..., 3:], truth[..., :, 1])
    torch.testing.assert_close(rot.sixd_to_matrix(sixd), truth)
    # Gram-Schmidt: the first vector may be scaled, the second moved along the first
    skewed = torch.cat((2.5 * sixd[..., :3], 0.3 * sixd[..., 3:] - 4 * sixd[..., :3]), dim=-1)
    torch.testing.assert_close(rot.sixd_to_matrix(skewed), truth)


def test_sixd_of_nothing_has_no_nan():
    sixd = torch.zeros(2, 6, requires_grad=True)
    matrix = rot.sixd_to_matrix(sixd)
    matrix.sum().backward()
    assert torch.isfinite(matrix).all()
    assert torch.isfinite(sixd.grad).all()


def test_to_matrix_takes_every_type(vectors):
    truth = scipy_matrix(vectors)
    given = {
        "axis_angle": vectors,
        "matrix": truth,
        "6d": rot.matrix_to_sixd(truth),
        "quaternion": rot.matrix_to_quaternion(truth),
    }
    for name, value in given.items():
        torch.testing.assert_close(rot.to_matrix(value, name), truth, rtol=0, atol=1e-7)
    with pytest.raises(InputError, match="euler"):
        rot.to_matrix(vectors, "euler")


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (rot.axis_angle_to_matrix, (2, 4)),
        (rot.axis_angle_to_matrix_manopth, (2, 4)),
        (rot.matrix_to_axis_angle, (3, 2)),
        (rot.quaternion_to_matrix, (3,)),
        (rot.matrix_to_quaternion, (9,)),
        (rot.sixd_to_matrix, (2, 3)),
        (rot.matrix_to_sixd, (6,)),
    ],
)
def test_wrong_shapes(function, shape):
    with pytest.raises(InputError, match=r"expected shape"):
        function(torch.zeros(shape))
