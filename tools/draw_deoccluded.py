"""Draw docs/deoccluded.png: photos of scenes, the hand drawn again (`synth deocclude --free`), and
the exact twin.

The first scenes of a series whose hand is at most 80 % visible, none left out. Run from the root of
the repository: `python tools/draw_deoccluded.py`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from handhold.hand.model import HandModel
from handhold.synthesis.deoccluder.bare import BareHands
from handhold.synthesis.deoccluder.pairs import beside
from handhold.synthesis.deoccluder.removal import Planner, Removal, with_labels
from handhold.synthesis.scenes import SceneConfig, make_scene

SCENES = SceneConfig(
    holding=1.0, near=0.0, occluder=0.0, paired=True, sensor=0.4, hand_size=(0.45, 0.8)
)
TITLES = ("photo", "drawn again", "exact twin")
GAP = 4


def main() -> None:
    """Draw and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/deoccluded.png"))
    parser.add_argument("--seed", type=int, default=21)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--size", type=int, default=144)
    given = parser.parse_args()
    cv2.setNumThreads(1)
    models = {side: HandModel.load(None, side) for side in ("left", "right")}
    plan, draw = Planner(models, threshold=0.8), BareHands(models)
    lines, number = [], 0
    near, far = [], []
    while len(lines) < given.pairs:
        scene = make_scene(given.seed, number, SCENES)
        removal = plan(scene)
        number += 1
        if not isinstance(removal, Removal) or not removal.needed or scene.bare_image is None:
            continue
        image = draw(scene, removal, np.random.default_rng([given.seed, number]))
        twin, thing = scene.bare_image.astype(float), removal.object_mask
        near.append(np.abs(image - twin)[thing].mean())
        far.append(np.abs(scene.image - twin)[thing].mean())
        shown = with_labels(scene, removal, None)
        whole = beside(shown, given.size, image, scene.bare_image)
        lines.append(whole)
    height, width = lines[0].shape[0], lines[0].shape[1]
    rows = [
        np.concatenate(
            [np.pad(x, ((0, GAP), (0, GAP), (0, 0)), constant_values=255) for x in two], 1
        )
        for two in zip(lines[::2], lines[1::2], strict=True)
    ]
    head = np.full((18, rows[0].shape[1], 3), 255, np.uint8)
    for column in range(6):
        left = column // 3 * (width + GAP) + column % 3 * given.size + 4
        font = cv2.FONT_HERSHEY_SIMPLEX
        cv2.putText(head, TITLES[column % 3], (left, 13), font, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    sheet = Image.fromarray(np.concatenate([head, *rows]))
    colours = sheet.quantize(256, method=Image.Quantize.MAXCOVERAGE)
    sheet.quantize(palette=colours, dither=Image.Dither.FLOYDSTEINBERG).save(
        given.out, optimize=True
    )
    size = given.out.stat().st_size // 1000
    print(f"{given.out}: {given.pairs} of {number} scenes, {size} kB, {height} pixels each")
    print(
        f"mean difference from the twin at the object: {np.mean(near):.1f} of 255 drawn, ", end=""
    )
    print(f"{np.mean(far):.1f} the photo")


if __name__ == "__main__":
    main()
