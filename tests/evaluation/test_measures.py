"""Measures against closed forms and SciPy: FID, accelerations, MSSD, OKS, misses, hand tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import linalg
from scipy.spatial.transform import Rotation

from handhold.errors import FileFormatError, InputError, MissingFileError
from handhold.evaluation.metrics import images, keypoints
from handhold.evaluation.metrics import object as objects
from handhold.evaluation.metrics.hand import pck_curve
from handhold.evaluation.metrics.hand_table import hand_table
from handhold.evaluation.metrics.images import Gaussian, fid, frechet_distance
from handhold.evaluation.metrics.video import acceleration_error


def test_frechet_distance_of_known_gaussians() -> None:
    """Along one axis it is (m1 - m2)^2 + (s1 - s2)^2; where the covariances share their axes, the
    sum of that; a turn common to both changes nothing."""
    one = Gaussian(mean=np.array([1.0, 2, 3]), covariance=np.diag([4.0, 9, 0]))
    other = Gaussian(mean=np.array([0.0, 2, 5]), covariance=np.diag([1.0, 16, 0.25]))
    expected = 1 + 4 + (2 - 1) ** 2 + (3 - 4) ** 2 + 0.25
    assert frechet_distance(one, other) == pytest.approx(expected, abs=1e-9)
    turn = Rotation.from_rotvec([0.3, -0.8, 0.5]).as_matrix()
    turned = [
        Gaussian(mean=turn @ g.mean, covariance=turn @ g.covariance @ turn.T) for g in (one, other)
    ]
    assert frechet_distance(*turned) == pytest.approx(expected, abs=1e-7)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)
    with pytest.raises(InputError, match="as many in both"):
        frechet_distance(one, Gaussian(mean=np.zeros(2), covariance=np.eye(2)))


def test_fid_of_features_is_that_of_scipy(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    real = draw.standard_normal((300, 12)) @ draw.standard_normal((12, 12))
    made = draw.standard_normal((200, 12)) @ draw.standard_normal((12, 12)) + 0.5
    c1, c2 = np.cov(made, rowvar=False), np.cov(real, rowvar=False)
    root = linalg.sqrtm(c1 @ c2).real
    expected = ((made.mean(0) - real.mean(0)) ** 2).sum() + np.trace(c1 + c2 - 2 * root)
    assert fid(made, real) == pytest.approx(expected, rel=1e-9)
    np.save(tmp_path / "b.npy", made[120:])
    np.save(tmp_path / "a.npy", made[:120])
    np.testing.assert_array_equal(images.read_features(tmp_path), made)
    np.save(tmp_path / "c.npy", made[:, :3])
    with pytest.raises(FileFormatError, match=r"c\.npy: expected shape \(n, 12\)"):
        images.read_features(tmp_path)
    for wrong in (np.array(["a", "b"]), np.array([1.0, np.nan] * 6)):
        np.save(tmp_path / "c.npy", wrong)
        with pytest.raises(FileFormatError, match=r"c\.npy: expected"):
            images.read_features(tmp_path)
    (tmp_path / "c.npy").write_bytes(b"")
    with pytest.raises(FileFormatError, match=r"c\.npy: not an array"):
        images.read_features(tmp_path)
    with pytest.raises(MissingFileError, match=r"no \.npy files"):
        images.read_features(tmp_path / "none")
    with pytest.raises(InputError, match="N >= 2"):
        fid(made[:1], real)


def test_features_come_from_any_network_in_order() -> None:
    pictures = [np.full((2 + n, 3, 3), n, np.uint8) for n in range(5)]
    sizes = []

    def network(batch: Sequence[np.ndarray]) -> np.ndarray:
        sizes.append(len(batch))
        return np.array([image.mean() * np.array([1, 2]) for image in batch])

    found = images.features_of(pictures, network, batch=2)
    assert found.tolist() == [[n, 2 * n] for n in range(5)] and sizes == [2, 2, 1]


def test_acceleration_of_falling_hands() -> None:
    """Points that fall with g against points that move evenly: g itself, whatever the way."""
    time = np.arange(6) / 30.0
    even = np.linspace(0, 1, 21)[None, :, None] + time[:, None, None] * [1.0, 2, 3]
    falling = even + 0.5 * 9.81 * time[:, None, None] ** 2 * [0, 1.0, 0]
    per_second = acceleration_error(falling, even, fps=30)
    np.testing.assert_allclose(per_second, np.full(4, 9.81))
    np.testing.assert_allclose(acceleration_error(falling, even), np.full(4, 9.81 / 900))
    assert acceleration_error(even, 3 * even).max() < 1e-12
    with pytest.raises(InputError, match="T >= 3"):
        acceleration_error(even[:2], even[:2])


def test_mssd_takes_the_best_symmetry() -> None:
    draw = np.random.default_rng(1)
    points = draw.uniform(-0.1, 0.1, (50, 3))
    points[0] = [0.1, 0, 0]
    truth = np.eye(4)[:3]
    half = truth.copy()
    half[:, :3] = np.diag([-1.0, -1, 1])
    both = np.stack([half, truth])
    plain, turned = objects.turns_about_z(1), objects.turns_about_z(2)
    reach = 2 * np.linalg.norm(points[:, :2], axis=1).max()
    np.testing.assert_allclose(objects.mssd(both, truth, points, plain), [reach, 0], atol=1e-12)
    np.testing.assert_allclose(objects.mssd(both, truth, points, turned), 0, atol=1e-12)
    moved = half + np.eye(4)[:3, [3, 3, 3, 0]] * 0.03
    assert objects.mssd(moved, truth, points, turned) == pytest.approx(0.03)
    fifth = objects.turns_about_z(72)
    expected = Rotation.from_rotvec([0, 0, np.radians(35)]).as_matrix()
    np.testing.assert_allclose(fifth[7], expected, atol=1e-12)


def test_object_errors_of_many_poses_are_those_of_each() -> None:
    draw = np.random.default_rng(2)
    points = draw.uniform(-0.1, 0.1, (40, 3))

    def poses() -> np.ndarray:
        turn = Rotation.random(5, rng=draw).as_matrix()
        return np.concatenate([turn, draw.uniform(0.2, 1, (5, 3, 1))], 2)

    found, truth = poses(), poses()
    camera = np.array([[500.0, 0, 320], [0, 510, 240], [0, 0, 1]])
    cameras = np.repeat(camera[None], 5, 0)
    for measure in (objects.add, objects.add_s, objects.mean_corner_error):
        each = [measure(p, g, points) for p, g in zip(found, truth, strict=True)]
        np.testing.assert_allclose(measure(found, truth, points), each)
    each = [
        objects.reprojection_error(p, g, points, camera) for p, g in zip(found, truth, strict=True)
    ]
    np.testing.assert_allclose(objects.reprojection_error(found, truth, points, cameras), each)


def test_oks_of_hands_without_labels() -> None:
    """COCO: distances from the person's box, grown by its own size on every side."""
    nothing = np.zeros(21, bool)
    box, area = np.array([100.0, 100, 200, 300]), 5000.0
    inside = np.tile([[5.0, -50.0]], (21, 1))  # the grown box: 0, -100 to 300, 500
    truth = np.zeros((21, 2))
    assert keypoints.oks(inside, truth, nothing, area, box) == pytest.approx(1)
    outside = np.tile([[-30.0, 540.0]], (21, 1))
    expected = np.exp(-(30**2 + 40**2) / (2 * area * (2 * keypoints.HAND_SIGMAS) ** 2)).mean()
    assert keypoints.oks(outside, truth, nothing, area, box) == pytest.approx(expected)
    assert np.isnan(keypoints.oks(outside, truth, nothing, area))
    half = np.arange(21) < 9
    expected = np.exp(-(30**2 + 540**2) / (2e7 * (2 * keypoints.HAND_SIGMAS[:9]) ** 2)).mean()
    assert keypoints.oks(outside, truth, half, 1e7, box) == pytest.approx(expected)


