"""What a method is given when it is measured. A report says so in its first line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from handhold.errors import InputError

Given = Literal["image", "intrinsics", "hand_box", "side", "object_box", "grasping", "wrist"]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A named way of measuring: what the method is told, and how a missed hand counts.

    box: what a hand's true box is: "joints", tight around the labelled joints, or "label", the one
    of the labels. occlusion: PCK also of visible and of hidden joints apart, by the box's size.
    """

    name: str
    given: tuple[Given, ...]
    note: str
    box: Literal["joints", "label"] = "joints"
    occlusion: bool = False

    def describe(self) -> str:
        """One line for the top of a report."""
        return f"protocol {self.name}: given {', '.join(self.given)}. {self.note}"


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="deployable",
            given=("image", "intrinsics"),
            note="Hands, sides, grasps and object boxes are the method's own; a missed hand counts "
            "in recall and in PCK, not in the 3D means.",
        ),
        Protocol(
            name="boxes",
            given=("image", "intrinsics", "hand_box", "side"),
            note="True hand boxes and sides; object boxes and grasps are the method's own.",
        ),
        Protocol(
            name="official",
            given=("image", "intrinsics", "hand_box", "side", "object_box", "grasping", "wrist"),
            note="What the authors of the HOPE methods give theirs: true boxes of hand and object, "
            "a crop chosen with the true grasp label, and to HOISDF the wrist's true position.",
        ),
        Protocol(
            name="hint/hamer",
            given=("image", "hand_box", "side"),
            note="HInt as HaMeR evaluates it: the annotated box and side; PCK by the box's longer "
            "side, the mean over joints of each joint's share, of all, visible and hidden joints.",
            box="label",
            occlusion=True,
        ),
    )
}


def protocol(name: str) -> Protocol:
    """The protocol of that name; raises InputError that lists the names there are."""
    if name not in PROTOCOLS:
        raise InputError(f"protocol: found {name!r}, expected one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
