"""HandOS's parts, losses and roads, each against something known otherwise."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import roma
import torch
from tests.models.handos_parts import STILL, network_of, perfect, processor_of, wrists
from tests.models.photo_sample import photo

from handhold.errors import InputError
from handhold.geometry.farthest import farthest_points
from handhold.geometry.rotation import matrix_to_sixd
from handhold.hand.model import HandModel
from handhold.models.handos.batch import PhotoBatch
from handhold.models.handos.camera import directions, project, translations
from handhold.models.handos.lifting import Lifting, nearest_weights
from handhold.models.handos.loss import HandOSLossConfig, loss, smoothness
from handhold.models.handos.mesh import CoarseMesh, TemplatePose, face_pairs
from handhold.models.handos.positions import logit
from handhold.models.handos.sides import normalised_volume


@pytest.fixture(scope="module")
def batch(hand: HandModel) -> PhotoBatch:
    return processor_of(hand).encode([(photo(hand, 0), 0), (photo(hand, 1, height=96), 0)])


# ------------------------------------------------------------------------------------ geometry


@pytest.mark.parametrize("angle", [0.0, 0.7])
def test_zeros_put_the_wrist_on_the_boxs_centre(angle: float) -> None:
    """For any camera, also one that was turned; depth by similar triangles."""
    turn = torch.tensor(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    ).float()
    camera = torch.tensor([[[300.0, 0, 70], [0, 300.0, 40], [0, 0, 1]]])
    camera = turn @ camera @ turn.T
    boxes, size = torch.tensor([[0.3, 0.6, 0.2, 0.5]]), torch.tensor([[200.0, 100.0]])
    place = translations(torch.zeros(1, 1, 3), boxes, size, camera, 0.18)
    centre = torch.tensor([0.3 * 200 - 0.5, 0.6 * 100 - 0.5])
    torch.testing.assert_close(project(place, camera)[0, 0], centre)
    assert float(place[0, 0, 2]) == pytest.approx(300 * 0.18 / 50)  # 50 pixels, the longer side
    moved = translations(torch.tensor([[[0.1, 0.2, -0.4]]]), boxes, size, camera, 0.18)
    assert float(moved[0, 0, 2]) == pytest.approx(300 * 0.18 / 50 * np.exp(0.1), rel=1e-5)
    torch.testing.assert_close(
        project(moved, camera)[0, 0], centre + 50 * torch.tensor([0.2, -0.4])
    )
    rays = directions(project(moved, camera), camera)
    torch.testing.assert_close(rays, moved[..., :2] / moved[..., 2:])


def test_sides_of_both_hands_however_turned(hand: HandModel) -> None:
    draw = torch.Generator().manual_seed(0)
    pose = 0.4 * torch.randn(12, 16, 3, generator=draw)
    pose[:, 0] = 2 * torch.randn(12, 3, generator=draw)
    faces = hand.faces
    right = normalised_volume(hand(pose).vertices, faces)
    left = normalised_volume(hand.mirrored()(pose).vertices + 3.0, faces)
    assert bool((right > 0.02).all()) and bool((left < -0.02).all())
    assert float(normalised_volume(torch.zeros(1, 778, 3), faces)) == 0


def test_coarse_vertices_and_the_way_back(hand: HandModel) -> None:
    """Far apart, and a mesh between them that is almost the template."""
    template = hand.arrays.v_template.astype(np.float64)
    index = np.sort(farthest_points(template, 195))
    assert len(set(index.tolist())) == 195
    far = np.linalg.norm(template[index][:, None] - template[index][None], axis=-1)
    some = np.linalg.norm(template[:195][:, None] - template[:195][None], axis=-1)
    assert np.sort(far, axis=1)[:, 1].min() > 2 * np.sort(some, axis=1)[:, 1].min()
    matrix = nearest_weights(template, index).double().numpy()
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(matrix[index], np.eye(195))
    assert np.linalg.norm(matrix @ template[index] - template, axis=1).mean() < 0.004
    mesh = CoarseMesh(hand, 195, 8)
    points = torch.from_numpy(template[index]).float()
    torch.testing.assert_close(
        mesh(points, torch.nn.Identity()), torch.from_numpy(matrix @ template[index]).float()
    )
    assert float(mesh.drift().detach()) == 0
    with torch.no_grad():
        mesh.matrix[3, 5] += 0.5
    assert float(mesh.drift().detach()) == pytest.approx(0.25)


def test_pairs_of_faces_and_smoothness() -> None:
    """A square of two triangles, flat and folded by a right angle."""
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    pairs = face_pairs(faces)
    assert pairs.tolist() == [[0, 1]]
    flat = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]])
    folded = flat.clone()
    folded[0, 3] = torch.tensor([0.5, 0.5, 0.5**0.5])
    assert float(smoothness(flat, faces, pairs)) == pytest.approx(0, abs=1e-5)
    assert float(smoothness(folded, faces, pairs)) == pytest.approx(1, abs=1e-5)


# -------------------------------------------------------------------------------- the network


def test_at_first_joints_lie_on_the_boxs_centre(hand: HandModel, batch: PhotoBatch) -> None:
    network = network_of(hand).eval()
    with torch.no_grad():
        found = network(batch)
        centre = found.boxes[:, None, None, :2].expand_as(found.joints2d)
        torch.testing.assert_close(found.joints2d, centre, atol=1e-5, rtol=0)
        tokens, boxes = network.expand(torch.zeros(len(found), 32), found.boxes)
        _, lifted = network.lift(tokens, boxes)
    low = found.boxes[:, None, :2] - found.boxes[:, None, 2:] / 2
    high = found.boxes[:, None, :2] + found.boxes[:, None, 2:] / 2
    assert bool((lifted[..., :2] - lifted[..., 2:] / 2 >= low).all())
    assert bool((lifted[..., :2] + lifted[..., 2:] / 2 <= high).all())


@pytest.mark.parametrize("pattern", ["c", "d"])
def test_nobody_sees_the_translation(hand: HandModel, batch: PhotoBatch, pattern: str) -> None:
    """Its token changed, joints and vertices stay in pattern c, and only there."""
    network = network_of(hand, attention=pattern).eval()
    with torch.no_grad():
        first = network(batch)
        network.lift.matrix[-1] += 0.3
        second = network(batch)
    same = (first.vertices - second.vertices).abs().max() < 1e-6
    same &= (first.joints2d - second.joints2d).abs().max() < 1e-6
    assert bool(same) == (pattern == "c")


@pytest.mark.parametrize(
    "changes",
    [
        {"side_tuning": "levels"},
        {"side_tuning": "none", "queries": "unified"},
        {"vertices": 778, "norm": "pre", "shared_heads": True},
        {"upsampling": "feature", "translation": "direct", "update_mesh_boxes": False},
        {"detach_boxes": False, "attention": "a", "lift_translation": False, "dropout": 0.1},
        {"layers_2d": 3, "layers_mesh": 0},
    ],
)
def test_choices_learn(hand: HandModel, batch: PhotoBatch, changes: dict[str, Any]) -> None:
    """Every alternative gives finite losses that fall, and gradients where it has parameters."""
    network = network_of(hand, **changes).train()
    optimiser = torch.optim.Adam(network.parameters(), lr=4e-3)
    totals = []
    for _ in range(6):
        terms = loss(network(batch), batch)
        optimiser.zero_grad()
        terms["total"].backward()
        optimiser.step()
        totals.append(float(terms["total"].detach()))
    assert totals[-1] < 0.95 * totals[0]
    unused = "detector." if changes.get("queries") == "unified" else "-"
    for name, parameter in network.named_parameters():
        if parameter.requires_grad and not name.startswith(unused):
            assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name


def test_unified_queries_know_no_instance(hand: HandModel) -> None:
    network = network_of(hand, queries="unified")
    boxes = torch.full((2, 4), 0.5)
    tokens, _ = network.expand(torch.randn(2, 32), boxes)
    assert torch.equal(tokens[0], tokens[1])


def test_an_earlier_encoder_layer_can_be_the_memory(hand: HandModel, batch: PhotoBatch) -> None:
    network = network_of(hand, side_tuning="none", memory_layer=2).eval()
    found = network.detect(batch)
    layers = tuple(found.memory + number for number in range(1, 4))
    memory = network.memory(dataclasses.replace(found, memory_layers=layers))
    assert memory.tokens is layers[1]
    with pytest.raises(InputError, match="memory_layer"):
        network.memory(found)


def test_no_positive_gives_zero_with_a_path(hand: HandModel, batch: PhotoBatch) -> None:
    """A detector that misses every hand: nothing is learned, nothing breaks."""
    network = network_of(hand).train()
    missed = dataclasses.replace(batch, given_boxes=torch.full_like(batch.given_boxes, 0.01))
    found = network(missed)
    assert (
        len(found) == 0 and found.vertices is not None and found.vertices.shape[1:] == (2, 778, 3)
    )
    total = loss(found, missed)["total"]
    assert float(total.detach()) == 0
    total.backward()
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and not parameter.grad.any(), name
    network.eval()
    with torch.no_grad():
        empty = network(dataclasses.replace(batch, given_scores=0 * batch.given_scores))
    assert len(empty) == 0
    cameras = [photo(hand, 0).camera, photo(hand, 1, height=96).camera]
    assert [scene.hands for scene in processor_of(hand).decode(empty, batch, cameras)] == [(), ()]


def test_the_detector_never_moves(hand: HandModel, batch: PhotoBatch) -> None:
    """Parameters, batch norms' statistics and outputs after training steps."""
    options = {"widths": (8, 16, 16, 16), "stem": (8, 8), "width": 16, "queries": 20}
    network = network_of(hand, detector="hand-detr", detector_options=options).train()
    detector = network.detector
    before = {key: value.clone() for key, value in detector.state_dict().items()}
    with torch.no_grad():
        answer = network.detect(batch)
    optimiser = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=1e-2)
    assert batch.boxes is not None
    network.config = dataclasses.replace(network.config, min_iou=0.0)  # it knows nothing yet
    for _ in range(2):
        optimiser.zero_grad()
        loss(network(batch), batch)["total"].backward()
        optimiser.step()
    assert not detector.training and not any(m.training for m in detector.modules())
    for key, value in detector.state_dict().items():
        assert torch.equal(value, before[key]), key
    with torch.no_grad():
        again = network.detect(batch)
    assert torch.equal(answer.memory, again.memory) and torch.equal(answer.scores, again.scores)
    assert all(p.grad is None for p in detector.parameters())


