"""Made-up batches and very small configurations for the tests of the HOPE networks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from handhold.hand.files import FREE_HAND
from handhold.hand.model import HandModel
from handhold.models.hflnet.model import HFLNetConfig
from handhold.models.nn.hope_losses import with_hand_targets
from handhold.models.unihope.model import UniHOPEConfig
from handhold.scene import Batch, Camera, Hand, RigidObject, Sample

TINY = {
    "input_size": 64,
    "block": "basic",
    "stem_kernel": 3,
    "depths": (1, 1, 1, 1),
    "widths": (8, 8, 16, 16),
    "stem_width": 8,
    "pyramid_width": 16,
    "roi_size": 8,
    "sampling_ratio": 0,
    "heads": 2,
    "hourglass_depth": 2,
    "mano_widths": (32, 16),
    "object_classes": 3,
}


@pytest.fixture(scope="session")
def hand() -> HandModel:
    return HandModel.free()


@pytest.fixture(scope="session")
def other_mano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as MANO's with a made-up hand: the free one, a twentieth larger."""
    path = tmp_path_factory.mktemp("other")
    with np.load(FREE_HAND) as archive:
        fields = {name: archive[name] for name in archive.files}
    fields["v_template"] = 1.05 * fields["v_template"]
    np.savez(path / "MANO_RIGHT.npz", **fields)
    return path


@pytest.fixture(scope="session")
def tiny_hflnet() -> HFLNetConfig:
    return dataclasses.replace(HFLNetConfig.small(), **TINY)


@pytest.fixture(scope="session")
def tiny_unihope() -> UniHOPEConfig:
    """The official make, very small."""
    return dataclasses.replace(
        UniHOPEConfig.small(),
        **TINY,
        fusion_gate="official",
        occlusion=True,
        adaptation="official",
        skip_object=False,
        contact=False,
        switch_width=4,
        switch_cells=0,
        adaptation_heads=2,
        adaptation_head_dim=8,
    )


@pytest.fixture(scope="session")
def make_batch(hand: HandModel) -> Callable[..., Batch]:
    """make_batch(config, count): images that tell the hands apart, and all targets. Hand 0 grasps;
    the 2D joints are the 3D ones seen from afar."""

    def make(config: Any, count: int = 2, seed: int = 0) -> Batch:
        draw = torch.Generator().manual_seed(seed)
        size = float(config.input_size)
        coarse = torch.rand(count, 3, 4, 4, generator=draw)
        image = torch.nn.functional.interpolate(coarse, size=int(size), mode="bilinear")
        low = torch.tensor([0.15, 0.1]) * size
        hand_box = torch.cat((low, low + 0.55 * size)).expand(count, 4)
        pose = 0.3 * torch.randn(count, 16, 3, generator=draw)
        betas = 0.5 * torch.randn(count, 10, generator=draw)
        joints = hand(pose, betas, center=9).joints[..., :2]
        spread = joints.abs().amax(dim=(1, 2), keepdim=True)
        joints2d = hand_box[:, None, :2] + (0.85 * joints / spread + 1) / 2 * 0.55 * size
        batch = Batch(
            image=image,
            hand_box=hand_box,
            object_box=hand_box + 0.2 * size,
            intrinsics=torch.eye(3).expand(count, 3, 3),
            pose=pose,
            betas=betas,
            root=torch.tensor([0.0, 0.0, 0.5]).expand(count, 3),
            joints2d=joints2d,
            joints2d_valid=torch.ones(count, 21, dtype=torch.bool),
            has_pose=torch.ones(count, dtype=torch.bool),
            grasping=torch.arange(count) % 2 == 0,
            has_grasping=torch.ones(count, dtype=torch.bool),
            visibility=torch.linspace(0.5, 1.0, count),
            object_points2d=(0.4 + 0.5 * torch.rand(count, 21, 2, generator=draw)) * size,
            object_mask=(torch.rand(count, 32, 32, generator=draw) > 0.3).float(),
            object_class=torch.arange(count) % max(getattr(config, "object_classes", 0), 1),
            paired_image=image.flip(1),
            is_filtered=torch.zeros(count, dtype=torch.bool),
        )
        return with_hand_targets(batch, hand, getattr(config, "mano_center", None))

    return make


@pytest.fixture(scope="session")
def make_items(hand: HandModel) -> Callable[..., list[tuple[Sample, int]]]:
    """make_items(count): labelled photos of 96 x 96 pixels that tell the hands apart, one right
    hand each, for any processor. Every other hand grasps."""

    def make(count: int = 2, seed: int = 0) -> list[tuple[Sample, int]]:
        draw = np.random.default_rng(seed)
        pose = (0.3 * draw.standard_normal((count, 16, 3))).astype(np.float32)
        betas = (0.5 * draw.standard_normal((count, 10))).astype(np.float32)
        posed = hand(torch.from_numpy(pose), torch.from_numpy(betas), center=9)
        intrinsics = np.array([[150.0, 0, 47.5], [0, 150.0, 47.5], [0, 0, 1]])
        camera = Camera(intrinsics=intrinsics, width=96, height=96, source="synthetic")
        shift = np.array([0.0, 0.0, 0.6], np.float32)
        items = []
        for i in range(count):
            coarse = torch.from_numpy(draw.random((1, 3, 4, 4))).float()
            smooth = torch.nn.functional.interpolate(coarse, size=96, mode="bilinear")[0]
            image = (smooth.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
            joints = posed.joints[i].numpy() + shift
            mask = draw.random((96, 96)) < 0.5
            thing = RigidObject(
                name="003_cracker_box",
                rotation=np.eye(3),
                translation=np.array([0.03, 0.02, 0.6]),
                control_points=draw.uniform(-0.04, 0.04, (21, 3)),
                held=i % 2 == 0,
            )
            label = Hand(
                side="right",
                joints2d=camera.project(joints),
                joints2d_valid=np.ones(21, np.bool_),
                joints=joints,
                vertices=posed.vertices[i].numpy() + shift,
                pose=pose[i],
                betas=betas[i],
                grasping=i % 2 == 0,
                visibility=0.5,
            )
            sample = Sample(
                key=f"made/{i}",
                image=image,
                camera=camera,
                hands=(label,),
                object=thing,
                object_mask=mask,
                hand_mask=~mask,
                bare_image=image[::-1].copy(),
            )
            items.append((sample, 0))
        return items

    return make
