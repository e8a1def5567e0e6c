"""`handhold submit`: the file that an evaluation server takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from handhold.data.dataset import IndexedSet
    from handhold.scene import FloatArray


def submit(
    server: Annotated[Literal["ho3d-v2", "ho3d-v3", "freihand"], tyro.conf.Positional],
    root: Annotated[Path, tyro.conf.Positional],
    out: Path,
    model: str = "unihope-small",
    predictions: Path | None = None,
    protocol: Literal["boxes", "deployable"] = "boxes",
    weights: Path | None = None,
    detector: str = "default",
    mano: Path | None = None,
    device: str = "cpu",
    incomplete: bool = False,
) -> int:
    """Write a zip that the evaluation server of HO3D or FreiHAND takes, and check it as the server
    does.

    Predicts the evaluation split with a model, or takes predictions made elsewhere. Order, joint
    order and camera frame become the server's; for HO3D hands are moved to the wrist that the
    evaluation's files give, as published entries are. A hand that was not found becomes one point.

    handhold submit ho3d-v2 DOWNLOADS/HO3D_v2 --out pred.zip --model hflnet --weights FILE

    handhold submit freihand DOWNLOADS/FreiHAND --out pred.zip --predictions mine.npz

    Args:
        server: Which evaluation.
        root: Folder or archive of the data set's official files.
        out: Zip to write.
        model: Method, as listed by `handhold models`.
        predictions: .npz with `key` (as `handhold data export` writes them, in any order), `joints`
            (N,21,3) and `vertices` (N,778,3): metres, OpenCV's camera, wrist first, thumb to little
            finger. No model runs then.
        protocol: `boxes`: the box of the evaluation's files, where they give one; `deployable`:
            the detector finds the hand.
        weights: Weights file instead of the one that ships with the package.
        detector: Weights file of another hand detector.
        mano: Folder with the official MANO files.
        device: cpu, cuda, cuda:1, mps.
        incomplete: Also write a file with fewer samples than the server wants, to try things out.
    """
    import numpy as np

    from handhold.data.sources import SetSpec
    from handhold.errors import InputError
    from handhold.evaluation.submissions import check_submission, write_submission
    from handhold.evaluation.submissions import server as named

    chosen = named(server)
    if out.suffix != ".zip" or not out.absolute().parent.is_dir():
        raise InputError(f"{out}: expected a name that ends in .zip, in a folder that is there")
    spec = SetSpec(name=chosen.dataset, root=str(root), split=chosen.split)
    skip = ("hand_mask", "hand_mask_amodal", "object_mask", "depth")
    samples = spec.open(mano=mano, skip=skip)
    if len(samples) != chosen.count and not incomplete:
        raise InputError(
            f"{root}: {len(samples):,} samples of {server}/{chosen.split}, the server wants "
            f"{chosen.count:,}; `handhold data check {chosen.dataset} {root}` says what is missing "
            "(--incomplete writes the file all the same)"
        )
    if predictions is not None:
        joints, vertices = _given(predictions, samples)
        missed = 0
    else:
        from handhold.inference.estimator import Estimator

        estimator = Estimator(model, detector=detector, weights=weights, mano=mano, device=device)
        joints, vertices, missed = _predicted(estimator, samples, protocol)
    wrists = None
    if chosen.convention == "ho3d":
        wrists = np.stack([samples.record(i).extra["wrist"] for i in range(len(samples))])
    write_submission(out, chosen, joints, vertices, wrists)
    for words in check_submission(out, chosen, len(samples)):
        print(f"note: {words}")
    print(f"written and checked: {out}, {len(samples):,} hands, {missed:,} of them not found")
    if len(samples) != chosen.count:
        print(f"the server will refuse it: it wants {chosen.count:,}")
        return 1
    return 0


def _given(path: Path, samples: IndexedSet) -> tuple[FloatArray, FloatArray]:
    """Joints and vertices of a file in the order of the set."""
    import numpy as np

    from handhold.data.files import read_npz
    from handhold.errors import FileFormatError, MissingFileError
    from handhold.fields import checked

    if not path.is_file():
        raise MissingFileError(f"{path}: no such file (--predictions)")
    found = read_npz(path.read_bytes(), str(path), ("key", "joints", "vertices"))
    keys = [str(key) for key in found["key"]]
    joints = checked(found["joints"], (len(keys), 21, 3), f"{path}: joints")
    vertices = checked(found["vertices"], (len(keys), 778, 3), f"{path}: vertices")
    rows = {key: row for row, key in enumerate(keys)}
    if len(rows) != len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise FileFormatError(f"{path}: key: {twice!r} occurs twice")
    wanted = [samples.record(number).key for number in range(len(samples))]
    lacking = [key for key in wanted if key not in rows]
    if lacking:
        raise FileFormatError(
            f"{path}: key: {len(lacking):,} of {len(wanted):,} samples are missing, the first "
            f"{lacking[0]!r}"
        )
    order = np.array([rows[key] for key in wanted], np.int64)
    return joints[order], vertices[order]


def _predicted(
    estimator: Any, samples: IndexedSet, protocol: str
) -> tuple[FloatArray, FloatArray, int]:
    """Joints, vertices, and how many hands were not found; those are zeros."""
    import numpy as np
    from rich.progress import track

    from handhold.errors import InputError

    joints = np.zeros((len(samples), 21, 3), np.float32)
    vertices = np.zeros((len(samples), 778, 3), np.float32)
    missed = 0
    for number in track(range(len(samples)), "predicting"):
        sample = samples[number]
        box = sample.hands[0].box
        known = protocol == "boxes" and box is not None
        scene = estimator(
            sample.image,
            intrinsics=sample.camera.intrinsics,
            boxes=[{"box": box, "side": "right"}] if known else None,
            name=sample.key,
        )
        hands = [hand for hand in scene.hands if hand.joints is not None]
        if not hands:
            missed += 1
            continue
        best = max(hands, key=lambda hand: (hand.side == "right", hand.score))
        if best.joints is None or best.vertices is None:
            raise InputError(f"{estimator.model.name}: gives no mesh, which the server wants")
        joints[number], vertices[number] = best.joints, best.vertices
    return joints, vertices, missed


COMMANDS = submit
