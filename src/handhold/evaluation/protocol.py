"""What a protocol is: what a method is told, what is aligned, what counts how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from handhold.errors import InputError
from handhold.evaluation.metrics.hand_table import Alignment, Rule

Given = Literal[
    "image",
    "intrinsics",
    "hand_box",
    "side",
    "object_box",
    "object_name",
    "grasping",
    "wrist",
]


@dataclass(frozen=True, kw_only=True)
class ObjectRule:
    """How object poses count.

    samples: those whose object is held by label, or all that have an object. nearest: for which
    objects ADD-S stands in for ADD: DexYCB's symmetric four, every one, or none. diameters, pixels:
    what is a success. leave_out: objects that do not count. A pose that a method does not give
    counts as the identity one metre away, the originals' place-holder. from_wrist: translations
    are relative to each set's own wrist.
    """

    samples: Literal["held", "all"] = "held"
    nearest: Literal["symmetric", "every", "none"] = "symmetric"
    diameters: float = 0.1
    pixels: float = 5.0
    leave_out: tuple[str, ...] = ()
    from_wrist: bool = False

    def explain(self) -> str:
        """The rule in words, but for which samples count."""
        nearest = {
            "symmetric": "ADD-S for the symmetric ones, else ADD",
            "every": "ADD-S for every one",
            "none": "ADD without symmetries",
        }
        told = f"{nearest[self.nearest]}, within {self.diameters:g} of the box's diagonal; REP "
        told += f"within {self.pixels:g} px"
        if self.from_wrist:
            told += "; places relative to the wrist"
        return told + "".join(f"; without {name}" for name in self.leave_out)


_GIVEN: dict[Given, str] = {
    "image": "the photo",
    "intrinsics": "its intrinsics",
    "hand_box": "true hand boxes",
    "side": "true sides",
    "object_box": "the object's true box",
    "object_name": "its name",
    "grasping": "whether it is held",
    "wrist": "the wrist's true place",
}
_ALIGNED: dict[Rule, str] = {
    "absolute": "nothing (camera frame)",
    "root": "wrist on wrist",
    "pa": "Procrustes with scale, {turns}, meshes on their own",
    "st": "scale and translation (HO3D's bone from wrist to middle finger)",
}


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A named way of measuring.

    table: the published table it is for, "" for our own. data: sets as NAME/SPLIT (NAME: any of its
    splits) that it is for, none: any. given: what the method is told. object_box and object_name
    are those of the labelled object; with "grasping" only hands that hold it are told its box.
    note: the rest in words. box: what a hand's true box is: "joints", tight around the labelled
    joints, or "label", the one of the labels. match: a hand is found by the box that overlaps its
    own by least_iou or more, best score first, or (one hand a photo) by the best score alone.
    rules, alignment: see `handhold.evaluation.metrics.hand_table.put`. missed: a missed hand is
    left out of the 3D means, or counts as all zeros and within no threshold ("zeros", HandOS).
    occlusion: PCK also of visible and of hidden joints, by the box's size. objects: None: poses of
    held objects whose name was found. columns: SECTION/NUMBER of the report that the table prints,
    in its order.
    """

    name: str
    given: tuple[Given, ...]
    note: str
    table: str = ""
    data: tuple[str, ...] = ()
    box: Literal["joints", "label"] = "joints"
    match: Literal["overlap", "score"] = "overlap"
    least_iou: float = 0.3
    rules: tuple[Rule, ...] = ("root", "pa")
    alignment: Alignment = "reflection"
    missed: Literal["left out", "zeros"] = "left out"
    occlusion: bool = False
    objects: ObjectRule | None = None
    columns: tuple[str, ...] = ()

    def describe(self) -> str:
        """One line for the top of a report."""
        head = f"protocol {self.name}: given {', '.join(self.given)}"
        if self.data:
            head += f"; on {' or '.join(self.data)}"
        if self.table:
            head += f"; as in {self.table}"
        return f"{head}. {self.note}"

    def explain(self) -> dict[str, str]:
        """All that it says, in words, by what it is about."""
        told = {"table": self.table} if self.table else {}
        told["data"] = " or ".join(self.data) or "any"
        words = dict(_GIVEN)
        words["hand_box"] += " (the set's own)" if self.box == "label" else " (tight round joints)"
        if "grasping" in self.given:
            words["object_box"] += " of hands that hold it"
        told["given"] = ", ".join(words[part] for part in self.given if part != "grasping")
        flat = bool(self.columns) and not any(x.startswith("hand: ") for x in self.columns)
        turns = "reflections allowed" if self.alignment == "reflection" else "no reflection"
        aligned = [_ALIGNED[rule].format(turns=turns) for rule in self.rules]
        told["aligned"] = "2D, as they are" if flat else "; ".join(aligned)
        found = f"by IoU of {self.least_iou:g} or more, best score first"
        if "hand_box" in self.given:
            found = "one in each true box; a box outside the photo is a missed one"
        elif self.match == "score":
            found = "that of the best score, wherever it is"
        missed = "left out of the 3D means and hits no 2D threshold"
        if self.missed == "zeros":
            missed = "counted as all zeros and hits no threshold"
        told["hands"] = f"{found}; a missed one is {missed}"
        if self.objects is not None:
            which = "held by label" if self.objects.samples == "held" else "all that are labelled"
            told["objects"] = f"{which}, one not given counts as failed; {self.objects.explain()}"
        elif not self.columns:
            told["objects"] = f"held ones whose name was found; {ObjectRule().explain()}"
        sections: dict[str, list[str]] = {}
        for column in self.columns:
            section, _, number = column.rpartition("/")
            sections.setdefault(section, []).append(number)
        told["note"] = self.note
        if sections:
            printed = (f"{name}: {', '.join(numbers)}" for name, numbers in sections.items())
            told["prints"] = "; ".join(printed)
        return told

    def summary(self) -> str:
        """One short line for a list."""
        return self.table or f"given {', '.join(self.given)}"

    def split_of(self, name: str) -> str | None:
        """The split of a set that the protocol is for, where that is just one."""
        splits = [entry.partition("/")[2] for entry in self.data if entry.split("/")[0] == name]
        return splits[0] if len(splits) == 1 and splits[0] else None

    def check_data(self, name: str, split: str) -> None:
        """Raise InputError unless the protocol is for this split of this set."""
        if self.data and not {name, f"{name}/{split}"} & set(self.data):
            found = f"{name}/{split}" if split else name
            raise InputError(
                f"protocol {self.name}: is for {' or '.join(self.data)}, found {found}; "
                "`handhold eval --help` lists the protocols"
            )
