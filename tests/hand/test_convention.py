"""Conventions: tables against the names they stand for, conversions against the hand model."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from handhold.errors import InputError
from handhold.hand import convention as conv
from handhold.hand.model import HandModel

NAMES = np.array(conv.JOINT_NAMES)[:, None]
FLIP = np.diag([-1.0, 1.0, 1.0])


@pytest.fixture(scope="module")
def right():
    return HandModel.free("right")


@pytest.fixture(scope="module")
def left():
    return HandModel.free("left")


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def posed(model, pose, betas, translation=None, **options):
    """Vertices in float64 from NumPy parameters."""
    arrays = [pose, betas, np.zeros(3) if translation is None else translation]
    tensors = [torch.from_numpy(np.asarray(a, np.float32)) for a in arrays]
    return model(*tensors, **options).vertices.double().numpy()


# ---------------------------------------------------------------------------------- joint orders


def test_mano_order_by_name():
    mano = conv.reorder(NAMES, "canonical", "mano")[:, 0]
    assert tuple(mano[:16]) == conv.MANO_JOINT_NAMES
    assert [name.split("_")[0] for name in mano[16:]] == list(conv.FINGER_NAMES)
    assert all(name.endswith("tip") for name in mano[16:])
    np.testing.assert_array_equal(mano[conv.MANO_TO_CANONICAL], NAMES[:, 0])


def test_other_orders_by_name():
    ho3d = conv.reorder(NAMES, "canonical", "ho3d")
    internal = conv.reorder(ho3d, "ho3d", "keypoint_transformer")[:, 0]
    assert internal[20] == "wrist"
    assert list(internal[:8]) == [
        *("thumb_tip", "thumb_3", "thumb_2", "thumb_1"),
        *("index_tip", "index_3", "index_2", "index_1"),
    ]
    rhd = conv.reorder(NAMES, "canonical", "rhd")[:, 0]
    assert list(rhd[:5]) == ["wrist", "thumb_tip", "thumb_3", "thumb_2", "thumb_1"]
    assert list(rhd[17:]) == ["little_tip", "little_3", "little_2", "little_1"]


@pytest.mark.parametrize("first", conv.ORDERS)
@pytest.mark.parametrize("second", ["canonical", "ho3d", "keypoint_transformer", "rhd"])
def test_orders_round_trip(first, second):
    assert sorted(conv.ORDERS[first]) == list(range(21))
    points = torch.arange(2 * 21 * 3).reshape(2, 21, 3)
    there = conv.reorder(points, first, second)
    assert torch.equal(conv.reorder(there, second, first), points)


def test_order_errors():
    with pytest.raises(InputError, match="mediapipe"):
        conv.reorder(np.zeros((21, 3)), "mediapipe", "canonical")
    with pytest.raises(InputError, match="20"):
        conv.reorder(np.zeros((20, 3)), "ho3d", "canonical")


def test_skeleton_agrees_with_manos_tree():
    names = conv.JOINT_NAMES
    by_name = {
        conv.MANO_JOINT_NAMES[k]: conv.MANO_JOINT_NAMES[p]
        for k, p in enumerate(conv.PARENTS_MANO)
        if p >= 0
    }
    assert len(conv.SKELETON) == 20
    for parent, child in conv.SKELETON:
        if child in conv.TIP_JOINTS:
            assert names[parent] == names[child].replace("tip", "3")
        else:
            assert by_name[names[child]] == names[parent]


def test_tips():
    assert conv.tip_vertices("manopth", "right")[2] == 444
    assert conv.tip_vertices("manopth", "left")[2] == 445
    assert conv.tip_vertices("ho3d", "left") == (728, 353, 442, 576, 694)
    with pytest.raises(InputError, match="openpose"):
        conv.tip_vertices("openpose")


# ------------------------------------------------------------------------------------- mirroring


def test_mirror_pose_is_the_mirrored_rotation(rng):
    pose = rng.normal(size=(4, 16, 3))
    mirrored = Rotation.from_rotvec(conv.mirror_pose(pose).reshape(-1, 3)).as_matrix()
    original = Rotation.from_rotvec(pose.reshape(-1, 3)).as_matrix()
    np.testing.assert_allclose(mirrored, FLIP @ original @ FLIP, atol=1e-12)
    np.testing.assert_allclose(conv.mirror_rotation(original), FLIP @ original @ FLIP, atol=0)
    np.testing.assert_array_equal(conv.mirror_pose(conv.mirror_pose(pose)), pose)


def test_mirrored_points_project_to_mirrored_pixels(rng):
    intrinsics = np.array([[500.0, 2.0, 311.0], [0, 510.0, 236.0], [0, 0, 1]])
    points = rng.normal(size=(7, 3)) * 0.1 + [0.05, 0.02, 0.6]
    width = 640

    def project(matrix, x):
        return (x @ matrix.T)[:, :2] / x[:, 2:]

    flipped = conv.mirror_intrinsics(intrinsics, width)
    ours = project(flipped, conv.mirror_points(points))
    np.testing.assert_allclose(
        ours, conv.mirror_points2d(project(intrinsics, points), width), atol=1e-9
    )
    assert flipped[0, 2] == 640 - 1 - 311
    batch = conv.mirror_intrinsics(torch.from_numpy(intrinsics).expand(2, 3, 3), width)
    np.testing.assert_array_equal(batch[1].numpy(), flipped)
    assert intrinsics[0, 2] == 311.0


def test_mirror_box_keeps_its_pixels():
    image = np.zeros((10, 20))
    image[2:5, 3:9] = 1
    box = conv.mirror_box(np.array([3.0, 2.0, 8.0, 4.0]), 20)
    rows, columns = np.nonzero(image[:, ::-1])
    np.testing.assert_array_equal(box, [columns.min(), rows.min(), columns.max(), rows.max()])


# -------------------------------------------------------------------------- frames and parameters


def test_change_frame_moves_the_whole_hand(right, rng):
    pose, betas = rng.normal(size=(16, 3)) * 0.5, rng.normal(size=10)
    translation, shift = rng.normal(size=3), rng.normal(size=3)
    frame = Rotation.from_rotvec([0.3, -2.0, 0.8]).as_matrix()
    root = right.rest_joints(torch.from_numpy(betas).float())[0].double().numpy()
    new_pose, new_translation = conv.change_frame(pose, translation, root, frame, shift)
    before = posed(right, pose, betas, translation)
    after = posed(right, new_pose, betas, new_translation)
    np.testing.assert_allclose(after, before @ frame.T + shift, atol=2e-6)
    np.testing.assert_array_equal(new_pose[1:], pose[1:])


def test_ho3d_parameters(right, rng):
    values = rng.normal(size=(3, 48)) * 0.4
    translation, betas = rng.normal(size=(3, 3)), rng.normal(size=(3, 10))
    root = right.rest_joints(torch.from_numpy(betas).float())[:, 0].double().numpy()
    pose, moved = conv.ho3d_parameters(values, translation, root)
    opengl = posed(right, values.reshape(3, 16, 3), betas, translation)
    opencv = posed(right, pose, betas, moved)
    np.testing.assert_allclose(opencv, opengl * [1, -1, -1], atol=2e-6)
    np.testing.assert_allclose(conv.opencv_to_opengl(opencv), opengl, atol=2e-6)


@pytest.mark.parametrize("side", ["right", "left"])
def test_dexycb_parameters(right, left, side, rng):
    model = right if side == "right" else left
    values, betas = rng.normal(size=(2, 51)) * 0.5, rng.normal(size=(2, 10))
    components, mean = model.hands_components.numpy(), model.hands_mean.numpy()
    pose, translation = conv.dexycb_parameters(values, components, mean)
    theirs = posed(model, values[:, :48], betas, values[:, 48:], pca=True, flat=False)
    np.testing.assert_allclose(posed(model, pose, betas, translation), theirs, atol=2e-6)
    # the free left hand is the exact mirror image, so the published recipe is exact for it
    as_right = conv.dexycb_right_pose(values, side, components, right.hands_mean.numpy())
    expected = posed(model, pose, betas)
    if side == "left":
        expected = conv.mirror_points(expected)
    np.testing.assert_allclose(posed(right, as_right, betas), expected, atol=2e-6)


def test_mean_pose(right, rng):
    pose = torch.from_numpy(rng.normal(size=(2, 16, 3))).float()
    flat = conv.mean_to_flat(pose, right.hands_mean)
    torch.testing.assert_close(right(flat).vertices, right(pose, flat=False).vertices)
    torch.testing.assert_close(conv.flat_to_mean(flat, right.hands_mean), pose)
    assert torch.equal(flat[:, 0], pose[:, 0])


def test_freihand_parameters(rng):
    intrinsics = np.array([[480.0, 0, 112.0], [0, 500.0, 110.0], [0, 0, 1]])
    values = rng.normal(size=(5, 61))
    values[:, 58:60] = rng.uniform(20, 200, (5, 2))
    values[:, 60] = rng.uniform(600, 900, 5)
    found = conv.freihand_parameters(values, intrinsics)
    assert found.pose.shape == (5, 16, 3)
    np.testing.assert_array_equal(found.pose.reshape(5, 48), values[:, :48])
    np.testing.assert_array_equal(found.betas, values[:, 48:58])
    depth = 490.0 / values[:, 60]
    np.testing.assert_allclose(found.root[:, 2], depth)
    pixels = found.root[:, :2] / depth[:, None] * 490.0 + intrinsics[:2, 2]
    np.testing.assert_allclose(pixels, values[:, 58:60])


def test_left_shape_fix(right, left):
    rights, lefts = right.arrays.shapedirs, left.arrays.shapedirs
    broken = lefts * np.array([-1, 1, 1], np.float32)[:, None]
    assert conv.has_left_shape_bug(broken, rights)
    assert not conv.has_left_shape_bug(lefts, rights)
    np.testing.assert_array_equal(conv.fix_left_shapedirs(broken), lefts)


def test_wrong_shapes():
    with pytest.raises(InputError, match="pose_m"):
        conv.dexycb_parameters(np.zeros(48), np.eye(45), np.zeros(45))
    with pytest.raises(InputError, match="values"):
        conv.freihand_parameters(np.zeros(58), np.eye(3))
    with pytest.raises(InputError, match="hand_pose"):
        conv.ho3d_parameters(np.zeros(51), np.zeros(3), np.zeros(3))
