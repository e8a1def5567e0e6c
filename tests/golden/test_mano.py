"""The hand model against manopth (and HO3D's layer) on a made-up hand, every stored output."""

import pytest
import torch

from handhold.geometry.rotation import axis_angle_to_matrix_manopth

MM = 1000.0


@pytest.fixture(scope="module")
def mano(golden):
    return golden("mano")


def run(mano, case, **extra):
    """The output of a case of the json, in metres."""
    model = mano.hand_model(case["side"])
    pose = mano.tensor("pose")
    pca = case["use_pca"]
    if pca:
        pose = pose[:, : 3 + case["ncomps"]]
    arguments = {"betas": mano.tensor("betas"), "center": case.get("center_idx"), **extra}
    return model(pose, pca=pca, flat=case["flat_hand_mean"], **arguments)


def test_every_output_agrees(mano):
    for name, case in mano.json["config"]["cases"].items():
        ours = run(mano, case)
        mano.compare(f"{name}_verts", ours.vertices * MM, rtol=1e-5)
        mano.compare(f"{name}_joints", ours.joints * MM, rtol=1e-5)
    flat = {"side": "right", "use_pca": False, "flat_hand_mean": True}
    moved = run(mano, flat, translation=mano.tensor("trans"))
    mano.compare("right_flat_trans_joints", moved.joints * MM, rtol=1e-5)
    mano.compare("right_flat_nobeta_joints", run(mano, flat, betas=None).joints * MM, rtol=1e-5)
    right = mano.hand_model("right")
    rest = right.rest_joints(mano.tensor("betas"))
    mano.compare("right_shaped_rest_joints_m", rest, rtol=1e-5)
    rotations = axis_angle_to_matrix_manopth(mano.tensor("pose").unflatten(-1, (16, 3)))
    mano.compare("right_rotmats", rotations, rtol=1e-6)
    ho3d = right.with_tips("ho3d")(mano.tensor("pose"), mano.tensor("betas"), center=0)
    mano.compare("ho3d_layer_verts_m", ho3d.vertices, rtol=1e-5)
    mano.compare("ho3d_layer_joints_m", ho3d.joints, rtol=1e-5)
    assert mano.forgotten() == []


def test_joints_are_exact_to_a_micrometre(mano):
    """The relative bound alone would let a finger tip be off by tens of micrometres."""
    case = {"side": "right", "use_pca": False, "flat_hand_mean": True}
    theirs = torch.from_numpy(mano.output("right_flat_joints")).reshape(-1, 21, 3)
    assert (run(mano, case).joints * MM - theirs).abs().max() < 1e-3
