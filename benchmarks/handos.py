"""What `handos-small` costs a photo, by the number of hands on it.

    python benchmarks/handos.py [--threads 2] [--rounds 25] [--weights FILE]

Milliseconds for 0, 1, 2, 4 and 10 hands of every engine of `Estimator`, from a JPEG file of 640x480
pixels to a scene: reading, letterbox, detector, meshes in the camera frame; "with_fit": pose and
shape of the hand model fitted to each mesh, too, as the command line does. Multiples are of one
ResNet-50 pass (eager, 224x224, classifier included), which takes turns with all the others. Then
the stages, each alone. further_hand_ms: the slope from one hand to ten; its share is of what a
photo with one hand takes. Grasp and object (`--objects-by`) are not in it.

The number of hands is given: a grey mark in the photo's corner tells the frozen detector, which
does all its work, how many of its queries to call hands, and these get places apart from one
another. Weights are fresh ones from a seed without --weights, which changes no cost but that of the
fit. Writes benchmarks/results/handos.json and handos.png, or where --out says.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import latency
import numpy as np

RESULTS = Path(__file__).parent / "results" / "handos.json"
WIDTH, HEIGHT = 640, 480
MARK = 20  # grey levels a hand
FASTEST, FURTHER = 15.0, 0.2  # the aims: photos a second with one hand, share of a further hand


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hands", type=int, nargs="+", default=[0, 1, 2, 4, 10], help="1, 10 too")
    parser.add_argument("--engines", nargs="+", default=["eager", "folded", "onnx"])
    parser.add_argument("--weights", type=Path, help="of handos-small")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=25, help="at most, of each measurement")
    parser.add_argument("--seconds", type=float, default=20.0, help="about, of each measurement")
    parser.add_argument("--clock", choices=("wall", "processor"), default="wall",
                        help="processor: what is left of a shared core does not count")  # fmt: skip
    parser.add_argument("--out", type=Path, default=RESULTS, help="the plot goes beside it")
    return parser.parse_args()


def told_model(weights: Path | None) -> Any:
    """handos-small, whose detector is told how many hands to find."""
    import torch

    from handhold.models.handos.detectors import FrozenDetector
    from handhold.models.photo_registry import build_photo_model, load_photo_model

    class Told(FrozenDetector):
        """Another detector with the scores that the photo's corner asks for."""

        def __init__(self, inner: FrozenDetector) -> None:
            super().__init__()
            self.inner = inner
            for name in FrozenDetector.__annotations__:
                setattr(self, name, getattr(inner, name))
            number = torch.arange(self.num_queries)
            x, y = (number % 4 + 0.5) / 4, (number // 4 % 3 + 0.5) / 3
            size = torch.full_like(x, 0.2)
            self.register_buffer("places", torch.stack((x, y, size, size), dim=-1))
            self.freeze()

        def load(self, weights: str | Path) -> Any:
            """Those of the inner one."""
            self.inner.load(weights)
            return self

        def features(self, images: Any, valid_mask: Any = None) -> Any:
            """12 hands at most do not overlap."""
            found = self.inner.features(images, valid_mask)
            mark = images[:, :, 2:18, 2:18].mean((1, 2, 3)) * (255 / MARK)
            number = torch.arange(self.num_queries)
            hands = number < mark.round()[:, None]
            scores = torch.where(hands, 0.9 - 0.001 * number, torch.zeros(()))
            boxes = self.get_buffer("places")[None].expand_as(found.boxes)
            return dataclasses.replace(found, scores=scores, boxes=boxes)

    model = (
        build_photo_model("handos-small", seed=0)
        if weights is None
        else load_photo_model("handos-small", weights)
    )
    model.network.detector = Told(model.network.detector)
    return model


def made_up_photo(hands: int, folder: Path) -> Path:
    """A JPEG file of smooth noise with the mark of so many hands."""
    import cv2

    draw = np.random.default_rng(0)
    coarse = draw.integers(0, 256, (HEIGHT // 16, WIDTH // 16, 3), np.uint8)
    image = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    image[:64, :64] = MARK * hands
    path = folder / f"{hands}.jpg"
    cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 92])
    return path


def without_fit(model: Any) -> Any:
    """The same model, whose processor leaves pose and shape out."""
    from handhold.models.handos.processor import HandOSProcessor

    settings = dataclasses.replace(model.processor.config, fit=False)
    return dataclasses.replace(model, processor=HandOSProcessor(settings, model.network.hand))


def stages(model: Any, path: Path) -> dict[str, Callable[[], Any]]:
    """The parts of a photo's way in PyTorch, each on what the one before gave."""
    import torch

    from handhold.inference.camera_source import camera_of
    from handhold.inference.images import read_photo

    network, processor = model.network, model.processor
    fitting = dataclasses.replace(processor.config, fit=True)
    whole = type(processor)(fitting, network.hand)
    photo = read_photo(path)
    cameras = [camera_of(photo, None, None)]

    def encode() -> Any:
        return processor.encode_photos([photo.image], cameras)

    batch = encode()
    with torch.inference_mode():
        found = network.detect(batch)
        memory = network.memory(found)
        chosen = network.select(found)
        said = network(batch)

    def choose() -> Any:
        return processor.thin(network.select(found), batch, cameras)

    def meshes() -> Any:
        if len(chosen.image):
            return network.decode(memory, chosen, batch.valid_size, batch.intrinsics)
        return None

    return {
        "read": lambda: read_photo(path),
        "letterbox": encode,
        "detector": lambda: network.detect(batch),
        "side_tuning": lambda: network.memory(found),
        "choice": choose,
        "meshes": meshes,
        "scene": lambda: processor.decode(said, batch, cameras),
        "scene_with_fit": lambda: whole.decode(said, batch, cameras),
    }


def in_inference_mode(work: Callable[[], Any]) -> Callable[[], Any]:
    """The same without gradients."""
    import torch

    def run() -> Any:
        with torch.inference_mode():
            return work()

    return run


def measure(asked: argparse.Namespace) -> dict[str, Any]:
    """All figures, by engine and number of hands."""
    import torch

    from handhold.inference.estimator import Estimator

    clock = time.perf_counter if asked.clock == "wall" else time.process_time
    torch.manual_seed(0)
    unit, crop = latency.resnet50(), torch.rand(1, 3, 224, 224)
    model = told_model(asked.weights)
    plain = without_fit(model)
    runs = {name: Estimator(plain, objects="none", engine=name) for name in asked.engines}
    fitted = {
        f"{name}, with fit": Estimator(model, objects="none", engine=name)
        for name in asked.engines[-1:]
    }
    engines: dict[str, dict[str, Any]] = {name: {} for name in {**runs, **fitted}}
    parts: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in asked.hands:
            path = made_up_photo(count, Path(folder))
            works: dict[str, Callable[[], Any]] = {
                "resnet50": in_inference_mode(lambda: unit(crop))
            }
            for name, estimator in {**runs, **fitted}.items():
                seen = len(estimator(path).hands)
                if seen != count:
                    raise SystemExit(f"{name}: expected {count} hands, found {seen}")
                works[name] = lambda estimator=estimator, path=path: estimator(path)
            spent, rounds = latency.race(works, asked.rounds, asked.seconds, clock)
            middle = {key: latency.median(values) for key, values in spent.items()}
            for name, rows in engines.items():
                rows[str(count)] = {
                    "ms": round(1e3 * middle[name], 2),
                    "of_resnet50": round(middle[name] / middle["resnet50"], 3),
                    "photos_a_second": round(1 / middle[name], 1),
                    "rounds": rounds,
                }
            inside = {key: in_inference_mode(work) for key, work in stages(plain, path).items()}
            spent, _ = latency.race(inside, asked.rounds, asked.seconds, clock)
            parts[str(count)] = {k: round(1e3 * latency.median(v), 2) for k, v in spent.items()}
            shown = "  ".join(f"{name} {rows[str(count)]['ms']:.1f}" for name, rows in
                              engines.items())  # fmt: skip
            print(f"{count:3} hands, ms: {shown}; resnet50 {1e3 * middle['resnet50']:.1f}")
            print(f"{'':11}{parts[str(count)]}", flush=True)
    for name, rows in engines.items():
        if {"1", "10"} <= set(rows):
            first = rows["1"]["ms"]
            further = (rows["10"]["ms"] - first) / 9
            rows["further_hand_ms"] = round(further, 2)
            rows["further_hand_share"] = round(further / first, 3)
            fast, cheap = rows["1"]["photos_a_second"] >= FASTEST, further <= FURTHER * first
            rows["reached"] = {"photos_a_second": fast, "further_hand": cheap}
            print(f"{name}: {rows['1']['photos_a_second']:.1f} photos a second with one hand, a "
                  f"further one {further:.1f} ms, {further / first:.2f} of it")  # fmt: skip
    return {"engines": engines, "stages_in_pytorch_ms": parts}


def plot(figures: dict[str, Any], path: Path) -> None:
    """Milliseconds over hands, and the stages."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for name, rows in figures["engines"].items():
        counts = [int(key) for key in rows if key.isdigit()]
        left.plot(counts, [rows[str(count)]["ms"] for count in counts], "o-", label=name)
    left.axhline(1e3 / FASTEST, color="black", linewidth=1, linestyle=":")
    left.set_xlabel("hands on the photo")
    left.set_ylabel("ms a photo, from JPEG to scene")
    left.set_ylim(bottom=0)
    left.legend()
    parts = figures["stages_in_pytorch_ms"]
    below = np.zeros(len(parts))
    for stage in [key for key in next(iter(parts.values())) if key != "scene_with_fit"]:
        values = np.array([row[stage] for row in parts.values()])
        right.bar(list(parts), values, bottom=below, label=stage)
        below += values
    right.set_xlabel("hands on the photo")
    right.set_title("stages, eager PyTorch", fontsize=9)
    right.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Measure, print and write down."""
    asked = options()
    latency.restart(asked.threads)
    import torch

    from handhold.atomic import write_text

    torch.set_num_threads(asked.threads)
    state = latency.conditions(asked)
    state["weights"] = "fresh" if asked.weights is None else asked.weights.name
    figures = measure(asked)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(asked.out, json.dumps({"conditions": state, **figures}, indent=2) + "\n")
    plot(figures, asked.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
