"""Draw what `handos-small` says of photos that are easy to get wrong, on one sheet.

    python tools/draw_handos_cases.py --weights FILE --out docs/handos_cases.png [--photos DIR]

The photos are made from synthetic scenes: no hand, one, a left one only, two that cross, ten, hands
cut off by the border, 12 megapixels, grey, half transparent, a single pixel. Each is written as a
file and goes the way of `handhold predict`. A caption tells how many hands are there and how many
were found. --photos keeps the files.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from handhold.atomic import replacing
from handhold.geometry.boxes import iou
from handhold.inference.estimator import Estimator
from handhold.inference.writing import draw
from handhold.render.overlay import contact_sheet
from handhold.scene import Sample
from handhold.synthesis.scenes import SceneConfig, make_scene

SEED = 611
BARE = SceneConfig(width=640, height=480, holding=0.0, near=0.0, occluder=0.0)
CELL = 480


def scene(index: int, **changes: Any) -> Sample:
    """A synthetic photo."""
    return make_scene(SEED, index, dataclasses.replace(BARE, **changes))


def crossing() -> Sample:
    """Two hands whose boxes overlap, the most of a few scenes."""
    found = []
    for index in range(12):
        sample = scene(100 + index, second_hand=1.0, hand_size=(0.45, 0.6))
        boxes = [hand.box for hand in sample.hands if hand.box is not None]
        if len(boxes) == 2:
            found.append((float(iou(boxes[0], boxes[1])), index, sample))
    return max(found)[2]


def many(count: int = 10, columns: int = 5) -> NDArray[np.uint8]:
    """Scenes with a hand each, side by side."""
    size = {"width": 256, "height": 256, "hand_size": (0.55, 0.75)}
    tiles = [scene(200 + index, **size).image for index in range(count)]
    rows = [np.concatenate(tiles[i : i + columns], axis=1) for i in range(0, count, columns)]
    return np.concatenate(rows, axis=0)


def cut_off() -> NDArray[np.uint8]:
    """A photo whose right border runs through the hand."""
    sample = scene(301, left=0.0, hand_size=(0.5, 0.6))
    box = sample.hands[0].box
    if box is None:
        raise SystemExit("cut off: the scene's hand has no box")
    middle = int((box[0] + box[2]) / 2)
    return np.ascontiguousarray(sample.image[:, : max(middle, 64)])


def photos() -> dict[str, tuple[Image.Image, int]]:
    """Name -> picture and the number of its hands."""
    one = scene(0, left=0.0, hand_size=(0.5, 0.6))
    plain = Image.fromarray(one.image)
    alpha = np.tile(np.linspace(90, 255, plain.width).astype(np.uint8), (plain.height, 1))
    see_through = plain.copy()
    see_through.putalpha(Image.fromarray(alpha))
    large = cv2.resize(one.image, (4000, 3000), interpolation=cv2.INTER_CUBIC)
    return {
        "no hand": (Image.fromarray(scene(1, empty=1.0).image), 0),
        "one": (plain, len(one.hands)),
        "left only": (Image.fromarray(scene(2, left=1.0, hand_size=(0.4, 0.6)).image), 1),
        "crossing": (Image.fromarray(crossing().image), 2),
        "ten": (Image.fromarray(many()), 10),
        "at the border": (Image.fromarray(cut_off()), 1),
        "12 megapixels": (Image.fromarray(large), len(one.hands)),
        "grey": (plain.convert("L"), len(one.hands)),
        "transparent": (see_through, len(one.hands)),
        "one pixel": (plain.crop((0, 0, 1, 1)), 0),
    }


def caption(picture: NDArray[np.uint8], words: str) -> NDArray[np.uint8]:
    """The picture, fitted into a cell, under a line of words."""
    room = (CELL * 3 // 4, CELL)
    scale = min(room[0] / picture.shape[0], room[1] / picture.shape[1])
    width, height = (max(1, int(edge * scale)) for edge in picture.shape[1::-1])
    smooth = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    picture = np.asarray(cv2.resize(picture, (width, height), interpolation=smooth), np.uint8)
    cell = np.full((room[0] + 28, CELL, 3), 255, np.uint8)
    left = (CELL - width) // 2
    cell[28 : 28 + height, left : left + width] = picture
    style = (cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 1, cv2.LINE_AA)
    cv2.putText(cell, words, (6, 19), *style)
    return cell


def main() -> None:
    """Make, predict, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, help="of handos-small; else those of the package")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--photos", type=Path, help="folder to keep the photos in")
    parser.add_argument("--engine", default="eager")
    asked = parser.parse_args()
    estimator = Estimator(
        "handos-small", weights=asked.weights, objects="none", engine=asked.engine
    )
    faces, cells = estimator.hand_faces(), []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if asked.photos is None else asked.photos
        folder.mkdir(parents=True, exist_ok=True)
        for name, (picture, hands) in photos().items():
            path = folder / f"{name.replace(' ', '_')}.png"
            picture.save(path)
            (outcome,) = estimator.predict_many([path])
            if outcome.scene is None or outcome.image is None:
                raise SystemExit(f"{name}: {outcome.error}")
            found = outcome.scene.hands
            sides = ", ".join(f"{hand.side} {hand.score:.2f}" for hand in found[:3])
            print(f"{name:<14} {hands} there, {len(found)} found: {sides}")
            words = f"{name}: {hands} there, {len(found)} found"
            cells.append(caption(draw(outcome.scene, outcome.image, faces), words))
    sheet = contact_sheet(cells, columns=4, cell=CELL, gap=6)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(asked.out) as unfinished:
        Image.fromarray(sheet).save(unfinished)


if __name__ == "__main__":
    main()
