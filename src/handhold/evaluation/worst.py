"""The samples on which a method was worst, as pictures."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from handhold.errors import InputError
from handhold.evaluation.collect import Pair, tight_box
from handhold.render.labels import draw_labels
from handhold.render.overlay import contact_sheet, draw_overlay, write_picture
from handhold.scene import Sample, Scene


def pair_error(pair: Pair) -> tuple[float, str] | None:
    """How wrong a found hand is, and in words: mean joint error, wrists together, in metres; of
    hands with 2D labels only as a share of their box's longer side. None where nothing is known.
    """
    found, truth = pair.found, pair.truth
    if found is None:
        return None
    if found.joints is not None and truth.joints is not None:
        offset = (found.joints - found.joints[0]) - (truth.joints - truth.joints[0])
        error = float(np.linalg.norm(offset, axis=-1).mean())
        return error, f"{1000 * error:.0f} mm"
    if found.joints2d is None or truth.joints2d is None:
        return None
    known = slice(None) if truth.joints2d_valid is None else truth.joints2d_valid
    box = tight_box(truth)
    size = float((box[2:] - box[:2]).max())
    distance = np.linalg.norm(found.joints2d - truth.joints2d, axis=-1)[known]
    if not len(distance) or size <= 0:
        return None
    error = float(distance.mean()) / size
    return error, f"{error:.0%} of the box"


class Worst:
    """Keeps the samples with the largest errors of found hands; give `watch` to `collect`."""

    def __init__(self, count: int) -> None:
        if count < 0:
            raise InputError(f"worst: expected 0 or more, found {count}")
        self.count = count
        self._heap: list[tuple[float, int, str, Sample, Scene]] = []
        self._seen = 0

    def watch(self, sample: Sample, scene: Scene, pairs: list[Pair]) -> None:
        """Remember a sample if it is among the worst so far."""
        errors = [told for pair in pairs if (told := pair_error(pair)) is not None]
        self._seen += 1
        if not self.count or not errors:
            return
        error, words = max(errors)
        # the image alone: masks and depth of kept samples would only fill the memory
        slim = replace(
            sample, hand_mask=None, hand_mask_amodal=None, object_mask=None, depth=None,
            bare_image=None,
        )  # fmt: skip
        entry = (error, -self._seen, words, slim, scene)
        if len(self._heap) < self.count:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heappushpop(self._heap, entry)

    @property
    def keys(self) -> list[str]:
        """The samples' names, the worst first."""
        return [entry[3].key for entry in self._ordered()]

    def _ordered(self) -> list[tuple[float, int, str, Sample, Scene]]:
        return sorted(self._heap, key=lambda entry: entry[:2], reverse=True)

    def sheet(self, faces: Mapping[str, NDArray[Any]], *, cell: int = 640) -> NDArray[np.uint8]:
        """One picture: for each sample what was found and, beside or below, what is true.
        The worst comes first.

        faces: triangles of both sides' meshes. Raises InputError where nothing was kept.
        """
        if not self._heap:
            raise InputError("worst: no hand with a known error was found")
        pictures = []
        for _, _, words, sample, scene in self._ordered():
            found = draw_overlay(sample.image, scene, faces)
            labels = draw_labels(sample, caption=f"{words}  {sample.key}")
            size = (found.shape[1], found.shape[0])
            labels = np.asarray(cv2.resize(labels, size), np.uint8)
            across = int(found.shape[0] > found.shape[1])  # both together as square as may be
            pictures.append(np.concatenate([found, labels], axis=across))
        return contact_sheet(pictures, 4, cell=cell)

    def write(self, path: Path, faces: Mapping[str, NDArray[Any]]) -> Path:
        """The sheet as a PNG, under a temporary name first."""
        write_picture(path, self.sheet(faces))
        return path
