"""`handhold export MODEL --to onnx --weights FILE --out FILE.onnx`: one file, from photo to
hands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro


def export(
    model: Annotated[str, tyro.conf.Positional],
    out: Path,
    to: Literal["onnx"] = "onnx",
    weights: Path | None = None,
    mano: Path | None = None,
) -> None:
    """Write a method that sees whole photos as one file for ONNX Runtime.

    Inputs: photo (height, width, 3) uint8 RGB of any size, intrinsics (3, 3). Outputs for each of
    K hands, none included: scores, right, volume, boxes, joints2d (pixels of the photo), joints,
    vertices, translation (metres, camera frame). The file's metadata explain them. Letterbox,
    thresholds and suppression are inside.

    Args:
        model: A method for whole photos, such as handos-small.
        out: File to write (.onnx).
        to: The format.
        weights: Weights file of the model instead of those that come with the package.
        mano: Folder with MANO's files, for weights that were trained with the real hand model.
    """
    from handhold.atomic import write_bytes
    from handhold.errors import InputError
    from handhold.inference.photo_engine import export_photo_model
    from handhold.models.photo_registry import PHOTO_MODELS, load_photo_model

    if out.suffix != ".onnx":
        raise InputError(f"--out: expected a file named .onnx, found {out.name!r}")
    if model not in PHOTO_MODELS:
        raise InputError(
            f"model: expected one of {', '.join(PHOTO_MODELS)}, found {model!r}; methods for crops "
            "run in ONNX Runtime by --engine onnx"
        )
    file = export_photo_model(load_photo_model(model, weights, mano))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(out, file)
    print(f"{out}: {len(file) / 1e6:.1f} MB, {to}; photo and intrinsics in, hands out")


COMMANDS = export
