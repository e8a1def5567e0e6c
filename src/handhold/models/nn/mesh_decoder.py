"""From a feature map to a hand's mesh: features at the 2D joints, lifted to the coarsest mesh, then
spiral convolutions from coarse to fine (MobRecon: Chen et al., CVPR 2022, sections 3.2 and 3.3)."""

from __future__ import annotations

import itertools
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from handhold.hand.hierarchy import MeshHierarchy

JOINTS = 21
MESH_CONVS = ("separable", "spiral")
MeshConv = Literal["separable", "spiral"]


class SpiralConv(nn.Module):
    """One linear layer on the concatenated features of a vertex's spiral (SpiralNet++)."""

    def __init__(self, channels_in: int, channels: int, length: int) -> None:
        super().__init__()
        self.linear = nn.Linear(length * channels_in, channels)

    def forward(self, x: Tensor, spiral: Tensor) -> Tensor:
        """Features (B, V, C), spirals (V, L) -> (B, V, C')."""
        return self.linear(gather(x, spiral).flatten(2))


class SeparableSpiralConv(nn.Module):
    """Depth-separable: each channel's weighted sum over the spiral, then a linear layer."""

    def __init__(self, channels_in: int, channels: int, length: int) -> None:
        super().__init__()
        self.spatial = nn.Parameter(torch.zeros(channels_in, length))
        self.linear = nn.Linear(channels_in, channels, bias=False)
        nn.init.uniform_(self.spatial, -(length**-0.5), length**-0.5)

    def forward(self, x: Tensor, spiral: Tensor) -> Tensor:
        """Features (B, V, C), spirals (V, L) -> (B, V, C')."""
        return self.linear((gather(x, spiral) * self.spatial.t()).sum(2))


def gather(x: Tensor, places: Tensor) -> Tensor:
    """x (B, V, C) at vertices (V', L) -> (B, V', L, C)."""
    return x.index_select(1, places.flatten()).unflatten(1, tuple(places.shape))


def sample(latent: Tensor, joints2d: Tensor) -> Tensor:
    """Bilinear features (B, 21, C) of a map (B, C, R, R) at joints (B, 21, 2), shares of the crop.

    0 and 1 are the centres of the outermost cells; joints outside take the nearest place inside.
    """
    grid = ((joints2d - 0.5) * 2).clamp(-1.0, 1.0)[:, :, None].to(latent.dtype)
    found = F.grid_sample(latent, grid, mode="bilinear", align_corners=True)
    return found[..., 0].transpose(1, 2)


class MeshDecoder(nn.Module):
    """The mesh from a map and the 2D joints.

    hierarchy: of the hand. latent_width: channels of the map. widths: channels from the second
    coarsest mesh to the finest. conv: kind of mesh convolution. token_conv: a 1x1 convolution on
    the map first. slope: of the activations for negative values, 0: ReLU. stored: keep the
    hierarchy's numbers in the state, else they are constants.
    """

    def __init__(
        self,
        hierarchy: MeshHierarchy,
        *,
        latent_width: int = 256,
        widths: tuple[int, ...] = (256, 128, 64, 32),
        conv: MeshConv = "separable",
        token_conv: bool = True,
        slope: float = 0.0,
        stored: bool = False,
    ) -> None:
        super().__init__()
        self.slope = slope
        kind = SpiralConv if conv == "spiral" else SeparableSpiralConv
        length = hierarchy.spirals[0].shape[1]
        self.token_conv = (
            nn.Conv2d(latent_width, latent_width, 1, bias=False) if token_conv else None
        )
        self.lift = nn.Parameter(torch.full((hierarchy.sizes[-1], JOINTS), 0.01))
        channels = (latent_width, *widths)
        self.layers = nn.ModuleList(kind(a, b, length) for a, b in itertools.pairwise(channels))
        self.head = kind(widths[-1], 3, length)
        for name, value in hierarchy_tables(hierarchy).items():
            self.register_buffer(name, value, persistent=stored)

    def forward(self, latent: Tensor, joints2d: Tensor) -> dict[str, Tensor]:
        """Map (B, C, R, R), 2D joints (B, 21, 2) as shares of the crop -> verts (B, 778, 3) in
        float32 and the features between."""
        result: dict[str, Tensor] = {}
        if self.token_conv is not None:
            latent = result["de_layer_conv"] = self.token_conv(latent)
        x = result["lifted"] = self.lift @ sample(latent, joints2d)
        finest = len(self.layers) - 1
        for step, layer in enumerate(self.layers):
            level = finest - step
            weights = self.get_buffer(f"up_weights_{level}").to(x.dtype)
            x = (gather(x, self.get_buffer(f"up_columns_{level}")) * weights[..., None]).sum(2)
            x = F.leaky_relu(layer(x, self.get_buffer(f"spirals_{level}")), self.slope)
            result[f"de_layer_{step}"] = x
        result["verts"] = self.head(x, self.get_buffer("spirals_0")).float()
        return result


def hierarchy_tables(hierarchy: MeshHierarchy) -> dict[str, Tensor]:
    """The constants of a `MeshDecoder` by name: up_columns_i, up_weights_i, spirals_i."""
    tables: dict[str, Tensor] = {}
    levels = zip(hierarchy.columns, hierarchy.weights, hierarchy.spirals, strict=True)
    for level, (columns, weights, spirals) in enumerate(levels):
        tables[f"up_columns_{level}"] = torch.from_numpy(columns.copy())
        tables[f"up_weights_{level}"] = torch.from_numpy(weights.copy()).float()
        tables[f"spirals_{level}"] = torch.from_numpy(spirals.copy())
    return tables
