"""What the detectors of the package `transformers` share: import, weights, a look inside."""

from __future__ import annotations

import importlib
from abc import abstractmethod
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import nn

from handhold.errors import InputError, MissingExtraError, WeightsError
from handhold.models.handos.detectors.interface import FrozenDetector

# public weights by name whose licence is known; others show what their page says
LICENCES = {
    "IDEA-Research/grounding-dino-tiny": "Apache-2.0",
    "IDEA-Research/grounding-dino-base": "Apache-2.0",
}


def model_class(name: str, detector: str) -> Any:
    """A class of `transformers`, by name. Raises MissingExtraError without the package."""
    try:
        package = importlib.import_module("transformers")
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        raise MissingExtraError(
            f"{detector}: needs transformers: pip install 'handhold[transformers]'"
        ) from error
    return getattr(package, name)


def load_model(kind: Any, weights: str | Path, **changes: Any) -> nn.Module:
    """The model of a local folder, or of a repository's name, with fields of its configuration
    changed.

    Raises WeightsError where there are none, or where weights are missing or left over.
    """
    try:
        model, told = kind.from_pretrained(str(weights), output_loading_info=True, **changes)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()
        raise WeightsError(
            f"{weights}: expected a folder or the name of a repository with weights of "
            f"{kind.__name__}: {reason[0] if reason else type(error).__name__}"
        ) from error
    wrong = [
        f"{what} {', '.join(sorted(map(str, told[key]))[:3])}"
        for key, what in (("missing_keys", "missing"), ("mismatched_keys", "of another shape"))
        if told.get(key)
    ]
    if wrong:
        raise WeightsError(f"{weights}: does not fit {kind.__name__}: {'; '.join(wrong)}")
    return model


def licence_of(weights: str | Path) -> str:
    """The licence of public weights, as far as it is known here."""
    return LICENCES.get(str(weights), "see where the weights come from")


class HubDetector(FrozenDetector):
    """A detector around a model of the package. classes: kind -> name of its class there."""

    classes: ClassVar[dict[str, str]]
    kind: str

    def _begin(self, weights: str | Path | None, config: Any) -> None:
        """Load weights, or build fresh ones for a configuration object of the package."""
        if weights is not None:
            self.load(weights)
        elif config is not None:
            config.disable_custom_kernels = True
            fresh = model_class(self.classes[self.kind], self.kind)(config)
            self._take(fresh, "none", "Apache-2.0")
        else:
            raise InputError(f"{self.kind}: expected weights, or a configuration for fresh ones")

    def load(self, weights: str | Path) -> Self:
        """A local folder, or the name of a repository. Raises WeightsError."""
        kind = model_class(self.classes[self.kind], self.kind)
        model = load_model(kind, weights, disable_custom_kernels=True)
        self._take(model, str(weights), licence_of(weights))
        return self

    @abstractmethod
    def _take(self, model: Any, weights_id: str, licence: str) -> None:
        """Make `model` the detector's, and freeze it."""


@contextmanager
def watched(**modules: nn.Module) -> Generator[dict[str, Any]]:
    """What these modules return while the block runs, by name."""
    seen: dict[str, Any] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            seen[name] = output

        return hook

    hooks = [module.register_forward_hook(note(name)) for name, module in modules.items()]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def backbone_strides(config: Any, levels: int) -> tuple[int, ...]:
    """Strides of `levels` levels: stage i of a Swin, ResNet or HGNet has stride 2 ** (i + 1);
    levels beyond the backbone's maps halve the one before."""
    strides = [2 ** (int(index) + 1) for index in config.backbone_config.out_indices]
    while len(strides) < levels:
        strides.append(2 * strides[-1])
    return tuple(strides)
