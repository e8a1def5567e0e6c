"""Scenes as JSON: schema "handhold.scene/1" (written by `handhold predict`, read back here)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np

from handhold.errors import FileFormatError, MissingFileError
from handhold.scene import Camera, CameraSource, FloatArray, Hand, RigidObject, Scene

SCHEMA = "handhold.scene/1"


def scene_to_json(scene: Scene) -> dict[str, Any]:
    """The scene as plain values. Meshes are not part of it. What a hand does not know is null."""
    camera = scene.camera
    matrix = np.asarray(camera.intrinsics, dtype=np.float64)
    return {
        "schema": SCHEMA,
        "image": scene.image,
        "size": [camera.width, camera.height],
        "camera": {
            "fx": matrix[0, 0],
            "fy": matrix[1, 1],
            "cx": matrix[0, 2],
            "cy": matrix[1, 2],
            "source": camera.source,
        },
        "model": scene.model,
        "hands": [
            {
                "side": hand.side,
                "score": round(float(hand.score), 4),
                "box": _rounded(hand.box, 2),
                "joints2d": _rounded(hand.joints2d, 2),
                "joints3d": _rounded(hand.joints, 6),
                "pose": _rounded(hand.pose, 5),
                "betas": _rounded(hand.betas, 5),
                "translation": _rounded(hand.translation, 6),
                "grasping": hand.grasping,
                "grasp_score": None if hand.grasp_score is None else round(hand.grasp_score, 4),
                "object": None
                if thing is None
                else {
                    "name": thing.name,
                    "rotation": _rounded(thing.rotation, 6),
                    "translation": _rounded(thing.translation, 6),
                    "score": round(float(thing.score), 4),
                },
            }
            for hand, thing in zip(scene.hands, scene.objects, strict=True)
        ],
    }


def scene_text(scene: Scene) -> str:
    """The JSON text, one line for every value of a hand; fails rather than writing NaN."""
    document = scene_to_json(scene)
    hands = document.pop("hands")
    lines = [f"  {json.dumps(key)}: {_dump(value)}" for key, value in document.items()]
    blocks = [
        "    {\n"
        + ",\n".join(f"      {json.dumps(key)}: {_dump(value)}" for key, value in hand.items())
        + "\n    }"
        for hand in hands
    ]
    inside = "[\n" + ",\n".join(blocks) + "\n  ]" if blocks else "[]"
    return "{\n" + ",\n".join([*lines, f'  "hands": {inside}']) + "\n}\n"


def read_scene(path: str | Path) -> Scene:
    """The scene of a JSON file. Raises MissingFileError or FileFormatError naming the field."""
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FileFormatError(f"{path}: not JSON ({error})") from error
    return scene_from_json(document, name=str(path))


def scene_from_json(document: Any, *, name: str = "scene") -> Scene:
    """The inverse of `scene_to_json`. Raises FileFormatError naming the field that does not fit."""
    reader = _Reader(name)
    top = reader.mapping(document, "document")
    if top.get("schema") != SCHEMA:
        raise FileFormatError(f"{name}: schema: expected {SCHEMA!r}, found {top.get('schema')!r}")
    width, height = (int(edge) for edge in reader.array(top, "size", (2,)))
    lens = reader.mapping(top.get("camera"), "camera")
    fx, fy, cx, cy = (float(reader.array(lens, key, ())) for key in ("fx", "fy", "cx", "cy"))
    source: Any = lens.get("source")
    if source not in get_args(CameraSource):
        raise FileFormatError(f"{name}: camera.source: found {source!r}")
    camera = reader.build(
        "camera",
        lambda: Camera(
            intrinsics=np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]),
            width=width,
            height=height,
            source=source,
        ),
    )
    hands, objects = [], []
    for i, entry in enumerate(reader.sequence(top, "hands")):
        hand, thing = _hand(reader, reader.mapping(entry, f"hands[{i}]"), f"hands[{i}]")
        hands.append(hand)
        objects.append(thing)
    return Scene(
        image=reader.text(top, "image"),
        camera=camera,
        model=reader.text(top, "model"),
        hands=tuple(hands),
        objects=tuple(objects),
    )


def _hand(reader: _Reader, entry: dict[str, Any], where: str) -> tuple[Hand, RigidObject | None]:
    shapes = {
        "box": (4,),
        "joints2d": (21, 2),
        "joints3d": (21, 3),
        "pose": (16, 3),
        "betas": (10,),
        "translation": (3,),
    }
    values: dict[str, Any] = {
        key: None if entry.get(key) is None else reader.array(entry, key, shape, where)
        for key, shape in shapes.items()
    }
    values["joints"] = values.pop("joints3d")
    side: Any = entry.get("side")  # Hand checks it
    grasping, chance = entry.get("grasping"), entry.get("grasp_score")
    if grasping is not None and not isinstance(grasping, bool):
        raise FileFormatError(f"{reader.name}: {where}.grasping: found {grasping!r}")
    hand = reader.build(
        where,
        lambda: Hand(
            side=side,
            score=float(reader.array(entry, "score", (), where)),
            grasping=grasping,
            grasp_score=None
            if chance is None
            else float(reader.array(entry, "grasp_score", (), where)),
            **values,
        ),
    )
    if entry.get("object") is None:
        return hand, None
    where += ".object"
    part = reader.mapping(entry["object"], where)
    thing = RigidObject(
        name=part.get("name"),
        rotation=reader.array(part, "rotation", (3, 3), where),
        translation=reader.array(part, "translation", (3,), where),
        score=float(reader.array(part, "score", (), where)),
        held=hand.grasping,
    )
    return hand, thing


class _Reader:
    """Takes values out of parsed JSON; every error names the file and the field."""

    def __init__(self, name: str) -> None:
        self.name = name

    def mapping(self, value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise FileFormatError(f"{self.name}: {where}: expected an object, found {_kind(value)}")
        return value

    def sequence(self, entry: dict[str, Any], key: str) -> list[Any]:
        value = entry.get(key)
        if not isinstance(value, list):
            raise FileFormatError(f"{self.name}: {key}: expected a list, found {_kind(value)}")
        return value

    def text(self, entry: dict[str, Any], key: str) -> str:
        value = entry.get(key)
        if not isinstance(value, str):
            raise FileFormatError(f"{self.name}: {key}: expected a text, found {_kind(value)}")
        return value

    def array(
        self, entry: dict[str, Any], key: str, shape: tuple[int, ...], where: str = ""
    ) -> FloatArray:
        field = f"{where}.{key}" if where else key
        try:
            value = np.asarray(entry.get(key), dtype=np.float64)
        except (TypeError, ValueError):
            value = None
        if value is None or value.shape != shape or not np.isfinite(value).all():
            wanted = "a finite number" if shape == () else f"finite numbers of shape {shape}"
            raise FileFormatError(f"{self.name}: {field}: expected {wanted}")
        return value

    def build(self, where: str, make: Callable[[], Any]) -> Any:
        try:
            return make()
        except ValueError as error:
            raise FileFormatError(f"{self.name}: {where}: {error}") from error


def _kind(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__


def _rounded(values: FloatArray | None, digits: int) -> Any:
    return None if values is None else np.round(np.asarray(values, np.float64), digits).tolist()


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
