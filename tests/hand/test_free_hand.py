"""The shipped hand: a closed, plausible hand in MANO's schema, at rest, posed and shaped."""

from importlib import resources

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial.transform import Rotation

from handhold.hand import anatomy

PARENTS = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14)
DISTAL = (15, 3, 6, 12, 9)  # thumb, index, middle, ring, little


@pytest.fixture(scope="module")
def hand() -> dict[str, np.ndarray]:
    path = resources.files("handhold.hand").joinpath("assets/free_hand.npz")
    with path.open("rb") as file, np.load(file) as data:
        return dict(data)


def posed(hand, pose, betas=None, *, correctives=True):
    """Textbook linear blend skinning, written apart from the package's own."""
    rest = hand["v_template"].astype(np.float64)
    if betas is not None:
        rest = rest + hand["shapedirs"] @ betas
    joints = hand["J_regressor"] @ rest
    turn = Rotation.from_rotvec(pose).as_matrix()
    if correctives:
        rest = rest + hand["posedirs"] @ (turn[1:] - np.eye(3)).ravel()
    chain = np.zeros((16, 4, 4))
    for j, parent in enumerate(PARENTS):
        step = np.eye(4)
        step[:3, :3] = turn[j]
        step[:3, 3] = joints[j] - (joints[parent] if j else 0)
        chain[j] = chain[parent] @ step if j else step
    placed = chain[:, :3, 3].copy()
    chain[:, :3, 3] -= np.einsum("jab,jb->ja", chain[:, :3, :3], joints)
    blend = np.einsum("vj,jab->vab", hand["weights"], chain)
    return np.einsum("vab,vb->va", blend[:, :3, :3], rest) + blend[:, :3, 3], placed


def winding(points, vertices, faces):
    """Generalised winding number (N,) of the closed surface about the points (N, 3)."""
    a, b, c = (vertices[faces[:, k]][None] - points[:, None] for k in range(3))
    la, lb, lc = (np.linalg.norm(x, axis=-1) for x in (a, b, c))
    top = np.einsum("nfk,nfk->nf", a, np.cross(b, c))
    low = la * lb * lc + (a * b).sum(-1) * lc + (b * c).sum(-1) * la + (c * a).sum(-1) * lb
    return np.arctan2(top, low).sum(1) / (2 * np.pi)


def test_schema(hand):
    shapes = {
        "v_template": (778, 3),
        "shapedirs": (778, 3, 10),
        "posedirs": (778, 3, 135),
        "J_regressor": (16, 778),
        "weights": (778, 16),
        "kintree_table": (2, 16),
        "hands_components": (45, 45),
        "hands_mean": (45,),
        "f": (1552, 3),
        "tips": (5,),
        "part": (778,),
        "nail_joints": (5,),
        "nail_centres": (5, 3),
        "nail_half_sizes": (5, 2),
        "crease_points": (15, 3),
    }
    assert {k: hand[k].shape for k in shapes} == shapes
    assert all(np.isfinite(value).all() for value in hand.values())
    assert tuple(hand["kintree_table"][0, 1:]) == PARENTS[1:]


def test_surface_is_a_closed_manifold_that_faces_outwards(hand):
    mesh = trimesh.Trimesh(hand["v_template"], hand["f"], process=False)
    assert mesh.is_watertight and mesh.is_winding_consistent
    assert mesh.euler_number == 2
    assert 2.8e-4 < mesh.volume < 4.5e-4  # an adult hand with wrist: 0.3 to 0.45 litres
    corners = hand["v_template"][hand["f"]]
    edges = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2)
    skin = ~np.isin(hand["f"], hand["wrist_ring"]).all(1)  # all but the flat cut end
    assert edges.min() > 5e-4 and edges[skin].max() < 0.025
    assert (mesh.area_faces / edges.max(1) ** 2)[skin].min() > 0.05  # no slivers
    assert np.bincount(hand["f"].ravel()).max() <= 20  # the cut end may be a fan


def test_weights_and_regressor_are_convex(hand):
    for rows in (hand["weights"], hand["J_regressor"]):
        assert rows.min() >= -1e-3
        np.testing.assert_allclose(rows.sum(1), 1, atol=1e-5)
    np.testing.assert_array_equal(hand["part"], hand["weights"].argmax(1))


