"""The exported file and the engines say what PyTorch and the processor say: any number of hands,
photos of any size."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.inference.test_whole_photo import TINY
from torch import Tensor

from handhold.cli.main import main
from handhold.errors import InputError
from handhold.hand.model import HandModel
from handhold.inference import photo_engine as module
from handhold.inference.estimator import Estimator
from handhold.inference.fast import in_onnxruntime
from handhold.inference.images import as_photo
from handhold.inference.photo_engine import export_photo_model, photo_engine
from handhold.models.detector.processor import letterbox
from handhold.models.handos.config import HandOSConfig
from handhold.models.handos.detectors import ColourPyramid, DetectorOutput
from handhold.models.handos.filtering import suppress
from handhold.models.handos.graph import RESULTS, distinct, greedy, letterboxed
from handhold.models.handos.positions import pairwise_iou
from handhold.models.photo_registry import LoadedPhotoModel, build_photo_model
from handhold.models.weights import save_weights
from handhold.scene import Camera, Scene

SIDE = 128
QUERIES = 14


class Painted(ColourPyramid):
    """Scores are the red of the photo's first pixels, places are fixed: the last two lie on the
    first, one nearly alike and one by a little more than half."""

    def __init__(self) -> None:
        super().__init__(16)
        self.num_queries = QUERIES
        number = torch.arange(QUERIES)
        x, y = (number % 4 + 0.5) / 4, (number // 4 + 0.5) / 3
        boxes = torch.stack((x, y, torch.full_like(x, 0.2), torch.full_like(x, 0.25)), dim=-1)
        boxes[12] = boxes[0] + torch.tensor([0.004, 0, 0, 0])
        boxes[13] = boxes[0] + torch.tensor([0.04, 0, 0, 0])
        draw = torch.Generator().manual_seed(0)
        self.register_buffer("places", boxes)
        self.register_buffer("queries", torch.randn(2, QUERIES, 16, generator=draw))

    def features(self, images: Tensor, valid_mask: Tensor | None = None) -> DetectorOutput:
        found = super().features(images, valid_mask)
        count = len(images)
        first, last = self.get_buffer("queries")
        return dataclasses.replace(
            found,
            scores=(images * 0.25 + 0.5)[:, 0, 0, :QUERIES],
            boxes=self.get_buffer("places").expand(count, -1, -1),
            query_first=first.expand(count, -1, -1),
            query_last=last.expand(count, -1, -1),
        )


@pytest.fixture(scope="module")
def painted() -> LoadedPhotoModel:
    changes = TINY | {"detector_options": {}, "score_threshold": 0.3, "max_hands": QUERIES}
    changes |= {"nms_iou": 0.9}
    config = dataclasses.replace(HandOSConfig.small(), **changes)
    model = build_photo_model("handos-small", config=config, detector=Painted(), seed=4)
    settings = dataclasses.replace(model.processor.config, fit=False)
    network = model.network
    with torch.no_grad():  # both sides occur, and translations differ
        for head in (*network.translation_heads, *network.joint_heads):
            torch.nn.init.normal_(head.layers[-1].weight, std=0.3)
    return dataclasses.replace(model, processor=type(model.processor)(settings, network.hand))


@pytest.fixture(scope="module")
def run(painted: LoadedPhotoModel) -> Any:
    file = export_photo_model(painted)
    return in_onnxruntime(file, 1)


def photo(scores: list[float], width: int = SIDE, height: int = SIDE, seed: int = 0) -> np.ndarray:
    """Dark noise and the scores; these are exact where the letterbox changes nothing."""
    image = np.random.default_rng(seed).integers(0, 60, (height, width, 3), np.uint8)
    image[0, : len(scores), 0] = np.round(255 * np.array(scores))
    return image


def camera(image: np.ndarray) -> Camera:
    height, width = image.shape[:2]
    focal = np.array([[1.1 * width, 0, 0.48 * width], [0, 1.2 * width, 0.5 * height], [0, 0, 1]])
    return Camera(intrinsics=focal, width=width, height=height)


def expected(model: LoadedPhotoModel, image: np.ndarray) -> Scene:
    """The road of PyTorch without any of the graph's code."""
    seen = camera(image)
    batch = model.processor.encode_photos([image], [seen])
    with torch.no_grad():
        found = model.network(batch)
    return model.processor.decode(found, batch, [seen])[0]


