"""Leaving out made photos that do not show the hand of their labels (HandBooster, section 3.4).

A network that was trained on the same data looks at every photo. Where it sees another hand than
the condition that the photo was made of, one of the two is wrong, and the photo is left out: an
edge case. The limits are those of the released code, per data set. It adds that errors are taken
of the made photo only, as no real photo shows a new condition.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from handhold.atomic import write_text
from handhold.errors import FileFormatError, InputError
from handhold.evaluation.collect import labelled_box
from handhold.geometry.alignment import procrustes
from handhold.inference.estimator import DEFAULT_MODEL, Estimator
from handhold.scene import FloatArray, Hand, Provenance, Sample
from handhold.synthesis.shards import (
    ShardDataset,
    decode_sample,
    shard_files,
    write_members,
)

LIMITS = {  # millimetres, as in the released code
    "dexycb": {"mpjpe_mm": 25.0, "mpvpe_mm": 25.0, "pa_mpjpe_mm": 10.0, "pa_mpvpe_mm": 10.0},
    "ho3d": {"mpjpe_mm": 50.0, "mpvpe_mm": 50.0, "pa_mpjpe_mm": 20.0, "pa_mpvpe_mm": 20.0},
}
MEASURES = tuple(LIMITS["ho3d"])
NOT_FOUND = "not_found"
REPORT_NAME = "report.json"
SCORES_SUFFIX = ".scores.json"


@dataclass(frozen=True, kw_only=True)
class FilterConfig:
    """Which photos fall: those with any error above its limit."""

    limits: Literal["ho3d", "dexycb"] = "ho3d"
    """The published limits: 50, 50, 20, 20 mm (HO3D) or 25, 25, 10, 10 mm (DexYCB) for joints and
    vertices, wrists together, and both after Procrustes alignment. A network whose own error is
    near a limit lets good photos fall."""
    mpjpe_mm: float | None = None
    """Another limit for the joints, wrists together."""
    mpvpe_mm: float | None = None
    """Another limit for the vertices, wrists together."""
    pa_mpjpe_mm: float | None = None
    """Another limit for the joints after alignment."""
    pa_mpvpe_mm: float | None = None
    """Another limit for the vertices after alignment."""
    pictures: int = 24
    """Photos on the sheet of the accepted and on each sheet of fallen ones; 0 draws none."""

    def __post_init__(self) -> None:
        if self.limits not in LIMITS:
            raise InputError(
                f"FilterConfig.limits: expected one of {', '.join(LIMITS)}, found {self.limits!r}"
            )
        for name in MEASURES:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"FilterConfig.{name}: expected a positive number, found {value}")
        if self.pictures < 0:
            raise InputError(f"FilterConfig.pictures: expected 0 or more, found {self.pictures}")

    @property
    def largest(self) -> dict[str, float]:
        """The limit of each of MEASURES, millimetres."""
        changed = {name: getattr(self, name) for name in MEASURES}
        return LIMITS[self.limits] | {n: float(v) for n, v in changed.items() if v is not None}

    def reasons(self, scores: Mapping[str, float]) -> list[str]:
        """The errors above their limits; none where the photo is accepted. An error that the
        network cannot give (no mesh) speaks neither for nor against."""
        if not scores:
            return [NOT_FOUND]
        return [n for n, limit in self.largest.items() if n in scores and not scores[n] <= limit]


@dataclass(frozen=True, kw_only=True)
class FilterReport:
    """What became of all photos.

    reasons: photos with an error above each limit (a photo can have several, so they add up to more
    than `fallen`); alone: those that fell for this one only. medians: of each error over all
    photos, millimetres. settings: the network and the limits.
    """

    photos: int
    accepted: int
    fallen: int
    reasons: dict[str, int]
    alone: dict[str, int]
    medians: dict[str, float]
    settings: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        told = ", ".join(
            f"{name} {count} ({self.alone[name]} for this alone)"
            for name, count in self.reasons.items()
        )
        return f"{self.accepted} of {self.photos} photos accepted; above the limit: {told}"


def hand_errors(found: Hand, truth: Hand) -> dict[str, float]:
    """Errors of MEASURES in millimetres, as far as `found` has them, and their sum `score`.

    Joints and vertices are compared with the wrists together, and after the similarity that fits
    best (reflections allowed, as in the evaluators). Raises InputError for a truth without 3D
    joints or vertices.
    """
    if truth.joints is None or truth.vertices is None:
        raise InputError("expected a hand with 3D joints and vertices")
    if found.joints is None:
        return {}
    off = found.joints[0] - truth.joints[0]
    result: dict[str, float] = {}
    for plain, points, true in (
        ("mpjpe_mm", found.joints, truth.joints),
        ("mpvpe_mm", found.vertices, truth.vertices),
    ):
        if points is not None:
            result[plain] = _mean_mm(points - off, true)
            result[f"pa_{plain}"] = _mean_mm(procrustes(points, true).aligned, true)
    result = {name: result[name] for name in MEASURES if name in result}
    return result | {"score": round(math.fsum(result.values()), 3)}


def _mean_mm(points: FloatArray, truth: FloatArray) -> float:
    return round(1000 * float(np.linalg.norm(points - truth, axis=-1).mean()), 3)


class Judge:
    """A network that is given the box and side of each photo's first hand, its object's box and its
    wrist (for methods that take it), and says how far what it sees is from the labels."""

    def __init__(self, estimator: Estimator) -> None:
        self.estimator = estimator

    @property
    def fingerprint(self) -> str:
        """Tells weights apart."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.estimator.model.network.state_dict().items()):
            digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def __call__(self, sample: Sample) -> tuple[dict[str, float], Hand | None]:
        """The errors (`hand_errors`) and the hand that is seen; nothing and None where none is.
        Raises InputError naming the sample where its labels do not suffice."""
        truth = sample.hands[0] if sample.hands else None
        if truth is None or truth.joints is None or truth.vertices is None or truth.side is None:
            raise InputError(f"{sample.key}: expected a hand with side, 3D joints and vertices")
        thing = sample.object
        given = {
            "box": labelled_box(truth),
            "side": truth.side,
            "object_box": None if thing is None else thing.box,
            "wrist": truth.joints[0],
        }
        scene = self.estimator(
            sample.image, intrinsics=sample.camera.intrinsics, boxes=[given], name=sample.key
        )
        if not scene.hands:
            return {}, None
        return hand_errors(scene.hands[0], truth), scene.hands[0]


