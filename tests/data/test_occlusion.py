"""Masks and visible shares against closed forms and a rasteriser that tries every triangle."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import numpy as np
import pytest
import trimesh
from tests.data import dexycb_miniature as mini
from tests.data import test_mow as mow_miniature
from tests.data.miniature import known_hand

from handhold.data.dexycb import SUBJECTS
from handhold.data.files import Files
from handhold.data.occlusion import Renderer, hand_faces, read_triangles, see, visible_share
from handhold.data.registry import open_dataset
from handhold.data.sources import SetSpec
from handhold.errors import FileFormatError, InputError
from handhold.hand.model import HandModel
from handhold.render.raycast import RenderMesh
from handhold.scene import Camera, Sample


def depths(triangles: np.ndarray, camera: Camera) -> np.ndarray:
    """Nearest depth (H, W) of triangles (F, 3, 3), inf where there is none, by trying all."""
    nearest = np.full((camera.height, camera.width), np.inf)
    inverse = np.linalg.inv(camera.intrinsics)
    for corners in triangles.astype(np.float64):
        pixels = camera.project(corners)
        x0, y0 = np.maximum(np.floor(pixels.min(0)), 0).astype(int)
        x1, y1 = np.minimum(np.ceil(pixels.max(0)) + 1, nearest.shape[::-1]).astype(int)
        if x1 <= x0 or y1 <= y0 or abs(np.linalg.det(corners)) < 1e-15:
            continue
        columns, rows = np.meshgrid(np.arange(x0, x1), np.arange(y0, y1))
        rays = np.stack([columns, rows, np.ones_like(rows)], -1) @ inverse.T
        shares = rays @ np.linalg.inv(corners)  # of the ray in terms of the corners
        depth = 1 / np.maximum(shares.sum(-1), 1e-12)
        part = nearest[y0:y1, x0:x1]
        part[:] = np.where((shares >= 0).all(-1) & (depth < part), depth, part)
    return nearest


def view(size: int = 64, focal: float = 90.0) -> Camera:
    matrix = np.array([[focal, 0, size / 2 - 3], [0, focal + 1, size / 2 + 2], [0, 0, 1.0]])
    return Camera(intrinsics=matrix, width=size, height=size - 10)


def sphere(centre: tuple[float, float, float], radius: float) -> tuple[RenderMesh, np.ndarray]:
    """A fine sphere, and its analytic depth in a camera of 400 x 390 pixels."""
    ball = trimesh.creation.icosphere(subdivisions=5, radius=radius)
    camera = view(400, 500.0)
    columns, rows = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    pixels = np.stack([columns, rows, np.ones_like(rows)], -1)
    rays = pixels @ np.linalg.inv(camera.intrinsics).T
    a, b = (rays**2).sum(-1), rays @ np.array(centre)
    root = b**2 - a * (np.dot(centre, centre) - radius**2)
    depth = np.where(root > 0, (b - np.sqrt(np.maximum(root, 0))) / a, np.inf)
    return RenderMesh(vertices=ball.vertices + centre, faces=ball.faces), depth


@pytest.mark.parametrize("place", [(0.0, 0.0, 0.4), (0.05, 0.02, 0.4), (0.2, 0.1, 0.5)])
def test_sphere_before_sphere(place: tuple[float, float, float]) -> None:
    back, far = sphere((0.01, -0.01, 0.6), 0.09)
    front, near = sphere(place, 0.05)
    seen = see([back, front], view(400, 500.0), 1)
    whole, free = np.isfinite(far), np.isfinite(far) & (far < near)
    assert (seen.amodal[0] != whole).sum() < 0.01 * whole.sum()  # the facets' outline
    share = visible_share(seen.visible[0], seen.amodal[0])
    assert share == pytest.approx(free.sum() / whole.sum(), abs=0.01)


def test_shares() -> None:
    whole = np.zeros((4, 5), bool)
    assert visible_share(whole, whole) is None
    whole[1:3] = True
    assert visible_share(np.zeros_like(whole), whole) == 0.0
    assert visible_share(whole, whole) == 1.0
    part = whole.copy()
    part[1], part[0, 0] = False, True  # half of it, and a pixel that is not the hand
    assert visible_share(part, whole) == pytest.approx(5 / 11)


@pytest.mark.parametrize("side", ["left", "right"])
def test_hand_behind_a_box_as_a_plain_rasteriser_sees_it(side: str) -> None:
    known, camera = known_hand(side, 3, (0.01, 0.0, 0.4)), view()
    faces = HandModel.free("left" if side == "left" else "right").faces.numpy()
    box = trimesh.creation.box([0.06, 0.05, 0.04])
    turn = trimesh.transformations.euler_matrix(0.3, 0.5, 0.7)[:3, :3]
    place = known.vertices.mean(0) + (0.03, 0.0, -0.06)
    hand = RenderMesh(vertices=known.vertices, faces=faces)
    thing = RenderMesh(vertices=box.vertices, faces=box.faces).placed(turn, place)
    seen = see([hand, thing], camera)
    a = depths(known.vertices[faces], camera)
    b = depths((box.vertices @ turn.T + place)[box.faces], camera)
    expected = [np.isfinite(a), np.isfinite(b), np.isfinite(a) & (a < b), np.isfinite(b) & (b < a)]
    for found, truth in zip([*seen.amodal, *seen.visible], expected, strict=True):
        assert truth.sum() > 50
        assert (found != truth).sum() <= 2  # pixel centres on an edge
    assert expected[0].sum() > expected[2].sum() + 50


@pytest.fixture(scope="module")
def dex(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = mini.write(tmp_path_factory.mktemp("dex"), subjects=(2,), cameras=1)
    shutil.rmtree(root / SUBJECTS[2] / mini.sequence_name(2, 4))
    return root


def bowls(folder: Path) -> Path:
    """A mesh for the miniature's bowl, in YCB's layout."""
    (folder / "024_bowl").mkdir(parents=True)
    trimesh.creation.box([0.1, 0.12, 0.05]).export(folder / "024_bowl" / "textured_simple.obj")
    return folder


def opened(root: Path, *, wanted: str = "", objects: Path | None = None) -> list[Sample]:
    options = wanted + ("" if objects is None else f"?objects={objects}")
    spec = SetSpec.parse(f"dexycb/all{options}:{root}")
    assert spec is not None
    return list(spec.open("train", workers=0))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANDHOLD_HOME", str(tmp_path / "home"))


def test_an_annotated_mask_is_compared_with_the_whole_hand(dex: Path) -> None:
    """The paper's rule; frames of the miniature have a square for a hand."""
    plain, found = opened(dex), opened(dex, wanted="?occlusion")
    assert [sample.hands[0].visibility for sample in plain] == [None] * 3
    hand = found[0].hands[0]
    faces = HandModel.free("right").faces.numpy()
    assert hand.vertices is not None and found[0].hand_mask is not None
    whole, square = np.isfinite(depths(hand.vertices[faces], found[0].camera)), found[0].hand_mask
    share = (whole & square).sum() / (whole | square).sum()
    assert 0.1 < share < 0.9
    assert (found_share := hand.visibility) == pytest.approx(share, abs=1e-3)
    assert found[0].hand_mask_amodal is None  # only asked for with ?masks
    spec = SetSpec.parse(f"dexycb/all?occlusion:{dex}")
    assert spec is not None  # whoever has no use for masks, such as an evaluation, gets the share
    assert spec.open("test", workers=0, skip=("hand_mask",))[0].hands[0].visibility == found_share


