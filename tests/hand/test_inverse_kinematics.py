"""Fitting the hand model: known hands are found again, derivatives agree with differences."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from handhold.errors import InputError
from handhold.geometry.rotation import axis_angle_to_matrix
from handhold.hand.anatomy import LIMITS, angles_from_pose, sample_betas, sample_pose
from handhold.hand.angle_prior import AnglePrior
from handhold.hand.convention import mirror_pose
from handhold.hand.inverse_kinematics import InverseKinematics, InverseKinematicsConfig
from handhold.hand.model import HandModel
from handhold.hand.skinning_derivatives import SkinningDerivatives, State

SYNTHETIC = "../golden/data/synthetic_mano_right.npz"


@pytest.fixture(scope="module")
def right():
    return HandModel.free()


@pytest.fixture(scope="module")
def made_up(request):
    return HandModel.from_file(request.path.parent / SYNTHETIC, "right")


@pytest.fixture(scope="module")
def right_fit(right):
    return InverseKinematics(right)


def drawn(count, seed, *, side="right", dtype=torch.float32):
    """Natural poses in any global orientation, shapes, and places up to half a metre away."""
    rng = np.random.default_rng(seed)
    pose = sample_pose(rng, count)
    pose[:, 0] = Rotation.random(count, rng=rng).as_rotvec()
    pose = mirror_pose(pose) if side == "left" else pose
    values = (pose, sample_betas(rng, count), rng.uniform(-0.5, 0.5, (count, 3)))
    return tuple(torch.tensor(value, dtype=dtype) for value in values)


def distances(found, truth):
    """Millimetres (..., N)."""
    return 1e3 * (found - truth).norm(dim=-1)


def worst_hand(found, truth):
    """Millimetres: mean over the points of the worst hand."""
    return float(distances(found, truth).mean(-1).max())


# ------------------------------------------------------------------------------------- recovery


def test_finds_hands_from_vertices(right, right_fit):
    truth = right(*drawn(32, 0))
    fit = right_fit(truth.vertices)
    assert worst_hand(fit.vertices, truth.vertices) < 0.1
    assert worst_hand(fit.joints, truth.joints) < 0.1
    assert float(fit.error.max()) < 2e-4
    again = right(fit.pose, fit.betas, fit.translation)  # the numbers say the same
    torch.testing.assert_close(again.vertices, fit.vertices, atol=2e-6, rtol=0)
    torch.testing.assert_close(again.joints, fit.joints, atol=2e-6, rtol=0)


def test_finds_hands_of_another_model(made_up):
    truth = made_up(*drawn(32, 1))
    fit = InverseKinematics(made_up)(truth.vertices)
    assert worst_hand(fit.vertices, truth.vertices) < 0.5


def test_finds_unnatural_hands(right, right_fit):
    pose, betas, translation = drawn(16, 2)
    pose[:, 1:] = 0.6 * torch.randn(16, 15, 3, generator=torch.Generator().manual_seed(0))
    truth = right(pose, betas, translation)
    assert worst_hand(right_fit(truth.vertices).vertices, truth.vertices) < 0.5


def test_finds_the_pose_itself_when_the_shape_is_known(right, right_fit):
    pose, betas, translation = drawn(8, 3)
    truth = right(pose, betas, translation)
    fit = right_fit(truth.vertices, betas=betas)
    torch.testing.assert_close(fit.betas, betas)
    found, known = axis_angle_to_matrix(fit.pose), axis_angle_to_matrix(pose)
    torch.testing.assert_close(found, known, atol=2e-3, rtol=0)
    torch.testing.assert_close(fit.translation, translation, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["vertices", "joints"])
def test_finds_left_hands(kind):
    left = HandModel.free("left")
    truth = left(*drawn(8, 4, side="left"))
    fit = InverseKinematics(left)(**{kind: getattr(truth, kind)})
    assert worst_hand(getattr(fit, kind), getattr(truth, kind)) < 0.5
    again = left(fit.pose, fit.betas, fit.translation)
    torch.testing.assert_close(again.vertices, fit.vertices, atol=2e-6, rtol=0)


def test_joints_alone_give_a_natural_hand(right, right_fit):
    truth = right(*drawn(32, 5))
    fit = right_fit(joints=truth.joints)
    assert worst_hand(fit.joints, truth.joints) < 0.5
    assert float(distances(fit.joints, truth.joints).max()) < 1.0
    angles = angles_from_pose(fit.pose.numpy())
    excess = np.maximum(LIMITS[..., 0] - angles, angles - LIMITS[..., 1])
    assert excess.max() < 2.0  # degrees
    # the unseen flesh follows from bones and priors
    assert worst_hand(fit.vertices, truth.vertices) < 5.0


def test_vertices_and_joints_together(right, right_fit):
    truth = right(*drawn(4, 6))
    fit = right_fit(truth.vertices, truth.joints)
    assert worst_hand(fit.vertices, truth.vertices) < 0.1


def test_noise_is_averaged_out(right, right_fit):
    truth = right(*drawn(16, 7))
    noise = 2e-3 * torch.randn(truth.vertices.shape, generator=torch.Generator().manual_seed(1))
    noisy = truth.vertices + noise
    fit = right_fit(noisy)
    given = distances(noisy, truth.vertices).mean(-1)
    left = distances(fit.vertices, truth.vertices).mean(-1)
    assert bool((left < 0.3 * given).all())
    # what remains of 2334 numbers explained by at most 61: sigma sqrt(3 (1 - 61 / 2334)) and more
    assert 3.3e-3 < float(fit.error.mean()) < 2e-3 * 3**0.5


def test_a_prior_counts_more_where_points_are_noisy(right):
    truth = right(*drawn(16, 8))
    noise = 5e-3 * torch.randn(truth.joints.shape, generator=torch.Generator().manual_seed(2))
    trusting = InverseKinematics(right)(joints=truth.joints + noise)
    config = InverseKinematicsConfig(joint_noise=5e-3, pose_prior=1.0, limit_prior=1.0)
    wary = InverseKinematics(right, config)(joints=truth.joints + noise)
    errors = [distances(fit.joints, truth.joints).mean() for fit in (trusting, wary)]
    assert errors[1] < errors[0] < distances(truth.joints + noise, truth.joints).mean()


# -------------------------------------------------------------------------------------- weights


def test_points_of_weight_zero_do_not_matter(right, right_fit):
    truth = right(*drawn(8, 9))
    weights = (torch.rand(8, 778, generator=torch.Generator().manual_seed(3)) < 0.2).float()
    broken = torch.where(weights[..., None] > 0, truth.vertices, torch.nan)
    fit = right_fit(broken, vertex_weights=weights)
    assert worst_hand(fit.vertices, truth.vertices) < 0.5
    broken = torch.where(weights[..., None] > 0, truth.vertices, 7.0)
    same = right_fit(broken, vertex_weights=weights)
    assert torch.equal(fit.pose, same.pose)


def test_an_unseen_finger_is_natural(right, right_fit):
    truth = right(*drawn(8, 10))
    finger = (right.weights[:, 4:7].sum(1) > 0).float()  # all that the middle finger moves
    fit = right_fit(truth.vertices, vertex_weights=1 - finger)
    assert worst_hand(fit.vertices[:, finger == 0], truth.vertices[:, finger == 0]) < 0.1
    angles = angles_from_pose(fit.pose.numpy())[:, 3:6]
    assert (angles > LIMITS[3:6, :, 0] - 2).all() and (angles < LIMITS[3:6, :, 1] + 2).all()


def test_weights_pull_towards_the_heavier_points(right, right_fit):
    truth = right(*drawn(2, 11))
    other = truth.joints + torch.tensor([0.0, 0.0, 0.01])
    distance = []
    for weight in (0.01, 1.0, 100.0):
        weights = torch.full((21,), weight)
        fit = right_fit(truth.vertices, other, joint_weights=weights)
        distance.append(float(distances(fit.joints, other).mean()))
    assert distance[0] > distance[1] > distance[2]


# ----------------------------------------------------------------------------- shapes and types


@pytest.mark.parametrize("lead", [(), (0,), (2, 3), (1, 0, 2)])
def test_any_batch_shape(right, right_fit, lead):
    pose, betas, translation = drawn(6, 12)
    truth = right(pose, betas, translation).vertices
    count = int(np.prod(lead))
    fit = right_fit(truth[:count].reshape(*lead, 778, 3))
    assert fit.pose.shape == (*lead, 16, 3) and fit.betas.shape == (*lead, 10)
    assert fit.translation.shape == (*lead, 3) and fit.vertices.shape == (*lead, 778, 3)
    assert fit.joints.shape == (*lead, 21, 3) and fit.error.shape == lead
    found = fit.vertices.reshape(-1, 778, 3)
    torch.testing.assert_close(found, truth[:count], atol=5e-4, rtol=0)


def test_batch_shapes_are_broadcast_and_chunks_do_not_matter(right, right_fit):
    pose, betas, translation = drawn(3, 13)
    truth = right(pose, betas[:1], translation)
    fit = right_fit(truth.vertices, vertex_weights=torch.ones(778), betas=betas[0])
    assert fit.betas.shape == (3, 10)
    alone = InverseKinematics(right, InverseKinematicsConfig(chunk=1))(
        truth.vertices, betas=betas[0]
    )
    torch.testing.assert_close(fit.vertices, alone.vertices, atol=2e-5, rtol=0)


def test_the_models_type_is_kept(right, right_fit):
    truth = right(*drawn(1, 14)).vertices
    assert right_fit(truth.double()).pose.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert worst_hand(right_fit(truth).vertices, truth) < 0.1


def test_hopeless_points_give_numbers(right_fit):
    for points in (torch.zeros(1, 778, 3), torch.randn(1, 778, 3)):
        fit = right_fit(points)
        assert bool(torch.isfinite(fit.vertices).all()) and bool(torch.isfinite(fit.pose).all())


# ---------------------------------------------------------------------------------- derivatives


@pytest.fixture(scope="module")
def state():
    generator = torch.Generator().manual_seed(4)
    pose = 0.7 * torch.randn(2, 16, 3, generator=generator, dtype=torch.float64)
    numbers = torch.randn(2, 13, generator=generator, dtype=torch.float64)
    return State(axis_angle_to_matrix(pose), numbers[:, :10], numbers[:, 10:])


def test_skinning_is_the_hand_model_and_its_derivatives(made_up, state):
    hand = HandModel(made_up.arrays, side="right").double()
    skinning = SkinningDerivatives(hand)
    points = skinning.points()
    posed = skinning.pose(state, points)
    out = hand(*state, rotation_type="matrix")
    truth = torch.cat((out.vertices, out.joints), dim=1).transpose(1, 2)
    torch.testing.assert_close(posed.positions, truth, atol=1e-6, rtol=0)
    ours = skinning.jacobian(state, posed, points, None)
    step = 1e-6 * torch.eye(61, dtype=torch.float64)
    for unknown in range(61):
        ahead = skinning.pose(state.moved(step[unknown].expand(2, 61)), points).positions
        behind = skinning.pose(state.moved(-step[unknown].expand(2, 61)), points).positions
        difference = (ahead - behind) / 2e-6
        torch.testing.assert_close(ours[:, unknown], difference, atol=2e-7, rtol=1e-6)
    force = torch.randn(2, 3, 799, generator=torch.Generator().manual_seed(5)).double()
    pulled = skinning.pull_back(state, posed, points, force)
    torch.testing.assert_close(pulled, torch.einsum("bkcn,bcn->bk", ours, force), atol=1e-5, rtol=0)


def test_the_angle_priors_derivatives(right):
    pose = 0.4 * torch.randn(2, 16, 3, generator=torch.Generator().manual_seed(7))
    rest = torch.zeros(2, 13, dtype=torch.float64)
    state = State(axis_angle_to_matrix(pose.double()), rest[:, :10], rest[:, 10:])
    prior = AnglePrior(right, relaxed=1.0, limits=2.0).double()
    _, slope, rise = prior(state.rotations)
    for unknown in range(45):
        step = torch.zeros(2, 61, dtype=torch.float64)
        step[:, 3 + unknown] = 1e-6
        ahead, behind = (prior(state.moved(s).rotations)[0] for s in (step, -step))
        difference = (ahead - behind) / 2e-6
        torch.testing.assert_close(slope.flatten(1)[:, unknown], difference, atol=1e-4, rtol=1e-5)
    assert bool((torch.linalg.eigvalsh(rise) > 0).all())
    natural, _, _ = prior(prior.rotations[None])
    assert float(natural) < 1e-9


@pytest.mark.parametrize("kind", ["vertices", "joints", "betas", "vertex_weights"])
def test_gradients_agree_with_differences(right, kind):
    hand = HandModel(right.arrays, side="right", tips=tuple(right.tips.tolist())).double()
    config = InverseKinematicsConfig(
        iterations=10, sparse_iterations=15, gradient_steps=6, tolerance=0.0
    )
    fitting = InverseKinematics(hand, config)
    truth = hand(*drawn(1, 15, dtype=torch.float64))
    generator = torch.Generator().manual_seed(6)
    noise = 1e-3 * torch.randn(1, 778, 3, generator=generator, dtype=torch.float64)
    given = {"vertices": truth.vertices + noise}
    if kind == "joints":
        given = {"joints": truth.joints}
    elif kind == "betas":
        given["betas"] = torch.zeros(1, 10, dtype=torch.float64)
    elif kind == "vertex_weights":
        given[kind] = torch.linspace(0.5, 2.0, 778, dtype=torch.float64)[None]
    start = given[kind]
    along = torch.randn(start.shape, generator=generator, dtype=torch.float64)
    mix = {
        name: torch.randn(size, generator=generator, dtype=torch.float64)
        for name, size in (("pose", (16, 3)), ("translation", (3,)), ("vertices", (778, 3)))
    }

    def value(point):
        fit = fitting(**{**given, kind: point})
        return torch.stack([(getattr(fit, name) * part).sum() for name, part in mix.items()])

    point = start.clone().requires_grad_()
    result = value(point)
    ours = [
        float((torch.autograd.grad(r, point, retain_graph=True)[0] * along).sum()) for r in result
    ]
    with torch.no_grad():
        difference = (value(start + 1e-5 * along) - value(start - 1e-5 * along)) / 2e-5
    np.testing.assert_allclose(ours, difference.numpy(), rtol=3e-3, atol=1e-7)


def test_no_gradient_no_record(right, right_fit):
    fit = right_fit(right(*drawn(1, 16)).vertices)
    assert not fit.pose.requires_grad


# ------------------------------------------------------------------------------------ bad input


def test_bad_input_is_refused(right_fit):
    good, ones = torch.zeros(2, 778, 3), torch.ones(2, 778)
    bad = good.clone()
    bad[1, 5, 2] = torch.nan
    for arguments, words in (
        ({}, "at least one"),
        ({"vertices": good[:, :777]}, r"vertices: expected shape \(..., 778, 3\)"),
        ({"joints": torch.zeros(21, 2)}, "joints: expected shape"),
        ({"vertices": bad}, "vertices: expected finite"),
        ({"vertices": bad, "vertex_weights": ones}, "vertices: expected finite"),
        ({"vertices": good, "vertex_weights": -ones}, "vertex_weights: expected none below 0"),
        ({"vertices": good, "vertex_weights": ones * torch.inf}, "vertex_weights: expected finite"),
        ({"vertices": good, "vertex_weights": 0 * ones}, "a hand of zeros"),
        ({"vertices": good, "vertex_weights": ones[:, 1:]}, "vertex_weights: expected shape"),
        ({"vertices": good, "joint_weights": ones[:, :21]}, "joint_weights: found without joints"),
        ({"vertices": good, "joints": torch.zeros(3, 21, 3)}, "do not fit"),
        ({"vertices": good, "betas": torch.zeros(2, 9)}, "betas: expected shape"),
        ({"vertices": good.numpy()}, "expected a tensor"),
        ({"vertices": good > 0}, "expected real numbers"),
    ):
        with pytest.raises(InputError, match=words):
            right_fit(**arguments)


@pytest.mark.parametrize(
    "field",
    [
        {"iterations": 0},
        {"chunk": 0},
        {"vertex_noise": 0.0},
        {"joint_noise": float("nan")},
        {"pose_prior": -1.0},
        {"representatives": 10},
    ],
)
def test_bad_configuration_is_refused(field):
    with pytest.raises(InputError, match=next(iter(field))):
        InverseKinematicsConfig(**field)
