"""A small method for tests of the loop: where in the picture is the wrist?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from handhold.scene import Batch, Camera, Hand, Sample
from handhold.synthesis.shards import write_shards
from handhold.training.config import TrainConfig
from handhold.training.tasks import Items, Measures, Task

SIZE = 16


def make_sample(number: int) -> Sample:
    """A bright dot on a dark picture; the wrist is at the dot."""
    rng = np.random.default_rng([11, number])
    image = rng.integers(0, 40, (SIZE, SIZE, 3), dtype=np.uint8)
    spot = rng.integers(2, SIZE - 2, 2)
    image[spot[1] - 1 : spot[1] + 2, spot[0] - 1 : spot[0] + 2] = 255
    joints = np.repeat(spot[None].astype(np.float32), 21, axis=0)
    camera = Camera(intrinsics=np.eye(3), width=SIZE, height=SIZE, source="synthetic")
    hand = Hand(side="right", joints2d=joints, joints2d_valid=np.ones(21, np.bool_))
    return Sample(key=f"dot{number}", image=image, camera=camera, hands=(hand,))


def make_folder(folder: Path, count: int = 60, first: int = 0) -> Path:
    """Shards of such samples."""
    write_shards((make_sample(first + i) for i in range(count)), folder, shard_size=32)
    return folder


class DotNetwork(nn.Module):
    """Convolution, batch norm, dropout, linear: everything that must survive a resume."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.1)
        self.linear = nn.Linear(8 * (SIZE // 2) ** 2, 2)
        self.register_buffer("scale", torch.tensor(float(SIZE)), persistent=False)
        self.scale: Tensor

    def forward(self, batch: Batch) -> Tensor:
        x = self.drop(self.norm(self.conv(batch.image)).relu())
        return self.linear(x.flatten(1)) * self.scale


def encode(items: Items, rng: np.random.Generator | None) -> Batch:
    """Pictures with augmented brightness."""
    images = np.stack([sample.image for sample, _ in items]).astype(np.float32) / 255
    if rng is not None:
        images *= rng.uniform(0.7, 1.3, (len(items), 1, 1, 1)).astype(np.float32)
    wrists = [sample.hands[hand].joints2d for sample, hand in items]
    boxes = torch.zeros(len(items), 4)
    return Batch(
        image=torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
        hand_box=boxes,
        object_box=boxes,
        joints2d=torch.from_numpy(np.stack(wrists)),  # type: ignore[arg-type]
        keys=tuple(sample.key for sample, _ in items),
    )


def losses(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Squared distance in pixels."""
    assert batch.joints2d is not None
    wrist = ((network(batch).float() - batch.joints2d[:, 0]) ** 2).mean()
    return {"wrist": wrist, "total": wrist}


def measures(network: nn.Module, batch: Batch) -> Measures:
    """Mean distance in pixels."""
    assert batch.joints2d is not None
    error = (network(batch).float() - batch.joints2d[:, 0]).norm(dim=-1)
    return {"wrist_px": (float(error.sum()), float(len(error)))}


def save(path: Path, network: nn.Module, extra: dict[str, str]) -> None:
    """Weights and what belongs to them."""
    from safetensors.torch import save_file

    save_file(network.state_dict(), str(path), metadata=extra)


def stub_task(config: TrainConfig, **changes: Any) -> Task:
    """The method as a Task."""
    parts: dict[str, Any] = {
        "name": "dot",
        "network": DotNetwork(),
        "encode": encode,
        "losses": losses,
        "measures": measures,
        "save": save,
    }
    return Task(**(parts | changes))
