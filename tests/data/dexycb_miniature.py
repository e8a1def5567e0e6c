"""DexYCB in its official layout: 10 subjects of 100 sequences, two of which have four frames; the
others hold meta.yml alone. The hands are those of the free hand model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import yaml
from tests.data.miniature import flat, project, turn_z, write_image

from handhold.data.dexycb import CAMERAS, SUBJECTS
from handhold.hand.model import HandModel

CAMERA = (613.0, 612.0, 313.0, 245.0)  # fx, fy, cx, cy
BETAS = [0.1 * i - 0.45 for i in range(10)]
PLACES = {1: (0.60, 0.03, 0.65), 2: (-0.60, 0.03, 0.65)}  # right of and left of the image
ANGLES, SHIFTS = (0.0, 0.0, 0.0, 6.0), (0.0, 0.005, 0.012, 0.0)
SIDES = {0: "right", 4: "left"}  # by the sequence's number
FRAMES = 4


def sequence_name(subject: int, number: int) -> str:
    """<date>_<time>."""
    return f"{SUBJECTS[subject][:8]}_{100_000 + number}"


def object_pose(frame: int) -> np.ndarray:
    """(3, 4) of the grasped bowl."""
    return np.c_[turn_z(ANGLES[frame]), (0.05, 0.03, 0.66 + SHIFTS[frame])]


def hand_label(side: str, camera: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """pose_m (51,), joints (21, 3) and vertices (778, 3)."""
    place = PLACES.get(camera, (0.02, 0.03, 0.65))
    pose_m = np.concatenate([(0.1, 0.2, 0.3), np.full(45, 0.01), place])
    model = HandModel.free("left" if side == "left" else "right")
    posed = model(
        torch.from_numpy(pose_m[:48]),
        torch.tensor(BETAS),
        torch.from_numpy(pose_m[48:]),
        flat=False,
        pca=True,
    )
    return pose_m, posed.joints.numpy(), posed.vertices.numpy()


def write(root: Path, subjects: tuple[int, ...] = tuple(range(10)), cameras: int = 8) -> Path:
    """Write it and return root."""
    for camera in CAMERAS:
        values = dict(zip(("fx", "fy", "ppx", "ppy"), CAMERA, strict=True))
        write_yaml(
            root / f"calibration/intrinsics/{camera}_640x480.yml",
            {"color": values, "depth": {name: value - 7 for name, value in values.items()}},
        )
    for side in ("right", "left"):
        write_yaml(root / f"calibration/mano_20200820-subject-03_{side}/mano.yml", {"betas": BETAS})
    for subject in subjects:
        for number in range(100):
            folder = root / SUBJECTS[subject] / sequence_name(subject, number)
            real = subject == 2 and number in SIDES
            side = SIDES.get(number, "left")
            meta = {
                "serials": list(CAMERAS),
                "num_frames": FRAMES if real else 0,
                "extrinsics": "20200820_000000",
                "ycb_ids": [2, 13],
                "ycb_grasp_ind": 1,
                "mano_sides": [side],
                "mano_calib": [f"20200820-subject-03_{side}"],
            }
            write_yaml(folder / "meta.yml", meta)
            if real:
                for camera in range(cameras):
                    for frame in range(FRAMES):
                        write_frame(folder / CAMERAS[camera], side, camera, frame)
    for name, size in (("003_cracker_box", (0.16, 0.06, 0.21)), ("024_bowl", (0.16, 0.16, 0.055))):
        draw = np.random.default_rng(0)
        points = np.concatenate([[(-0.5,) * 3, (0.5,) * 3], draw.uniform(-0.5, 0.5, (198, 3))])
        (root / "models" / name).mkdir(parents=True)
        np.savetxt(root / "models" / name / "points.xyz", points * size, "%.6f")
    return root


def write_yaml(path: Path, values: object) -> None:
    """Write one YAML file; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(values))


def write_frame(folder: Path, side: str, camera: int, frame: int) -> None:
    """Image, depth and labels of one frame."""
    pose_m, joints, _ = hand_label(side, camera)
    joints2d = project(joints, CAMERA)
    if camera == 0 and frame == 0:  # nobody there
        pose_m, joints, joints2d = np.zeros(51), np.full((21, 3), -1.0), np.full((21, 2), -1.0)
    write_image(folder / f"color_{frame:06d}.jpg", flat(64 + 16 * frame, 640, 480))
    depth = np.full((480, 640), 650 + frame, np.uint16)
    write_image(folder / f"aligned_depth_to_color_{frame:06d}.png", depth)
    seg = np.zeros((480, 640), np.uint8)
    seg[200:280, 280:360] = 255
    seg[240:300, 340:420] = 13
    seg[10:60, 10:60] = 2
    other = np.c_[np.eye(3), (-0.2, -0.1, 0.9)]
    np.savez_compressed(
        folder / f"labels_{frame:06d}.npz",
        seg=seg,
        pose_y=np.stack([other, object_pose(frame)]).astype(np.float32),
        pose_m=pose_m[None].astype(np.float32),
        joint_3d=joints[None].astype(np.float32),
        joint_2d=joints2d[None].astype(np.float32),
    )
