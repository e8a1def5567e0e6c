"""handhold: 3D hands, and what they hold, from one RGB image.

The public names are loaded on first use, so that `import handhold` is quick and needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from handhold.hand.model import HandModel
    from handhold.inference.estimator import Estimator
    from handhold.models.loading import load_model
    from handhold.models.registry import list_models

__version__ = "0.1.0"
__all__ = ["Estimator", "HandModel", "__version__", "list_models", "load_model"]

_WHERE = {
    "Estimator": "handhold.inference.estimator",
    "HandModel": "handhold.hand.model",
    "list_models": "handhold.models.registry",
    "load_model": "handhold.models.loading",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'handhold' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)
