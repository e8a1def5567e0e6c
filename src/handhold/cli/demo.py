"""`handhold demo`: made-up scenes with known truth, predicted and compared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from handhold.evaluation.collect import Pair

KINDS = ("bare", "holding", "bare", "holding", "near", "holding")
SHARES = {"bare": (0.0, 0.0), "holding": (1.0, 0.0), "near": (0.0, 1.0)}


def demo(out: Path = Path("demo"), model: str = "unihope-small", seed: int = 2024) -> int:
    """Make six scenes, three with a held object, find the hands and print the error of each.

    Where the detector misses the hand the true box is given, and the table says so.
    Writes for every scene the photo (.jpg) and what `handhold predict` writes (.png, .glb, .json).

    Args:
        out: Folder for the files.
        model: Method to use, see `handhold models`.
        seed: Another seed makes other scenes.
    """
    from functools import partial
    from typing import Any

    from PIL import Image
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table

    from handhold.evaluation.collect import collect, tight_box
    from handhold.inference.estimator import Estimator
    from handhold.inference.writing import prepare_folder, write_results
    from handhold.scene import Sample, Scene
    from handhold.synthesis.scenes import SceneConfig, make_scene

    prepare_folder(out)
    estimator = Estimator(model)
    faces = estimator.hand_faces()
    table = Table(title=f"{estimator.model.name}: error against the known truth")
    for column in ("scene", "truth", "found", "PA-MPJPE", "MPJPE", "wrist off by", "object"):
        table.add_column(column)
    files: set[Path] = set()
    for number, kind in enumerate(track(KINDS, "scenes")):
        holding, near = SHARES[kind]
        config = SceneConfig(
            width=512, height=384, hand_size=(0.45, 0.7), distance=(0.35, 0.9),
            holding=holding, near=near, occluder=0.0, sensor=0.4,
        )  # fmt: skip
        sample = make_scene(seed, number, config)
        name = f"{number}_{kind}"
        Image.fromarray(sample.image).save(out / f"{name}.jpg", quality=95)

        def predict(sample: Sample, boxes: Any = None, name: str = name) -> Scene:
            camera = sample.camera.intrinsics
            scene = estimator(sample.image, intrinsics=camera, boxes=boxes, name=f"{name}.jpg")
            files.update(write_results(out, name, scene, sample.image, faces))
            return scene

        pairs, note = collect([sample], predict).pairs, ""
        if any(pair.found is None for pair in pairs):  # show at least what the rest makes of it
            boxes = [{"box": tight_box(hand), "side": hand.side} for hand in sample.hands]
            pairs = collect([sample], partial(predict, boxes=boxes)).pairs
            note = " (true box given)"
        for pair in pairs:
            table.add_row(name, *_row(pair, note))
    # wide enough for the table also where the output is no terminal
    console = Console(width=max(110, Console().width))
    console.print(table)
    console.print(f"{len(files)} files in {out}: {', '.join(sorted(path.name for path in files))}")
    return 0


def _row(pair: Pair, note: str) -> list[str]:
    """Truth, finding and errors of one hand as words."""
    from handhold.evaluation.summary import hand_numbers

    truth = pair.truth.side or "hand"
    if pair.truth.grasping and pair.true_object is not None:
        truth += f", holds {pair.true_object.name}"
    if pair.found is None:
        return [truth, "nothing", "", "", "", ""]
    found = (pair.found.side or "hand") + (", holds" if pair.found.grasping else "") + note
    numbers, _ = hand_numbers([pair])
    errors = [f"{numbers[name]:.1f} mm" for name in ("pa_mpjpe_mm", "mpjpe_mm")]
    distance = f"{numbers['wrist_distance_mm']:.0f} mm"
    return [truth, found, *errors, distance, _object_words(pair)]


def _object_words(pair: Pair) -> str:
    import numpy as np

    ours, theirs = pair.found_object, pair.true_object
    if ours is None:
        return "" if theirs is None else "missed"
    if theirs is None:
        return f"{ours.name} (there is none)"
    if ours.name != theirs.name:
        return f"{ours.name} (wrong)"
    off = float(np.linalg.norm(ours.translation - theirs.translation)) * 1000
    return f"{ours.name}, off by {off:.0f} mm"


COMMANDS = demo
