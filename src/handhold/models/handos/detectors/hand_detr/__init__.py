"""The toolkit's own small detector: `HandDetr` frozen, `HandDetrNetwork` to be trained."""

from handhold.models.handos.detectors.hand_detr.frozen import (
    HandDetr,
    load_hand_detr,
    save_hand_detr,
)
from handhold.models.handos.detectors.hand_detr.model import (
    HandDetrConfig,
    HandDetrNetwork,
    HandDetrPrediction,
)

__all__ = [
    "HandDetr",
    "HandDetrConfig",
    "HandDetrNetwork",
    "HandDetrPrediction",
    "load_hand_detr",
    "save_hand_detr",
]
