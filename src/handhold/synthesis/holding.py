"""Hands that hold an object, found by closing the fingers on its distance field, and near misses.

An object is put between thumb and fingers (or into the palm), then each digit closes until it
touches: first all its joints together, then only those beyond the part that touches. Everything is
in the frame of a right hand model without global rotation; poses have a zero root.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from handhold.geometry.signed_distance import GridDistance
from handhold.hand.anatomy import LIMITS, pose_from_angles
from handhold.hand.model import HandModel
from handhold.objects.mesh import ObjectMesh
from handhold.synthesis.grips import (
    DIGITS,
    FIRST_JOINT,
    GRIPS,
    Grip,
    HandParts,
    HoldConfig,
    HoldResult,
    checked_shape,
    parts_of,
    sites_of,
)
from handhold.synthesis.near import near_miss

Array: TypeAlias = NDArray[Any]
Rng: TypeAlias = np.random.Generator


def hold(
    hand: HandModel,
    betas: Array,
    mesh: ObjectMesh,
    distance: GridDistance,
    rng: np.random.Generator,
    config: HoldConfig | None = None,
) -> HoldResult | None:
    """A random hold of an object by a right hand of shape `betas` (10,), or None after all tries.

    distance: of the object's own surface. The result touches with the thumb and a finger on
    opposite sides, or with the palm and two fingers, and nowhere enters deeper than
    `config.max_penetration`, measured exactly. Raises InputError for left hands and wrong betas.
    """
    config = config or HoldConfig()
    shape = checked_shape(hand, betas)
    del mesh  # the distance knows the surface
    search = _Search(parts_of(hand), shape, distance, rng, config)
    for _ in range(config.tries):
        found = search.attempt()
        if found is not None:
            return found
    return None


def close_a_grip(
    hand: HandModel,
    betas: Array,
    distance: GridDistance,
    rng: np.random.Generator,
    config: HoldConfig | None = None,
) -> HoldResult | None:
    """One grip of `hold`, closed but not judged, or None where no placement was free.

    The result may enter the object, cross fingers or hold nothing; its contacts are not filled.
    """
    config = config or HoldConfig()
    search = _Search(parts_of(hand), checked_shape(hand, betas), distance, rng, config)
    closed = search.closed()
    if closed is None:
        return None
    grip, angles, rotation, translation = closed
    pose = pose_from_angles(angles, search.parts.frames)
    return HoldResult(pose=pose, rotation=rotation, translation=translation, kind=grip.name)


class _Search:
    """The state of one call of `hold`."""

    def __init__(
        self, parts: HandParts, betas: Array, distance: GridDistance, rng: Rng, config: HoldConfig
    ) -> None:
        self.parts, self.betas, self.distance = parts, betas, distance
        self.rng, self.config = rng, config
        self.sites = sites_of(distance)
        self.coarse = np.arange(0, 778, 4)
        self.coarse_palm = parts.palm[::2]

    def attempt(self) -> HoldResult | None:
        closed = self.closed()
        return None if closed is None else self._judge(*closed)

    def closed(self) -> tuple[Grip, Array, Array, Array] | None:
        """Grip, angles, rotation and translation after closing; None where nothing fits."""
        grip = self._choose_grip()
        if grip is None:
            return None
        start, stop = self._vary(grip)
        placed = self._place(grip, start, stop)
        if placed is None:
            return None
        rotation, translation = placed
        angles = self._close(grip, start, stop, rotation, translation)
        translation = self._ease(angles, rotation, translation)
        return grip, self._settle(angles, rotation, translation), rotation, translation

    def _choose_grip(self) -> Grip | None:
        thin = np.sort(self.distance.high - self.distance.low)
        weights = []
        for grip in GRIPS:
            fits = (self.sites.width <= grip.widest) & (self.sites.width >= grip.thinnest)
            share = float(self.sites.weight[fits].sum())
            if grip.name == "platform":
                share = 0.12 if thin[0] < 0.1 else 0.0
            elif grip.palm:
                share *= 2.5 if grip.name == "wrap" else 0.5
                share *= 1.0 if thin[2] > 0.05 else 0.3
            weights.append(share * (1.0 if grip.widest > 0.06 else 0.5))
        total = sum(weights)
        if total <= 0:
            return None
        return GRIPS[int(self.rng.choice(len(GRIPS), p=np.asarray(weights) / total))]

    def _vary(self, grip: Grip) -> tuple[Array, Array]:
        """The grip's angles with a little of one's own."""
        noise = np.zeros((15, 3))
        noise[:, 0] = self.rng.normal(0, 3, 15)
        noise[::3, 1] = self.rng.normal(0, 2.5, 5)
        noise[12] = self.rng.normal(0, (3, 4, 4))
        low, high = LIMITS[..., 0], LIMITS[..., 1]
        return np.clip(grip.start + noise, low, high), np.clip(grip.stop + noise, low, high)

    def _pose(self, angles: Array) -> Array:
        return self.parts.vertices(pose_from_angles(angles, self.parts.frames), self.betas)

    # ------------------------------------------------------------------------------- placing

    def _place(self, grip: Grip, start: Array, stop: Array) -> tuple[Array, Array] | None:
        """Rotation and translation of the object before the open hand, or None."""
        count = self.config.candidates
        opened = self._pose(start).astype(np.float64)
        if grip.name == "platform":
            rotations, targets, centres = self._flat_on_palm(opened, count)
        else:
            rotations, targets, centres = self._between_digits(grip, start, stop, count)
        if not len(rotations):
            return None
        rotated = np.einsum("nij,nj->ni", rotations, centres)
        away = np.broadcast_to(self.parts.palm_direction, targets.shape)
        shift = targets - rotated
        if grip.palm:
            # from far in front of the palm towards it, until something touches
            shift = shift + 0.10 * away
            travel = self._approach(rotations, shift, -away, opened, 0.22)
            shift = shift - travel[:, None] * away
        free = self._distances(rotations, shift, opened[self.coarse])
        palm = self._distances(rotations, shift, opened[self.coarse_palm])
        clear = free.min(axis=1) > -0.0008
        score = self.rng.normal(0, 0.6, len(clear))
        if grip.palm:
            score += 4.0 * np.exp(-np.maximum(palm.min(axis=1), 0) / 0.004)
            score += 3.0 * (palm < 0.008).mean(axis=1) / 0.3
            score -= np.linalg.norm(shift + rotated - targets, axis=1) / 0.03
        else:
            score += 1.5 * (palm.min(axis=1) > 0.015)
        score[~clear] = -np.inf
        best = int(np.argmax(score))
        if not np.isfinite(score[best]):
            return None
        return rotations[best], shift[best]

    def _between_digits(
        self, grip: Grip, start: Array, stop: Array, count: int
    ) -> tuple[Array, Array, Array]:
        """An opposite pair of the object goes between thumb and fingers."""
        sites, rng = self.sites, self.rng
        fits = (sites.width <= grip.widest) & (sites.width >= grip.thinnest)
        if not fits.any():
            return np.zeros((0, 3, 3)), np.zeros((0, 3)), np.zeros((0, 3))
        weight = np.where(fits, sites.weight, 0.0)
        weight = weight * (sites.width + 0.01) if grip.palm else weight
        chosen = rng.choice(len(weight), size=count, p=weight / weight.sum())
        # where thumb and fingers are this far apart while closing
        share = np.linspace(0.0, 1.0, 9)
        stages = self._pose(start + share[:, None, None] * (stop - start)).astype(np.float64)
        tips = stages[:, self.parts.tips]
        thumb = tips[:, 0]
        fingers = tips[:, [1, 2]].mean(axis=1) if len(grip.active) > 2 else tips[:, 1]
        gap = np.linalg.norm(fingers - thumb, axis=1)
        needed = sites.width[chosen] + (0.004 if grip.palm else 0.010)
        stage = np.argmin(np.abs(gap[None] - needed[:, None]), axis=1)
        across = (fingers - thumb)[stage]
        across /= np.linalg.norm(across, axis=1, keepdims=True)
        targets = (fingers + thumb)[stage] / 2.0
        out = np.broadcast_to(self.parts.palm_direction, across.shape)
        side = np.cross(across, out)
        side /= np.linalg.norm(side, axis=1, keepdims=True)
        hand_frame = np.stack([across, np.cross(side, across), side], axis=-1)
        axis = sites.axis[chosen] * rng.choice([-1.0, 1.0], count)[:, None]
        helper = rng.normal(size=(count, 3))
        second = np.cross(axis, helper)
        second /= np.linalg.norm(second, axis=1, keepdims=True)
        if grip.palm:  # the object's long side runs along the knuckles, tilted somewhat
            second = self._long_side(axis, sites.centre[chosen], second)
            roll = rng.normal(0, 18, count) + rng.choice([0.0, 180.0], count)
        else:
            roll = np.zeros(count)  # `second` is random already
        object_frame = np.stack([axis, np.cross(second, axis), second], axis=-1)
        tilt = Rotation.from_euler(
            "xyz",
            np.stack([roll, rng.normal(0, 6, count), rng.normal(0, 6, count)], -1),
            degrees=True,
        ).as_matrix()
        rotations = hand_frame @ tilt @ object_frame.transpose(0, 2, 1)
        slide = rng.normal(0, 0.008, (count, 1)) * second if grip.palm else 0.0
        return rotations, targets, sites.centre[chosen] + slide

    def _long_side(self, axis: Array, centre: Array, fallback: Array) -> Array:
        """Across each axis, the direction in which the object reaches farthest about the centre."""
        turn = np.linspace(0, np.pi, 8, endpoint=False)
        other = np.cross(axis, fallback)
        directions = (
            np.cos(turn)[:, None, None] * fallback + np.sin(turn)[:, None, None] * other
        )  # (8, N, 3)
        reach = np.array([-0.05, -0.035, -0.02, 0.02, 0.035, 0.05])
        points = centre + reach[:, None, None, None] * directions
        inside = self.distance.distance(points)
        # deeper inside counts more; ties (round things) are broken at random
        value = np.clip(-inside, -0.02, 0.005).sum(axis=0)
        value = value + self.rng.normal(0, 0.002, value.shape)
        best = np.argmax(value, axis=0)
        return directions[best, np.arange(len(axis))]

    def _flat_on_palm(self, opened: Array, count: int) -> tuple[Array, Array, Array]:
        """A broad side of the object lies on palm and fingers."""
        rng = self.rng
        extent = self.distance.high - self.distance.low
        up = np.zeros((count, 3))
        order = np.argsort(extent)
        thin = np.where(rng.uniform(size=count) < 0.75, order[0], order[1])
        up[np.arange(count), thin] = rng.choice([-1.0, 1.0], count)
        helper = rng.normal(size=(count, 3))
        second = np.cross(up, helper)
        second /= np.linalg.norm(second, axis=1, keepdims=True)
        object_frame = np.stack([up, second, np.cross(up, second)], axis=-1)
        normal = self.parts.palm_direction
        forward = self.parts.forward
        hand_frame = np.stack([normal, forward, np.cross(normal, forward)], axis=-1)
        tilt = Rotation.from_euler("xyz", rng.normal(0, 5, (count, 3)), degrees=True).as_matrix()
        rotations = hand_frame @ tilt @ object_frame.transpose(0, 2, 1)
        middle = opened[self.parts.palm].mean(axis=0) + forward * rng.normal(
            0.025, 0.012, (count, 1)
        )
        targets = middle + normal * (extent[thin][:, None] / 2 + 0.01)
        centre = np.broadcast_to((self.distance.low + self.distance.high) / 2, targets.shape)
        return rotations, targets, centre

    def _distances(self, rotations: Array, shifts: Array, points: Array) -> Array:
        """Distances (N, P) of hand points (P, 3) or (N, P, 3) to N placements of the object."""
        local = np.einsum("npi,nij->npj", points - shifts[:, None], rotations)
        return self.distance.distance(local)

    def _approach(
        self, rotations: Array, shifts: Array, direction: Array, opened: Array, limit: float
    ) -> Array:
        """How far (N,) the object can move along unit directions before the hand stops it."""
        points = opened[self.coarse]
        travel = np.zeros(len(rotations))
        for _ in range(9):
            at = shifts + travel[:, None] * direction
            travel = travel + 0.9 * self._distances(rotations, at, points).min(axis=1)
        return np.minimum(travel, limit)

    # ------------------------------------------------------------------------------- closing

    def _close(
        self, grip: Grip, start: Array, stop: Array, rotation: Array, translation: Array
    ) -> Array:
        """Angles (15, 3) after closing every digit in up to three stages."""
        angles = start.copy()
        steps = np.linspace(0.0, 1.0, 11)
        from_joint = {}
        limit = {}
        for digit in DIGITS:
            from_joint[digit] = 0
            idle = digit not in grip.active
            limit[digit] = self.rng.uniform(0.0, 0.5) if idle else 1.0
        for _ in range(3):
            goal = angles.copy()
            for digit in DIGITS:
                rows = slice(FIRST_JOINT[digit] - 1 + from_joint[digit], FIRST_JOINT[digit] + 2)
                full = start[rows] + limit[digit] * (stop[rows] - start[rows])
                goal[rows] = np.where(np.abs(full - start[rows]) > 0, full, angles[rows])
            if np.abs(goal - angles).max() < 0.5:
                break
            sweep = angles + steps[:, None, None] * (goal - angles)
            poses = pose_from_angles(sweep, self.parts.frames)
            vertices = self.parts.vertices(poses, self.betas)
            depth = self._segment_depth(vertices, rotation, translation)
            overlap = self.parts.capsules.penetration(poses)
            allowed = max(0.6 * self.config.max_self_penetration, float(overlap[0]))
            crossing = np.flatnonzero(overlap > allowed)
            last = int(crossing[0]) - 1 if len(crossing) else len(steps) - 1
            for digit in DIGITS:
                if from_joint[digit] > 2:
                    continue
                mine = depth[digit]  # (steps, 3)
                # segments before the moving joints do not stop it
                nearest = mine[:, from_joint[digit] :].min(axis=1)
                hit = np.flatnonzero(nearest < -self.config.touch)
                first = FIRST_JOINT[digit] - 1
                rows = slice(first + from_joint[digit], first + 3)
                if not len(hit) or (digit == "thumb" and hit[0] > last):
                    free = steps[last] if digit == "thumb" else 1.0
                    angles[rows] = angles[rows] + free * (goal[rows] - angles[rows])
                    from_joint[digit] = 3
                    continue
                k = int(hit[0])
                share = 0.0
                if k > 0:
                    drop = nearest[k - 1] - nearest[k]
                    part = (nearest[k - 1] + self.config.touch) / max(drop, 1e-9)
                    share = steps[k - 1] + (steps[k] - steps[k - 1]) * float(np.clip(part, 0, 1))
                segment = from_joint[digit] + int(np.argmin(mine[k, from_joint[digit] :]))
                angles[rows] = angles[rows] + share * (goal[rows] - angles[rows])
                from_joint[digit] = segment + 1
        return angles

    def _ease(self, angles: Array, rotation: Array, translation: Array) -> Array:
        """The translation, moved so that the palm, which bulges as digits bend, is free again."""
        points = self._pose(angles)[self.parts.owner == 0].astype(np.float64)
        for _ in range(3):
            found, slope = self.distance.query((points - translation) @ rotation)
            deepest = int(np.argmin(found))
            excess = -float(found[deepest]) - self.config.touch
            if not 0.0 < excess < 0.012:
                break
            translation = translation - excess * (rotation @ slope[deepest])
        return translation

    def _segment_depth(
        self, vertices: Array, rotation: Array, translation: Array
    ) -> dict[str, Array]:
        """Smallest distance (N, 3) of each digit's three parts."""
        local = (vertices.reshape(-1, 3) - translation) @ rotation
        found = self.distance.distance(local).reshape(len(vertices), -1)
        return {
            digit: np.stack([found[:, rows].min(axis=1) for rows in segments], axis=1)
            for digit, segments in self.parts.segments.items()
        }

    def _settle(self, angles: Array, rotation: Array, translation: Array) -> Array:
        """Open or close each digit by a few degrees so that it just touches."""
        turns = np.array([-12.0, -9.0, -6.5, -4.5, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.5])
        trial = np.repeat(angles[None], len(turns), axis=0)
        weight = np.array([1.0, 0.6, 0.4])
        for digit in DIGITS:
            first = FIRST_JOINT[digit] - 1
            trial[:, first : first + 3, 0] += turns[:, None] * weight
        trial = np.clip(trial, LIMITS[..., 0], LIMITS[..., 1])
        depth = self._segment_depth(self._pose(trial), rotation, translation)
        out = angles.copy()
        for digit in DIGITS:
            first = FIRST_JOINT[digit] - 1
            nearest = depth[digit].min(axis=1)
            if nearest[7] > self.config.contact * 1.5:
                continue  # holds nothing: stays
            fine = np.flatnonzero(nearest > -self.config.touch - 0.0004)
            pick = int(fine[-1]) if len(fine) else 0
            share = turns[pick]
            if len(fine) and pick + 1 < len(turns):
                drop = nearest[pick] - nearest[pick + 1]
                part = float(np.clip((nearest[pick] + self.config.touch) / max(drop, 1e-9), 0, 1))
                share += part * (turns[pick + 1] - turns[pick])
            out[first : first + 3, 0] += share * weight
        return np.clip(out, LIMITS[..., 0], LIMITS[..., 1])

    # ------------------------------------------------------------------------------- judging

    def _judge(
        self, grip: Grip, angles: Array, rotation: Array, translation: Array
    ) -> HoldResult | None:
        pose = pose_from_angles(angles, self.parts.frames)
        if self.parts.capsules.penetration(pose[None])[0] > self.config.max_self_penetration:
            return None
        vertices = self.parts.vertices(pose, self.betas).astype(np.float64)
        points = np.concatenate([vertices, vertices[self.parts.faces].mean(axis=1)])
        local = (points - translation) @ rotation
        rough = self.distance.distance(local)
        if rough.min() < -2 * self.config.max_penetration:
            return None
        near = np.flatnonzero(rough < 0.006)
        if not len(near):
            return None
        exact, _, direction = self.distance.exact.query(local[near])
        if exact.min() < -self.config.max_penetration:
            return None
        far = np.full(len(points), 1.0)
        far[near] = exact
        normals = np.zeros((len(points), 3))
        normals[near] = direction
        contacts: list[str] = []
        pushes: dict[str, Array] = {}
        groups = {digit: np.concatenate(self.parts.segments[digit]) for digit in DIGITS}
        groups["palm"] = self.parts.palm
        for name, rows in groups.items():
            lowest = int(rows[np.argmin(far[rows])])
            if far[lowest] < self.config.contact:
                contacts.append(name)
                pushes[name] = normals[lowest]
        if not self._is_held(contacts, pushes):
            return None
        return HoldResult(
            pose=pose,
            rotation=rotation,
            translation=translation,
            contacts=tuple(contacts),
            penetration_mm=max(0.0, -1e3 * float(exact.min())),
            kind=grip.name,
            gap_mm=max(0.0, 1e3 * float(exact.min())),
        )

    def _is_held(self, contacts: list[str], pushes: dict[str, Array]) -> bool:
        fingers = [c for c in contacts if c not in ("thumb", "palm")]
        if "thumb" in contacts and any(pushes["thumb"] @ pushes[f] < -0.3 for f in fingers):
            return True
        if "palm" not in contacts:
            return False
        return len(fingers) >= 2 and bool(
            np.any([pushes["palm"] @ pushes[f] < 0.3 for f in fingers])
        )


__all__ = ("HoldConfig", "HoldResult", "close_a_grip", "hold", "near_miss")
