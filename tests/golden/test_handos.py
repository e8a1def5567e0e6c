"""HandOS's parts against independent numbers; there is no official code. Its deformable attention
is in `test_handos_deformable.py`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from handhold.models.handos.attention import PATTERNS, HandAttention, allowed
from handhold.models.handos.filtering import simota, suppress
from handhold.models.handos.lifting import Lifting, lifting_matrix
from handhold.models.handos.positions import sine_code
from handhold.models.handos.sides import normalised_volume, signed_volume

CLOSE = 1e-5


@pytest.fixture(scope="module")
def handos(golden):
    return golden("handos")


def test_who_sees_whom(handos) -> None:
    for pattern in PATTERNS:
        handos.compare(f"mask_allow_{pattern}_J3_V5", allowed(pattern, 3, 5).float(), CLOSE)


def test_lifting(handos) -> None:
    matrix = lifting_matrix(handos.hand_model("right").arrays.weights)
    handos.compare("lifting_init_right", matrix, CLOSE)
    lifting = Lifting(handos.inputs["lift_query"].shape[-1], matrix)
    tokens, boxes = lifting.mix(handos.tensor("lift_query"), handos.tensor("lift_ref"))
    rows = slice(0, 778, 7)
    handos.compare("lift_query", tokens[:, rows], CLOSE)
    handos.compare("lift_ref", boxes[:, rows], CLOSE)


@pytest.mark.parametrize("case", [0, 1, 2])
def test_filtering(handos, case: int) -> None:
    name = f"simota{case}"
    scores, boxes, truth = (handos.tensor(f"{name}_{x}") for x in ("scores", "boxes", "gt"))
    settings = handos.json["config"]["simota"]
    common = {"candidates": settings["top_candidates"], "eps": settings["eps"]}
    found = simota(scores, boxes, truth, **common)
    handos.compare(f"{name}_iou", found.iou, CLOSE)
    handos.compare(f"{name}_cost", found.cost, CLOSE)
    handos.compare(f"{name}_k", found.counts, 0)
    handos.compare(f"{name}_assigned", found.assigned, 0)
    near = simota(scores, boxes, truth, min_iou=0.1, **common)
    handos.compare(f"{name}_assigned_min_iou_0.1", near.assigned, 0)
    for overlap in (0.5, 0.9):
        kept = suppress(scores, boxes, threshold=0.1, overlap=overlap)
        handos.compare(f"{name}_nms_keep_0.1_{overlap}", kept, 0)


def test_sides(handos) -> None:
    """Six meshes are stored, the numbers of twelve; the others check the range."""
    faces = handos.hand_model("right").faces
    vertices = handos.tensor("hand_vertices")
    rows = handos.output("hand_index").astype(int)
    volume, share = signed_volume(vertices, faces), normalised_volume(vertices, faces)
    for name, found in (("signed_volume", volume), ("normalised_volume", share)):
        theirs = handos.output(f"hand_{name}")
        error = np.abs(found.numpy() - theirs[rows]).max() / np.abs(theirs).max()
        assert error < CLOSE, name
        handos.compared[f"hand_{name}"] = float(error)
    assert ((volume > 0).numpy() == handos.output("hand_is_right_stored")).all()
    assert np.array_equal(
        handos.output("hand_normalised_volume") > 0, handos.output("hand_is_right") > 0.5
    )
    assert np.abs(handos.output("hand_normalised_volume")).min() > 0.02  # as the docstring says
    a, b, c = (vertices[:, faces[:, k]] for k in range(3))
    normals = (b - a).cross(c - a, dim=-1)
    centres = (a + b + c) / 3 - vertices.mean(1, keepdim=True)
    unit = torch.nn.functional.normalize(normals, dim=-1)
    area = normals.norm(dim=-1)
    outward = ((unit * centres).sum(-1) * area).sum(-1) / area.sum(-1)
    theirs = handos.output("hand_mean_outward")[rows]
    assert np.abs(outward.numpy() - theirs).max() / np.abs(theirs).max() < CLOSE


def test_position_code(handos) -> None:
    width = handos.json["config"]["msda"]["d"]
    handos.compare("sine_ref_d32", sine_code(handos.tensor("msda_ref"), width), CLOSE)


def test_masked_attention(handos) -> None:
    told = handos.json["config"]["attn"]
    entries = handos.state_dict()
    attention = HandAttention(told["d"], told["heads"])
    attention.load_state_dict(
        {
            "in_proj.weight": entries["self_attn.in_proj_weight"],
            "in_proj.bias": entries["self_attn.in_proj_bias"],
            "out_proj.weight": entries["self_attn.out_proj.weight"],
            "out_proj.bias": entries["self_attn.out_proj.bias"],
        }
    )
    tokens, places = handos.tensor("attn_x"), handos.tensor("attn_pos")
    found = attention(tokens, places, pattern="c", joints=3)
    handos.compare("attn_c", found, CLOSE)
    changed = tokens.clone()
    changed[:, -1] += 3
    other = attention(changed, places, pattern="c", joints=3)
    assert torch.equal(other[:, :-1], found[:, :-1])
    assert not torch.allclose(other[:, -1], found[:, -1])


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_pattern_is_torchs_masked_attention(pattern) -> None:
    torch.manual_seed(0)
    ours = HandAttention(16, 4)
    theirs = torch.nn.MultiheadAttention(16, 4, batch_first=True)
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.in_proj.weight,
            "in_proj_bias": ours.in_proj.bias,
            "out_proj.weight": ours.out_proj.weight,
            "out_proj.bias": ours.out_proj.bias,
        }
    )
    tokens, places = torch.randn(2, 2, 9, 16)
    found = ours(tokens, places, pattern=pattern, joints=3)
    asking = tokens + places
    expected, _ = theirs(asking, asking, tokens, attn_mask=~allowed(pattern, 3, 5))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_everything_was_compared(request: pytest.FixtureRequest, handos) -> None:
    mine = {
        item.name.partition("[")[0] for item in request.session.items if item.path == request.path
    }
    if mine != {name for name in vars(request.module) if name.startswith("test_")}:
        pytest.skip("a part of this file was chosen")
    checked_beside = ["hand_mean_outward", "hand_is_right*", "hand_index", "msda*"]
    assert handos.forgotten(checked_beside) == []