def test_pck_over_thresholds_is_pck_at_each() -> None:
    draw = np.random.default_rng(4)
    truth = draw.uniform(0, 100, (30, 21, 2))
    found = truth + 6 * draw.standard_normal(truth.shape)
    found[3] = np.inf
    valid, size = draw.random((30, 21)) < 0.8, draw.uniform(40, 90, 30)
    valid[:, 7] = False
    limits = np.array([0.0, 0.05, 0.1, 0.3])
    each = [keypoints.pck(found, truth, valid, size, limit) for limit in limits]
    np.testing.assert_allclose(keypoints.pck_over(found, truth, valid, size, limits), each)


def test_missed_hands_as_handos_counts_them() -> None:
    """A zero hand aligns to the truth's middle: the error is the spread about it, no threshold
    counts it, however wide."""
    draw = np.random.default_rng(5)
    truth = 0.001 * draw.standard_normal((4, 21, 3)) + [0, 0, 0.5]  # small: all within 50 mm
    found = truth.copy()
    found[3] = 0
    missed = np.array([False, False, False, True])
    table = hand_table(found, truth, missed=missed)
    spread = np.linalg.norm(truth[3] - truth[3].mean(0), axis=1).mean() / 4
    assert table.numbers["pa_mpjpe_mm"] == pytest.approx(1000 * spread, rel=1e-4)
    assert table.curves["pa_mpjpe"].pck[1:] == pytest.approx(np.full(99, 0.75))
    assert hand_table(found, truth).curves["pa_mpjpe"].pck[-1] == 1
    errors = np.array([[0.01], [0.02], [0.0]])
    curve = pck_curve(errors, missed=np.array([False, False, True]), high=0.02, steps=3)
    assert curve.pck.tolist() == [0, 1 / 3, 2 / 3] and curve.mean == pytest.approx(0.01)


