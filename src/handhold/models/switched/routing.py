"""Parting a batch between two networks, and putting their predictions together again."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from handhold.errors import InputError
from handhold.scene import Batch, Prediction

# field (or "features.NAME") -> shape and type of what a prediction holds of one hand
Layout: TypeAlias = dict[str, tuple[tuple[int, ...], torch.dtype]]

OBJECT_FIELDS = ("object_points2d", "object_confidence", "object_class_logits")
_FEATURES = "features."


@dataclass(frozen=True, kw_only=True)
class Routed:
    """What two networks said of the hands of one batch.

    grasp_logits (B, 2): the classifier's. hand_only, hand_object: predictions of n and m hands,
    None for none, in crop pixels of the batch; hand_only_rows (n,), hand_object_rows (m,) int64:
    which hands of the batch these are; every hand is in one of them.
    """

    grasp_logits: Tensor
    hand_only: Prediction | None
    hand_object: Prediction | None
    hand_only_rows: Tensor
    hand_object_rows: Tensor


def rows_of(batch: Batch, rows: Tensor) -> Batch:
    """The hands `rows` (n,) int64 of the batch, with everything that is known of them."""
    chosen: Batch = batch.map(lambda tensor: tensor[rows.to(tensor.device)])
    if not batch.keys:
        return chosen
    return dataclasses.replace(chosen, keys=tuple(batch.keys[i] for i in rows.tolist()))


# ------------------------------------------------------------------------------- crops of one size


def resized(batch: Batch, side: int, antialias: bool = False) -> Batch:
    """The batch with crops of `side` pixels (bilinear), and all that is in crop pixels moved along.

    A pixel keeps its area: x -> (x + 0.5) side / S - 0.5. Control points that are not labelled (all
    zero) stay zero.
    """
    size = int(batch.image.shape[-1])
    if size == side:
        return batch

    def image(value: Tensor) -> Tensor:
        return F.interpolate(
            value, (side, side), mode="bilinear", align_corners=False, antialias=antialias
        )

    def points(value: Tensor) -> Tensor:
        return _moved(value, size, side)

    def corners(value: Tensor) -> Tensor:
        return _moved(value.unflatten(1, (2, 2)), size, side).flatten(1)

    def labelled(value: Tensor) -> Tensor:
        return torch.where((value != 0).any(dim=(1, 2), keepdim=True), points(value), value)

    def projection(value: Tensor) -> Tensor:
        scale = side / size
        shift = (scale - 1) / 2
        change = value.new_tensor([[scale, 0, shift], [0, scale, shift], [0, 0, 1]])
        return change @ value

    rules: dict[str, Any] = {
        "image": image,
        "paired_image": image,
        "hand_box": corners,
        "object_box": corners,
        "joints2d": points,
        "object_points2d": labelled,
        "crop": projection,
        "intrinsics": projection,
    }
    changed = {
        name: rule(getattr(batch, name))
        for name, rule in rules.items()
        if getattr(batch, name) is not None
    }
    return dataclasses.replace(batch, **changed)


def from_size(prediction: Prediction, side: int, size: int) -> Prediction:
    """A prediction for crops of `side` pixels in pixels of crops of `size`; features stay."""
    if side == size:
        return prediction
    changed = {
        name: _moved(getattr(prediction, name), side, size)
        for name in ("joints2d", "object_points2d")
        if getattr(prediction, name) is not None
    }
    return dataclasses.replace(prediction, **changed)


def _moved(points: Tensor, size: int, side: int) -> Tensor:
    """Points (..., 2) in pixels of crops of `size` -> of the same crops at `side`."""
    return (points + 0.5) * (side / size) - 0.5


# ------------------------------------------------------------------------------ two become one


def layout(prediction: Prediction) -> Layout:
    """What the prediction holds of one hand."""
    found: dict[str, Tensor] = {
        item.name: getattr(prediction, item.name)
        for item in dataclasses.fields(prediction)
        if item.name != "features" and getattr(prediction, item.name) is not None
    }
    found |= {_FEATURES + name: value for name, value in prediction.features.items()}
    return {name: (tuple(value.shape[1:]), value.dtype) for name, value in found.items()}


def merge(routed: Routed, hand_only: Layout, hand_object: Layout) -> Prediction:
    """One prediction of all B hands. hand_only, hand_object: what the two networks give a hand,
    whether or not any hand went to them: the same fields come out for every batch.

    - The hand (`joints`, `vertices`, `joints2d`, `rotations`, `betas`): a field that both networks
      give holds every hand's own. A field that one of them lacks is None: half a batch of poses
      must not pass for a whole one (`Routed` has it).
    - The object: from the hand-object network; zeros, so confidence 0, for the other hands. What
      the hand-only network says of objects is not used.
    - `grasp_logits`: the classifier's.
    - `features`: those of the same name, shape and type in both.

    Raises InputError where both give a field in different shapes.
    """
    fields: dict[str, Any] = {"grasp_logits": routed.grasp_logits}
    for name in (item.name for item in dataclasses.fields(Prediction)):
        mine, other = hand_only.get(name), hand_object.get(name)
        if name in OBJECT_FIELDS:
            if other is not None:
                fields[name] = _rows(routed, name, other, with_hand_only=False)
        elif name in fields or mine is None or other is None:
            continue
        elif mine[0] != other[0]:
            raise InputError(
                f"Prediction.{name}: the hand-only network gives {mine[0]} a hand, the hand-object "
                f"network {other[0]}; a pair needs the same of both"
            )
        else:
            fields[name] = _rows(routed, name, (mine[0], torch.promote_types(mine[1], other[1])))
    if "joints" not in fields:
        raise InputError("Prediction.joints: both networks of a pair must give them")
    fields["features"] = {
        name.removeprefix(_FEATURES): _rows(routed, name, told)
        for name, told in hand_object.items()
        if name.startswith(_FEATURES) and hand_only.get(name) == told
    }
    return Prediction(**fields)


def _rows(
    routed: Routed,
    name: str,
    told: tuple[tuple[int, ...], torch.dtype],
    *,
    with_hand_only: bool = True,
) -> Tensor:
    """The field of both predictions at its hands' rows (B, ...), zeros elsewhere."""
    shape, kind = told
    logits = routed.grasp_logits
    result = torch.zeros((len(logits), *shape), dtype=kind, device=logits.device)
    parts = [(routed.hand_object, routed.hand_object_rows)]
    if with_hand_only:
        parts.append((routed.hand_only, routed.hand_only_rows))
    for prediction, rows in parts:
        if prediction is not None:
            result = result.index_copy(0, rows, _value(prediction, name).to(kind))
    return result


def _value(prediction: Prediction, name: str) -> Tensor:
    if name.startswith(_FEATURES):
        return prediction.features[name.removeprefix(_FEATURES)]
    return getattr(prediction, name)
