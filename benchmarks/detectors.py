"""What `hand-detr` costs beside the first detector, in one run.

    python benchmarks/detectors.py [--size 320] [--rounds 15] [--threads 1] [--onnx]

Both networks have fresh weights and folded BatchNorms and see the same photo; they take turns, and
the least time of each is printed, with the multiple of the first detector's. Reading a photo,
letterbox and what is done with the boxes are outside. --onnx: also through ONNX Runtime.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from handhold.models.detector import DetectorConfig, HandDetectorNetwork
from handhold.models.handos.detectors.hand_detr import HandDetrConfig, HandDetrNetwork
from handhold.models.nn.fold import fold


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--onnx", action="store_true")
    return parser.parse_args()


class Flat(nn.Module):
    """Tensors in, the tensors that are read out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Scores and boxes, and for HandOS memory and queries."""
        found = self.network(image)
        if hasattr(found, "memory"):
            return found.logits[-1], found.boxes[-1], found.queries, found.memory
        return found.score, found.boxes, found.side, found.holding, found.object_boxes


def in_onnx(network: nn.Module, image: Tensor, threads: int) -> Callable[[], Any]:
    """The network in ONNX Runtime."""
    import onnxruntime

    program: Any = torch.onnx.export(
        network, (image,), dynamo=True, opset_version=18, verbose=False
    )
    file = io.BytesIO(program.model_proto.SerializeToString())
    told = onnxruntime.SessionOptions()
    told.intra_op_num_threads = threads
    told.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(file.getvalue(), told)
    given = {session.get_inputs()[0].name: image.numpy()}
    return lambda: session.run(None, given)


def main() -> None:
    """Measure and print."""
    args = options()
    torch.set_num_threads(args.threads)
    image = torch.rand(1, 3, args.size, args.size)
    networks = {
        "hand-detector": HandDetectorNetwork(DetectorConfig(input_size=args.size)),
        "hand-detr": HandDetrNetwork(HandDetrConfig(input_size=args.size)),
        "hand-detr, lite backbone": HandDetrNetwork(
            HandDetrConfig(input_size=args.size, backbone="lite")
        ),
    }
    runs: dict[str, Callable[[], Any]] = {}
    sizes = {name: sum(p.numel() for p in one.parameters()) for name, one in networks.items()}
    with torch.no_grad():
        for name, network in networks.items():
            folded: Any = fold(network.eval(), image)  # the same class as before
            flat = Flat(folded).eval()
            runs[name] = lambda flat=flat: flat(image)
            if args.onnx:
                runs[f"{name}, ONNX Runtime"] = in_onnx(flat, image, args.threads)
        least = dict.fromkeys(runs, float("inf"))
        for turn in range(args.rounds + 2):
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                if turn > 1:
                    least[name] = min(least[name], time.perf_counter() - start)
    for name, seconds in least.items():
        first = "hand-detector, ONNX Runtime" if "ONNX" in name else "hand-detector"
        size = sizes.get(name, 0) / 1e6
        print(
            f"{name:<40} {size:5.2f} M  {1000 * seconds:7.1f} ms  {seconds / least[first]:5.2f} x"
        )


if __name__ == "__main__":
    main()
