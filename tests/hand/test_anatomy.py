"""Joint limits, anatomical angles, natural poses."""

import numpy as np
import pytest
import torch

from handhold.errors import InputError
from handhold.hand import anatomy
from handhold.hand.clearance import Capsules, segment_distance
from handhold.hand.shapes import SHAPES

LOW, HIGH = anatomy.LIMITS[..., 0], anatomy.LIMITS[..., 1]


def test_angles_round_trip():
    rng = np.random.default_rng(0)
    angles = rng.uniform(LOW, HIGH, (50, 15, 3))
    back = anatomy.angles_from_pose(anatomy.pose_from_angles(angles))
    np.testing.assert_allclose(back, angles, atol=1e-8)


def test_one_angle_is_a_turn_about_its_axis():
    joints = np.zeros((16, 3))
    for digit, first in enumerate((1, 4, 10, 7, 13)):
        for k in range(3):
            joints[first + k] = -0.05 - 0.03 * k, 0, 0.02 - 0.01 * digit
    tips = joints[[15, 3, 6, 12, 9]] + [-0.03, 0, 0]
    frames = anatomy.anatomical_frames(joints, tips)
    np.testing.assert_allclose(np.linalg.det(frames), 1, atol=1e-12)
    np.testing.assert_allclose(
        frames @ frames.transpose(0, 2, 1), np.tile(np.eye(3), (16, 1, 1)), atol=1e-12
    )
    angles = np.zeros((15, 3))
    angles[1, 0] = 30
    pose = anatomy.pose_from_angles(angles, frames)
    np.testing.assert_allclose(pose[2], np.radians(30) * frames[2, :, 0], atol=1e-12)
    assert pose[2] @ [0, 0, 1] > 0.5  # fingers along -x bend to the palm (-y) about +z
    assert np.abs(np.delete(pose, 2, axis=0)).max() == 0


def test_sampled_poses_obey_the_limits_and_the_seed():
    poses = anatomy.sample_pose(np.random.default_rng(7), 200)
    assert poses.shape == (200, 16, 3)
    assert np.abs(poses[:, 0]).max() == 0
    angles = anatomy.angles_from_pose(poses)
    assert (angles > LOW - 1e-6).all() and (angles < HIGH + 1e-6).all()
    again = anatomy.sample_pose(np.random.default_rng(7), 200)
    np.testing.assert_array_equal(poses, again)
    assert np.abs(poses - anatomy.sample_pose(np.random.default_rng(8), 200)).max() > 0.1


def test_sampled_poses_are_varied_and_fingers_move_together():
    angles = anatomy.sample_angles(np.random.default_rng(3), 1500)
    knuckles = angles[:, [0, 3, 9, 6], 0]
    assert (knuckles.std(0) > 20).all()
    correlation = np.corrcoef(knuckles.T)
    assert correlation[1, 2] > 0.4 and correlation[2, 3] > 0.4
    for first in (0, 3, 6, 9):
        slope = np.polyfit(angles[:, first + 1, 0], angles[:, first + 2, 0], 1)[0]
        assert 0.4 < slope < 0.9  # the end joint follows the middle one


def test_spread_zero_gives_only_shapes_and_blends():
    angles = anatomy.sample_angles(np.random.default_rng(0), 300, spread=0.0)
    from handhold.hand import shapes

    table = np.stack([shapes.angles(s) for s in SHAPES.values()])
    assert (angles >= table.min(0) - 1e-9).all() and (angles <= table.max(0) + 1e-9).all()


def test_named_shapes_are_within_limits_and_clear():
    for name in SHAPES:
        pose = anatomy.named_pose(name)
        np.testing.assert_allclose(anatomy.clamp_pose(pose), pose, atol=1e-9, err_msg=name)


def test_clamp_brings_wild_poses_inside_and_keeps_the_root():
    rng = np.random.default_rng(2)
    wild = rng.normal(0, 0.9, (40, 16, 3))
    clamped = anatomy.clamp_pose(wild)
    angles = anatomy.angles_from_pose(clamped)
    assert (angles > LOW - 1e-6).all() and (angles < HIGH + 1e-6).all()
    np.testing.assert_array_equal(clamped[:, 0], wild[:, 0])
    np.testing.assert_allclose(anatomy.clamp_pose(clamped), clamped, atol=1e-9)


def test_penalty_is_zero_inside_and_the_squared_excess_outside():
    inside = torch.as_tensor(anatomy.sample_pose(np.random.default_rng(0), 20))
    assert anatomy.pose_penalty(inside).abs().max() < 1e-10
    angles = np.zeros((15, 3))
    angles[1, 0] = HIGH[1, 0] + 20
    pose = torch.as_tensor(anatomy.pose_from_angles(angles)).requires_grad_()
    loss = anatomy.pose_penalty(pose)
    assert loss.item() == pytest.approx(np.radians(20) ** 2 / 45, rel=1e-6)
    loss.backward()
    assert pose.grad is not None and torch.isfinite(pose.grad).all() and pose.grad.abs().max() > 0
    rest = torch.zeros(16, 3, requires_grad=True)
    anatomy.pose_penalty(rest).backward()
    assert rest.grad is not None and torch.isfinite(rest.grad).all()


def test_betas_are_clipped_normal():
    betas = anatomy.sample_betas(np.random.default_rng(0), 4000)
    assert betas.shape == (4000, 10) and np.abs(betas).max() == 2.5
    assert np.abs(betas.mean(0)).max() < 0.08 and np.abs(betas.std(0) - 0.98).max() < 0.05


def test_segment_distance_matches_a_dense_search():
    rng = np.random.default_rng(0)
    a0, a1, b0, b1 = rng.normal(size=(4, 40, 3))
    grid = np.linspace(0, 1, 201)
    a = a0[:, None] + grid[:, None] * (a1 - a0)[:, None]
    b = b0[:, None] + grid[:, None] * (b1 - b0)[:, None]
    dense = np.linalg.norm(a[:, :, None] - b[:, None], axis=-1).min((1, 2))
    np.testing.assert_allclose(segment_distance(a0, a1, b0, b1), dense, atol=2e-2)
    assert (segment_distance(a0, a1, b0, b1) <= dense + 1e-12).all()


def test_penetration_sees_crossed_fingers():
    angles = np.zeros((2, 15, 3))
    angles[1, 0, 1], angles[1, 3, 1] = -18, 18  # index and middle pushed through each other
    capsules = anatomy._free_hand()[1]
    assert isinstance(capsules, Capsules)
    open_hand, crossed = capsules.penetration(anatomy.pose_from_angles(angles))
    assert open_hand == 0 and crossed > 0.008


def test_wrong_shapes_are_named():
    with pytest.raises(InputError, match=r"pose: found shape \(15, 3\)"):
        anatomy.angles_from_pose(np.zeros((15, 3)))
    with pytest.raises(InputError, match="angles"):
        anatomy.pose_from_angles(np.zeros((16, 3)))
    with pytest.raises(InputError, match="shape name"):
        anatomy.named_pose("paw")
    with pytest.raises(InputError, match="n and spread"):
        anatomy.sample_pose(np.random.default_rng(0), -1)
