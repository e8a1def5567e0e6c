"""Complete synthetic samples a second: one hand, one textured object, a background, all labels.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/render.py [--size 128] [--levels 0] [--save]

Everything that changes from sample to sample is inside the timed loop: hand vertices (subdivided),
search tree of the hand, object pose, person, lights, RGB with shadows and anti-aliased outlines,
depth, normals, ids, visible and amodal masks, visibility of 21 joints. Posing the hand model,
making the background and a camera's faults are not. Rates are counted per second of processor time
(what one free core gives, whatever else the machine does) and by the clock; both are the medians of
several rounds of the same samples. --save writes benchmarks/results/render.json.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import machine
import numpy as np
import trimesh
from scipy.spatial.transform import Rotation

from handhold.atomic import write_text
from handhold.hand.anatomy import sample_pose
from handhold.hand.model import HandModel
from handhold.render.hand_pattern import HandPattern, free_hand_features
from handhold.render.lights import random_lighting
from handhold.render.raycast import RenderMesh, Scene3D, visible
from handhold.render.shade import render
from handhold.render.skin import random_skin
from handhold.render.subdivision import loop_subdivision
from handhold.scene import Camera


def textured_can() -> RenderMesh:
    """A cylinder of about 2,400 faces with a random 256-pixel texture."""
    can = trimesh.creation.cylinder(radius=0.033, height=0.1, sections=37)
    can = can.subdivide().subdivide()
    angle = np.arctan2(can.vertices[:, 1], can.vertices[:, 0]) / (2 * np.pi) + 0.5
    uv = np.stack([angle, can.vertices[:, 2] / 0.1 + 0.5], axis=1)
    texture = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    return RenderMesh(vertices=can.vertices, faces=can.faces, uv=uv, texture=texture)


RESULTS = Path(__file__).parent / "results" / "render.json"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--samples", type=int, default=64, help="samples of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--levels", type=int, default=0, help="Loop subdivisions of the hand")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--save", action="store_true", help="write the figures down")
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    conditions = machine.conditions("numpy", "embreex", threads=1)
    model = HandModel.free()
    size = arguments.size
    labels = model.weights.argmax(1).numpy()
    fine = loop_subdivision(model.faces.numpy(), 778, arguments.levels)
    rest, fine_labels = fine(model.template.numpy()), fine.labels(labels)
    pattern = HandPattern.build(free_hand_features(), rest, fine.faces, fine_labels)
    rng = np.random.default_rng(0)
    seeds = rng.integers(2**62, size=arguments.samples)
    poses = torch.tensor(sample_pose(rng, 32), dtype=torch.float32)
    with torch.no_grad():
        out = model(poses)
    turns = Rotation.random(32, rng=rng).as_matrix()
    centre = np.array([0.0, 0.0, 0.5])
    middle = out.vertices.mean(dim=1, keepdim=True)
    vertices = np.einsum("nvc,ndc->nvd", (out.vertices - middle).numpy(), turns) + centre
    joints = np.einsum("nvc,ndc->nvd", (out.joints - middle).numpy(), turns) + centre
    can = textured_can()
    intrinsics = np.array([[2.2 * size, 0, size / 2], [0, 2.2 * size, size / 2], [0, 0, 1]])
    camera = Camera(intrinsics=intrinsics, width=size, height=size)
    background = rng.integers(0, 256, (size, size, 3), np.uint8)
    part_of_label = np.array([-1] + [number // 3 for number in range(15)])
    covered: list[float] = []

    def sample(number: int) -> None:
        k = number % 32
        rng = np.random.default_rng(seeds[number])
        skin = random_skin(rng, pattern)
        hand = RenderMesh(
            vertices=fine(vertices[k]),
            faces=fine.faces,
            material=skin,
            rest=rest,
            labels=fine_labels,
        )
        item = can.placed(turns[-k], centre + [0.02, 0.01, -0.03])
        scene = Scene3D([hand, item])
        picture = render(scene, camera, random_lighting(rng, background), background)
        hits = picture.hits
        hits.normals(scene)
        masks = hits.visible_mask(0), hits.visible_mask(1), hits.amodal_mask(0), hits.amodal_mask(1)
        visible(scene, joints[k], camera, own=0, point_parts=None, part_of_label=part_of_label)
        covered.append(float((masks[0] | masks[1]).mean()))

    # One round unmeasured: skin seeds, textures and the object's search tree are made once.
    for number in range(arguments.samples):
        sample(number)
    covered.clear()
    if arguments.profile:
        import cProfile

        profile = cProfile.Profile(time.process_time)
        profile.enable()
    clock, busy = [], []
    for _ in range(arguments.rounds):
        start, begun = time.perf_counter(), time.process_time()
        for number in range(arguments.samples):
            sample(number)
        busy.append(time.process_time() - begun)
        clock.append(time.perf_counter() - start)
    if arguments.profile:
        profile.disable()
        profile.print_stats("tottime")
    rates = [arguments.samples / seconds for seconds in busy]
    figures = {
        "samples_a_second_of_processor_time": round(float(np.median(rates)), 1),
        "slowest_and_fastest_round": [round(min(rates), 1), round(max(rates), 1)],
        "milliseconds_of_processor_time_a_sample": round(1e3 / float(np.median(rates)), 2),
        "samples_a_second_by_the_clock": round(arguments.samples / float(np.median(clock)), 1),
        "image": f"{size}x{size}",
        "pixels_covered": round(float(np.mean(covered)), 3),
        "hand_faces": len(fine.faces),
        "object_faces": len(can.faces),
        "outline_rays": 4,
        "outputs": "RGB with shadows, depth, normals, ids, visible and amodal masks, "
        "visibility of 21 joints",
        "samples_a_round": arguments.samples,
        "rounds": arguments.rounds,
        "conditions": conditions,
    }
    for name, value in figures.items():
        print(f"{name.replace('_', ' ')}: {value}")
    if arguments.save:
        RESULTS.parent.mkdir(exist_ok=True)
        write_text(RESULTS, json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
