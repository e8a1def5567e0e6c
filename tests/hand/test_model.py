"""The hand model against a plain float64 twin written with loops, and against its own laws."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from handhold.errors import FileFormatError, InputError, MissingFileError
from handhold.geometry import rotation as rot
from handhold.hand import files
from handhold.hand import model as model_module
from handhold.hand.convention import MANO_TO_CANONICAL, PARENTS_MANO, mirror_pose
from handhold.hand.model import HandModel
from handhold.hand.topology import directed_edges


@pytest.fixture(scope="module")
def right():
    return HandModel.free("right")


@pytest.fixture(scope="module")
def left():
    return HandModel.free("left")


@pytest.fixture(scope="module")
def parameters():
    """Five poses (the last one zero) with shapes and translations."""
    generator = torch.Generator().manual_seed(7)
    pose = 0.6 * torch.randn(5, 16, 3, generator=generator)
    pose[-1] = 0
    return pose, torch.randn(5, 10, generator=generator), torch.randn(5, 3, generator=generator)


def plain_hand(arrays, pose, betas):
    """MANO as in the paper, one vertex transform at a time: vertices and 16 joints, float64."""
    shaped = arrays.v_template.astype(np.float64) + arrays.shapedirs.astype(np.float64) @ betas
    rest = arrays.J_regressor.astype(np.float64) @ shaped
    rotations = Rotation.from_rotvec(pose).as_matrix()
    feature = (rotations[1:] - np.eye(3)).reshape(135)
    posed = shaped + arrays.posedirs.astype(np.float64) @ feature
    world = np.zeros((16, 4, 4))
    for j, parent in enumerate(PARENTS_MANO):
        local = np.eye(4)
        local[:3, :3] = rotations[j]
        local[:3, 3] = rest[j] - (rest[parent] if parent >= 0 else 0)
        world[j] = local if parent < 0 else world[parent] @ local
    vertices = np.zeros((778, 3))
    for j in range(16):
        away = np.eye(4)
        away[:3, 3] = -rest[j]
        moved = np.c_[posed, np.ones(778)] @ (world[j] @ away).T
        vertices += arrays.weights[:, j : j + 1].astype(np.float64) * moved[:, :3]
    return vertices, world[:, :3, 3]


@pytest.mark.parametrize("side", ["right", "left"])
def test_agrees_with_the_plain_twin(right, left, parameters, side):
    hand = right if side == "right" else left
    pose, betas, _ = parameters
    out = hand(pose, betas)
    for i in range(5):
        vertices, joints = plain_hand(hand.arrays, pose[i].double().numpy(), betas[i].numpy())
        np.testing.assert_allclose(out.vertices[i].numpy(), vertices, atol=1e-6)
        np.testing.assert_allclose(out.joints16[i].numpy(), joints, atol=1e-6)
        all_joints = np.concatenate((joints, vertices[hand.tips.numpy()]))
        np.testing.assert_allclose(out.joints[i].numpy(), all_joints[MANO_TO_CANONICAL], atol=1e-6)


def test_double_precision_is_exact(right, parameters):
    pose, betas, _ = parameters
    hand = HandModel(right.arrays, side="right", tips=tuple(right.tips.tolist())).double()
    vertices, _ = plain_hand(right.arrays, pose[0].double().numpy(), betas[0].double().numpy())
    ours = hand(pose[0].double(), betas[0].double()).vertices.numpy()
    np.testing.assert_allclose(ours, vertices, atol=3e-8)  # manopth's 1e-8 offset, no more


def test_rotation_types_agree(right, parameters):
    pose, betas, _ = parameters
    truth = right(pose, betas).vertices
    matrix = rot.axis_angle_to_matrix(pose)
    given = {
        "matrix": matrix,
        "6d": rot.matrix_to_sixd(matrix),
        "quaternion": rot.matrix_to_quaternion(matrix),
    }
    for name, value in given.items():
        ours = right(value, betas, rotation_type=name).vertices
        torch.testing.assert_close(ours, truth, rtol=0, atol=2e-6)
    flat48 = right(pose.flatten(1), betas).vertices
    assert torch.equal(flat48, truth)


def test_any_batch_shape(right, parameters):
    pose, betas, translation = parameters
    whole = right(pose[:, None], betas[None, :3], translation[:, None])
    assert whole.vertices.shape == (5, 3, 778, 3)
    assert whole.joints.shape == (5, 3, 21, 3)
    assert whole.joints16.shape == (5, 3, 16, 3)
    for i, j in ((0, 0), (3, 2), (4, 1)):
        one = right(pose[i], betas[j], translation[i])
        assert one.vertices.shape == (778, 3)
        torch.testing.assert_close(whole.vertices[i, j], one.vertices, rtol=0, atol=1e-6)
        torch.testing.assert_close(whole.joints[i, j], one.joints, rtol=0, atol=1e-6)
    shared = right(pose[0], betas, translation)  # one pose, five shapes
    torch.testing.assert_close(
        shared.vertices[2], right(pose[0], betas[2], translation[2]).vertices, rtol=0, atol=1e-6
    )
    assert right(pose[:0], betas[:0]).vertices.shape == (0, 778, 3)


def test_translation_and_centre(right, parameters):
    pose, betas, translation = parameters
    plain = right(pose, betas)
    moved = right(pose, betas, translation)
    torch.testing.assert_close(moved.vertices, plain.vertices + translation[:, None])
    centred = right(pose, betas, center=9)
    origin = plain.joints[:, 9:10]
    assert centred.joints[:, 9].abs().max() == 0
    torch.testing.assert_close(centred.vertices, plain.vertices - origin)
    torch.testing.assert_close(centred.joints16, plain.joints16 - origin)
    both = right(pose, betas, translation, center=9)
    torch.testing.assert_close(both.joints[:, 9], translation)
    torch.testing.assert_close(both.vertices, centred.vertices + translation[:, None])


def test_global_rotation_turns_about_the_wrist(right, parameters):
    pose, betas, _ = parameters
    still = pose.clone()
    still[:, 0] = 0
    turned, unturned = right(pose, betas), right(still, betas)
    wrist = right.rest_joints(betas)[:, :1]
    torch.testing.assert_close(turned.joints[:, :1], wrist)
    matrix = rot.axis_angle_to_matrix(pose[:, 0])
    expected = (unturned.vertices - wrist) @ matrix.transpose(1, 2) + wrist
    torch.testing.assert_close(turned.vertices, expected, rtol=0, atol=1e-6)


def test_zero_pose_and_shape_give_the_template(right):
    out = right(torch.zeros(16, 3))
    torch.testing.assert_close(out.vertices, right.template, rtol=0, atol=1e-7)
    assert torch.equal(out.joints16[0], right.rest_joints()[0])


def test_pca_and_mean(right, parameters):
    pose, betas, _ = parameters
    generator = torch.Generator().manual_seed(1)
    for count in (6, 45):
        coefficients = torch.randn(5, count, generator=generator)
        fingers = coefficients.numpy() @ right.hands_components.numpy()[:count]
        full = np.concatenate((pose[:, 0].numpy(), fingers), axis=1).reshape(5, 16, 3)
        given = torch.cat((pose[:, 0], coefficients), dim=1)
        ours = right(given, betas, pca=True).vertices
        torch.testing.assert_close(
            ours, right(torch.from_numpy(full), betas).vertices, rtol=0, atol=1e-6
        )
        full[:, 1:] += right.hands_mean.numpy().reshape(15, 3)
        ours = right(given, betas, pca=True, flat=False).vertices
        torch.testing.assert_close(
            ours, right(torch.from_numpy(full), betas).vertices, rtol=0, atol=1e-6
        )


# ---------------------------------------------------------------------------------- the other side


def signed_volume(hand):
    corners = hand.template[hand.faces].double()
    return torch.linalg.det(corners).sum() / 6


def test_mirrored_hand(right, left, parameters):
    pose, betas, _ = parameters
    flip = torch.tensor([-1.0, 1, 1])
    a, b = right(pose, betas), left(mirror_pose(pose), betas)
    torch.testing.assert_close(b.vertices, a.vertices * flip, rtol=0, atol=1e-6)
    torch.testing.assert_close(b.joints, a.joints * flip, rtol=0, atol=1e-6)
    coefficients = torch.cat((pose[:, 0], 0.3 * betas), dim=1)
    a = right(coefficients, betas, pca=True, flat=False)
    coefficients[:, :3] = mirror_pose(coefficients[:, :3])
    b = left(coefficients, betas, pca=True, flat=False)
    torch.testing.assert_close(b.vertices, a.vertices * flip, rtol=0, atol=1e-6)
    assert (right.side, left.side) == ("right", "left")
    assert left.is_free
    twice = left.mirrored()
    assert torch.equal(twice.faces, right.faces)
    assert torch.equal(twice(pose, betas).vertices, right(pose, betas).vertices)


def test_normals_point_outward_on_both_sides(right, left):
    assert signed_volume(right) > 1e-5  # more than ten millilitres
    torch.testing.assert_close(signed_volume(left), signed_volume(right))
    for hand in (right, left):
        directed = directed_edges(hand.faces.numpy())
        assert len(np.unique(directed, axis=0)) == len(directed)


def test_with_tips(right, parameters):
    pose, betas, _ = parameters
    other = right.with_tips("freihand")(pose, betas)
    here = right(pose, betas)
    torch.testing.assert_close(other.joints[:, 4], here.vertices[:, 744])
    torch.testing.assert_close(other.joints[:, 20], here.vertices[:, 672])
    assert torch.equal(other.joints[:, 19], here.joints[:, 19])
    with pytest.raises(InputError, match="tips"):
        right.with_tips((1, 2, 3))


# ------------------------------------------------------------------------------------- as a module


def test_gradients(right, parameters):
    hand = HandModel(right.arrays, side="right").double()
    pose = parameters[0][0].double().requires_grad_()
    betas = parameters[1][0].double().requires_grad_()
    some = torch.arange(0, 778, 97)

    def function(p, b):
        out = hand(p, b)
        return torch.cat((out.joints[::5], out.vertices[some]))

    assert torch.autograd.gradcheck(function, (pose, betas))


def test_gradient_of_the_resting_hand_is_finite(right):
    pose = torch.zeros(2, 16, 3, requires_grad=True)
    right(pose).joints.square().sum().backward()
    assert torch.isfinite(pose.grad).all()
    assert pose.grad[:, 1:].abs().max() > 0


def test_nothing_is_saved_in_checkpoints(right):
    assert right.state_dict() == {}
    assert list(right.parameters()) == []


def test_autocast_changes_nothing(right, parameters):
    pose, betas, translation = parameters
    truth = right(pose, betas, translation).vertices
    with torch.autocast("cpu", torch.bfloat16):
        found = right(pose, betas, translation).vertices
        half = right(pose.bfloat16(), betas)
    assert torch.equal(found, truth)
    assert half.vertices.dtype == torch.float32


# --------------------------------------------------------------------------------- loading, errors


@pytest.fixture
def mano_folder(right, left, tmp_path):
    """Two npz files in MANO's schema, without tips of their own."""
    for hand in (right, left):
        arrays = hand.arrays
        kintree = np.array([[2**32 - 1, *PARENTS_MANO[1:]], range(16)])
        content = {name: getattr(arrays, name, None) for name in files.SHAPES}
        content |= {"f": arrays.faces, "kintree_table": kintree}
        np.savez(tmp_path / f"MANO_{hand.side.upper()}.npz", **content)
    return tmp_path