# ------------------------------------------------------------------------------------- losses


def test_labels_have_no_loss_but_their_own_roughness(hand: HandModel) -> None:
    batch = processor_of(hand).encode([(photo(hand, 0), 0)])
    terms = loss(perfect(batch, hand, wrists(hand, 0)), batch)
    # joints are regressed from vertices, labels of 2D are those that skinning turns about
    assert float(terms["projected"]) < 0.2 and float(terms["oks_projected"]) < 1.5
    for name in ("joints2d", "oks2d", "vertices", "joints", "edge"):
        assert float(terms[name]) == pytest.approx(0, abs=1e-4), name
    assert 0 < float(terms["smooth"]) < 0.5 and float(terms["normal"]) < 0.1
    assert float(terms["total"]) == pytest.approx(
        sum(float(value) for name, value in terms.items() if name != "total"), rel=1e-5
    )


def test_terms_by_hand(hand: HandModel) -> None:
    """A known offset of every output gives each term's closed form."""
    batch = processor_of(hand).encode([(photo(hand, 0), 0)])
    base = perfect(batch, hand, wrists(hand, 0), layers=1)
    size, count = batch.valid_size[0], 2
    assert batch.boxes is not None
    moved = dataclasses.replace(
        base,
        joints2d=base.joints2d + 0.01,
        vertices=base.vertices + torch.tensor([0.002, 0, 0]),
        joints=base.joints + torch.tensor([0, -0.004, 0]),
    )
    terms = loss(moved, batch)
    assert float(terms["joints2d"]) == pytest.approx(10 * 0.01, rel=1e-4)
    summed = loss(moved, batch, HandOSLossConfig(reduction2d="sum"))
    assert float(summed["joints2d"]) == pytest.approx(10 * 0.01 * 42, rel=1e-4)
    area = (batch.boxes[:, 2:] * size).prod(-1)
    oks = torch.exp(-2 * (0.01 * size[0]) ** 2 / (2 * area * 0.05**2)).sum() / count
    assert float(terms["oks2d"]) == pytest.approx(4 * (1 - float(oks)), rel=1e-4)
    assert float(terms["vertices"]) == pytest.approx(10 * 0.002 / 3 / 0.2, rel=1e-3)
    assert float(terms["joints"]) == pytest.approx(10 * 0.004 / 3 / 0.2, rel=1e-3)
    larger = dataclasses.replace(base, vertices=1.1 * base.vertices)
    corners = base.vertices[:, 0, hand.faces]
    length = (corners - corners.roll(1, 2)).norm(dim=-1).mean()
    found = float(loss(larger, batch)["edge"])
    assert found == pytest.approx(10 * 0.1 * float(length) / 0.2, rel=1e-3)


