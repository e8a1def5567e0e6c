"""Pose, shape and place of the hand model for what a network says, also for networks that put out
points alone."""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from handhold.geometry.rotation import axis_angle_to_matrix
from handhold.hand.model import HandModel
from handhold.scene import Prediction

if TYPE_CHECKING:
    from handhold.hand.inverse_kinematics import InverseKinematics


class HandParameters:
    """hand: the right hand model of the network (copied; it may move to another device)."""

    def __init__(self, hand: HandModel) -> None:
        self._hand = copy.deepcopy(hand).cpu()
        self._fitter: InverseKinematics | None = None

    def complete(self, prediction: Prediction) -> tuple[Prediction, Tensor, Tensor]:
        """The prediction (on the CPU) with `rotations` and `betas`, fitted to its vertices (else
        its joints) where it has none; where the model's wrist is in the prediction's frame, and
        where it rests in the model's own, both (B, 3) metres.
        """
        rotations, betas = prediction.rotations, prediction.betas
        if rotations is not None and betas is not None:
            rest = self._hand.rest_joints(betas.detach().float())[:, 0]
            return prediction, prediction.joints[:, 0].detach(), rest
        if self._fitter is None:  # only networks without pose need it
            from handhold.hand.inverse_kinematics import InverseKinematics

            self._fitter = InverseKinematics(self._hand)
        with torch.no_grad():
            if prediction.vertices is not None:
                found = self._fitter(prediction.vertices.float())
            else:
                found = self._fitter(joints=prediction.joints.float())
            rest = self._hand.rest_joints(found.betas)[:, 0]
            complete = dataclasses.replace(
                prediction, rotations=axis_angle_to_matrix(found.pose), betas=found.betas
            )
        return complete, found.translation + rest, rest