def test_load(mano_folder, monkeypatch, right, parameters):
    monkeypatch.delenv(files.MANO_VARIABLE, raising=False)
    assert HandModel.load(None, "right").is_free
    hand = HandModel.load(mano_folder, "left")
    assert (hand.side, hand.is_free) == ("left", False)
    assert hand.tips.tolist() == [745, 317, 445, 556, 673]
    monkeypatch.setenv(files.MANO_VARIABLE, str(mano_folder))
    hand = HandModel.load(None, "right")
    assert not hand.is_free
    assert hand.tips[2] == 444
    assert torch.equal(hand(*parameters).vertices, right(*parameters).vertices)
    monkeypatch.setenv(files.MANO_VARIABLE, str(mano_folder / "nowhere"))
    with pytest.raises(MissingFileError, match="nowhere"):
        HandModel.load(None, "right")


def test_left_shape_switch(mano_folder, left, parameters):
    """A left file with the right hand's x in its shape basis, as MANO was released."""
    path = mano_folder / "MANO_LEFT.npz"
    with np.load(path) as archive:
        content = dict(archive)
    content["shapedirs"] = content["shapedirs"] * np.array([-1, 1, 1], np.float32)[:, None]
    np.savez(path, **content)
    pose, betas, _ = parameters
    fixed = HandModel.from_file(path, left_shape_fix=True)
    assert torch.equal(fixed(pose, betas).vertices, left(pose, betas).vertices)
    assert not torch.allclose(
        HandModel.from_file(path)(pose, betas).vertices, fixed(pose, betas).vertices
    )
    there = HandModel.load(mano_folder, "right", left_shape_fix=True)
    assert torch.equal(there.template, HandModel.load(mano_folder, "right").template)