def test_mirror_images_have_the_same_loss(hand: HandModel, batch: PhotoBatch) -> None:
    sample = photo(hand, 0)
    plain = processor_of(hand, augmentation=STILL)
    flip = processor_of(hand, augmentation=dataclasses.replace(STILL, flip=1.0))
    rng = np.random.default_rng(0)
    one, other = plain.encode([(sample, 0)], rng), flip.encode([(sample, 0)], rng)
    assert one.right is not None and other.right is not None
    assert one.right.tolist() == [1, 0] and other.right.tolist() == [0, 1]
    torch.testing.assert_close(one.image.flip(-1), other.image)
    torch.manual_seed(0)
    first = perfect(one, hand, wrists(hand, 0))
    noise = {
        "joints2d": 0.02 * torch.randn_like(first.joints2d),
        "vertices": 0.004 * torch.randn_like(first.vertices),
        "joints": 0.004 * torch.randn_like(first.joints),
    }
    first = dataclasses.replace(first, **{k: getattr(first, k) + v for k, v in noise.items()})
    sign = torch.tensor([-1.0, 1, 1])
    second = dataclasses.replace(
        first,
        boxes=other.boxes,
        joints2d=torch.stack((1 - first.joints2d[..., 0], first.joints2d[..., 1]), -1),
        **{k: getattr(first, k) * sign for k in ("vertices", "joints", "translation")},
    )
    ours, theirs = loss(first, one), loss(second, other)
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value, rtol=1e-4, atol=1e-4)


