"""The same network, faster: `fast(network)` is called like the network that it was made of.

Engines. "folded": PyTorch, with every BatchNorm behind a convolution or a linear layer folded into
it, and branches merged. "compile": that through `torch.compile`, whose first call takes minutes.
"onnx", "openvino": that in ONNX Runtime (extra `export`) or OpenVINO (extra `fast`); the first call
exports, which takes some ten seconds, later ones are the quickest that a processor gives. All work
on a copy, in eval mode and float32.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from handhold.errors import InputError, MissingExtraError
from handhold.inference.winograd import with_winograd
from handhold.models.nn.fold import fold
from handhold.scene import Batch, Prediction

Engine = Literal["folded", "compile", "onnx", "openvino"]
ENGINES: tuple[Engine, ...] = get_args(Engine)
Network = Callable[[Batch], Prediction]
Arrays = Mapping[str, NDArray[Any]]
Runner = Callable[[Arrays], list[NDArray[Any]]]
# what an engine needs, and the extra that brings it
_NEEDS = {
    "onnx": (("onnxscript", "onnxruntime"), "export"),
    "openvino": (("onnxscript", "openvino"), "fast"),
}


def installed(engine: str) -> bool:
    """Whether what the engine needs is there."""
    packages, _ = _NEEDS.get(engine, ((), ""))
    return all(importlib.util.find_spec(name) is not None for name in packages)


def best_engine(network: nn.Module) -> Engine:
    """OpenVINO, else ONNX Runtime, where installed and the network can be exported; else folded."""
    if not getattr(type(network), "exportable", True):
        return "folded"
    return "openvino" if installed("openvino") else "onnx" if installed("onnx") else "folded"


def fast(network: nn.Module, engine: str | None = None, *, threads: int | None = None) -> Network:
    """Batch -> Prediction like `network`, faster, without gradients.

    The work is done when the first batch comes (anew for batches of other fields). engine: None for
    `best_engine`. threads: of ONNX Runtime and OpenVINO, None for as many as PyTorch has. Results
    differ by rounding only, but that an exported RoIAlign takes at most
    `roi_align.EXPORTED_SAMPLES` samples a cell. Raises InputError for an unknown engine and for a
    network that cannot be exported, MissingExtraError where the engine's packages are missing.
    """
    engine = best_engine(network) if engine is None else engine
    if engine not in ENGINES:
        known = ", ".join(("eager", "best", *ENGINES))
        raise InputError(f"engine: expected one of {known}, found {engine!r}")
    if engine in _NEEDS:
        return ExportedNetwork(network, engine, threads)
    return FoldedNetwork(network, compiled=engine == "compile")


class FoldedNetwork:
    """The network in PyTorch, folded when the first batch comes."""

    def __init__(self, network: nn.Module, *, compiled: bool = False) -> None:
        self._network: Any = network
        self._ready = False
        self._compiled = compiled

    def __call__(self, batch: Batch) -> Prediction:
        with torch.inference_mode():
            if not self._ready:
                self._network = fold(self._network, batch)
                if self._compiled:
                    self._network = torch.compile(self._network)
                self._ready = True
            return self._network(batch)


class ExportedNetwork:
    """The network in another library, exported when the first batch comes; then for any number of
    hands."""

    def __init__(self, network: nn.Module, engine: str, threads: int | None = None) -> None:
        if not getattr(type(network), "exportable", True):
            raise InputError(
                f"engine: {type(network).__name__} cannot be exported for {engine}; use folded"
            )
        if not installed(engine):
            packages, extra = _NEEDS[engine]
            raise MissingExtraError(
                f"engine {engine}: needs {' and '.join(packages)}: pip install 'handhold[{extra}]'"
            )
        self._network = network
        self._load = _openvino if engine == "openvino" else in_onnxruntime
        self._threads = torch.get_num_threads() if threads is None else threads
        self._made: dict[tuple[str, ...], tuple[Runner, list[str]]] = {}

    def __call__(self, batch: Batch) -> Prediction:
        given = tensors(batch)
        names = tuple(given)
        if names not in self._made:
            file, results = export(self._network, batch)
            self._made[names] = self._load(file, self._threads), results
        run, results = self._made[names]
        found = run({k: v.detach().cpu().contiguous().numpy() for k, v in given.items()})
        return restored({k: torch.from_numpy(v) for k, v in zip(results, found, strict=True)})


def in_onnxruntime(file: bytes, threads: int) -> Runner:
    """What runs an ONNX file: arrays by name in, the list of results out."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    inputs = [item.name for item in session.get_inputs()]

    def run(given: Arrays) -> list[NDArray[Any]]:
        found: Any = session.run(None, {name: given[name] for name in inputs})
        return found

    return run