def test_size_and_axes_are_an_adult_right_hand_in_manos_axes(hand):
    joints = hand["J_regressor"] @ hand["v_template"]
    tips = hand["v_template"][hand["tips"]]
    assert 0.180 < np.linalg.norm(tips[2] - joints[0]) < 0.195
    assert tips[2, 0] < joints[4, 0] < joints[0, 0]  # fingers along -x
    assert joints[1, 2] > joints[4, 2] > joints[10, 2] > joints[7, 2]  # index to little: -z
    assert tips[0, 2] > joints[1, 2] + 0.02  # thumb on +z
    assert tips[0, 1] < joints[13, 1]  # and towards the palm, -y
    width = joints[1] - joints[7]
    assert 0.05 < np.linalg.norm(width) < 0.075


def test_tips_are_the_extreme_ends_of_the_fingers(hand):
    vertices = hand["v_template"]
    joints = hand["J_regressor"] @ vertices
    for tip, joint in zip(hand["tips"], DISTAL, strict=True):
        assert hand["part"][tip] == joint
        mine = vertices[hand["part"] == joint]
        along = vertices[tip] - joints[joint]
        along /= np.linalg.norm(along)
        assert ((mine - vertices[tip]) @ along).max() < 0.0006


def test_wrist_ring_is_a_loop_of_edges_round_the_cut_end(hand):
    ring = hand["wrist_ring"]
    assert len(set(ring.tolist())) == len(ring) >= 12
    faces = hand["f"]
    edges = {tuple(sorted(e)) for f in faces for e in zip(f, np.roll(f, 1), strict=True)}
    pairs = zip(ring, np.roll(ring, 1), strict=True)
    assert all(tuple(sorted(pair)) in edges for pair in pairs)
    ends = hand["v_template"][ring]
    reach = (ends - ends.mean(0)) @ hand["forearm_axis"]
    assert np.ptp(reach) < 0.03 and (ends[:, 0] > 0.1).all()


def test_basis_of_poses_is_orthonormal(hand):
    rows = hand["hands_components"]
    np.testing.assert_allclose(rows @ rows.T, np.eye(45), atol=1e-5)


def test_joints_stay_in_the_flesh_for_random_shapes(hand):
    rng = np.random.default_rng(0)
    for _ in range(6):
        betas = rng.uniform(-3, 3, 10)
        vertices = hand["v_template"] + hand["shapedirs"] @ betas
        joints = hand["J_regressor"] @ vertices
        mesh = trimesh.Trimesh(vertices, hand["f"], process=False)
        assert mesh.volume > 0
        np.testing.assert_allclose(winding(joints, vertices, hand["f"]), 1, atol=1e-3)
        gap = np.linalg.norm(vertices[None] - joints[:, None], axis=2).min(1)
        assert gap.min() > 0.004


def test_each_shape_number_does_what_its_name_says(hand):
    names = list(anatomy.BETA_NAMES)
    template = hand["v_template"]
    joints = hand["J_regressor"] @ template
    tips = hand["tips"]

    def changed(name):
        move = hand["shapedirs"][..., names.index(name)]
        return template + move, hand["J_regressor"] @ (template + move)

    def middle(v, j):
        return np.linalg.norm(v[tips[2]] - j[4])

    assert middle(*changed("size")) / middle(template, joints) == pytest.approx(1.05, abs=2e-3)
    assert middle(*changed("finger length")) / middle(template, joints) == pytest.approx(
        1.04, abs=4e-3
    )
    longer = changed("palm length")[1]
    assert longer[0, 0] - longer[4, 0] > joints[0, 0] - joints[4, 0] + 0.0025
    wider = changed("palm width")[1]
    assert wider[1, 2] - wider[7, 2] > joints[1, 2] - joints[7, 2] + 0.0015
    thumb, thumb_joints = changed("thumb length")
    assert np.linalg.norm(thumb[tips[0]] - thumb_joints[13]) > 0.0035 + np.linalg.norm(
        template[tips[0]] - joints[13]
    )
    ring = hand["wrist_ring"]
    assert np.ptp(changed("wrist width")[0][ring, 2]) > np.ptp(template[ring, 2]) + 0.002
    for name, part in (("finger thickness", (2,)), ("finger taper", (3,)), ("flesh", (2, 5, 8))):
        mesh = trimesh.Trimesh(changed(name)[0], hand["f"], process=False)
        rest = trimesh.Trimesh(template, hand["f"], process=False)
        mine = np.isin(hand["part"], part)
        outward = ((mesh.vertices - template)[mine] * rest.vertex_normals[mine]).sum(1)
        assert outward.mean() > 1e-4, name