def test_2d_labels_alone_leave_the_3d_terms_out(hand: HandModel) -> None:
    """Weak supervision: no depth, no mesh, unlabelled joints; what is missing may be anything."""
    sample = photo(hand, 0)
    full, weak = sample.hands
    known = np.arange(21) % 2 == 0
    pixels = np.where(known[:, None], weak.joints2d, np.nan)
    weak = dataclasses.replace(
        weak,
        side=None,
        joints2d=pixels,
        joints2d_valid=known,
        **dict.fromkeys(("joints", "vertices", "pose", "betas", "translation")),
    )
    both = dataclasses.replace(sample, hands=(full, weak))
    whole = processor_of(hand).encode([(sample, 0)])
    batch = processor_of(hand).encode([(both, 0)])
    assert batch.has_vertices is not None and batch.has_vertices.tolist() == [True, False]
    assert batch.right is not None and batch.right.tolist() == [1, -1]
    found = perfect(whole, hand, wrists(hand, 0))
    shift = torch.zeros(2, 1, 1, 3)
    shift[1] = 0.05
    found = dataclasses.replace(found, vertices=found.vertices + shift, boxes=batch.boxes)
    wrong = found.joints2d.clone()
    wrong[1, :, 1::2] += 0.3  # only joints without labels
    terms = loss(dataclasses.replace(found, joints2d=wrong), batch)
    for name in ("vertices", "joints", "edge", "joints2d"):
        assert float(terms[name]) == pytest.approx(0, abs=1e-4), name


