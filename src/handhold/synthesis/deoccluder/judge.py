"""How well a network of the house finds the labelled hand in each candidate picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from handhold.errors import InputError
from handhold.geometry.alignment import procrustes
from handhold.models.entry import LoadedModel
from handhold.models.registry import entry
from handhold.scene import Sample


@dataclasses.dataclass(frozen=True, kw_only=True)
class Errors:
    """Means over a hand in mm: joints and vertices with wrists put together, and after the
    similarity that fits best (None where the network gives no vertices)."""

    mpjpe: float
    pa_mpjpe: float
    mpvpe: float | None = None
    pa_mpvpe: float | None = None

    @property
    def score(self) -> float:
        """Their sum, by which pairs are dropped."""
        return sum(x for x in dataclasses.astuple(self) if x is not None)

    def rounded(self) -> dict[str, float]:
        """By name, to a thousandth of a mm."""
        told = dataclasses.asdict(self)
        return {name: round(value, 3) for name, value in told.items() if value is not None}


class Judge:
    """Measures the hand in pictures with a network that stays as it is. loaded: of `load_model`."""

    def __init__(self, loaded: LoadedModel, device: str = "cpu") -> None:
        self.network: Any = loaded.network.eval().to(device)
        self.processor: Any = loaded.processor
        self.targets = entry(loaded.name).targets
        self.device = device

    @torch.no_grad()
    def __call__(
        self, sample: Sample, number: int, images: Sequence[NDArray[np.uint8]]
    ) -> list[Errors]:
        """The errors of hand `number` of a sample in other images (H, W, 3) of the same frame.

        Raises InputError where the sample's hand has no pose to compare with.
        """
        items = [(dataclasses.replace(sample, image=image), number) for image in images]
        batch = self.processor.encode(items).to(self.device)
        batch = self.targets(self.network, batch)
        if batch.joints is None or batch.has_pose is None or not bool(batch.has_pose.all()):
            raise InputError(
                f"{sample.key}: its hand has no pose that a network can be measured by"
            )
        found = self.network(batch)
        joints, truth = _mm(found.joints), _mm(batch.joints)
        told = [_means(joints, truth, joints, truth)]
        if found.vertices is not None and batch.vertices is not None:
            told.append(_means(_mm(found.vertices), _mm(batch.vertices), joints, truth))
        names = ("mpjpe", "pa_mpjpe", "mpvpe", "pa_mpvpe")
        rows = np.stack([column for pair in told for column in pair], 1)
        return [Errors(**dict(zip(names, map(float, row), strict=False))) for row in rows]


def best(candidates: Sequence[Errors]) -> int:
    """The number of the candidate with the lowest J-PE (`mpjpe`), the first of equals."""
    return int(np.argmin([errors.mpjpe for errors in candidates]))


def _mm(points: torch.Tensor) -> NDArray[np.float64]:
    return points.detach().cpu().double().numpy() * 1000


def _means(
    found: NDArray[Any], truth: NDArray[Any], joints: NDArray[Any], true_joints: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Mean error (B,) of points relative to the wrist, and after their own best similarity."""
    plain = (found - joints[:, :1]) - (truth - true_joints[:, :1])
    aligned = procrustes(found, truth).aligned - truth
    return (np.linalg.norm(plain, axis=-1).mean(-1), np.linalg.norm(aligned, axis=-1).mean(-1))
