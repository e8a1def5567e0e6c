"""H2ONet: "H2ONet: Hand-Occlusion-and-Orientation-Aware Network for Real-Time 3D Hand Mesh
Reconstruction" (Xu et al., CVPR 2023), single frame, read from the top: configuration, network.

MobRecon's way to a mesh, here of the hand without its global rotation, and a branch of its own for
that rotation. (The multi-frame model of the paper was not released.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handhold.errors import InputError
from handhold.geometry.rotation import sixd_to_matrix
from handhold.hand.model import HandModel
from handhold.hand.regressor import joint_regressor
from handhold.models.mobrecon.model import (
    build_backbone,
    build_decoder,
    check_image,
    check_mesh_config,
    initialise,
    rest_vertices,
)
from handhold.models.nn.dense_stack import Unused, unused_prefixes
from handhold.scene import Batch, Prediction


@dataclass(frozen=True, kw_only=True)
class H2ONetConfig:
    """The network's make. Defaults: the authors' single-frame model.

    rotation_widths: channels of the rotation branch: two 1x1 convolutions, two layers on the
    flattened map, three layers after those. detach: the rotation branch and its losses leave the
    rest alone (stop-gradients of the code).
    learn_regressor: the matrix that gives joints of vertices is trained and drifts, as in the code;
    off: it stays the hand model's, which is safer. The other fields: as in `MobReconConfig`.
    """

    input_size: int = 128
    width: int = 128
    joints_width: int = 24
    latent_width: int = 256
    mesh_widths: tuple[int, int, int, int] = (256, 128, 64, 32)
    spiral_length: int = 9
    dilation: int = 1
    unused: Unused = "squeeze"
    rotation_widths: tuple[int, int, int, int, int, int, int] = (
        512, 256, 2048, 1024, 1024, 512, 256,
    )  # fmt: skip
    detach: bool = True
    learn_regressor: bool = True
    unit: float = 1.0
    tips: str = "unihope_helper"
    edge_rule: Literal["official", "barycentric"] = "official"
    mesh: Literal["hand", "stored"] = "hand"
    init: Literal["official", "kaiming"] = "official"
    slope: float = 0.0
    template_offsets: bool = False
    mano_center: ClassVar[None] = None  # the wrist rests at J0(betas)

    def __post_init__(self) -> None:
        check_mesh_config(self)
        widths = tuple(int(v) for v in self.rotation_widths)
        object.__setattr__(self, "rotation_widths", widths)  # lists come from JSON
        if len(widths) != 7 or min(widths) < 1:
            raise InputError(f"H2ONetConfig.rotation_widths: expected 7 positive, found {widths}")

    @classmethod
    def small(cls) -> H2ONetConfig:
        """The same structure, about a quarter as wide, for processors."""
        return cls(
            width=64,
            latent_width=128,
            mesh_widths=(128, 64, 64, 32),
            unused="none",
            rotation_widths=(128, 64, 512, 256, 256, 128, 64),
            learn_regressor=False,
            unit=0.1,
            tips="hand",
            edge_rule="barycentric",
            init="kaiming",
            slope=0.1,
            template_offsets=True,
        )


class RotationHead(nn.Module):
    """Global rotation of a map: convolutions over cells, then linear layers over all of them."""

    def __init__(
        self, channels: int, cells: int, widths: tuple[int, ...], slope: float = 0.0
    ) -> None:
        super().__init__()
        self.slope = slope  # of the activations for negative values, 0: ReLU
        conv1, conv2, flat1, flat2, out1, out2, out3 = widths
        self.convs = nn.ModuleList((nn.Conv1d(channels, conv1, 1), nn.Conv1d(conv1, conv2, 1)))
        self.flats = nn.ModuleList((nn.Linear(conv2 * cells, flat1), nn.Linear(flat1, flat2)))
        self.outs = nn.ModuleList(
            (nn.Linear(flat2, out1), nn.Linear(out1, out2), nn.Linear(out2, out3))
        )
        self.last = nn.Linear(out3, 6)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, C, R, R) -> glob_rot_6d (B, 6), glob_rot_mat (B, 3, 3) in float32, and between:
        rot_conv (B, C', R * R), rot_pre (B, C'')."""
        y = x.flatten(2)
        for conv in self.convs:
            y = F.leaky_relu(conv(y), self.slope)
        pre = y.flatten(1)
        for layer in self.flats:
            pre = F.leaky_relu(layer(pre), self.slope)
        z = pre
        for layer in self.outs:
            z = F.leaky_relu(layer(z), self.slope)
        sixd = self.last(z).float()
        return {
            "rot_conv": y,
            "rot_pre": pre,
            "glob_rot_6d": sixd,
            "glob_rot_mat": rows_to_matrix(sixd),
        }


