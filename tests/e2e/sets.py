"""Every data set's miniature in one folder, and what its samples are labelled with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.data import (
    coco_miniature,
    dexycb_miniature,
    freihand_miniature,
    ho3d_miniature,
    test_hint,
    test_mow,
    test_obman,
    test_photo_set,
)


@dataclass(frozen=True)
class Mini:
    """labels: of pose, object, grasp and 2D alone, those its training split has. test: the split to
    evaluate on; tables: a protocol of its own for HFL-Net and one for UniHOPE."""

    labels: tuple[str, ...]
    test: str
    tables: tuple[str, str]


MINIATURES = {
    "dexycb": Mini(
        ("pose", "object", "grasp"), "s0-test", ("dexycb-s0/hflnet", "dexycb-s0/unihope")
    ),
    "ho3d-v2": Mini(
        ("pose", "object", "grasp"), "evaluation", ("ho3d-v2/hflnet", "ho3d-v2/unihope")
    ),
    "ho3d-v3": Mini(
        ("pose", "object", "grasp"), "evaluation", ("ho3d-v3/server", "ho3d-v3/server")
    ),
    "freihand": Mini(("pose",), "evaluation", ("freihand/official", "freihand/unihope")),
    "hint": Mini((), "test-newdays", ("hint/hamer", "hint/hamer")),
    "coco-wholebody": Mini((), "val", ("boxes", "boxes")),
    "obman": Mini((), "val", ("official", "boxes")),
    "mow": Mini(("pose",), "all", ("official", "boxes")),
    "photos": Mini(("grasp",), "all", ("boxes", "official")),
}


def write_all(top: Path) -> Path:
    """Write all of them, each into the folder of its name, OneHand10K as well."""
    dexycb_miniature.write(top / "dexycb", subjects=(2,), cameras=1)
    for version in ("v2", "v3"):
        ho3d_miniature.write_truth(ho3d_miniature.write(top / f"ho3d-{version}", version))
    freihand_miniature.write(top / "freihand")
    test_hint.write(top / "hint")
    coco_miniature.write_wholebody(top / "coco-wholebody")
    coco_miniature.write_onehand(top / "onehand10k")
    test_obman.write(top / "obman")
    test_mow.write(top / "mow")
    known = {
        "joints_camera": test_photo_set.JOINTS.tolist(),
        "holding": True,
    }
    photos = [
        test_photo_set.photo(
            number,
            hands=[test_photo_set.hand(side, **known)],
            intrinsics=test_photo_set.INTRINSICS,
        )
        for number, side in enumerate(("left", "right", "right"))
    ]
    test_photo_set.write(top / "photos", photos)
    return top
