"""Sheets of accepted photos and of fallen ones: the photo, its labels, what the network sees."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from handhold.geometry.boxes import apply_affine
from handhold.render.overlay import write_picture
from handhold.scene import FloatArray, Hand, Sample
from handhold.synthesis.conditions import draw_skeleton
from handhold.synthesis.filtering import Judge
from handhold.synthesis.shards import ShardDataset

CELL, COLUMNS = 96, 3  # pixels of one photo on a sheet, judgements in a row
Image = NDArray[np.uint8]


def write_sheets(
    judge: Judge, found: Sequence[tuple[Path, list[dict[str, Any]]]], out: Path, count: int
) -> list[Path]:
    """Write `accepted.png` and `fallen_REASON.png` with the first `count` photos of each; return
    the files. A sheet of an earlier run that has no photo now is removed.

    found: shards, and for each of their photos scores and reasons (`filtering.filter_shard`).
    """
    chosen: dict[str, list[tuple[Path, int]]] = {}
    for file, rows in found:
        for number, row in enumerate(rows):
            for name in [f"fallen_{reason}" for reason in row["reasons"]] or ["accepted"]:
                places = chosen.setdefault(name, [])
                if len(places) < count:
                    places.append((file, number))
    for stale in (out / "accepted.png", *out.glob("fallen_*.png")):
        if stale.stem not in chosen:
            stale.unlink(missing_ok=True)
    drawn: dict[tuple[Path, int], Image] = {}
    written = []
    for name, places in sorted(chosen.items()):
        for place in places:
            if place not in drawn:
                sample = ShardDataset(place[0])[place[1]]
                drawn[place] = draw_judgement(sample, *judge(sample))
        sheet = _sheet([drawn[place] for place in places])
        write_picture(out / f"{name}.png", sheet)
        written.append(out / f"{name}.png")
    return written


def _sheet(pictures: Sequence[Image]) -> Image:
    bordered = [np.pad(one, ((0, 2), (0, 8), (0, 0)), constant_values=255) for one in pictures]
    bordered += [np.full_like(bordered[0], 255)] * (-len(bordered) % COLUMNS)
    starts = range(0, len(bordered), COLUMNS)
    return np.concatenate([np.concatenate(bordered[n : n + COLUMNS], axis=1) for n in starts])


def draw_judgement(sample: Sample, scores: dict[str, float], seen: Hand | None) -> Image:
    """The photo, the same with the skeleton of its labels, and with that of the hand that is seen,
    CELL pixels each; the words below are the scores, millimetres."""
    scale = CELL / max(sample.image.shape[:2])
    size = (round(sample.image.shape[1] * scale), round(sample.image.shape[0] * scale))
    plain = np.full((CELL, CELL, 3), 255, np.uint8)
    plain[: size[1], : size[0]] = cv2.resize(sample.image, size, interpolation=cv2.INTER_LINEAR)
    line = [plain]
    for hand in (sample.hands[0], seen):
        points = None if hand is None else hand.joints2d
        line.append(plain if points is None else _with_skeleton(plain, points, scale))
    words = "  ".join(f"{name.removesuffix('_mm')} {value:.0f}" for name, value in scores.items())
    foot = np.full((14, 3 * CELL, 3), 255, np.uint8)
    text = words or "no hand found"
    cv2.putText(foot, text, (2, 10), cv2.FONT_HERSHEY_SIMPLEX, 0.3, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([np.concatenate(line, axis=1), foot])


def _with_skeleton(image: Image, points: FloatArray, scale: float) -> Image:
    enlarged = np.diag([scale, scale, 1.0])
    enlarged[:2, 2] = (scale - 1) / 2
    bones = draw_skeleton(apply_affine(enlarged, np.asarray(points, np.float64)), CELL)
    cover = bones.max(axis=-1, keepdims=True) / 255
    return np.rint(image * (1 - cover) + bones * cover).astype(np.uint8)
