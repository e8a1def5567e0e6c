"""HO3D in its official layout: two sequences to train on and two to evaluate, in v2 with Python 2's
pickles and png, in v3 with Python 3's and jpg. The hands are those of the free hand model, turned
into OpenGL's camera here as the format says it."""

from __future__ import annotations

import functools
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from tests.data.miniature import KnownHand, flat, known_hand, project, write_image
from tests.hand.test_files import py2_array, py2_text

from handhold.hand.model import HandModel

FLIP = np.array([1.0, -1.0, -1.0])
# ho3d[k] = canonical[TO_HO3D[k]]: wrist, index, middle, little, ring, thumb, then the tips
TO_HO3D = [0, 5, 6, 7, 9, 10, 11, 17, 18, 19, 13, 14, 15, 1, 2, 3, 4, 8, 12, 16, 20]
FRAMES = {"MC1": 4, "SS2": 2, "SM1": 2, "AP10": 2}
PARTS = {"MC1": "train", "SS2": "train", "SM1": "evaluation", "AP10": "evaluation"}
LISTS = {
    "train": ["SS2/0001", "MC1/0000", "MC1/0002", "SS2/0000", "MC1/0003", "MC1/0001"],
    "evaluation": ["SM1/0000", "AP10/0001", "SM1/0001", "AP10/0000"],
}
SIZE = np.array([0.04, 0.03, 0.09])  # half of the object's box
MIDDLE = np.array([0.01, 0.0, -0.02])
RAW_DEPTH = 5200


@functools.cache
def hand(key: str) -> KnownHand:
    """The hand of "<sequence>/<frame>", OpenCV camera."""
    sequence, frame = key.split("/")
    own, number = list(PARTS).index(sequence), int(frame)
    return known_hand("right", 10 * own + number, (0.02 * own, -0.03 + 0.01 * number, 0.65))


def camera(key: str) -> tuple[float, float, float, float]:
    """fx, fy, cx, cy: every sequence its own."""
    number = list(PARTS).index(key.split("/")[0])
    return 614.627 + number, 614.101, 320.262 - 3 * number, 238.469


def object_pose_gl(frame: int) -> tuple[np.ndarray, np.ndarray]:
    """Axis-angle and place of the object in OpenGL's camera: at rest, moved by 5 mm, moved by
    12 mm, turned by 6 degrees."""
    rest = Rotation.from_rotvec([0.1, 0.2, 0.3])
    turned = Rotation.from_rotvec([0, 0, np.radians(6) * (frame == 3)]) * rest
    moved = (0.0, 0.005, 0.012, 0.0)[frame]
    return turned.as_rotvec(), np.array([0.03, -0.02, -0.66 - moved])


def rest_corners() -> np.ndarray:
    """(8, 3), x slowest."""
    signs = np.stack(np.meshgrid([-1, 1], [-1, 1], [-1, 1], indexing="ij"), -1).reshape(8, 3)
    return MIDDLE + signs * SIZE


def meta(key: str) -> dict[str, Any]:
    """The contents of one frame's pickle."""
    sequence, frame = key.split("/")
    known = hand(key)
    fx, fy, cx, cy = camera(key)
    turned, place = object_pose_gl(int(frame))
    corners = rest_corners()
    found: dict[str, Any] = {
        "camMat": np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]),
        "objName": "006_mustard_bottle",
        "objLabel": 5,
        "objRot": turned[:, None],
        "objTrans": place,
        "objCorners3DRest": corners,
        "objCorners3D": corners @ Rotation.from_rotvec(turned).as_matrix().T + place,
    }
    joints = (known.joints * FLIP)[TO_HO3D]
    if PARTS[sequence] == "evaluation":
        pixels = project(known.joints, camera(key))
        box = [int(x) for x in (*pixels.min(0), *pixels.max(0))]
        return found | {"handJoints3D": joints[0], "handBoundingBox": box}
    model = HandModel.free()
    root = model.rest_joints(torch.from_numpy(known.betas))[0].double().numpy()
    pose = known.pose.copy()
    pose[0] = (Rotation.from_matrix(np.diag(FLIP)) * Rotation.from_rotvec(pose[0])).as_rotvec()
    return found | {
        "handJoints3D": joints,
        "handPose": pose.reshape(48),
        "handTrans": FLIP * (root + known.translation) - root,  # MANO turns about its root joint
        "handBeta": known.betas,
    }