def rows_to_matrix(sixd: Tensor) -> Tensor:
    """Six numbers (..., 6) -> (..., 3, 3) whose first two ROWS they become after Gram-Schmidt.

    `sixd_to_matrix` of this package, and other methods, take them for columns."""
    # two zero vectors have no direction; NaN would poison the whole batch
    return torch.nan_to_num(sixd_to_matrix(sixd)).transpose(-1, -2)


class H2ONet(nn.Module):
    """The network. hand: the right hand model, None: the free hand of the package."""

    regressor: Tensor
    fits_one_hand = True  # its vertices are those of the hand model that it was trained with

    def __init__(self, config: H2ONetConfig | None = None, hand: HandModel | None = None) -> None:
        super().__init__()
        self.config = config = H2ONetConfig() if config is None else config
        self.hand = HandModel.free() if hand is None else hand
        self.backbone = build_backbone(config, rotation=True)
        self.decoder = build_decoder(config, self.hand, "spiral", token_conv=True)
        cells = (config.input_size // 32) ** 2
        self.rotation = RotationHead(8 * config.width, cells, config.rotation_widths, config.slope)
        regressor = torch.from_numpy(joint_regressor(self.hand, config.tips))
        if config.learn_regressor:
            self.regressor = nn.Parameter(regressor)
        else:
            self.register_buffer("regressor", regressor, persistent=False)
        initialise(self, self.decoder, config)
        self.restart_rotation()

    def restart_rotation(self) -> None:
        """Fresh weights for the rotation branch, as at the start of the second training stage."""
        for module in self.rotation.modules():
            if isinstance(module, nn.Linear | nn.Conv1d):
                nn.init.kaiming_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, batch: Batch, capture: dict[str, Tensor] | None = None) -> Prediction:
        """Predict B right hands; needs `image` (B, 3, S, S) of the batch only.

        features: `faces` (F, 3) of the mesh; `canonical_vertices` (B, 778, 3) and
        `canonical_joints` (B, 21, 3), metres, without global rotation; `rotation` (B, 3, 3).
        capture: receives every named activation.
        """
        check_image(batch, self.config.input_size)
        found = self.backbone(batch.image)
        found |= self.decoder(found["latent"], found["joints_img"])
        vertices = found["verts"] * self.config.unit + rest_vertices(self.hand, self.config)
        joints = self.regressor @ vertices

        shape_map, rotation_map = found["dense_stack2_mid"], found["dense_stack3_mid"]
        still = shape_map.detach() if self.config.detach else shape_map
        found |= self.rotation(still + rotation_map)
        # the added root keeps its gradient in the released code
        root, turn = joints[:, :1], found["glob_rot_mat"].transpose(-1, -2)
        stop = torch.Tensor.detach if self.config.detach else (lambda tensor: tensor)
        turned_vertices = stop(vertices - root) @ turn + root
        turned_joints = stop(joints - root) @ turn + root

        if capture is not None:
            capture.update(found)
            capture.update(verts_wo_gr=vertices, joints_wo_gr=joints)
            capture.update(verts_w_gr=turned_vertices, joints_w_gr=turned_joints)
        return Prediction(
            joints=turned_joints,
            vertices=turned_vertices,
            joints2d=found["joints_img"].float() * self.config.input_size,
            features={
                "faces": self.hand.faces,
                "canonical_vertices": vertices,
                "canonical_joints": joints,
                "rotation": found["glob_rot_mat"],
            },
        )

    def parameters_without_gradient(self) -> tuple[str, ...]:
        """Prefixes of the parameters that no loss reaches."""
        return tuple(f"backbone.{name}" for name in unused_prefixes(self.config.unused))