def _openvino(file: bytes, threads: int) -> Runner:
    import openvino

    core = openvino.Core()
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",  # newer processors would take bfloat16
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    # one hand, the usual case, has a model of its own: it is faster where all sizes are known
    made: dict[bool, tuple[Any, list[set[str]]]] = {}

    def prepared(single: bool) -> tuple[Any, list[set[str]]]:
        network = core.read_model(io.BytesIO(file))
        if single:
            shapes = {item: item.get_partial_shape() for item in network.inputs}
            network.reshape({item: [1, *list(shape)[1:]] for item, shape in shapes.items()})
            with_winograd(network)
        compiled = core.compile_model(network, "CPU", settings)
        return compiled.create_infer_request(), [item.names for item in compiled.inputs]

    def run(given: Arrays) -> list[NDArray[Any]]:
        single = len(next(iter(given.values()))) == 1
        if single not in made:
            made[single] = prepared(single)
        request, inputs = made[single]  # an input may have several names
        found = request.infer({k: v for k, v in given.items() if any(k in n for n in inputs)})
        return [np.array(value) for value in found.values()]

    return run


def export(network: nn.Module, batch: Batch) -> tuple[bytes, list[str]]:
    """The network as an ONNX file for batches with the fields of `batch`, and its outputs' names.


    Inputs are those fields, under their names, that the network reads; the first dimension is free.
    Outputs: the prediction's fields, entries of `features` as "features.NAME".
    """
    folded = fold(network, batch.map(lambda t: t[:1]))
    # two hands: what is 1 in the example would stay 1
    example = tensors(batch.map(lambda t: t[:1].expand(2, *t.shape[1:]).clone()))
    results: list[str] = []
    flat = _Flat(folded, type(batch), list(example), results.append).eval()
    free = tuple({0: torch.export.Dim("hands", min=1, max=4096)} for _ in example)
    with quiet(), torch.no_grad():
        traced = torch.export.export(flat, tuple(example.values()), dynamic_shapes=(free,))
        program = torch.onnx.export(
            traced,
            input_names=list(example),
            dynamo=True,
            verbose=False,
            optimize=False,
            opset_version=20,
        )
    if program is None:
        raise InputError(f"engine: {type(network).__name__} cannot be exported to ONNX")
    inputs = program.model.graph.inputs
    for value in [value for value in inputs if not list(value.uses())]:
        inputs.remove(value)
    return program.model_proto.SerializeToString(), list(dict.fromkeys(results))


def tensors(batch: Batch) -> dict[str, Tensor]:
    """The batch's fields that are tensors."""
    return {key: value for key, value in vars(batch).items() if isinstance(value, Tensor)}


def flattened(prediction: Prediction) -> dict[str, Tensor]:
    """The prediction's tensors, those of `features` under "features.NAME"."""
    given = dict(vars(prediction))
    inside = {f"features.{key}": value for key, value in given.pop("features").items()}
    return {key: value for key, value in given.items() if value is not None} | inside


def restored(found: Mapping[str, Tensor]) -> Prediction:
    """The prediction of `flattened`."""
    inside = {k.split(".", 1)[1]: v for k, v in found.items() if k.startswith("features.")}
    outer: dict[str, Any] = {k: v for k, v in found.items() if not k.startswith("features.")}
    return Prediction(**outer, features=inside)


class _Flat(nn.Module):
    """Tensors in, tensors out; tells `note` the names of the latter."""

    def __init__(
        self,
        network: nn.Module,
        kind: type[Batch],
        names: list[str],
        note: Callable[[str], None],
    ) -> None:
        super().__init__()
        self.network, self.kind, self.names, self.note = network, kind, names, note

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        fields: dict[str, Any] = dict(zip(self.names, given, strict=True))
        found = flattened(self.network(self.kind(**fields)))
        for name in found:
            self.note(name)
        return tuple(found.values())


@contextmanager
def quiet() -> Generator[None]:
    """Without the exporter's remarks about packages that nothing here needs."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
