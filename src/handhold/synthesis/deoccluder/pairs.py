"""Second images for UniHOPE's training: samples in, shards with `bare_image` out.

Training reads the second image of a frame from `Sample.bare_image` (member `.bare.jpg` of a shard)
and pairs the frame where a hand grasps and is seen to at most 90 % (`Hand.visibility`); both images
share all labels. So every frame is written, those that pairs are made of with a second image.
Beside each shard a JSON file says how its second images were made and how they were measured.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from handhold.atomic import write_text
from handhold.data.mixing import SampleSet
from handhold.errors import FileFormatError, HandholdError, InputError
from handhold.geometry import crop
from handhold.hand.model import HandModel
from handhold.scene import Camera, FloatArray, Sample
from handhold.synthesis.deoccluder.bare import BareHands
from handhold.synthesis.deoccluder.judge import Errors, Judge, best
from handhold.synthesis.deoccluder.removal import (
    Planner,
    Removal,
    crop_of,
    distance_to,
    grown,
    with_labels,
)
from handhold.synthesis.deoccluder.repaint import Repainter, depth_hint
from handhold.synthesis.diffusion.crops import seeds_of
from handhold.synthesis.shards import shard_path, write_shards

Image = NDArray[np.uint8]
Drop = Literal["nothing", "worse"]
SETTINGS = "deocclude.json"
QUALITY = 98  # of the JPEGs; the photo's was compressed once already
WORSE = "worse than the photo"
IN_VIEW = "in full view"


@dataclass(frozen=True, kw_only=True, eq=False)
class Made:
    """A second image (H, W, 3) of a frame. strength: of the ControlNet. photo, made: errors of the
    judge's hand in both images; tried: J-PE in mm by strength."""

    image: Image
    strength: float | None = None
    photo: Errors | None = None
    made: Errors | None = None
    tried: Mapping[str, float] | None = None

    def told(self) -> dict[str, Any]:
        """What the file beside the shard says."""
        found: dict[str, Any] = {"strength": self.strength, "tried_mpjpe": self.tried}
        found["photo"] = None if self.photo is None else self.photo.rounded()
        found["made"] = None if self.made is None else self.made.rounded()
        return {name: value for name, value in found.items() if value is not None}


class Way(Protocol):
    """How a second image is made; `number` counts the frames of series `seed`."""

    def __call__(self, sample: Sample, removal: Removal, seed: int, number: int) -> Made: ...


class Free:
    """The hand drawn again (`bare`). judge: to measure both images; None: not measured."""

    def __init__(self, models: Mapping[str, HandModel], judge: Judge | None = None) -> None:
        self.draw, self.judge = BareHands(models), judge

    def __call__(self, sample: Sample, removal: Removal, seed: int, number: int) -> Made:
        image = self.draw(sample, removal, np.random.default_rng([seed, number]))
        if self.judge is None:
            return Made(image=image)
        photo, made = self.judge(sample, removal.number, [sample.image, image])
        return Made(image=image, photo=photo, made=made)


class Diffusion:
    """Hand and object painted anew with every control strength; the candidate with the lowest J-PE
    of the judge's joints is kept (paper, section 3.3). Raises InputError for several strengths
    without a judge."""

    def __init__(self, repainter: Repainter, judge: Judge | None) -> None:
        if judge is None and len(repainter.config.strengths) > 1:
            raise InputError(
                "several control strengths need a network that chooses among them (--judge); "
                "or give one strength (--config.strengths 0.7)"
            )
        self.repainter, self.judge = repainter, judge

    def __call__(self, sample: Sample, removal: Removal, seed: int, number: int) -> Made:
        strengths = self.repainter.config.strengths
        images = self.candidates(sample, removal, seeds_of(seed, [number])[0])
        if self.judge is None:
            return Made(image=images[0], strength=strengths[0])
        photo, *made = self.judge(sample, removal.number, [sample.image, *images])
        chosen = best(made)
        return Made(
            image=images[chosen],
            strength=strengths[chosen],
            photo=photo,
            made=made[chosen],
            tried={f"{s:g}": round(e.mpjpe, 3) for s, e in zip(strengths, made, strict=True)},
        )

    def candidates(self, sample: Sample, removal: Removal, seed: int) -> list[Image]:
        """The photo with hand and object painted anew, for each control strength."""
        config = self.repainter.config
        size = config.size
        affine = crop_of(sample, removal, size)
        reach = config.growth * size / float(affine[0, 0])
        mask = grown(removal.object_mask | removal.amodal, reach)
        shown = crop.warp(mask.astype(np.float32), affine, size) >= 0.5
        camera = Camera(intrinsics=affine @ sample.camera.intrinsics, width=size, height=size)
        hint = np.where(shown, depth_hint(removal.mesh, camera), 0)  # none beyond the photo
        picture = crop.warp(sample.image, affine, size)
        made = [self.repainter(picture, shown, hint, s, seed) for s in config.strengths]
        return [pasted(sample.image, one, mask, affine, soft=reach / 2) for one in made]


def pasted(
    photo: Image, made: Image, mask: NDArray[np.bool_], affine: FloatArray, *, soft: float = 0.0
) -> Image:
    """The photo with a crop (S, S, 3) of it put back inside the mask (H, W).

    affine: from photo to crop. soft: pixels over which the mask's inner edge fades. What is outside
    the mask or the crop keeps the photo's bytes.
    """
    back, size = np.linalg.inv(affine), (photo.shape[1], photo.shape[0])
    full = np.full(made.shape[:2], 255, np.uint8)
    inside = mask & (crop.warp(full, back, size) == 255)
    opacity = inside.astype(np.float32)
    if soft > 0 and not inside.all():
        opacity *= np.clip(distance_to(~inside) / soft, 0, 1)
    returned = crop.warp(made, back, size).astype(np.float32)
    mixed = photo + (returned - photo) * opacity[..., None]
    return np.where(inside[..., None], np.rint(mixed), photo).astype(np.uint8)


