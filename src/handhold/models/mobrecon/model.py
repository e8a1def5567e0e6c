"""MobRecon: "MobRecon: Mobile-Friendly Hand Mesh Reconstruction from Monocular Image" (Chen et al.,
CVPR 2022), read from the top: configuration, network.

A light backbone gives a map and the 2D joints; the map's features at the joints are lifted to a
coarse mesh and grown to the hand's 778 vertices by spiral convolutions. No hand parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from handhold.errors import InputError
from handhold.hand.hierarchy import build_hierarchy
from handhold.hand.model import HandModel
from handhold.hand.regressor import joint_regressor
from handhold.models.nn.dense_stack import UNUSED, DenseStackBackbone, Unused, unused_prefixes
from handhold.models.nn.mesh_decoder import MESH_CONVS, MeshConv, MeshDecoder
from handhold.scene import Batch, Prediction


@dataclass(frozen=True, kw_only=True)
class MobReconConfig:
    """The network's make. Defaults: MobRecon as UniHOPE's authors retrained it.

    input_size: side of the crop. width: channels of the backbone between its stacks.
    joints_width: channels of a stack's result, from which the 2D joints are read. latent_width:
    channels of the map and of the coarsest mesh. mesh_widths: from 98 to 778 vertices.
    mesh_conv: "separable" (the released weights and the paper's figures) or "spiral" (as
    HandBooster's code has it). token_conv: a 1x1 convolution on the map before features are taken
    at the joints; the newest code of the original has it switched off. unused: own blocks of the
    first stack that are never called, as checkpoints do: "squeeze" one of them (UniHOPE,
    HandBooster), "dense" all (HandMesh), "none" the sound choice for training.
    image_range: "unit" feeds 0..1, "symmetric" -1..1 (HandMesh). unit: metres in one unit of the
    network's vertices (HandMesh 0.2). mano_center: joint at the origin of the vertices, None: the
    wrist rests at J0(betas); 0 in HandMesh.
    tips: table of fingertip vertices, see `joint_regressor`; the original's middle tip (445) is a
    neighbour of the one (444) that labels are made with, a small constant bias; "hand" scores with
    the hand model's own. edge_rule: of the up-sampling, see `hierarchy.upsampling`: the original's
    weights depend on where the origin lies, "barycentric" ones do not. mesh: "hand" builds the
    hierarchy from the hand model; "stored" keeps it with the weights (released weights need the
    authors' table).
    The following are ours, for training without the authors' pretrained backbone. init: "official"
    starts the lifting matrix constant (0.01), so that all vertices are alike at first; "kaiming"
    draws it and keeps the last layer small. slope: of the mesh layers for negative values; plain
    ReLUs (0) die easily at high learning rates. template_offsets: the network's vertices are added
    to the hand model's mean shape at rest.
    """

    input_size: int = 128
    width: int = 128
    joints_width: int = 24
    latent_width: int = 256
    mesh_widths: tuple[int, int, int, int] = (256, 128, 64, 32)
    mesh_conv: MeshConv = "separable"
    token_conv: bool = True
    spiral_length: int = 9
    dilation: int = 1
    unused: Unused = "squeeze"
    image_range: Literal["unit", "symmetric"] = "unit"
    unit: float = 1.0
    mano_center: int | None = None
    tips: str = "unihope_helper"
    edge_rule: Literal["official", "barycentric"] = "official"
    mesh: Literal["hand", "stored"] = "hand"
    init: Literal["official", "kaiming"] = "official"
    slope: float = 0.0
    template_offsets: bool = False

    def __post_init__(self) -> None:
        check_mesh_config(self)
        for field, known in (
            ("mesh_conv", MESH_CONVS),
            ("image_range", ("unit", "symmetric")),
        ):
            value = getattr(self, field)
            if value not in known:
                raise InputError(
                    f"MobReconConfig.{field}: expected one of {', '.join(known)}, found {value!r}"
                )
        if self.mano_center is not None and not 0 <= self.mano_center < 21:
            raise InputError(
                f"MobReconConfig.mano_center: expected a joint 0..20, found {self.mano_center}"
            )

    @classmethod
    def handmesh(cls) -> MobReconConfig:
        """The authors' repository: wrist-centred, in units of 0.2 m, images in -1..1."""
        return cls(
            token_conv=False,
            unused="dense",
            image_range="symmetric",
            unit=0.2,
            mano_center=0,
            tips="handmesh",
        )

    @classmethod
    def handbooster(cls) -> MobReconConfig:
        """HandBooster's copy: plain spiral convolutions."""
        return cls(mesh_conv="spiral")

    @classmethod
    def small(cls) -> MobReconConfig:
        """The same structure, a quarter as wide, for processors."""
        return cls(
            width=64,
            latent_width=128,
            mesh_widths=(128, 64, 64, 32),
            unused="none",
            unit=0.1,
            tips="hand",
            edge_rule="barycentric",
            init="kaiming",
            slope=0.1,
            template_offsets=True,
        )


def check_mesh_config(config: Any) -> None:
    """Raise InputError where a field that MobRecon and H2ONet share cannot be used."""
    name = type(config).__name__
    widths = tuple(int(v) for v in config.mesh_widths)
    object.__setattr__(config, "mesh_widths", widths)  # lists come from JSON
    if len(widths) != 4 or min(widths) < 1:
        raise InputError(f"{name}.mesh_widths: expected 4 positive, found {widths}")
    if config.input_size < 64 or config.input_size % 32:
        raise InputError(
            f"{name}.input_size: expected a multiple of 32 from 64, found {config.input_size}"
        )
    if config.width < 8 or config.width % 8:
        raise InputError(f"{name}.width: expected a multiple of 8, found {config.width}")
    for field in ("joints_width", "latent_width", "spiral_length", "dilation"):
        if getattr(config, field) < (2 if field == "joints_width" else 1):
            raise InputError(f"{name}.{field}: too small: {getattr(config, field)}")
    if not config.unit > 0:
        raise InputError(f"{name}.unit: expected a positive number, found {config.unit}")
    if not 0 <= config.slope < 1:
        raise InputError(f"{name}.slope: expected 0 to below 1, found {config.slope}")
    for field, known in (
        ("unused", UNUSED),
        ("edge_rule", ("official", "barycentric")),
        ("mesh", ("hand", "stored")),
        ("init", ("official", "kaiming")),
    ):
        if getattr(config, field) not in known:
            raise InputError(
                f"{name}.{field}: expected one of {', '.join(known)}, "
                f"found {getattr(config, field)!r}"
            )


class MobRecon(nn.Module):
    """The network. hand: the right hand model, None: the free hand of the package."""

    regressor: Tensor
    fits_one_hand = True  # its vertices are those of the hand model that it was trained with

    def __init__(self, config: MobReconConfig | None = None, hand: HandModel | None = None) -> None:
        super().__init__()
        self.config = config = MobReconConfig() if config is None else config
        self.hand = HandModel.free() if hand is None else hand
        self.backbone = build_backbone(config)
        self.decoder = build_decoder(config, self.hand, config.mesh_conv, config.token_conv)
        regressor = torch.from_numpy(joint_regressor(self.hand, config.tips))
        self.register_buffer("regressor", regressor, persistent=False)
        initialise(self, self.decoder, config)

    def forward(self, batch: Batch, capture: dict[str, Tensor] | None = None) -> Prediction:
        """Predict B right hands; needs `image` (B, 3, S, S) of the batch only.

        features: `faces` (F, 3) of the mesh. capture: receives every named activation; there
        `verts`, `joints` are in the network's own unit.
        """
        config = self.config
        check_image(batch, config.input_size)
        image = batch.image * 2 - 1 if config.image_range == "symmetric" else batch.image
        found = self.backbone(image)
        found |= self.decoder(found["latent"], found["joints_img"])
        found["verts"] = found["verts"] + rest_vertices(self.hand, config) / config.unit
        found["joints"] = self.regressor @ found["verts"]
        if capture is not None:
            capture.update(found)
        return Prediction(
            joints=found["joints"] * config.unit,
            vertices=found["verts"] * config.unit,
            joints2d=found["joints_img"].float() * config.input_size,
            features={"faces": self.hand.faces},
        )

    def parameters_without_gradient(self) -> tuple[str, ...]:
        """Prefixes of the parameters that no loss reaches."""
        return tuple(f"backbone.{name}" for name in unused_prefixes(self.config.unused))


# ------------------------------------------------------------- pieces that H2ONet uses as well


def build_backbone(config: Any, *, rotation: bool = False) -> DenseStackBackbone:
    """The backbone of a configuration of MobRecon or H2ONet."""
    return DenseStackBackbone(
        input_size=config.input_size,
        width=config.width,
        joints_width=config.joints_width,
        latent_width=config.latent_width,
        unused=config.unused,
        rotation=rotation,
    )


def build_decoder(config: Any, hand: HandModel, conv: MeshConv, token_conv: bool) -> MeshDecoder:
    """The mesh decoder of a configuration, for the mesh of `hand`."""
    hierarchy = build_hierarchy(
        hand.arrays.v_template,
        hand.arrays.faces,
        spiral_length=config.spiral_length,
        dilation=config.dilation,
        edge_rule=config.edge_rule,
    )
    return MeshDecoder(
        hierarchy,
        latent_width=config.latent_width,
        widths=config.mesh_widths,
        conv=conv,
        token_conv=token_conv,
        slope=config.slope,
        stored=config.mesh == "stored",
    )


def check_image(batch: Batch, size: int) -> None:
    """Raise InputError unless the images have the size the network was built for."""
    if tuple(batch.image.shape[1:]) != (3, size, size):
        raise InputError(
            f"Batch.image: expected (B, 3, {size}, {size}), found {tuple(batch.image.shape)}"
        )


def rest_vertices(hand: HandModel, config: Any) -> Tensor:
    """What the decoder's vertices are added to: (778, 3) metres, or zeros (1, 3)."""
    if not config.template_offsets:
        return hand.template.new_zeros(1, 3)
    center = config.mano_center
    if center is None:
        return hand.template
    rest = hand(hand.template.new_zeros(16, 3), center=center)
    return rest.vertices


def initialise(network: nn.Module, decoder: MeshDecoder, config: Any) -> None:
    """Kaiming's normal weights. (The original starts the backbone from the authors'
    `densestack.pth`, see `official.load_backbone`.)"""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.Conv1d):
            nn.init.normal_(module.weight, std=(2.0 / module.weight[0].numel()) ** 0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    if config.init == "kaiming":
        nn.init.normal_(decoder.lift, std=decoder.lift.shape[1] ** -0.5)
        nn.init.normal_(decoder.head.linear.weight, std=0.001)
