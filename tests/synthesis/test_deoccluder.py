"""Second images without the object: the hand drawn again, and pairs written as shards."""

from __future__ import annotations

import dataclasses
import errno
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from tests.data import dexycb_miniature

from handhold.cli.synth_deocclude import deocclude
from handhold.errors import FileFormatError, InputError, MissingFileError, WriteError
from handhold.geometry.crop import warp
from handhold.hand.model import HandModel
from handhold.models.loading import load_model
from handhold.objects.mesh import ObjectMesh
from handhold.objects.procedural import make_object
from handhold.scene import RigidObject, Sample
from handhold.synthesis import shards
from handhold.synthesis.deoccluder.background import filled
from handhold.synthesis.deoccluder.bare import BareHands, _fit
from handhold.synthesis.deoccluder.judge import Errors, Judge
from handhold.synthesis.deoccluder.pairs import Diffusion, Free, Made, write_pairs
from handhold.synthesis.deoccluder.removal import Planner, Removal, crop_of, grown
from handhold.synthesis.deoccluder.repaint import RepaintConfig
from handhold.synthesis.scenes import SceneConfig, make_scene
from handhold.synthesis.shards import read_shards, write_shards

HOLDING = SceneConfig(
    width=144, height=128, holding=1.0, near=0.0, paired=True, occluder=0.0, sensor=0.0,
    hand_size=(0.5, 0.8),
)  # fmt: skip


@pytest.fixture(scope="module")
def models() -> dict[str, HandModel]:
    return {side: HandModel.load(None, side) for side in ("left", "right")}


@pytest.fixture(scope="module")
def planner(models: dict[str, HandModel]) -> Planner:
    return Planner(models)


@pytest.fixture(scope="module")
def scenes(planner: Planner) -> list[Sample]:
    """Three scenes of half hidden hands, of both sides, with their exact twins."""
    found = [make_scene(3, number, HOLDING) for number in (2, 5, 0)]
    assert all((_removal(planner, scene).visibility) < 0.85 for scene in found)
    assert {scene.hands[0].side for scene in found} == {"left", "right"}
    return found