def compare(
    found: dict[str, np.ndarray], scene: Scene, atol: float = 1e-4, pixels: float = 1e-3
) -> None:
    assert len(found["scores"]) == len(scene.hands)
    assert found["vertices"].shape == (len(scene.hands), 778, 3)
    assert found["joints2d"].shape == (len(scene.hands), 21, 2)
    assert found["volume"].shape == found["right"].shape == found["scores"].shape
    for k, hand in enumerate(scene.hands):
        assert ("right" if found["right"][k] else "left") == hand.side
        np.testing.assert_allclose(found["scores"][k], hand.score, atol=10 * atol)
        for name, value in (("box", "boxes"), ("joints2d", "joints2d")):
            np.testing.assert_allclose(found[value][k], getattr(hand, name), atol=pixels)
        for name in ("joints", "vertices"):
            np.testing.assert_allclose(found[name][k], getattr(hand, name), atol=atol)
        moved = found["joints"][k] - found["translation"][k]
        assert np.abs(moved).max() < 0.5, "the translation is part of the joints"


COUNTS: list[list[float]] = [
    [],
    [0.8],
    [0.4, 0.9],
    [0.9, 0.8, 0.7, 0.1, 0.5, 0.6],  # the fourth is below the threshold: five
    [0.9 - 0.05 * i for i in range(10)],
    [0.7] + [0.0] * 11 + [0.8, 0.9],  # three on one place: the last two overlap the best
]


@pytest.mark.parametrize(("scores", "hands"), list(zip(COUNTS, (0, 1, 2, 5, 10, 1), strict=True)))
def test_the_file_gives_the_scene_of_pytorch(
    run: Any, painted: LoadedPhotoModel, scores: list[float], hands: int
) -> None:
    image = photo(scores)
    scene = expected(painted, image)
    assert len(scene.hands) == hands
    given = {"photo": image, "intrinsics": camera(image).intrinsics.astype(np.float32)}
    compare(dict(zip(RESULTS, run(given), strict=True)), scene)


