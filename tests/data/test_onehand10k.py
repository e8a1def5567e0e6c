"""OneHand10K read back from a miniature; hands whose side nobody knows on their way through
detector, networks and results."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.data import coco_miniature as mini
from tests.data.miniature import same

from handhold.data.export import export_labels
from handhold.data.onehand10k import OneHand10K
from handhold.data.registry import open_dataset
from handhold.data.sources import SetSpec
from handhold.errors import FileFormatError, InputError, MissingFileError
from handhold.evaluation.collect import Collection, Pair
from handhold.evaluation.summary import detection_numbers
from handhold.models.detector.loss import loss
from handhold.models.detector.model import DetectorConfig, DetectorPrediction
from handhold.models.detector.processor import DetectorProcessor
from handhold.models.nn.hope_processor import HopeProcessor
from handhold.scene import Hand

LABELS = "annotations/onehand10k_train.json"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini.write_onehand(tmp_path_factory.mktemp("onehand"))


def read(root: Path, split: str, cache: Path) -> OneHand10K:
    found = open_dataset("onehand10k", root, split, cache=cache, workers=0)
    assert isinstance(found, OneHand10K)
    return found


@pytest.fixture(scope="module")
def train(root: Path, tmp_path_factory: pytest.TempPathFactory) -> OneHand10K:
    return read(root, "train", tmp_path_factory.mktemp("cache"))


def test_splits_and_labels(root: Path, train: OneHand10K, tmp_path: Path) -> None:
    assert [len(read(root, split, tmp_path)) for split in ("test", "all")] == [1, 3]
    assert train.index.dropped == {"crowd": 0, "no joint labelled": 1, "no image": 0}
    assert [train.record(i).key for i in range(2)] == ["train/7", "train/8"]
    for i, labels in enumerate((mini.joints(0), mini.joints(1, hidden=4))):
        sample = train[i]
        (hand,) = sample.hands
        valid = labels[:, 2] > 0
        assert hand.joints2d is not None and hand.joints2d_valid is not None
        assert hand.joints2d_valid.tolist() == valid.tolist()
        same(hand.joints2d[valid], labels[valid, :2], 1e-3)
        same(hand.box, [1.5, 2.0, 31.5, 42.0], 1e-4)
        assert hand.side is None and not sample.hands_complete
        assert int(sample.image[5, 5, 0]) == pytest.approx(50 + 20 * i, abs=2)
        assert train.image_name(i) == f"Train/source/{i}.jpg"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"keypoints": [1.0] * 42}, "keypoints: expected 63 numbers"),
        ({"keypoints": [float("inf")] * 63}, "keypoints: holds NaN or infinite"),
        ({"bbox": [1, 2, 0, 0]}, "bbox: expected x, y and a positive size"),
        ({"keypoints": ...}, "the field 'keypoints' is missing"),
    ],
)
def test_damage(root: Path, tmp_path: Path, fields: dict[str, Any], told: str) -> None:
    copy = Path(shutil.copytree(root, tmp_path / "copy"))
    mini.change(copy / LABELS, "annotations", 1, **fields)
    found = read(copy, "train", tmp_path / "cache")
    assert [found.record(i).key for i in range(len(found))] == ["train/7"]
    (problem,) = found.index.problems
    assert told in problem.what and LABELS in problem.what


def test_damaged_files(root: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(root, tmp_path / "copy"))
    (copy / "Train/source/0.jpg").unlink()
    found = read(copy, "train", tmp_path / "cache")
    assert [found.record(i).key for i in range(len(found))] == ["train/8"]
    assert found.index.problems[0].file == "Train/source/0.jpg"
    (copy / LABELS).write_text("{")
    with pytest.raises(FileFormatError, match=f"{LABELS}: not valid JSON"):
        read(copy, "train", tmp_path / "cache")
    (copy / LABELS).unlink()
    with pytest.raises(MissingFileError, match=r"onehand10k_train.json: not found"):
        read(copy, "train", tmp_path / "cache")
    assert len(read(copy, "all", tmp_path / "cache")) == 1


def test_no_side_is_claimed(train: OneHand10K, tmp_path: Path) -> None:
    """Not in the exported labels, nor in the side's accuracy; a network that needs it refuses."""
    export_labels(train, tmp_path / "labels.npz")
    assert np.load(tmp_path / "labels.npz")["side"].tolist() == ["", ""]
    unknown, found = train.record(0).hands[0], Hand(side="left", box=np.array([0.0, 0, 5, 5]))
    pairs = [
        Pair(
            sample=str(i), truth=truth, found=found, true_object=None, found_object=None,
            intrinsics=np.eye(3),
        )
        for i, truth in enumerate((unknown, Hand(side="left"), Hand(side="right")))
    ]  # fmt: skip
    numbers = detection_numbers(Collection(pairs=pairs))
    assert numbers["side_accuracy"] == 0.5
    with pytest.raises(InputError, match="train/7: the set does not say left or right"):
        HopeProcessor().encode([(train[0], 0)])