def test_masks_are_added_and_given_ones_kept(dex: Path, tmp_path: Path) -> None:
    plain = opened(dex)[0]
    sample = opened(dex, wanted="?masks", objects=bowls(tmp_path / "bowls"))[0]
    assert sample.hand_mask_amodal is not None and sample.hands[0].visibility is None
    assert np.array_equal(sample.hand_mask, plain.hand_mask)  # type: ignore[arg-type]
    assert np.array_equal(sample.object_mask, plain.object_mask)  # type: ignore[arg-type]
    hand = sample.hands[0]
    assert hand.vertices is not None
    triangles = hand.vertices[HandModel.free("right").faces.numpy()]
    whole = np.isfinite(depths(triangles, sample.camera))
    assert (whole != sample.hand_mask_amodal).sum() <= 3


def test_nothing_is_made_up(dex: Path, tmp_path: Path) -> None:
    """Without a mask and without a mesh of the object, what hides the hand is not known."""
    found = open_dataset("dexycb", dex, "all", workers=0, skip=("hand_mask", "object_mask"))
    found.renderer = Renderer(found.files, ["occlusion", "masks"])
    sample = found[0]
    assert sample.hands[0].visibility is None
    assert sample.hand_mask is None and sample.hand_mask_amodal is not None
    found.renderer = Renderer(found.files, ["occlusion"], bowls(tmp_path / "bowls"))
    sample = found[0]
    hand, thing = sample.hands[0], sample.object
    assert hand.vertices is not None and thing is not None
    camera = sample.camera
    a = depths(hand.vertices[HandModel.free("right").faces.numpy()], camera)
    box = trimesh.creation.box([0.1, 0.12, 0.05])
    b = depths((box.vertices @ thing.rotation.T + thing.translation)[box.faces], camera)
    share = (a < b).sum() / np.isfinite(a).sum()
    assert 0.05 < share < 0.98
    assert hand.visibility == pytest.approx(share, abs=5e-3)
    again = copy.deepcopy(found)  # goes the way of pickles to worker processes
    assert again[0].hands[0].visibility == hand.visibility