def test_a_mirrored_hand_aligns_only_where_reflections_may() -> None:
    draw = np.random.default_rng(6)
    joints, mesh = 0.03 * draw.standard_normal((3, 21, 3)), 0.03 * draw.standard_normal((3, 50, 3))
    hands = {"joints": joints * [-1, 1, 1], "true_joints": joints}
    meshes = {"vertices": mesh * [-1, 1, 1], "true_vertices": mesh}
    free = hand_table(**hands, **meshes, workers=2).numbers
    assert free["pa_mpjpe_mm"] < 1e-4 and free["pa_mpvpe_mm"] < 1e-4 and free["pa_f@5"] == 1
    proper = hand_table(**hands, **meshes, alignment="proper").numbers
    assert min(proper["pa_mpjpe_mm"], proper["pa_mpvpe_mm"]) > 1 and proper["pa_f@5"] < 1
    assert proper["mpjpe_mm"] == free["mpjpe_mm"]


def test_every_rule_undoes_what_it_says() -> None:
    draw = np.random.default_rng(7)
    truth, mesh = 0.03 * draw.standard_normal((2, 21, 3)), 0.03 * draw.standard_normal((2, 60, 3))
    turn = Rotation.from_rotvec([0.2, 0.9, -0.4]).as_matrix()
    shift = np.array([0.01, 0.02, 0.3])

    def errors(change: object) -> list[bool]:
        assert callable(change)
        rules = ("absolute", "root", "st", "pa")
        parts = change(truth), truth, change(mesh), mesh
        numbers = hand_table(*parts, rules=rules).numbers
        assert "st_mpvpe_mm" not in numbers
        assert numbers["absolute_mpvpe_mm"] >= numbers["pa_mpvpe_mm"] - 1e-4
        return [numbers[f"{p}mpjpe_mm"] > 1e-4 for p in ("absolute_", "", "st_", "pa_")]

    assert errors(lambda x: x) == [False, False, False, False]
    assert errors(lambda x: x + shift) == [True, False, False, False]
    assert errors(lambda x: 1.1 * x + shift) == [True, True, False, False]
    assert errors(lambda x: 1.1 * x @ turn + shift) == [True, True, True, False]
    assert errors(lambda x: x**2) == [True, True, True, True]