@pytest.mark.parametrize(("width", "height"), [(256, 192), (200, 333), (1, 1), (300, 4)])
def test_the_file_takes_photos_of_any_size(
    run: Any, painted: LoadedPhotoModel, width: int, height: int
) -> None:
    """Bright above: whatever the letterbox does, several hands are found."""
    image = np.full((height, width, 3), 200, np.uint8)
    image[height // 2 :] = np.arange(width)[None, :, None] % 256
    given = {"photo": image, "intrinsics": camera(image).intrinsics.astype(np.float32)}
    found = dict(zip(RESULTS, run(given), strict=True))
    if min(width, height) < 8:
        assert found["vertices"].shape == (0, 778, 3)
        return
    scene = expected(painted, image)
    assert len(scene.hands) == 12
    halved = (width, height) == (256, 192)  # else the letterbox differs by grey levels
    compare(found, scene, *((1e-4, 1e-3) if halved else (5e-3, 0.5)))


@pytest.mark.parametrize(
    ("width", "height", "exact"),
    [(640, 480, True), (333, 641, False), (128, 128, True), (1024, 512, True), (90, 41, False)],
)
def test_letterbox_is_opencvs(width: int, height: int, exact: bool) -> None:
    """Within a grey level, and mostly the same; intrinsics are those of the processor."""
    image = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    whole = letterbox(image, SIDE)
    seen = camera(image)
    view = letterboxed(torch.from_numpy(image), torch.from_numpy(seen.intrinsics), SIDE)
    pixels = (view.pixels[0] * 255).round().permute(1, 2, 0).numpy()
    rows, columns = whole.shape[:2]
    assert view.valid_size.tolist() == [[columns, rows]]
    assert not pixels[rows:].any() and not pixels[:, columns:].any()
    off = np.abs(pixels[:rows, :columns] - whole)
    assert off.max() <= 1 and (off > 0).mean() < (1e-4 if exact else 0.2)
    scale = np.diag([columns / width, rows / height, 1])
    scale[:2, 2] = (np.diag(scale)[:2] - 1) / 2
    np.testing.assert_allclose(view.intrinsics[0], scale @ seen.intrinsics, atol=1e-4)


def test_suppression_without_loops_over_values() -> None:
    """Against the loops of `filtering` on crowded random boxes, and a stricter second one."""
    for seed in range(20):
        draw = torch.Generator().manual_seed(seed)
        boxes = torch.cat(
            (
                0.4 + 0.2 * torch.rand(30, 2, generator=draw),
                0.2 + 0.2 * torch.rand(30, 2, generator=draw),
            ),
            dim=-1,
        )
        scores = torch.rand(30, generator=draw)
        kept = suppress(scores, boxes, threshold=0.3, overlap=0.6, most=8)
        index, alive = greedy(scores, boxes, scores > 0.3, 0.6, 8)
        assert index[alive].tolist() == kept.tolist()
        corners = torch.cat((boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2), -1)
        stricter = distinct(corners[index], alive, 0.3)
        iou, left = pairwise_iou(boxes[kept], boxes[kept]), []
        for place in range(len(kept)):
            if all(iou[place, other] <= 0.3 for other in left):
                left.append(place)
        assert index[stricter].tolist() == kept[left].tolist()


def test_hands_that_are_not_kept_get_no_mesh(painted: LoadedPhotoModel) -> None:
    """Two photos at once; the choice is that of `decode`."""
    images = [photo(COUNTS[5], seed=1), photo(COUNTS[2], seed=2)]
    cameras = [camera(image) for image in images]
    batch = painted.processor.encode_photos(images, cameras)
    with torch.no_grad():
        every = painted.network(batch)
    engine = photo_engine(painted.network, painted.processor, "eager")
    with torch.no_grad():
        kept = engine(batch, cameras)
    assert len(every) == 4 and len(kept) == 3
    scenes = [painted.processor.decode(one, batch, cameras) for one in (every, kept)]
    for first, second in zip(*scenes, strict=True):
        assert len(first.hands) == len(second.hands)
        for one, other in zip(first.hands, second.hands, strict=True):
            np.testing.assert_allclose(one.vertices, other.vertices, atol=1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize("engine", ["folded", "onnx"])
def test_engines_give_the_same_scene(
    painted: LoadedPhotoModel, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several photos of unlike sizes in one batch. Of "onnx" what stands around the file, which
    PyTorch plays here: another one goes through ONNX Runtime above."""
    made: list[torch.nn.Module] = []

    def play(part: torch.nn.Module, *_: Any) -> Any:
        made.append(part)
        return SimpleNamespace(SerializeToString=lambda: part)

    def runner(part: Any, threads: int) -> Any:
        names = ("pixels", "valid_size", "photo_size", "intrinsics")

        def run(given: dict[str, np.ndarray]) -> list[np.ndarray]:
            tensors = [torch.from_numpy(given[name]) for name in names]
            return [value.numpy() for value in part(*tensors)]

        return run

    monkeypatch.setattr(module, "_exported", play)
    monkeypatch.setattr(module, "in_onnxruntime", runner)
    images = [photo(scores, seed=3) for scores in COUNTS[1:4]]
    images += [photo([], width=64, height=SIDE), photo([0.5], width=SIDE, height=70)]
    scenes = [
        Estimator(painted, objects="none", engine=name)._group(
            [as_photo(image) for image in images], [camera(image) for image in images], [None] * 5
        )
        for name in ("eager", engine)
    ]
    assert [len(scene.hands) for scene in scenes[1]] == [1, 2, 5, 0, 1]
    assert len(made) == (engine == "onnx")
    for wanted, found in zip(*scenes, strict=True):
        assert [hand.side for hand in found.hands] == [hand.side for hand in wanted.hands]
        for one, other in zip(found.hands, wanted.hands, strict=True):
            np.testing.assert_allclose(one.vertices, other.vertices, atol=1e-4)  # type: ignore[arg-type]
            np.testing.assert_allclose(one.joints2d, other.joints2d, atol=1e-3)  # type: ignore[arg-type]


def test_the_command_writes_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = dataclasses.replace(HandOSConfig.small(), **TINY)
    model = build_photo_model("handos-small", config=config, seed=1)
    weights = tmp_path / "a.safetensors"
    save_weights(weights, model.network, model="handos-small")
    told: list[SimpleNamespace] = []

    def note(loaded: Any) -> bytes:
        told.append(loaded)
        return b"file"

    monkeypatch.setattr("handhold.inference.photo_engine.export_photo_model", note)
    out = tmp_path / "new" / "x.onnx"
    words = ["export", "handos-small", "--to", "onnx", "--weights", str(weights)]
    assert main([*words, "--out", str(out)]) == 0
    assert out.read_bytes() == b"file" and told[0].config == config
    assert "x.onnx" in capsys.readouterr().out
    assert main([*words, "--out", str(tmp_path / "x.pt")]) == 2
    assert main(["export", "unihope-small", "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert ".onnx" in said and "handos-small" in said


def test_networks_that_cannot_be_exported_are_named(hand: HandModel) -> None:
    changes = TINY | {"detector": "boxes", "detector_options": {"width": 16}}
    config = dataclasses.replace(HandOSConfig.small(), **changes)
    model = build_photo_model("handos-small", config=config)
    with pytest.raises(InputError, match="given boxes"):
        export_photo_model(model)
    flat = dataclasses.replace(HandOSConfig.small(), **(TINY | {"layers_mesh": 0}))
    with pytest.raises(InputError, match="layers_mesh=0"):
        export_photo_model(build_photo_model("handos-small", config=flat))


@pytest.fixture(scope="module")
def hand() -> HandModel:
    return HandModel.free("right")