@pytest.fixture(scope="module")
def folder(scenes: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those as shards, between a bare hand and a hand in full view."""
    where = tmp_path_factory.mktemp("scenes")
    bare = make_scene(3, 0, dataclasses.replace(HOLDING, holding=0.0))
    hand = dataclasses.replace(scenes[0].hands[0], visibility=0.95)
    seen = dataclasses.replace(scenes[0], key="seen", hands=(hand,))
    write_shards([bare, *scenes[:2], seen], where)
    return where


def _removal(planner: Planner, scene: Sample) -> Removal:
    found = planner(scene)
    assert isinstance(found, Removal) and found.needed
    return found


def _off(one: Any, other: Any, where: np.ndarray) -> float:
    return float(np.abs(one.astype(float) - other)[where].mean())


# ----------------------------------------------------------------------------- drawn again


def test_drawn_hands_are_near_the_exact_twins(
    scenes: list[Sample], planner: Planner, models: dict[str, HandModel]
) -> None:
    """Much nearer than the photo is, where the object was; elsewhere it is the photo."""
    draw, gains, hands = BareHands(models), [], []
    for scene in scenes:
        twin, removal = scene.bare_image, _removal(planner, scene)
        assert twin is not None
        image = draw(scene, removal, np.random.default_rng(1))
        thing = removal.object_mask
        gains.append(_off(image, twin, thing) / _off(scene.image, twin, thing))
        hidden = thing & removal.amodal
        hands.append(_off(image, twin, hidden) / _off(scene.image, twin, hidden))
        side = max(np.ptp(np.argwhere(thing | removal.amodal), axis=0))
        beside = ~grown(thing, 5 * max(3.0, 0.015 * side) + 1)
        assert np.array_equal(image[beside], scene.image[beside])
    assert np.mean(gains) < 0.45 and np.median(hands) < 0.5
    one, two = (
        draw(scenes[0], _removal(planner, scenes[0]), np.random.default_rng(1)) for _ in range(2)
    )
    assert np.array_equal(one, two)


def test_lamps_that_lit_the_hand_are_found() -> None:
    """Also where a tenth of the pixels shows something else."""
    rng = np.random.default_rng(0)
    lit = rng.random((1500, 11)) ** 2
    lamps = np.where(rng.random(11) < 0.5, rng.random(11), 0)
    colour = lit @ lamps
    wrong = rng.random(1500) < 0.1
    found = _fit(lit, np.where(wrong, rng.random(1500) * 3, colour))
    assert np.abs(lit @ found - colour).mean() < 0.05 * colour.mean()
    assert found.min() >= 0


def test_the_background_goes_on_behind_a_hole() -> None:
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(np.arange(120), np.arange(90))
    plain = np.stack([60 + x, 200 - y, 90 + 0 * x], -1).astype(np.uint8)
    hole = (x - 60) ** 2 + (y - 45) ** 2 < 20**2
    damaged = np.where(hole[..., None], 0, plain).astype(np.uint8)
    found = filled(damaged, hole, rng)
    assert np.array_equal(found[~hole], plain[~hole])
    assert _off(found, plain, hole) < 8
    noisy = np.clip(plain + rng.normal(0, 6, plain.shape), 0, 255).astype(np.uint8)
    grainy = filled(np.where(hole[..., None], 0, noisy).astype(np.uint8), hole, rng)
    fine = grainy.astype(float) - np.roll(grainy, 1, 1)
    inner = grown(~hole, 2) ^ True
    assert fine[inner].std() == pytest.approx(6 * 2**0.5, rel=0.35)


def test_the_nearer_hand_is_what_is_seen(
    scenes: list[Sample], planner: Planner, models: dict[str, HandModel]
) -> None:
    """Behind a wall, with a second hand beside the first: what is farther changes nothing."""
    scene, draw = scenes[0], BareHands(models)
    hand = scene.hands[0]
    assert hand.vertices is not None
    wall = np.zeros(scene.image.shape[:2], bool)
    wall[:] = _removal(planner, scene).amodal
    wall &= grown(scene.object_mask, 25)  # type: ignore[arg-type]
    hidden = dataclasses.replace(scene, object_mask=wall, hand_mask=scene.hand_mask & ~wall)

    def drawn(shift: tuple[float, float, float]) -> tuple[np.ndarray, Removal]:
        moved = np.asarray(hand.vertices) + shift
        other = dataclasses.replace(hand, vertices=moved, grasping=False)
        both = dataclasses.replace(hidden, hands=(hand, other))
        removal = _removal(planner, both)
        assert len(removal.others) == 1
        return draw(both, removal, np.random.default_rng(0)), removal

    alone = draw(hidden, _removal(planner, hidden), np.random.default_rng(0))
    z = float(hand.vertices[:, 2].mean())
    far, removal = drawn((0.0, 0.0, 0.6 * z))
    inner = ~grown(~(wall & removal.amodal), 3)
    assert inner.sum() > 100 and _off(far, alone, inner) < 2
    near, _ = drawn((0.03, 0.01, -0.5 * z))
    assert _off(near, alone, inner) > 2 * _off(far, alone, inner) + 2


# ------------------------------------------------------------------------------- which frames


def test_what_is_paired_and_what_is_not(
    scenes: list[Sample], models: dict[str, HandModel], planner: Planner
) -> None:
    scene = scenes[0]
    hand = scene.hands[0]
    assert hand.visibility is not None and scene.object is not None
    assert planner(dataclasses.replace(scene, hands=())) == "no hand"
    free = dataclasses.replace(hand, grasping=False)
    assert planner(dataclasses.replace(scene, hands=(free,))) == "not grasping"
    assert planner(dataclasses.replace(scene, object=None)) == "no object"
    strict = Planner(models, threshold=hand.visibility - 0.01)(scene)
    assert isinstance(strict, Removal) and not strict.needed
    unknown = dataclasses.replace(hand, visibility=None)
    bare = dataclasses.replace(scene, hands=(unknown,), hand_mask=None, hand_mask_amodal=None)
    found = _removal(planner, bare)
    assert found.visibility == pytest.approx(hand.visibility, abs=0.06)
    with pytest.raises(InputError, match="no mask of its object"):
        planner(dataclasses.replace(scene, object_mask=None))
    with pytest.raises(InputError, match=r"no vertices of this hand model; --mano"):
        planner(dataclasses.replace(scene, hands=(dataclasses.replace(hand, vertices=None),)))
    with pytest.raises(InputError, match=f"no mesh of its object {scene.object.name!r}"):
        Planner(models, {"cup": make_object("025_mug", np.random.default_rng(0))})(scene)


def test_meshes_give_the_mask(scenes: list[Sample], models: dict[str, HandModel]) -> None:
    """A ball before the hand hides exactly the rays that pass its centre within its radius."""
    scene, radius = scenes[0], 0.03
    ball = trimesh.creation.icosphere(4, radius)
    mesh = ObjectMesh(name="ball", vertices=ball.vertices, faces=np.asarray(ball.faces))
    hand = dataclasses.replace(scene.hands[0], visibility=None)
    assert hand.vertices is not None
    centre = hand.vertices.mean(0) * 0.7
    thing = RigidObject(name="ball", rotation=np.eye(3), translation=centre)
    plain = dataclasses.replace(
        scene, hands=(hand,), object=thing, object_mask=None, hand_mask=None, hand_mask_amodal=None
    )
    found = Planner(models, {"ball": mesh}, threshold=1.0)(plain)
    assert isinstance(found, Removal)
    x, y = np.meshgrid(np.arange(scene.camera.width), np.arange(scene.camera.height))
    rays = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(scene.camera.intrinsics).T
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    apart = np.linalg.norm(np.cross(rays, centre), axis=-1)
    pixel = centre[2] / scene.camera.intrinsics[0, 0]
    assert found.object_mask[apart < radius - pixel].all() and found.object_mask.sum() > 50
    assert not found.object_mask[apart > radius + pixel].any()
    share = (found.amodal & ~found.object_mask).sum() / found.amodal.sum()
    assert found.visibility == pytest.approx(share)


def test_the_crop_is_unihopes(scenes: list[Sample], planner: Planner) -> None:
    """A square about the middle of both boxes times 1.5, cut at the photo, by plain arithmetic."""
    scene = scenes[1]
    hand, thing = scene.hands[0], scene.object
    assert thing is not None and thing.control_points is not None and hand.joints2d is not None
    placed = thing.control_points @ thing.rotation.T + thing.translation
    low, high = [], []
    for points in (hand.joints2d, scene.camera.project(placed)):
        middle = np.trunc((points.min(0) + points.max(0)) / 2)
        half = 0.75 * np.ptp(points, axis=0)
        low.append(middle - half)
        high.append(middle + half)
    first = np.maximum(np.min(low, 0), 0)
    last = np.minimum(np.max(high, 0), (scene.camera.width, scene.camera.height))
    found = crop_of(scene, _removal(planner, scene), 64)
    side = (last - first).max()
    assert found[0, 0] == pytest.approx(64 / side)
    centre = np.linalg.inv(found) @ (32, 32, 1)
    np.testing.assert_allclose(centre[:2], np.trunc((first + last) / 2), atol=1e-9)


# --------------------------------------------------------------------------------- diffusion


class _Painter:
    """Paints every crop in one grey, that of the control strength."""

    config = RepaintConfig(size=64, strengths=(0.25, 0.4, 1.0))

    def __init__(self) -> None:
        self.calls: list[tuple[float, int]] = []

    def __call__(
        self, crop: np.ndarray, mask: np.ndarray, hint: np.ndarray, strength: float, seed: int
    ) -> np.ndarray:
        assert crop.shape == (64, 64, 3) and hint[mask].max() == pytest.approx(1)
        assert not hint[~mask].any()  # the hand lies within what is painted anew
        self.calls.append((strength, seed))
        return np.full_like(crop, int(200 * strength))


def test_the_best_strength_is_kept_and_pasted(scenes: list[Sample], planner: Planner) -> None:
    def judge(sample: Sample, number: int, images: list[np.ndarray]) -> list[Errors]:
        assert number == 0 and images[0] is sample.image and len(images) == 4
        return [Errors(mpjpe=e, pa_mpjpe=1.0) for e in (10.0, 7.0, 5.0, 6.0)]

    scene, painter = scenes[0], _Painter()
    removal = _removal(planner, scene)
    made = Diffusion(painter, judge)(scene, removal, 4, 9)  # type: ignore[arg-type]
    assert made.strength == 0.4 and made.told()["tried_mpjpe"] == {"0.25": 7, "0.4": 5, "1": 6}
    assert made.told()["photo"]["mpjpe"] == 10 and made.told()["made"]["mpjpe"] == 5
    assert [strength for strength, _ in painter.calls] == [0.25, 0.4, 1.0]
    assert len({seed for _, seed in painter.calls}) == 1  # the same noise
    covered = removal.object_mask | removal.amodal
    affine = crop_of(scene, removal, 64)
    inside = covered & (warp(np.ones((64, 64), np.float32), np.linalg.inv(affine), (144, 128)) == 1)
    assert inside.sum() > 500 and (made.image[inside] == 80).mean() > 0.95
    beyond = ~grown(covered, 0.04 * 64 / affine[0, 0] + 1)
    assert np.array_equal(made.image[beyond], scene.image[beyond])
    other = Diffusion(painter, judge)(scene, removal, 4, 10)  # type: ignore[arg-type]
    assert painter.calls[0][1] != painter.calls[-1][1] and other.strength == 0.4
    with pytest.raises(InputError, match="several control strengths need"):
        Diffusion(painter, None)  # type: ignore[arg-type]


def test_a_network_of_the_house_judges(scenes: list[Sample]) -> None:
    """Its errors are those of its own joints against the label, by plain arithmetic."""
    loaded = load_model("unihope-small")
    judge = Judge(loaded)
    scene = scenes[0]
    twin = scene.bare_image
    assert twin is not None
    ours = judge(scene, 0, [scene.image, twin])
    batch = loaded.processor.encode([(dataclasses.replace(scene, image=twin), 0)])
    import torch

    with torch.no_grad():
        found = loaded.network(batch).joints[0].numpy()
    truth = np.asarray(scene.hands[0].joints, np.float64).copy()
    if scene.hands[0].side == "left":
        truth[:, 0] *= -1
    off = np.linalg.norm((found - found[0]) - (truth - truth[0]), axis=1)
    assert ours[1].mpjpe == pytest.approx(1000 * off.mean(), rel=2e-3)
    assert ours[0].mpjpe != ours[1].mpjpe
    assert ours[1].pa_mpjpe < ours[1].mpjpe and ours[1].score > ours[1].mpjpe


# ------------------------------------------------------------------------------------- shards


def _files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.glob("shard-*"))}


def test_pairs_in_shards_and_after_a_kill(folder: Path, tmp_path: Path) -> None:
    """Labels stay, half hidden held hands get their second image, and killed runs go on."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert deocclude(str(folder), whole, free=True, shard_size=2) == 0
    before, after = list(read_shards(folder)), list(read_shards(whole))
    assert [s.bare_image is not None for s in after] == [False, True, True, False]
    assert (whole / "sheet.png").exists()
    for old, new in zip(before, after, strict=True):
        assert old.key == new.key and _off(old.image, new.image, ...) < 2  # type: ignore[arg-type]
        assert old.hands[0].visibility == new.hands[0].visibility
        assert np.array_equal(old.hands[0].joints, new.hands[0].joints)  # type: ignore[arg-type]
    told = [
        row for n in range(2) for row in json.loads((whole / f"shard-{n:06d}.json").read_text())
    ]
    assert [row.get("why") for row in told] == ["not grasping", None, None, "in full view"]
    # killed as soon as the first shard is there
    words = ["--data", folder, "--out", killed, "--free", "--shard-size", "2"]
    command = [sys.executable, "-m", "handhold.cli.main", "synth", "deocclude", *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    first = killed / "shard-000000.tar"
    deadline = time.monotonic() + 240
    while not first.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    written = first.stat().st_mtime_ns
    (killed / ".shard-000001.99.tar").write_bytes(b"left by a killed run")
    assert deocclude(str(folder), killed, free=True, shard_size=2, sheet=False, workers=2) == 0
    assert _files(killed) == _files(whole) and first.stat().st_mtime_ns == written
    assert not list(killed.glob(".shard*"))
    with pytest.raises(InputError, match="was begun with seed 0, not 1"):
        deocclude(str(folder), killed, free=True, shard_size=2, seed=1)
    with pytest.raises(InputError, match="holds shards that something else made"):
        deocclude(str(folder), folder, free=True, shard_size=2)


def test_worse_second_images_are_dropped(
    scenes: list[Sample], planner: Planner, tmp_path: Path
) -> None:
    class Listed:
        hands = None

        def __len__(self) -> int:
            return 2

        def __getitem__(self, number: int) -> Sample:
            return dataclasses.replace(scenes[number], bare_image=None)

    def way(sample: Sample, removal: Removal, seed: int, number: int) -> Made:
        error = Errors(mpjpe=5.0 + number, pa_mpjpe=3)
        return Made(image=sample.image, photo=Errors(mpjpe=6, pa_mpjpe=3), made=error)

    write_pairs(Listed(), tmp_path, 0, 2, planner, way, drop="worse")
    assert [s.bare_image is not None for s in read_shards(tmp_path)] == [True, False]
    rows = json.loads((tmp_path / "shard-000000.json").read_text())
    assert rows[1]["why"] == "worse than the photo" and rows[0]["pair"]


def test_a_full_disk_keeps_finished_shards(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, out = shards._add, tmp_path / "out"

    def full(archive: Any, name: str, data: bytes) -> None:
        if name.startswith("00000002"):
            raise OSError(errno.ENOSPC, "No space left on device")
        add(archive, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "_add", full)
        with pytest.raises(WriteError, match=r"shard-000001\.tar: cannot be written \(No space"):
            deocclude(str(folder), out, free=True, shard_size=2)
    kept = _files(out)["shard-000000.tar"]
    assert len(list(read_shards(out))) == 2 and not (out / "shard-000001.tar").exists()
    assert deocclude(str(folder), out, free=True, shard_size=2, sheet=False) == 0
    assert len(list(read_shards(out))) == 4 and _files(out)["shard-000000.tar"] == kept
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        deocclude(str(folder), tmp_path / "file" / "out", free=True)


def test_wrong_words_make_no_folder(folder: Path, tmp_path: Path) -> None:
    out, meshes = tmp_path / "out", tmp_path / "meshes"
    meshes.mkdir()
    with pytest.raises(MissingFileError, match="expected mesh files"):
        deocclude(str(folder), out, free=True, objects=meshes)
    (meshes / "cup.obj").write_text("v 0 0 zero\nf 1 2 3\n")
    with pytest.raises(FileFormatError, match=r"cup\.obj"):
        deocclude(str(folder), out, free=True, objects=meshes)
    with pytest.raises(MissingFileError, match=r"no shards \(\*\.tar\) found"):
        deocclude(str(meshes), out, free=True)
    with pytest.raises(InputError, match="--base and --controlnet"):
        deocclude(str(folder), out)
    with pytest.raises(InputError, match="shard-size"):
        deocclude(str(folder), out, free=True, shard_size=0)
    with pytest.raises(InputError, match="no split 'nothing'"):
        deocclude(f"dexycb/nothing:{folder}", out, free=True)
    assert not out.exists()
    trimesh.creation.box((0.1, 0.1, 0.1)).export(meshes / "cup.obj")
    with pytest.raises(InputError, match="no mesh of its object"):
        deocclude(str(folder), out, free=True, objects=meshes)
    assert not list(out.glob("*.tar"))


def test_a_published_set(tmp_path: Path) -> None:
    """DexYCB says neither masks of whole hands nor visible shares; both come with the pairs."""
    root = dexycb_miniature.write(tmp_path / "dex", subjects=(2,), cameras=1)
    (tmp_path / "meshes").mkdir()
    trimesh.creation.box((0.16, 0.16, 0.055)).export(tmp_path / "meshes" / "024_bowl.obj")
    spec, out = f"dexycb/s0-train:{root}", tmp_path / "out"
    code = deocclude(spec, out, free=True, objects=tmp_path / "meshes", threshold=1.0, sheet=False)
    found = list(read_shards(out))
    assert code == 0 and any(s.bare_image is not None for s in found)
    for sample in found:
        if sample.hands and sample.hands[0].grasping:
            assert sample.hands[0].visibility is not None
            assert sample.bare_image is not None and sample.hand_mask_amodal is not None
        else:
            assert sample.bare_image is None


def test_free_needs_no_judge_but_takes_one(
    scenes: list[Sample], planner: Planner, models: dict[str, HandModel]
) -> None:
    def judge(_: Sample, __: int, images: list[np.ndarray]) -> list[Errors]:
        return [Errors(mpjpe=float(len(images)), pa_mpjpe=n) for n in range(len(images))]

    removal = _removal(planner, scenes[0])
    plain = Free(models)(scenes[0], removal, 0, 0)
    judged = Free(models, judge)(scenes[0], removal, 0, 0)  # type: ignore[arg-type]
    assert plain.told() == {} and np.array_equal(plain.image, judged.image)
    assert judged.photo is not None and judged.made is not None and judged.made.pa_mpjpe == 1