def test_tips_of_a_file_are_checked(mano_folder):
    path = mano_folder / "MANO_RIGHT.npz"
    with np.load(path) as archive:
        content = dict(archive)
    np.savez(path, **content, tips=np.array([1, 2, 3, 4, 778]))
    with pytest.raises(FileFormatError, match="tips"):
        HandModel.from_file(path)


def test_missing_free_hand(monkeypatch, tmp_path):
    monkeypatch.setattr(model_module, "FREE_HAND", tmp_path / "free_hand.npz")
    with pytest.raises(MissingFileError, match=r"free_hand\.npz"):
        HandModel.free()


def test_file_without_a_side(tmp_path):
    with pytest.raises(InputError, match="side"):
        HandModel.from_file(tmp_path / "hand.npz")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((2, 15, 3),), "pose"),
        (((2, 16, 4),), "pose"),
        (((16, 3), (9,)), "betas"),
        (((2, 16, 3), (3, 10)), "do not fit"),
        (((16, 3), None, (4,)), "translation"),
    ],
)
def test_wrong_shapes(right, arguments, message):
    with pytest.raises(InputError, match=message):
        right(*(None if shape is None else torch.zeros(shape) for shape in arguments))


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((16, 3), {"center": 21}, "center"),
        ((16, 3), {"rotation_type": "6d"}, "pose"),
        ((16, 3), {"rotation_type": "euler"}, "euler"),
        ((16, 6), {"rotation_type": "6d", "flat": False}, "flat"),
        ((49,), {"pca": True}, "PCA"),
        ((3,), {"pca": True}, "PCA"),
    ],
)
def test_impossible_options(right, shape, options, message):
    with pytest.raises(InputError, match=message):
        right(torch.zeros(shape), **options)
