"""Methods that see whole photos, in ONNX: one file from photo to hands, and a faster `Estimator`.

Engines. "folded": PyTorch, batch norms folded. "onnx": the network in ONNX Runtime (extra
`export`), exported when the first photo comes, which takes half a minute. "best": that where
installed, else folded.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from handhold.errors import InputError, MissingExtraError
from handhold.inference.fast import Runner, in_onnxruntime, installed, quiet
from handhold.models.handos.batch import HandOSPrediction, PhotoBatch
from handhold.models.handos.detectors import GivenBoxes
from handhold.models.handos.graph import RESULTS, PhotoCore, PhotoGraph, Raw, View
from handhold.models.nn.fold import fold
from handhold.scene import Camera

if TYPE_CHECKING:
    from handhold.models.handos.processor import HandOSProcessor
    from handhold.models.photo_registry import LoadedPhotoModel

PHOTO_ENGINES = ("eager", "best", "folded", "onnx")
OPSET = 20  # the first with GridSample on maps as PyTorch has it
LARGEST = 32_000  # side of a photo
Run = Callable[[PhotoBatch, Sequence[Camera]], HandOSPrediction]


def photo_engine(network: Any, processor: HandOSProcessor, engine: str) -> Run:
    """Photos and their cameras -> the hands that `processor.decode` keeps.

    Raises InputError for an engine that is none of `PHOTO_ENGINES` and for a network that cannot be
    exported, MissingExtraError where ONNX Runtime is not installed.
    """
    if engine not in PHOTO_ENGINES:
        known = ", ".join(PHOTO_ENGINES)
        raise InputError(f"engine: whole photos expect one of {known}, found {engine!r}")
    if engine == "best":
        given = isinstance(network.detector, GivenBoxes)
        engine = "onnx" if installed("onnx") and not given else "folded"
    if engine == "onnx":
        return ExportedPhotos(network, processor)
    return _InPytorch(network, processor, folded=engine == "folded")


class _InPytorch:
    def __init__(self, network: Any, processor: HandOSProcessor, *, folded: bool) -> None:
        self._network, self._processor, self._folded = network, processor, folded

    def __call__(self, batch: PhotoBatch, cameras: Sequence[Camera]) -> HandOSPrediction:
        if self._folded:
            self._network, self._folded = fold(self._network, batch), False
        return self._network(batch, lambda chosen: self._processor.thin(chosen, batch, cameras))


class ExportedPhotos:
    """The network in ONNX Runtime, one photo after the other; exported for each size of canvas."""

    def __init__(
        self, network: Any, processor: HandOSProcessor, threads: int | None = None
    ) -> None:
        _check_installed()
        self._network = network
        on_cpu = network.face_pairs.device.type == "cpu"
        core = network if on_cpu else copy.deepcopy(network).cpu()
        self._core = PhotoCore(core, processor.config).eval()
        self._threads = torch.get_num_threads() if threads is None else threads
        self._made: dict[tuple[int, ...], Runner] = {}

    def __call__(self, batch: PhotoBatch, cameras: Sequence[Camera]) -> HandOSPrediction:
        """As `HandOS.forward`, last layers only. Its results are on the CPU."""
        found = [
            self._one(View.of(batch, row, (camera.width, camera.height)))
            for row, camera in enumerate(cameras)
        ]
        counts = torch.tensor([len(one.scores) for one in found])
        image = torch.arange(len(found)).repeat_interleave(counts)
        merged = {
            name: torch.cat([getattr(one, name) for one in found]) for name in Raw.__annotations__
        }
        zero = torch.zeros(())
        return HandOSPrediction(
            image=image,
            target=torch.full_like(image, -1),
            scores=merged["scores"],
            boxes=merged["boxes"],
            joints2d=merged["joints2d"][:, None],
            faces=self._network.hand.faces.cpu(),
            face_pairs=self._network.face_pairs.cpu(),
            anchor=zero,
            drift=zero,
            vertices=merged["vertices"][:, None],
            joints=merged["joints"][:, None],
            translation=merged["translation"][:, None],
            volume=merged["volume"],
        )

    def _one(self, view: View) -> Raw:
        given = {name: value.cpu().contiguous() for name, value in vars(view).items()}
        shape = tuple(view.pixels.shape)
        if shape not in self._made:
            file = _exported(_Flat(self._core), given, list(Raw.__annotations__), (None,) * 4)
            self._made[shape] = in_onnxruntime(file.SerializeToString(), self._threads)
        found = self._made[shape]({name: value.numpy() for name, value in given.items()})
        return Raw(*map(torch.from_numpy, found))


class _Flat(nn.Module):
    def __init__(self, core: PhotoCore) -> None:
        super().__init__()
        self.core = core

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        return tuple(vars(self.core(View(*given))).values())


def export_photo_model(model: LoadedPhotoModel) -> bytes:
    """The method as an ONNX file: `PhotoGraph`, photos of any size and any number of hands.

    Its metadata tell the model's name, what results are, and the faces of right hands (left ones
    have them the other way round). Raises InputError where the network cannot be exported,
    MissingExtraError.
    """
    _check_installed()
    graph = PhotoGraph(model.network, model.processor.config).eval()
    photo = torch.zeros(97, 113, 3, dtype=torch.uint8)  # sizes that nothing else has
    example = {"photo": photo, "intrinsics": torch.eye(3)}
    edges = [torch.export.Dim(name, min=1, max=LARGEST) for name in ("height", "width")]
    file = _exported(graph, example, RESULTS, (dict(enumerate(edges)), None))
    told = {
        "handhold_model": model.name,
        "photo": "(height, width, 3) uint8 RGB, upright",
        "intrinsics": "(3, 3) of the photo, pixels; pixel (0, 0) is the middle of the first",
        "results": " ".join((PhotoGraph.__doc__ or "").split()),
        "faces": json.dumps(model.network.hand.faces.tolist()),
    }
    for key, value in told.items():
        file.metadata_props.add(key=key, value=value)
    return file.SerializeToString()


def _check_installed() -> None:
    if not installed("onnx"):
        raise MissingExtraError(
            "ONNX: needs onnx, onnxscript and onnxruntime: pip install 'handhold[export]'"
        )


def _exported(
    module: nn.Module, example: dict[str, Tensor], results: Sequence[str], free: tuple[Any, ...]
) -> Any:
    """The module as an ONNX model. free: dynamic sizes of each input."""
    try:
        with quiet(), torch.no_grad():
            traced = torch.export.export(module, tuple(example.values()), dynamic_shapes=free)
            program = torch.onnx.export(
                traced,
                input_names=list(example),
                output_names=list(results),
                dynamo=True,
                verbose=False,
                optimize=False,
                opset_version=OPSET,
            )
    except RuntimeError as error:
        reason = str(error).strip().splitlines()
        raise InputError(
            f"export: this detector's graph cannot be exported: {reason[0] if reason else error}"
        ) from error
    if program is None:
        raise InputError("export: PyTorch gave no ONNX model")
    model = program.model_proto
    for part in (*model.graph.node, *model.graph.value_info):
        del part.metadata_props[:]  # where in our source each came from: a third of the file
    return model
