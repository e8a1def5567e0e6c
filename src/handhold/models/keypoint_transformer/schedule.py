"""What changes while Keypoint Transformer is trained."""

from __future__ import annotations

from typing import Any

from handhold.scene import Batch

LABELLED_EPOCHS = 25  # as in the original on HO-3D


def prepare(network: Any, batch: Batch, epoch: float) -> Batch:
    """Key points come from the labels in the first epochs, then from the predicted maps."""
    network.labelled_keypoints = epoch < LABELLED_EPOCHS
    return batch