# ------------------------------------------------------------------------------------- shards


def begin(out: Path, settings: Mapping[str, Any]) -> None:
    """Make the folder, or check that it was begun with the same settings.

    Raises InputError for a folder that cannot be written, that was begun otherwise, or that holds
    shards of something else.
    """
    file, told = out / SETTINGS, json.dumps(dict(settings), indent=1, sort_keys=True) + "\n"
    try:
        out.mkdir(parents=True, exist_ok=True)
        if file.exists():
            before = json.loads(file.read_text(encoding="utf-8"))
            now = json.loads(told)
            names = sorted({k for k in before.keys() | now.keys() if before.get(k) != now.get(k)})
            if names:
                name = names[0]
                raise InputError(
                    f"{out}: was begun with {name} {before.get(name)!r}, not {now.get(name)!r}; "
                    "take another folder, or the same settings to go on"
                )
        elif any(out.glob("*.tar")):
            raise InputError(f"{out}: holds shards that something else made; take another folder")
        else:
            write_text(file, told)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror or error})") from error
    except (ValueError, AttributeError) as error:
        if isinstance(error, HandholdError):
            raise
        raise FileFormatError(f"{file}: expected the settings of an earlier run") from error


def write_pairs(
    samples: SampleSet,
    out: Path,
    first: int,
    stop: int,
    plan: Planner,
    way: Way,
    *,
    seed: int = 0,
    shard_size: int = 500,
    drop: Drop = "nothing",
    progress: Callable[[], None] | None = None,
) -> None:
    """Write the samples first .. stop - 1 as one shard, unless it is there; the same bytes whenever
    it is done. first: a multiple of shard_size. drop "worse": no second image where the judge's
    score is not better than the photo's (UniHOPE's rule `score`). progress: called a frame.
    Raises WriteError for a folder or disk that cannot be written; finished shards are kept.
    """
    path = shard_path(out, first // shard_size)
    if path.exists():
        return

    def drawn() -> Iterator[Sample]:
        rows: list[dict[str, Any]] = []
        for number in range(first, stop):
            sample = _read(samples, number)
            sample, row = _paired(sample, plan, way, seed, number, drop)
            rows.append(row)
            if number == stop - 1:  # before the shard, which says that all is done
                write_text(path.with_suffix(".json"), json.dumps(rows, indent=0) + "\n")
            yield sample
            if progress is not None:
                progress()

    write_shards(drawn(), out, shard_size, first, quality=QUALITY, depth=False)


def _read(samples: SampleSet, number: int) -> Sample:
    try:
        return samples[number]
    except OSError as error:
        if isinstance(error, HandholdError):
            raise
        raise FileFormatError(f"sample {number}: cannot be read ({error})") from error


def _paired(
    sample: Sample, plan: Planner, way: Way, seed: int, number: int, drop: Drop
) -> tuple[Sample, dict[str, Any]]:
    removal = plan(sample)
    if isinstance(removal, str):
        return sample, {"key": sample.key, "pair": False, "why": removal}
    if not removal.needed:
        return with_labels(sample, removal, None), {
            "key": sample.key,
            "pair": False,
            "why": IN_VIEW,
        }
    made = way(sample, removal, seed, number)
    worse = False
    if drop == "worse":
        if made.photo is None or made.made is None:
            raise InputError("to drop pairs that are worse than the photo needs --judge")
        worse = made.made.score >= made.photo.score
    row = {"key": sample.key, "pair": not worse} | ({"why": WORSE} if worse else {})
    kept = None if worse else made.image
    return with_labels(sample, removal, kept), row | made.told()


def report(out: Path) -> Counter[str]:
    """Frames by "pair" or why they are none, over all finished shards of a folder."""
    found: Counter[str] = Counter()
    for shard in sorted(out.glob("shard-*.tar")):
        file = shard.with_suffix(".json")
        try:
            rows = json.loads(file.read_text(encoding="utf-8"))
            found.update("pair" if row["pair"] else str(row["why"]) for row in rows)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FileFormatError(f"{file}: not the record of a shard of pairs") from error
    return found


def beside(sample: Sample, size: int = 192, *more: Image) -> Image:
    """Crops of the photo, its second image and `more` images of the frame, side by side."""
    shown = np.zeros(sample.image.shape[:2], bool)
    for mask in (sample.object_mask, sample.hand_mask_amodal):
        shown |= False if mask is None else mask
    places = np.argwhere(shown)[:, ::-1] if shown.any() else np.array([[0, 0], shown.shape[::-1]])
    low, high = places.min(0), places.max(0)
    side = min(1.3 * float((high - low).max()), float(max(shown.shape)))
    # the crop lies within the photo where it can
    limit = np.maximum(np.array(shown.shape[::-1]) - side / 2, side / 2)
    centre = np.clip((low + high) / 2, side / 2, limit)
    affine = crop.crop_affine(centre, max(side, 8.0), size)
    images = [sample.image, *([] if sample.bare_image is None else [sample.bare_image]), *more]
    return np.concatenate([crop.warp(image, affine, size) for image in images], axis=1)