def test_labels_are_needed(hand: HandModel, batch: PhotoBatch) -> None:
    network = network_of(hand).eval()
    with torch.no_grad(), pytest.raises(InputError, match="positives"):
        loss(network(batch), batch)


def test_boxes_keep_their_precision_in_bf16() -> None:
    """Boxes decide where features are read: a few hundred places along a photo are too few."""
    torch.manual_seed(0)
    lifting = Lifting(32, torch.rand(50, 21).softmax(-1))
    tokens, boxes = torch.randn(2, 21, 32), torch.rand(2, 21, 4)
    boxes[0, :, 0] = 1 - 1e-6  # at the photo's edge
    boxes.requires_grad_()
    plain = lifting.mix(tokens, boxes)[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = lifting.mix(tokens, boxes)[1]
        lifted = lifting(tokens, boxes)[1]
    torch.testing.assert_close(mixed, plain, atol=1e-6, rtol=0)
    lifted.sum().backward()
    assert boxes.grad is not None and bool(torch.isfinite(boxes.grad).all())
    low = logit(torch.tensor([0.0, 1.0], dtype=torch.bfloat16))
    torch.testing.assert_close(low, torch.tensor([-1.0, 1.0]) * np.log(1e5 - 1), rtol=1e-2, atol=0)


def test_template_decoder_places_the_rest_shape() -> None:
    hand = HandModel.free("right")
    place = TemplatePose(hand)
    rest = hand(torch.zeros(1, 16, 3), torch.zeros(1, 10))
    about_wrist = rest.vertices - rest.joints[:, :1]
    turns = roma.random_rotmat(3)
    told = torch.zeros(3, 7)
    told[:, :6] = matrix_to_sixd(turns) - place.upright
    told[:, 6] = torch.tensor([20.0, -20.0, 0.0])  # right, left, undecided
    moves = 0.01 * torch.randn(3, 778, 3)
    found = place(moves, told)
    local = about_wrist + moves
    inside_out = torch.tensor([[1.0, 1, 1], [1, -1, 1], [1, 0, 1]])[:, None]
    expected = torch.einsum("kij,kvj->kvi", turns, local * inside_out)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    volume = normalised_volume(place(torch.zeros(3, 778, 3), told), hand.faces)
    assert volume[0] > 0.03 and volume[1] < -0.03 and abs(float(volume[2])) < 1e-6
    torch.testing.assert_close(volume[0], -volume[1])


def test_the_template_decoder_begins_with_a_hand() -> None:
    hand = HandModel.free("right")
    batch = processor_of(hand).encode([(photo(hand), 0)])
    found = network_of(hand, decoder="template").train()(batch)
    assert found.vertices is not None and len(found.vertices)
    spread = found.vertices.amax(dim=2) - found.vertices.amin(dim=2)
    assert bool((spread.amax(-1) > 0.1).all())
    free = network_of(hand).train()(batch)
    assert free.vertices is not None and free.vertices.shape == found.vertices.shape