def py2_pickle(values: dict[str, Any]) -> bytes:
    """Protocol 2 as Python 2 wrote it, with NumPy's old module names."""
    items = b""
    for name, value in values.items():
        items += py2_text(name.encode())
        if value is None:
            items += b"N"
        elif isinstance(value, str):
            items += py2_text(value.encode())
        elif isinstance(value, int):
            items += b"K" + bytes([value])
        elif isinstance(value, list):
            items += b"](" + b"".join(b"M" + n.to_bytes(2, "little") for n in value) + b"e"
        else:
            items += py2_array(np.asarray(value))
    return b"\x80\x02}(" + items + b"u."


def write_meta(root: Path, key: str, values: dict[str, Any], version: str = "v2") -> None:
    """Write one frame's pickle."""
    sequence, frame = key.split("/")
    path = root / PARTS[sequence] / sequence / "meta" / f"{frame}.pkl"
    path.parent.mkdir(parents=True, exist_ok=True)
    if version == "v2":
        path.write_bytes(py2_pickle(values))
        return
    values = values | {"handVertContact": np.zeros(778, bool), "handVertDist": np.ones(778)}
    path.write_bytes(pickle.dumps(values, protocol=2))


def write_truth(root: Path) -> None:
    """evaluation_xyz.json and evaluation_verts.json."""
    hands = [hand(key) for key in LISTS["evaluation"]]
    joints = [(known.joints * FLIP)[TO_HO3D].tolist() for known in hands]
    vertices = [(known.vertices * FLIP).tolist() for known in hands]
    (root / "evaluation_xyz.json").write_text(json.dumps(joints))
    (root / "evaluation_verts.json").write_text(json.dumps(vertices, indent=1))


def write(root: Path, version: str = "v2") -> Path:
    """Write it, without the truth of the evaluation, and return root."""
    image = "png" if version == "v2" else "jpg"
    depth = np.zeros((480, 640, 3), np.uint8)
    depth[:], depth[:, :320] = (RAW_DEPTH % 256, RAW_DEPTH // 256, 0), 0  # RGB
    seg = np.zeros((240, 320, 3), np.uint8)
    seg[100:140, 140:180] = (255, 0, 0)
    seg[120:150, 170:210] = (0, 0, 255)
    for sequence, part in PARTS.items():
        for number in range(FRAMES[sequence]):
            frame = f"{number:04d}"
            folder = root / part / sequence
            write_image(folder / f"rgb/{frame}.{image}", flat(80 + number, 640, 480))
            write_image(folder / f"depth/{frame}.png", depth)
            if part == "train":
                write_image(folder / f"seg/{frame}.{'jpg' if version == 'v2' else 'png'}", seg)
            write_meta(root, f"{sequence}/{frame}", meta(f"{sequence}/{frame}"), version)
    unlabelled = meta("SS2/0001") | {"objRot": None, "objTrans": None, "handJoints3D": None}
    write_meta(root, "SS2/0004", unlabelled, version)  # in no list
    for part, lines in LISTS.items():
        (root / f"{part}.txt").write_text("\n".join(lines) + "\n")
    if version == "v3":
        folder = root / "calibration/MC/calibration"
        folder.mkdir(parents=True)
        (folder / "cam_orders.txt").write_text("0 1")
        (folder / "cam_0_depth_scale.txt").write_text("0.00012498664727900177")
        (root / "manual_annotations").mkdir()
        np.save(root / "manual_annotations/MC1_0001.npy", np.zeros((5, 3)))
    return root
