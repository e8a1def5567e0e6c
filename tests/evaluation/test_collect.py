"""Pairing and summing up, against hands whose errors are known beforehand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from handhold.errors import InputError
from handhold.evaluation import summary
from handhold.evaluation.collect import collect, labelled_box, tight_box
from handhold.evaluation.object_summary import object_numbers
from handhold.evaluation.protocols import PROTOCOLS, protocol
from handhold.evaluation.report import as_text, build_report, write_report
from handhold.scene import Camera, Hand, RigidObject, Sample, Scene

CAMERA = Camera(
    intrinsics=np.array([[300.0, 0, 80], [0, 300, 60], [0, 0, 1]]), width=160, height=120
)


def _hand(rng: np.random.Generator, x: float, **changes: object) -> Hand:
    joints = rng.normal(0, 0.03, (21, 3)) + [x, 0, 0.6]
    vertices = rng.normal(0, 0.03, (778, 3)) + [x, 0, 0.6]
    pixels = CAMERA.project(joints)
    hand = Hand(side="right", joints=joints, vertices=vertices, joints2d=pixels, visibility=0.6)
    return replace(hand, **changes)


def _sample(*hands: Hand, held: RigidObject | None = None) -> Sample:
    image = np.zeros((120, 160, 3), np.uint8)
    return Sample(key="s", image=image, camera=CAMERA, hands=hands, object=held)


def _scene(*hands: Hand, objects: tuple[RigidObject | None, ...] | None = None) -> Scene:
    things = objects or (None,) * len(hands)
    return Scene(image="s", camera=CAMERA, model="m", hands=hands, objects=things)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def test_matching_counts_misses_alarms_and_sides(rng: np.random.Generator) -> None:
    left, right = _hand(rng, -0.1, side="left"), _hand(rng, 0.1)
    stray = _hand(rng, 0.0, joints2d=CAMERA.project(left.joints) + [0, 70], score=0.4)
    scenes = iter([_scene(left, replace(right, side="left"), stray), _scene(stray)])
    run = collect([_sample(left, right), _sample(left)], lambda _: next(scenes))
    numbers = summary.detection_numbers(run)
    assert numbers["hands"] == 3
    assert numbers["recall"] == pytest.approx(2 / 3)
    assert numbers["false_alarms"] == 2
    assert numbers["precision"] == pytest.approx(2 / 4)
    assert numbers["side_accuracy"] == pytest.approx(1 / 2)


def test_alarms_do_not_count_where_labels_are_incomplete(rng: np.random.Generator) -> None:
    hand = _hand(rng, 0.0)
    sample = replace(_sample(), hands_complete=False)
    assert collect([sample], lambda _: _scene(hand)).spurious == 0


def test_a_shifted_turned_and_scaled_hand(rng: np.random.Generator) -> None:
    truth = _hand(rng, 0.0)
    turn = Rotation.from_rotvec([0.1, -0.2, 0.15]).as_matrix()

    def moved(points: np.ndarray) -> np.ndarray:
        return (points - truth.joints[0]) @ turn.T * 1.1 + truth.joints[0] + [0, 0, 0.05]

    found = replace(truth, joints=moved(truth.joints), vertices=moved(truth.vertices))
    pairs = collect([_sample(truth)], lambda _: _scene(found)).pairs
    numbers, curves = summary.hand_numbers(pairs)
    relative = moved(truth.joints) - moved(truth.joints[:1]) - truth.joints + truth.joints[0]
    assert numbers["mpjpe_mm"] == pytest.approx(np.linalg.norm(relative, axis=1).mean() * 1000)
    assert numbers["pa_mpjpe_mm"] == pytest.approx(0, abs=1e-4)
    assert numbers["pa_mpvpe_mm"] == pytest.approx(0, abs=1e-4)
    assert numbers["wrist_distance_mm"] == pytest.approx(50)
    assert numbers["pa_f@5"] == pytest.approx(1)
    assert curves["pa_mpjpe"].auc > 0.99


def test_missed_hands_lower_pck(rng: np.random.Generator) -> None:
    one, two = _hand(rng, -0.1), _hand(rng, 0.1)
    run = collect([_sample(one, two)], lambda _: _scene(one))
    assert summary.keypoint_numbers(run.pairs)["pck@0.05"] == pytest.approx(0.5)
    found = [pair for pair in run.pairs if pair.found is not None]
    assert summary.keypoint_numbers(found)["pck@0.05"] == pytest.approx(1.0)


def test_unlabelled_joints_do_not_make_the_box(rng: np.random.Generator) -> None:
    valid = np.ones(21, bool)
    valid[0] = False
    hand = _hand(rng, 0.0, joints2d_valid=valid)
    spoiled = hand.joints2d.copy()
    spoiled[0] = 1e4
    assert np.allclose(tight_box(replace(hand, joints2d=spoiled)), tight_box(hand))


def test_objects_and_grasps(rng: np.random.Generator) -> None:
    points = rng.uniform(-0.05, 0.05, (100, 3))
    points[:2] = [[-0.05] * 3, [0.05] * 3]
    truth = RigidObject(name="003_cracker_box", rotation=np.eye(3), translation=np.ones(3))
    near = replace(truth, translation=np.ones(3) + [0.01, 0, 0])
    holder = _hand(rng, 0.0, grasping=True)
    samples = [_sample(holder, held=truth)] * 3
    free = replace(holder, grasping=False)
    scenes = iter(
        [
            _scene(holder, objects=(near,)),
            _scene(holder, objects=(replace(near, name="025_mug"),)),
            _scene(free),
        ]
    )
    pairs = collect(samples, lambda _: next(scenes)).pairs
    numbers = object_numbers(pairs, {"003_cracker_box": points})
    assert numbers["objects"] == 3
    assert numbers["named"] == pytest.approx(1 / 3)
    assert numbers["add(-s)_mm"] == pytest.approx(10)
    assert numbers["add-0.1d"] == 1.0  # 0.1 of the diagonal is 17 mm
    assert summary.grasp_numbers(pairs)["grasp_accuracy"] == pytest.approx(2 / 3)


def test_the_report_names_its_protocol_first(rng: np.random.Generator, tmp_path: Path) -> None:
    hand = _hand(rng, 0.0, grasping=False)
    run = collect([_sample(hand)], lambda _: _scene(hand))
    report = build_report(run, title="t", protocol=PROTOCOLS["deployable"], meshes={})
    assert as_text(report).splitlines()[0].startswith("protocol deployable: given image, intr")
    write_report(report, tmp_path)
    stored = json.loads((tmp_path / "report.json").read_text())
    assert stored["sections"]["hand: all"]["mpjpe_mm"] == 0
    assert stored["sections"]["hand: visible 50% to 75%"]["found"] == 1
    assert "hand: hand-object" not in stored["sections"]
    assert not list(tmp_path.glob(".*"))


def test_unknown_protocols_are_named() -> None:
    with pytest.raises(InputError, match="deployable"):
        protocol("fair")


def test_hint_counts_visible_and_hidden_joints_by_the_annotated_box() -> None:
    """By hand: joints 1.5 px off under a box of 16 px are hits at 10 % (1.6 px), not at 5 %; one
    hidden joint of the second hand is far off, the third hand is missed."""
    points = np.stack([20 + 2.0 * (np.arange(21) % 5), 10 + 3.0 * (np.arange(21) // 5)], -1)
    hidden = np.isin(np.arange(21), (4, 8, 12))
    truth = Hand(
        side="left",
        box=np.array([18.0, 8, 30, 24]),
        joints2d=points,
        joints2d_valid=np.ones(21, bool),
        joints_visible=~hidden,
    )
    shifted = points + (1.5, 0)
    far = shifted.copy()
    far[8] += 50
    scenes = iter(
        [_scene(replace(truth, joints2d=shifted)), _scene(replace(truth, joints2d=far)), _scene()]
    )
    chosen = protocol("hint/hamer")
    run = collect([_sample(truth)] * 3, lambda _: next(scenes), true_box=labelled_box)
    report = build_report(run, title="", protocol=chosen, meshes={})
    seen = {name: report.sections[f"joints: {name}"] for name in ("all", "visible", "occluded")}
    assert [seen[name]["joints"] for name in seen] == [63, 54, 9]
    assert [seen[name]["pck@0.05"] for name in seen] == [0, 0, 0]
    assert seen["all"]["pck@0.1"] == pytest.approx((20 * 2 / 3 + 1 / 3) / 21)
    assert seen["visible"]["pck@0.1"] == pytest.approx(2 / 3)
    assert seen["occluded"]["pck@0.1"] == pytest.approx((2 / 3 + 2 / 3 + 1 / 3) / 3)