@pytest.mark.parametrize("name", ["fist", "hook", "grip", "four", "pinch"])
def test_volume_is_kept_when_bent(hand, name):
    rest = trimesh.Trimesh(hand["v_template"], hand["f"], process=False).volume
    pose = anatomy.named_pose(name)
    bent = trimesh.Trimesh(posed(hand, pose)[0], hand["f"], process=False).volume
    plain = posed(hand, pose, correctives=False)[0]
    assert 0.92 * rest < bent < 1.06 * rest
    assert bent > trimesh.Trimesh(plain, hand["f"], process=False).volume


def test_correctives_stay_small_even_for_unnatural_poses(hand):
    rng = np.random.default_rng(0)
    for size, bound in ((0.3, 0.006), (0.6, 0.012), (1.2, 0.018)):
        turns = Rotation.from_rotvec(rng.normal(0, size, (60 * 15, 3))).as_matrix()
        features = (turns - np.eye(3)).reshape(60, 135)
        moves = np.einsum("vkf,pf->pvk", hand["posedirs"], features)
        assert np.linalg.norm(moves, axis=2).max() < bound


def test_flexion_curls_to_the_palm(hand):
    """Every joint bent alone moves its fingertip down to the palm side; the thumb's across it."""
    for joint in range(15):
        angles = np.zeros((15, 3))
        angles[joint, 0] = 40
        moved, _ = posed(hand, anatomy.pose_from_angles(angles))
        digit = (1, 2, 4, 3, 0)[joint // 3]
        shift = moved[hand["tips"][digit]] - hand["v_template"][hand["tips"][digit]]
        if digit:
            assert shift[1] < -0.006
        else:
            assert shift[2] < -0.006


def test_pinch_brings_the_pads_together(hand):
    for name, digit in (("pinch", 1), ("nine", 1), ("eight", 2), ("seven", 3), ("six", 4)):
        vertices, _ = posed(hand, anatomy.named_pose(name))
        thumb = vertices[hand["part"] == 15]
        finger = vertices[hand["part"] == DISTAL[digit]]
        gap = np.linalg.norm(thumb[:, None] - finger[None], axis=2).min()
        assert gap < 0.006, name


def test_sampled_poses_hardly_enter_themselves(hand):
    """Vertices that lie, 1 mm above their own skin, inside another part of the hand."""
    poses = anatomy.sample_pose(np.random.default_rng(5), 100)
    digits = np.flatnonzero(hand["part"] != 0)
    shares = []
    for pose in poses[::5]:
        vertices = posed(hand, pose)[0].astype(np.float32)
        mesh = trimesh.Trimesh(vertices, hand["f"], process=False)
        outer = (vertices + 0.001 * mesh.vertex_normals)[digits].astype(np.float32)
        shares.append((winding(outer, vertices, hand["f"]) > 0.5).mean())
    assert np.mean(shares) < 0.02
    assert np.max(shares) < 0.08


def test_left_hand_is_the_mirror_image():
    from handhold.hand.convention import mirror_pose
    from handhold.hand.model import HandModel

    right, left = HandModel.free("right"), HandModel.free("left")
    pose = torch.as_tensor(anatomy.sample_pose(np.random.default_rng(1), 3), dtype=torch.float32)
    betas = torch.randn(3, 10, generator=torch.Generator().manual_seed(0))
    a, b = right(pose, betas), left(mirror_pose(pose), betas)
    mirrored = a.vertices * torch.tensor([-1.0, 1.0, 1.0])
    torch.testing.assert_close(b.vertices, mirrored, atol=1e-5, rtol=0)
    mesh = trimesh.Trimesh(left.template.numpy(), left.faces.numpy(), process=False)
    assert mesh.volume > 0
