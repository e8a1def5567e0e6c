"""Facts about the 21 YCB objects of DexYCB (and the ones HO3D also uses), as one literal table.

Sizes and box centres are those of the object frames of YCB-Video and DexYCB, in which the published
poses of DexYCB are given; HO3D uses the same models in the same frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from handhold.errors import InputError
from handhold.scene import FloatArray

ShapeKind: TypeAlias = Literal["cylinder", "box", "bottle", "handled", "open", "long", "tool"]


@dataclass(frozen=True, kw_only=True)
class ObjectInfo:
    """What is known about one object.

    name: such as `003_cracker_box`. dexycb_id: class id 1 to 21.
    extent_mm, centre_mm: (x, y, z) size and centre of its axis-aligned box in its own frame.
    symmetric: evaluated by ADD-S on DexYCB (bowl, wood block, extra large clamp, foam brick).
    grasped: False for the one object that no DexYCB sequence grasps. ho3d: it occurs in HO3D.
    kind: how it looks to a hand.
    """

    name: str
    dexycb_id: int
    extent_mm: tuple[float, float, float]
    centre_mm: tuple[float, float, float]
    kind: ShapeKind
    symmetric: bool = False
    grasped: bool = True
    ho3d: bool = False

    @property
    def ycb_number(self) -> int:
        """The number that YCB itself gives the object, the first three digits of its name."""
        return int(self.name[:3])

    @property
    def extent(self) -> FloatArray:
        """Size (3,) of the axis-aligned box, metres."""
        return np.asarray(self.extent_mm, dtype=np.float64) / 1000.0

    @property
    def box_centre(self) -> FloatArray:
        """Centre (3,) of the axis-aligned box in the object's frame, metres."""
        return np.asarray(self.centre_mm, dtype=np.float64) / 1000.0

    @property
    def diameter(self) -> float:
        """Diagonal of the axis-aligned box, metres: the `diameter` of the published ADD rates."""
        return float(np.linalg.norm(self.extent))


def _info(
    dexycb_id: int,
    name: str,
    extent_mm: tuple[float, float, float],
    centre_mm: tuple[float, float, float],
    kind: ShapeKind,
    *,
    ho3d: bool = False,
) -> ObjectInfo:
    return ObjectInfo(
        name=name,
        dexycb_id=dexycb_id,
        extent_mm=extent_mm,
        centre_mm=centre_mm,
        kind=kind,
        symmetric=dexycb_id in SYMMETRIC_IDS,
        grasped=dexycb_id != 19,
        ho3d=ho3d,
    )


SYMMETRIC_IDS = (13, 16, 20, 21)

# fmt: off
YCB: tuple[ObjectInfo, ...] = (
    _info(1, "002_master_chef_can", (102.5, 102.4, 140.2), (-1.38, 0.49, -3.60), "cylinder"),
    _info(2, "003_cracker_box", (71.8, 164.0, 213.4), (-0.57, -1.69, -4.82), "box", ho3d=True),
    _info(3, "004_sugar_box", (49.5, 94.2, 176.0), (0.87, -1.48, -4.32), "box", ho3d=True),
    _info(4, "005_tomato_soup_can", (67.9, 67.7, 101.9), (-0.24, 1.61, -8.35), "cylinder"),
    _info(5, "006_mustard_bottle", (97.2, 66.6, 191.3), (-1.27, -2.46, 11.84), "bottle", ho3d=True),
    _info(6, "007_tuna_fish_can", (85.6, 85.5, 33.5), (0.07, -0.15, -4.14), "cylinder"),
    _info(7, "008_pudding_box", (137.9, 128.8, 38.9), (-1.30, 3.82, -3.06), "box"),
    _info(8, "009_gelatin_box", (89.4, 101.1, 30.1), (-1.43, 0.48, -3.61), "box"),
    _info(9, "010_potted_meat_can", (102.1, 60.1, 83.5), (-2.31, -0.66, -7.94), "box", ho3d=True),
    _info(10, "011_banana", (108.9, 178.4, 36.7), (18.71, -12.22, 1.41), "long", ho3d=True),
    _info(11, "019_pitcher_base", (149.1, 144.8, 242.4), (-5.37, -6.24, -25.65), "handled",
          ho3d=True),
    _info(12, "021_bleach_cleanser", (102.4, 67.7, 250.6), (-5.00, 2.44, 13.27), "bottle",
          ho3d=True),
    _info(13, "024_bowl", (161.5, 161.2, 55.0), (0.14, -1.20, 2.99), "open"),
    _info(14, "025_mug", (117.0, 93.1, 81.3), (8.24, 0.71, 1.63), "handled", ho3d=True),
    _info(15, "035_power_drill", (184.2, 187.5, 57.3), (-9.03, -20.95, 2.17), "tool", ho3d=True),
    _info(16, "036_wood_block", (103.9, 103.5, 206.0), (-1.39, 2.53, -17.15), "box"),
    _info(17, "037_scissors", (96.1, 201.5, 15.7), (-7.05, 28.19, 0.08), "tool", ho3d=True),
    _info(18, "040_large_marker", (21.0, 121.0, 18.9), (-0.05, 2.12, -0.33), "long"),
    _info(19, "051_large_clamp", (120.0, 171.1, 39.2), (-10.42, 1.85, 0.43), "tool"),
    _info(20, "052_extra_large_clamp", (210.0, 164.3, 36.3), (0.35, 10.41, -0.15), "tool"),
    _info(21, "061_foam_brick", (52.6, 77.9, 51.2), (0.20, -0.05, 8.37), "box"),
)
# fmt: on

YCB_NAMES: tuple[str, ...] = tuple(item.name for item in YCB)
_BY_NAME = {item.name: item for item in YCB}
_BY_SHORT_NAME = {item.name[4:]: item for item in YCB}


def info(name: str | int) -> ObjectInfo:
    """The entry of a full name (`025_mug`), a name without number (`mug`) or a DexYCB class id.

    Raises InputError for anything else.
    """
    if isinstance(name, int | np.integer) and not isinstance(name, bool):
        if 1 <= name <= len(YCB):
            return YCB[int(name) - 1]
        raise InputError(f"object id: expected 1 to {len(YCB)}, found {name}")
    found = _BY_NAME.get(str(name)) or _BY_SHORT_NAME.get(str(name))
    if found is None:
        raise InputError(f"object name: expected one of {', '.join(YCB_NAMES)}; found {name!r}")
    return found


def is_known(name: str | None) -> bool:
    """True for the full name of one of the 21 objects."""
    return name in _BY_NAME


def class_index(name: str | None) -> int:
    """Zero-based class of a full name (dexycb_id - 1), or -1 when it is not in the catalogue."""
    return _BY_NAME[name].dexycb_id - 1 if name in _BY_NAME else -1
