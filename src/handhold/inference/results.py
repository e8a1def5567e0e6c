"""Scenes as JSON: schema "handhold.scene/1" (written by `handhold predict`, read back here)."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import numpy as np

from handhold.errors import FileFormatError, MissingFileError
from handhold.fields import checked, field, mapping, numbers, read_json
from handhold.scene import Camera, CameraSource, FloatArray, Hand, RigidObject, Scene

SCHEMA = "handhold.scene/1"


def scene_to_json(scene: Scene) -> dict[str, Any]:
    """The scene as plain values. Meshes are not part of it. What a hand does not know is null, but
    for `hand_id`, which only hands of a video have."""
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
                **({} if hand.hand_id is None else {"hand_id": hand.hand_id}),
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
    return scene_from_json(read_json(path.read_bytes(), str(path)), name=str(path))


def scene_from_json(document: Any, *, name: str = "scene") -> Scene:
    """The inverse of `scene_to_json`. Raises FileFormatError naming the field that does not fit."""
    where = f"{name}: document"
    top = mapping(document, where)
    if top.get("schema") != SCHEMA:
        raise FileFormatError(f"{name}: schema: expected {SCHEMA!r}, found {top.get('schema')!r}")
    width, height = (int(edge) for edge in numbers(top, "size", (2,), where))
    lens, at = field(top, "camera", where), f"{name}: camera"
    fx, fy, cx, cy = (float(numbers(lens, key, (), at)) for key in ("fx", "fy", "cx", "cy"))
    source: Any = lens.get("source")
    if source not in get_args(CameraSource):
        raise FileFormatError(f"{name}: camera.source: found {source!r}")
    with _placed(at):
        camera = Camera(
            intrinsics=np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]),
            width=width,
            height=height,
            source=source,
        )
    hands, objects = [], []
    for i, entry in enumerate(field(top, "hands", where, list)):
        hand, thing = _hand(entry, f"{name}: hands[{i}]")
        hands.append(hand)
        objects.append(thing)
    return Scene(
        image=field(top, "image", where, str),
        camera=camera,
        model=field(top, "model", where, str),
        hands=tuple(hands),
        objects=tuple(objects),
    )


def _hand(entry: Any, where: str) -> tuple[Hand, RigidObject | None]:
    entry = mapping(entry, where)
    shapes = {
        "box": (4,),
        "joints2d": (21, 2),
        "joints3d": (21, 3),
        "pose": (16, 3),
        "betas": (10,),
        "translation": (3,),
    }
    values: dict[str, Any] = {
        key: None if entry.get(key) is None else numbers(entry, key, shape, where)
        for key, shape in shapes.items()
    }
    values["joints"] = values.pop("joints3d")
    side: Any = entry.get("side")  # Hand checks it
    grasping, chance = entry.get("grasping"), entry.get("grasp_score")
    if grasping is not None and not isinstance(grasping, bool):
        raise FileFormatError(f"{where}.grasping: expected true, false or null: {grasping!r:.60}")
    number = entry.get("hand_id")
    if number is not None and (not isinstance(number, int) or isinstance(number, bool)):
        raise FileFormatError(f"{where}.hand_id: expected a whole number, found {number!r:.60}")
    with _placed(where):
        hand = Hand(
            side=side,
            score=float(numbers(entry, "score", (), where)),
            grasping=grasping,
            grasp_score=None
            if chance is None
            else float(checked(chance, (), f"{where}.grasp_score")),
            hand_id=number,
            **values,
        )
    if entry.get("object") is None:
        return hand, None
    where += ".object"
    part = mapping(entry["object"], where)
    thing = RigidObject(
        name=part.get("name"),
        rotation=numbers(part, "rotation", (3, 3), where),
        translation=numbers(part, "translation", (3,), where),
        score=float(numbers(part, "score", (), where)),
        held=hand.grasping,
    )
    return hand, thing


@contextmanager
def _placed(where: str) -> Generator[None]:
    """What our types refuse, as an error of the file."""
    try:
        yield
    except FileFormatError:
        raise
    except ValueError as error:
        raise FileFormatError(f"{where}: {error}") from error


def _rounded(values: FloatArray | None, digits: int) -> Any:
    return None if values is None else np.round(np.asarray(values, np.float64), digits).tolist()


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
