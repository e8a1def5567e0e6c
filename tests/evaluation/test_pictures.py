"""FID by command: Inception's features against another program's, pictures of every source, the
figure against its closed form."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.golden import fill

from handhold.cli.main import main
from handhold.errors import InputError, MissingFileError, WeightsError
from handhold.evaluation.inception import SIZE, Inception, resized
from handhold.evaluation.pictures import Choice, PictureNetwork, features_of_source, picture_of
from handhold.scene import Sample
from handhold.synthesis.diffusion.crops import encode_crops, made_sample
from handhold.synthesis.scenes import SceneConfig, make_scene
from handhold.synthesis.shards import write_shards

# Every 200th number from the 100th, and the mean, of torch-fidelity 0.4.0's features of PICTURES
# ("inception-v3-compat", pool 2048) under the same weights, made by `fill` with doubled kernels.
EXPECTED = [
    [1.51028, 0.52164, 13.55271, 20.31038, 0.14569, 0.91233, 28.1908, 5.87977, 16.12504, 14.59731],
    [1.35235, 0.65269, 14.41308, 22.33617, 0.3636, 1.04813, 29.35731, 5.61868, 16.07259, 15.25092],
    [1.36343, 0.78589, 15.89417, 26.03762, 0.27652, 0.95083, 33.14463, 6.70506, 19.82316, 17.46102],
]
MEANS = [8.29099, 8.66356, 9.76566]
PICTURES = [
    (fill.generated_image((3, *size), "inception", number) * 255)
    .astype(np.uint8)
    .transpose(1, 2, 0)
    for number, size in enumerate([(128, 128), (128, 128), (340, 410)])
]


@pytest.fixture(scope="module")
def entries() -> dict[str, torch.Tensor]:
    told = {
        key: torch.from_numpy(np.asarray(fill.fill_array(key, value.shape)))
        for key, value in Inception().state_dict().items()
    }
    kernels = {key: 2 * value for key, value in told.items() if key.endswith("conv.weight")}
    return told | kernels


def test_inception_gives_another_programs_features(
    entries: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    classifier = {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    torch.save(entries | classifier, tmp_path / "inception.pth")
    network = PictureNetwork("inception", str(tmp_path / "inception.pth"))
    assert network.name == "inception (inception.pth)"
    found = network(PICTURES)
    assert found.shape == (3, 2048)
    np.testing.assert_allclose(found[:, 100::200], EXPECTED, atol=5e-5)
    np.testing.assert_allclose(found.mean(1), MEANS, rtol=2e-6)


def test_inceptions_files_are_checked(entries: dict[str, torch.Tensor], tmp_path: Path) -> None:
    small = {key: value for key, value in entries.items() if "num_batches" not in key}
    save_file(small, str(tmp_path / "a.safetensors"))
    Inception.load(tmp_path / "a.safetensors")
    torch.save(small | {"fc.bias": torch.zeros(1000)}, tmp_path / "b.pth")
    with pytest.raises(WeightsError, match=r"b\.pth: expected the Inception of FID .*1000 classes"):
        Inception.load(tmp_path / "b.pth")
    small.pop("Mixed_7c.branch_pool.bn.weight")
    torch.save(small, tmp_path / "c.pth")
    with pytest.raises(WeightsError, match=r"missing Mixed_7c\.branch_pool\.bn\.weight"):
        Inception.load(tmp_path / "c.pth")
    with pytest.raises(InputError, match="--weights"):
        PictureNetwork("inception")


@pytest.mark.parametrize("width", [128, 640])
def test_pictures_are_resized_from_their_corner(width: int) -> None:
    """New pixel i lies at i W / 299 of the old ones, beyond the last it stays."""
    ramp = torch.arange(width).repeat(7, 1)[..., None] + torch.tensor([0.0, 5, 9])
    expected = np.minimum(np.arange(SIZE) * width / SIZE, width - 1)
    found = resized(ramp).numpy()
    np.testing.assert_allclose(found[0], np.tile(expected, (SIZE, 1)), atol=1e-4)
    np.testing.assert_allclose(found[2] - found[0], 9, atol=1e-3)


# ------------------------------------------------------------------------- pictures of a source


@pytest.fixture(scope="module")
def scenes() -> list[Sample]:
    config = SceneConfig(width=128, height=96, occluder=0.0, empty=0.3, conditions=True)
    return [make_scene(5, number, config) for number in range(12)]


def test_crops_are_those_of_the_synthesizer(scenes: list[Sample]) -> None:
    """What it learns from, and what it makes for a hand is taken as it is, as a right hand."""
    draw = np.random.default_rng(0)
    sides = set()
    for sample in scenes:
        if not sample.hands:
            assert picture_of(sample, Choice()) is None
            continue
        sides.add(sample.hands[0].side)
        learned = (encode_crops([(sample, 0)], 64).image[0].numpy() * 255).transpose(1, 2, 0)
        shown = picture_of(sample, Choice(size=64))
        np.testing.assert_allclose(learned, shown, atol=1e-3)
        image = draw.integers(0, 256, (64, 64, 3), np.uint8)
        again = picture_of(made_sample(sample, image, "made"), Choice(size=64))
        np.testing.assert_array_equal(again, image)
        assert picture_of(sample, Choice(crop="whole")) is sample.image
    assert sides == {"left", "right"}


def test_sources_and_the_order_of_their_pictures(scenes: list[Sample], tmp_path: Path) -> None:
    write_shards(scenes, tmp_path / "shards", 5)
    (tmp_path / "pictures").mkdir()
    crops = [x for scene in scenes if (x := picture_of(scene, Choice())) is not None]
    for number, image in enumerate(crops):
        cv2.imwrite(str(tmp_path / "pictures" / f"{number:02d}.png"), image[..., ::-1])
    network = PictureNetwork("hand-detector")
    pictures = features_of_source(str(tmp_path / "pictures"), network, Choice())
    np.testing.assert_allclose(pictures.features, network(crops), atol=1e-5)
    shards = features_of_source(f"shards:{tmp_path / 'shards'}", network, Choice())
    assert pictures.features.shape == shards.features.shape == (len(crops), 192)
    assert shards.left_out == len(scenes) - len(crops) > 0
    ways = [x - x.mean(0) for x in (pictures.features, shards.features)]  # JPEG changes them a bit
    ways = [way / np.linalg.norm(way, axis=1, keepdims=True) for way in ways]
    assert (ways[0] @ ways[1].T).argmax(1).tolist() == list(range(len(crops)))
    some = features_of_source(str(tmp_path / "pictures"), network, Choice(count=3))
    chosen = [0, len(crops) // 3, 2 * len(crops) // 3]
    np.testing.assert_allclose(some.features, pictures.features[chosen], atol=1e-5)
    bare = [dataclasses.replace(scene, hands=()) for scene in scenes[:2]]
    write_shards(bare, tmp_path / "bare", 5)
    with pytest.raises(InputError, match="--crop whole"):
        features_of_source(str(tmp_path / "bare"), network, Choice())
    with pytest.raises(MissingFileError, match=r"expected FOLDER or NAME\[/SPLIT\]"):
        features_of_source("dexybc:nowhere", network, Choice())
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="stored features"):
        features_of_source(str(tmp_path / "empty"), network, Choice())


# ----------------------------------------------------------------------------------- the figure


def test_the_figure_of_known_gaussians(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Features of exactly these means and variances: sum of (m1 - m2)^2 + (s1 - s2)^2."""
    draw = np.random.default_rng(3)
    spreads, shift = np.array([[1.0, 2, 3, 0.5], [2.0, 2, 1, 0.5]]), np.array([0.5, 0, -1, 2])
    for name, spread, mean in zip(("real", "made"), spreads, (0 * shift, shift), strict=True):
        raw = draw.standard_normal((50, 4))
        raw -= raw.mean(0)
        white = raw @ np.linalg.inv(np.linalg.cholesky(np.cov(raw, rowvar=False))).T
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "0.npy", white * spread + mean)
    words = ["fid", str(tmp_path / "real"), str(tmp_path / "made")]
    assert main([*words, "--out", str(tmp_path / "fid.json")]) == 0
    expected = (shift**2).sum() + ((spreads[0] - spreads[1]) ** 2).sum()
    told = json.loads((tmp_path / "fid.json").read_text())
    assert told["fid"] == pytest.approx(expected, rel=1e-9)
    assert told["features"] == "stored ones" and told["dimension"] == 4 and told["notes"] == []
    assert f"FID: {expected:.4g}" in capsys.readouterr().out
    assert main([*words, "--count", "4"]) == 0
    shown = capsys.readouterr().out
    assert "note: 4 made pictures are too few for 4 features" in shown
    assert main([*words, "--count", "1"]) == 2
    assert "real: expected 2 pictures or more, found 1" in capsys.readouterr().err
    np.save(tmp_path / "made" / "0.npy", np.ones((3, 5)))
    assert main(words) == 2
    assert "made: expected features of 4 numbers" in capsys.readouterr().err


def test_worse_pictures_are_farther(
    scenes: list[Sample], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the features of the house, whose name is told."""
    draw = np.random.default_rng(1)
    for name, noise in (("real", 0), ("near", 10), ("far", 60)):
        changed = [
            dataclasses.replace(
                scene,
                image=np.clip(
                    scene.image + noise * draw.standard_normal(scene.image.shape), 0, 255
                ).astype(np.uint8),
            )
            for scene in scenes
        ]
        write_shards(changed, tmp_path / name, 20)
    found = {}
    for name in ("real", "near", "far"):
        words = ["fid", str(tmp_path / "real"), str(tmp_path / name)]
        assert main([*words, "--out", str(tmp_path / f"{name}.json")]) == 0
        told = json.loads((tmp_path / f"{name}.json").read_text())
        assert told["features"] == "unihope-small" and told["dimension"] == 640
        found[name] = told["fid"]
    assert 0 <= found["real"] < 1e-3 < found["near"] < found["far"]
    shown = capsys.readouterr().out
    assert "features: unihope-small, 640 numbers a picture" in shown
    assert "too few for 640 features" in shown and "without a hand to crop" in shown