def test_a_side_may_be_assumed(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In samples alone; labels as they are read and exported still say none."""
    monkeypatch.setenv("HANDHOLD_HOME", str(tmp_path))
    found = {}
    for side in ("right", "left"):
        spec = SetSpec.parse(f"onehand10k/train?side={side}:{root}")
        assert spec is not None and (spec.side, spec.split, spec.root) == (side, "train", str(root))
        samples = spec.open(workers=0)
        assert [sample.hands[0].side for sample in samples] == [side] * 2
        assert samples.record(0).hands[0].side is None
        found[side] = HopeProcessor().encode([(samples[0], 0)])
    hand = samples[0].hands[0]
    points = np.asarray(hand.joints2d)[np.asarray(hand.joints2d_valid)]
    for side, batch in found.items():
        assert bool(batch.mirrored[0]) == (side == "left")
        shown = np.c_[points, np.ones(len(points))] @ batch.crop[0].numpy().T
        if side == "left":  # a right hand's crop of the mirrored photo
            shown[:, 0] = batch.image.shape[-1] - 1 - shown[:, 0]
        same(batch.joints2d[0].numpy()[batch.joints2d_valid[0].numpy() > 0], shown[:, :2], 1e-2)
    plain = SetSpec.parse(f"onehand10k/train:{root}")
    assert plain is not None and plain.side is None
    assert plain.open(workers=0)[0].hands[0].side is None
    with pytest.raises(InputError, match="the labels of hint tell the sides"):
        SetSpec.parse(f"hint?side=right:{root}")
    with pytest.raises(InputError, match=r"option is unknown.*\?side=right\|left"):
        SetSpec.parse(f"onehand10k?side=both:{root}")


def test_detector_learns_nothing_about_the_side(train: OneHand10K) -> None:
    """The gradient reaches the boxes, not the side's logits; a known side does."""
    config = DetectorConfig(input_size=64)
    sample = train[0]
    batch = DetectorProcessor(config).encode([sample])
    assert batch.side.tolist() == [[-1.0]]
    box = batch.boxes[0]
    side = torch.zeros(1, 1, requires_grad=True)
    boxes = (box[None] + 1).requires_grad_()
    prediction = DetectorPrediction(
        score=torch.zeros(1, 1), side=side, holding=torch.zeros(1, 1), boxes=boxes,
        object_boxes=box[None].clone(), centers=(box[:, :2] + box[:, 2:]) / 2,
        strides=torch.full((1,), 8.0),
    )  # fmt: skip
    terms = loss(prediction, batch)
    terms["total"].backward()
    assert terms["side"] == 0 and side.grad is not None and not side.grad.any()
    assert boxes.grad is not None and boxes.grad.any()
    prediction = dataclasses.replace(prediction, boxes=box[None])  # weight 1
    known = loss(prediction, DetectorProcessor(config).encode([_with_side(sample)]))
    assert float(known["side"].detach()) == pytest.approx(np.log(2), rel=1e-5)


def _with_side(sample: Any) -> Any:
    hand = dataclasses.replace(sample.hands[0], side="right")
    return dataclasses.replace(sample, hands=(hand,))