# ----------------------------------------------------------------------------------------- folders


def filter_images(
    images: Path,
    out: Path,
    *,
    method: str = DEFAULT_MODEL,
    weights: Path | None = None,
    config: FilterConfig | None = None,
    mano: Path | None = None,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> FilterReport:
    """Write the photos of `images` whose hand is the one of their labels to `out`, and report.

    images: shards of `handhold synth images`, or others with exact labels. Every shard becomes a
    shard of the same name with the accepted photos, unchanged but for the errors in their
    `provenance.scores`, and `NAME.scores.json` with errors and verdict of all its photos. Shards
    with such a file are done, and filtered anew only where the shard has changed, so an interrupted
    run goes on where it stopped and ends with the same bytes. At the end `report.json` and sheets
    of accepted photos and of fallen ones, by reason, are written.

    method, weights: of the network that looks; mano: folder with the official files, whose hand the
    labels then are; progress: is told the shards done and all. Raises MissingFileError without
    shards, FileFormatError for damaged ones, InputError where `out` holds photos that were
    filtered otherwise, and for photos without 3D labels.
    """
    config = config or FilterConfig()
    files = shard_files(images)
    if Path(images).resolve() == Path(out).resolve():
        raise InputError(f"{out}: photos cannot be filtered into their own folder")
    judge = Judge(Estimator(method, detector="none", weights=weights, mano=mano, device=device))
    settings = {"method": method, "weights": judge.fingerprint, "limits": config.largest}
    out.mkdir(parents=True, exist_ok=True)
    known = {file.name: _scores_path(out, file) for file in files}
    for there in sorted(out.glob("*.tar")):
        if not there.name.startswith(".") and there.name not in known:
            raise InputError(f"{there}: no shard of {images} has this name; give another folder")
    found: list[tuple[Path, list[dict[str, Any]]]] = []
    for number, file in enumerate(files, 1):
        found.append((file, filter_shard(judge, file, out, config, settings)))
        if progress is not None:
            progress(number, len(files))
    report = _report([row for _, rows in found for row in rows], config, settings)
    write_text(out / REPORT_NAME, json.dumps(dataclasses.asdict(report), indent=1) + "\n")
    if config.pictures:
        from handhold.synthesis.filter_sheets import write_sheets

        write_sheets(judge, found, out, config.pictures)
    return report


def filter_shard(
    judge: Judge, file: Path, out: Path, config: FilterConfig, settings: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """One shard of `filter_images`; for each photo its key, scores and reasons (none: accepted)."""
    path = _scores_path(out, file)
    source = hashlib.sha256(file.read_bytes()).hexdigest()
    if path.exists():
        before = _read_scores(path)
        if before["settings"] != json.loads(json.dumps(settings)):
            raise InputError(
                f"{path}: filtered with {before['settings']}, now asked for {dict(settings)}; "
                "give another folder"
            )
        if before["source"] == source:
            return before["photos"]
    (out / file.name).unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    dataset = ShardDataset(file)
    rows: list[dict[str, Any]] = []
    kept: list[dict[str, bytes]] = []
    for number in range(len(dataset)):
        where, members = dataset.members(number)
        sample = decode_sample(members, where)
        scores, _ = judge(sample)
        reasons = config.reasons(scores)
        rows.append({"key": sample.key, "scores": scores, "reasons": reasons})
        if not reasons:
            kept.append(members | {"info": _with_scores(members["info"], sample, scores)})
    dataset.close()
    write_members(kept, out / file.name)
    document = {"settings": settings, "source": source, "photos": rows}
    write_text(path, json.dumps(document, separators=(",", ":")))
    return rows


def _scores_path(out: Path, file: Path) -> Path:
    return out / f"{file.stem}{SCORES_SUFFIX}"


def _with_scores(info: bytes, sample: Sample, scores: Mapping[str, float]) -> bytes:
    before = sample.provenance or Provenance(
        source=sample.key, object=None if sample.object is None else sample.object.name
    )
    after = dataclasses.replace(before, scores={**before.scores, **scores})
    document = json.loads(info) | {"provenance": dataclasses.asdict(after)}
    return json.dumps(document, sort_keys=True).encode()


def _read_scores(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
        whole = {"settings", "source"} <= set(document) and all(
            {"key", "scores", "reasons"} <= set(row) for row in document["photos"]
        )
    except (ValueError, KeyError, TypeError):
        whole, document = False, {}
    if not whole:
        raise FileFormatError(
            f"{path}: expected the scores of a shard's photos, as filtering writes them; without "
            "the file the shard is filtered anew"
        )
    return document


def _report(
    rows: list[dict[str, Any]], config: FilterConfig, settings: Mapping[str, Any]
) -> FilterReport:
    names = (*MEASURES, NOT_FOUND)
    fallen = [row["reasons"] for row in rows if row["reasons"]]
    given = {n: [row["scores"][n] for row in rows if n in row["scores"]] for n in MEASURES}
    return FilterReport(
        photos=len(rows),
        accepted=len(rows) - len(fallen),
        fallen=len(fallen),
        reasons={name: sum(name in reasons for reasons in fallen) for name in names},
        alone={name: sum([name] == reasons for reasons in fallen) for name in names},
        medians={n: round(float(np.median(values)), 3) for n, values in given.items() if values},
        settings=dict(settings),
    )
