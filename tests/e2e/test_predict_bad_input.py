"""`handhold predict` on everything that may lie in a folder: the right files or one clear error."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from handhold.cli.main import main
from handhold.hand.model import HandModel
from handhold.inference import estimator as estimator_module
from handhold.models.detector import (
    Detection,
    DetectorConfig,
    HandDetector,
    HandDetectorNetwork,
    save_detector,
)
from handhold.models.nn.hope_processor import HopeProcessor, HopeProcessorConfig
from handhold.scene import Prediction


class RestingHand(torch.nn.Module):
    """Says that every crop shows the free hand at rest, in the middle of its hand box."""

    def forward(self, batch):
        count = len(batch)
        out = HandModel.free()(torch.zeros(count, 16, 3))
        joints = out.joints - out.joints[:, :1]
        box = batch.hand_box
        flat = joints[..., :2] - joints[..., :2].mean(1, keepdim=True)
        flat = flat / (flat.amax((1, 2), keepdim=True) - flat.amin((1, 2), keepdim=True))
        size = (box[:, 2:] - box[:, :2]).amax(1)[:, None, None]
        return Prediction(
            joints=joints,
            vertices=out.vertices - out.joints[:, :1],
            joints2d=flat * size + ((box[:, :2] + box[:, 2:]) / 2)[:, None],
            grasp_logits=torch.tensor([[2.0, 0.0]]).expand(count, 2),
            rotations=torch.eye(3).expand(count, 16, 3, 3),
            betas=torch.zeros(count, 10),
        )


class MiddleDetector(HandDetector):
    """One right hand in the middle of every photo."""

    def detect(self, images, **_):
        return [
            [
                Detection(
                    box=np.array([0.3, 0.3, 0.7, 0.7]) * np.tile(image.shape[1::-1], 2),
                    side="right",
                    score=0.9,
                )
            ]
            for image in images
        ]


@pytest.fixture(autouse=True)
def no_trained_weights(monkeypatch):
    """The command builds its Estimator as ever, but around the two stand-ins above."""
    original = estimator_module.Estimator
    network = HandDetectorNetwork(DetectorConfig(input_size=64))

    def make(model, *, detector, weights, **more):
        if detector == "default":
            detector = MiddleDetector(network)
        processor = HopeProcessor(HopeProcessorConfig.deployable(64))
        loaded = SimpleNamespace(name=model, network=RestingHand(), processor=processor)
        return original(loaded, detector=detector, **more)

    monkeypatch.setattr(estimator_module, "Estimator", make)


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.jpg"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (120, 160, 3), dtype=np.uint8)).save(path)
    return path


def scene(path):
    document = json.loads(path.read_text())
    assert document["schema"] == "handhold.scene/1"
    return document


def test_three_files_for_a_photo(photo, tmp_path, capsys):
    import trimesh

    out = tmp_path / "out"
    assert main(["predict", str(photo), "--out", str(out)]) == 0
    assert sorted(file.name for file in out.iterdir()) == ["photo.glb", "photo.json", "photo.png"]
    document = scene(out / "photo.json")
    assert document["image"] == "photo.jpg"
    assert document["size"] == [160, 120]
    assert document["camera"]["source"] == "default"
    assert len(document["hands"]) == 1
    picture = Image.open(out / "photo.png")
    assert picture.height == 120
    assert picture.width > 160, "the side view stands beside the overlay"
    mesh = trimesh.load(out / "photo.glb").to_geometry()
    depth = -np.asarray(mesh.vertices)[:, 2]  # GLB looks along -z
    wrist = document["hands"][0]["joints3d"][0]
    assert depth.min() < wrist[2] + 0.1
    assert depth.max() > wrist[2] - 0.1
    assert "1 of 1 photos done, 1 hands" in capsys.readouterr().out


def test_one_bad_file_is_named_and_does_not_stop_the_rest(photo, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    whole = photo.read_bytes()
    (folder / "a.jpg").write_bytes(whole)
    (folder / "b.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "c.jpg").write_text("this is a text file")
    (folder / "d.jpg").write_bytes(whole)
    (folder / "notes.txt").write_text("not a photo, and not meant to be one")
    out = tmp_path / "out"
    assert main(["predict", str(folder), "--out", str(out), "--format", "json"]) == 1
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 2
    assert "b.jpg" in lines[0]
    assert "c.jpg" in lines[1]
    assert "Traceback" not in captured.err
    assert sorted(file.name for file in out.iterdir()) == ["a.json", "d.json"]


def test_unusual_but_good_pictures(tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (40, 60), dtype=np.uint8)
    color = rng.integers(0, 256, (40, 60, 4), dtype=np.uint8)
    Image.fromarray(grey).save(folder / "grey.png")
    Image.fromarray(color).save(folder / "rgba.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "deep.png")
    Image.fromarray(color[:1, :1, :3]).save(folder / "dot.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(color[..., :3]).save(folder / "turned.jpg", exif=exif)
    out = tmp_path / "out"
    assert main(["predict", str(folder), "--out", str(out)]) == 0
    assert capsys.readouterr().err == ""
    sizes = {file.stem: scene(file)["size"] for file in out.glob("*.json")}
    plain = [60, 40]
    assert sizes == {
        "grey": plain, "rgba": plain, "deep": plain, "dot": [1, 1], "turned": [40, 60]
    }  # fmt: skip
    assert scene(out / "dot.json")["hands"] == []
    assert (out / "dot.png").exists()
    assert not (out / "dot.glb").exists()


def test_a_picture_of_108_million_pixels(tmp_path):
    Image.new("L", (12000, 9000), 128).save(tmp_path / "huge.jpg")
    out = tmp_path / "out"
    command = ["predict", str(tmp_path / "huge.jpg"), "--out", str(out), "--format", "json,png"]
    assert main(command) == 0
    document = scene(out / "huge.json")
    assert document["size"] == [12000, 9000]
    assert max(max(point) for point in document["hands"][0]["joints2d"]) > 6000
    assert Image.open(out / "huge.png").height <= 1600


def test_same_stems_do_not_overwrite_one_another(photo, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    image = Image.open(photo)
    image.save(folder / "a.jpg")
    image.resize((100, 50)).save(folder / "a.png")
    (tmp_path / "more").mkdir()
    image.resize((50, 50)).save(tmp_path / "more" / "a.png")
    out = tmp_path / "out"
    words = ["predict", str(folder), str(tmp_path / "more"), "--out", str(out), "--format", "json"]
    assert main(words) == 0
    sizes = {file.name: scene(file)["size"] for file in out.iterdir()}
    expected = {"a_jpg.json": [160, 120], "a_png.json": [100, 50], "a_png_2.json": [50, 50]}
    assert sizes == expected


def refused(words, capsys, *parts):
    """Exit code 2, one line on stderr with all the parts, no traceback."""
    assert main(["predict", *map(str, words)]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1, error
    assert "Traceback" not in error
    for part in parts:
        assert part in error


def test_refused_before_any_work(photo, tmp_path, capsys):
    out = tmp_path / "out"
    empty = tmp_path / "empty"
    empty.mkdir()
    refused([empty, "--out", out], capsys, str(empty), "no photo")
    refused([tmp_path / "none.jpg", "--out", out], capsys, "none.jpg")
    for text in ("nan,nan,80,60", "500,500,80", "-5,500,80,60"):
        refused([photo, "--out", out, f"--intrinsics={text}"], capsys, "intrinsics")
    refused([photo, "--out", out, "--fov", "nan"], capsys, "fov")
    words = [photo, "--out", out, "--fov", "60", "--intrinsics", "500,500,80,60"]
    refused(words, capsys, "not both")
    refused([photo, "--out", out, "--format", "obj"], capsys, "format", "obj")
    refused([photo, "--out", out, "--boxes", tmp_path / "no.json"], capsys, "no.json")
    assert not out.exists()
    png = tmp_path / "photo.png"
    Image.open(photo).save(png)
    refused([png, "--out", tmp_path], capsys, "photo.png", "replace")
    refused([tmp_path, "--out", tmp_path], capsys, "photos the next time")
    refused([photo, "--out", out, "--device", "toaster"], capsys, "toaster")


def test_an_output_folder_that_cannot_be_written(photo, tmp_path, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("")
    refused([photo, "--out", blocked], capsys, "file", "cannot write")
    refused([photo, "--out", blocked / "below"], capsys, "cannot write")


def test_boxes_from_outside(photo, tmp_path, capsys):
    out, boxes = tmp_path / "out", tmp_path / "boxes.json"
    words = ["predict", str(photo), "--out", str(out), "--boxes", str(boxes), "--format", "json"]
    boxes.write_text(json.dumps([{"box": [10, 20, 70, 90], "side": "left", "score": 0.5}]))
    assert main(words) == 0
    (hand,) = scene(out / "photo.json")["hands"]
    assert (hand["side"], hand["score"], hand["box"]) == ("left", 0.5, [10, 20, 70, 90])
    capsys.readouterr()
    (out / "photo.json").unlink()
    boxes.write_text(json.dumps({"photo.jpg": [{"box": [300, 20, 370, 90]}]}))
    assert main(words) == 1
    error = capsys.readouterr().err
    assert "photo.jpg" in error
    assert "outside" in error
    assert not (out / "photo.json").exists()
    boxes.write_text(json.dumps({"other.jpg": []}))
    assert main(words) == 2
    assert "other.jpg" in capsys.readouterr().err
    boxes.write_text("[[1, 2")
    assert main(words) == 2
    assert "not valid JSON" in capsys.readouterr().err


def test_detector_weights_that_are_none(photo, tmp_path, capsys):
    out, weights = tmp_path / "out", tmp_path / "detector.safetensors"
    weights.write_bytes(b"not weights at all")
    refused([photo, "--out", out, "--detector", weights], capsys, "detector.safetensors")
    refused([photo, "--out", out, "--detector", tmp_path / "gone"], capsys, "gone")
    save_detector(weights, HandDetectorNetwork(DetectorConfig(input_size=64)))
    data = weights.read_bytes()
    weights.write_bytes(data[: len(data) // 2])
    refused([photo, "--out", out, "--detector", weights], capsys, "detector.safetensors")
    weights.write_bytes(data)
    words = ["predict", str(photo), "--out", str(out), "--detector", str(weights)]
    assert main([*words, "--format", "json"]) == 0


def test_nothing_half_written_when_the_disk_fills(photo, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"

    def full(self, content):
        with self.open("wb") as file:
            file.write(content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    assert main(["predict", str(photo), "--out", str(out), "--format", "json"]) == 1
    assert list(out.iterdir()) == []
    assert "No space left" in capsys.readouterr().err
