"""`handhold synth conditions` on a published set in its official files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import trimesh
from tests.data import dexycb_miniature as mini

from handhold.cli.synth import conditions
from handhold.errors import InputError, MissingFileError
from handhold.synthesis.diffusion.crops import encode_crops
from handhold.synthesis.shards import read_shards


def test_dexycb(tmp_path: Path) -> None:
    root = mini.write(tmp_path / "dex", subjects=(2,), cameras=3)
    spec = f"dexycb/s0-train:{root}"
    bowl = trimesh.creation.box((0.16, 0.16, 0.055))
    (tmp_path / "meshes").mkdir()
    bowl.export(tmp_path / "meshes" / "024_bowl.obj")
    conditions(spec, tmp_path / "meshes", tmp_path / "out", shard_size=4)
    samples = list(read_shards(tmp_path / "out"))
    # three cameras with four frames; nobody in one, one camera whose hand is right of the image
    assert len(samples) == 7
    assert cv2.imread(str(tmp_path / "out" / "sheet.png")) is not None
    seen = 0
    for sample in samples:
        hand, thing = sample.hands[0], sample.object
        assert sample.normal_map is not None and hand.vertices is not None and thing is not None
        shown = sample.normal_map.any(2)
        for points in (hand.vertices, thing.rotation @ np.zeros(3) + thing.translation):
            pixels = np.rint(sample.camera.project(np.atleast_2d(points))).astype(int)
            inside = ((pixels >= 0) & (pixels < [640, 480])).all(1)
            pixels = pixels[inside]
            seen += len(pixels)
            # a rounded pixel at the outline may just miss
            assert shown[pixels[:, 1], pixels[:, 0]].mean() > 0.9 if len(pixels) else True
        encode_crops([(sample, 0)], 32)
    assert seen > 2000
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").glob("*.tar")}
    assert len(before) == 2
    (tmp_path / "out" / "shard-000001.tar").unlink()
    conditions(spec, tmp_path / "meshes", tmp_path / "out", shard_size=4)
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").glob("*.tar")} == before


def test_wrong_words(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--data nothing: expected NAME"):
        conditions("nothing", tmp_path, tmp_path / "out")
    root = mini.write(tmp_path / "dex", subjects=(2,), cameras=1)
    with pytest.raises(MissingFileError, match="no such folder of meshes"):
        conditions(f"dexycb/s0-train:{root}", tmp_path / "none", tmp_path / "out")