@pytest.mark.filterwarnings("ignore:mow. the labels are parameters")
def test_mow_has_meshes_of_its_own(tmp_path: Path) -> None:
    root = mow_miniature.write(tmp_path / "mow")
    block = trimesh.creation.box([4, 2, 6])
    shifted = block.vertices + (1, 2, 3)  # the set centres it on the mean
    lines = [f"v {x} {y} {z}" for x, y, z in shifted]
    lines += [f"f {a + 1} {b + 1} {c + 1}" for a, b, c in block.faces]
    (root / "models" / "photo_a.obj").write_text("\n".join(lines))
    found = open_dataset("mow", root, "all", workers=0)
    found.renderer = Renderer(found.files, ["occlusion", "masks"])
    sample = found[0]
    hand, thing = sample.hands[0], sample.object
    assert hand.vertices is not None and thing is not None and sample.object_mask is not None
    own = 0.02 * block.vertices * (1, -1, 1)
    a = depths(hand.vertices[HandModel.free("right").faces.numpy()], sample.camera)
    b = depths((own @ thing.rotation.T + thing.translation)[block.faces], sample.camera)
    assert (b < a).sum() > 50
    assert (sample.object_mask != (b < a)).sum() <= 2
    share = (np.isfinite(a) & (a < b)).sum() / np.isfinite(a).sum()
    assert hand.visibility == pytest.approx(share, abs=0.01)
    assert found[1].hands[0].visibility is None  # no mesh of it


def test_foreign_meshes_have_no_known_triangles(dex: Path) -> None:
    """MANO's vertices, read with the free hand, are not its triangles' corners."""
    found = open_dataset("dexycb", dex, "all", workers=0)
    hand = found[0].hands[0]
    assert hand_faces(found, hand) is not None
    assert hand.vertices is not None
    other = type(hand)(side="right", joints=hand.joints, vertices=hand.vertices[::-1].copy())
    assert hand_faces(found, other) is None


def test_options_of_a_set(tmp_path: Path) -> None:
    spec = SetSpec.parse("dexycb/s0-test?occlusion?objects=meshes?skip-damaged:a:b")
    assert spec is not None and spec.rendered == ("occlusion",) and spec.skip_damaged
    assert (spec.objects, spec.root, spec.split) == ("meshes", "a:b", "s0-test")
    with pytest.raises(InputError, match=r"option is unknown; expected NAME\[/SPLIT\]"):
        SetSpec.parse("dexycb?ocluded:folder")
    root = tmp_path
    (root / "here").mkdir()
    with pytest.raises(InputError, match="found shade, expected occlusion or masks"):
        Renderer(Files(root, ("here",)), ["shade"])


def test_meshes_that_are_none() -> None:
    assert read_triangles(b"v 0 0 0\nv 1 0 0\n", "points.obj") is None
    with pytest.raises(FileFormatError, match=r"bad\.obj: "):
        read_triangles(b"v 0 0 0\nf 1 2 x\n", "bad.obj")
