"""Grasp energies, gradient and optimiser against the released code, on analytic solids."""

import pytest
import torch

from handhold.synthesis.grasps.anneal import AnnealConfig, accepted, proposal, running_square
from handhold.synthesis.grasps.energies import (
    EnergyConfig,
    PosePrior,
    depth_in_hand,
    energies,
)

OBJECTS = ("sphere", "box", "cylinder")
NAMES = {
    "E_fc": "force_closure",
    "E_dis": "distance",
    "E_pen": "penetration",
    "E_prior": "prior",
    "E_spen": "self_penetration",
    "E_tpen": "table",
}


def sphere(points, radius):
    length = points.norm(dim=-1)
    return length - radius, points / length[..., None]


def box(points, *half):
    half = torch.tensor(half)
    over = points.abs() - half
    outside = over.clamp_min(0)
    length = outside.norm(dim=-1)
    deepest = torch.nn.functional.one_hot(over.argmax(dim=-1), 3).to(points)
    inside = length == 0
    direction = torch.where(inside[..., None], deepest, outside / length[..., None])
    return torch.where(inside, over.amax(dim=-1), length), direction * points.sign()


def cylinder(points, radius, half):
    radial = points[..., :2].norm(dim=-1)
    over = torch.stack((radial - radius, points[..., 2].abs() - half), dim=-1)
    outside = over.clamp_min(0)
    length = outside.norm(dim=-1)
    deepest = torch.nn.functional.one_hot(over.argmax(dim=-1), 2).to(points)
    inside = length == 0
    two = torch.where(inside[..., None], deepest, outside / length[..., None])
    flat = points[..., :2] / radial[..., None] * two[..., :1]
    normal = torch.cat((flat, (points[..., 2].sign() * two[..., 1])[..., None]), dim=-1)
    return torch.where(inside, over.amax(dim=-1), length), normal


SOLIDS = {"sphere": sphere, "box": box, "cylinder": cylinder}


@pytest.fixture(scope="module")
def grasp(golden):
    return golden("grasp_energy")


class Case:
    """One object of the golden file."""

    def __init__(self, grasp, name):
        self.grasp, self.name = grasp, name
        sizes = grasp.json["config"]["objects"][name]
        self.field = lambda points: SOLIDS[name](points, *sizes)
        self.hand = grasp.hand_model("right")
        surface = [key for key in grasp.inputs if key.startswith("surface") and name in key]
        self.points = grasp.tensor(surface[0]).reshape(-1, 3)
        self.candidates = grasp.tensor("contact_candidates").long()
        self.prior = PosePrior.diagonal(
            grasp.tensor("pose_mean").reshape(45), grasp.tensor("pose_std").reshape(45)
        )
        self.planes = grasp.tensor("plane").reshape(-1, 4).expand(3, 4)
        config = grasp.json["config"]
        self.config = EnergyConfig(
            distance=config["w_dis"],
            penetration=config["w_pen"],
            prior=config["w_prior"],
            self_penetration=config["w_spen"],
            table=config["w_tpen"],
            released_self_form=True,
        )

    def posed(self, pose):
        return self.hand(pose[:, 3:], translation=pose[:, :3])

    def energies(self, pose, indices):
        out = self.posed(pose)
        return energies(
            out.vertices,
            out.joints,
            self.hand.faces,
            pose[:, 6:],
            self.candidates[indices],
            self.field,
            self.points,
            self.prior,
            self.config,
            self.planes,
        )


@pytest.mark.parametrize("name", OBJECTS)
def test_energies_and_gradient_agree(grasp, name):
    case = Case(grasp, name)
    pose = grasp.tensor("hand_pose").requires_grad_()
    indices = grasp.tensor("contact_indices").long()
    out = case.posed(pose)
    touching = out.vertices.detach()[torch.arange(3)[:, None], case.candidates[indices]]
    grasp.compare("vertices", out.vertices, rtol=1e-5)
    grasp.compare("keypoints", out.joints, rtol=1e-5)
    grasp.compare("contact_points", touching, rtol=1e-5)
    distance, normal = case.field(touching)
    inward = -distance.sign() * (distance**2 + 1e-8).sqrt()  # the released sign: positive inside
    grasp.compare(f"{name}/contact_distance", inward)
    grasp.compare(f"{name}/contact_normal", normal)
    depth = depth_in_hand(case.points, out.vertices, case.hand.faces)
    grasp.compare(f"{name}/point_to_hand_distance", depth)
    found = case.energies(pose, indices)
    for theirs, ours in NAMES.items():
        grasp.compare(f"{name}/{theirs}", getattr(found, ours))
    total = found.total(case.config)
    grasp.compare(f"{name}/total", total)
    (slope,) = torch.autograd.grad(total.sum(), pose)
    grasp.compare(f"{name}/grad", slope)


def test_the_self_distance_differs_from_the_released_one_by_a_constant_a_pair(grasp):
    case = Case(grasp, "box")
    pose = grasp.tensor("hand_pose")
    joints = case.posed(pose).joints
    apart = torch.cdist(joints, joints)
    near = ((apart > 1e-6) & (apart < 0.018)).sum(dim=(1, 2))
    released = torch.from_numpy(grasp.output("box/E_spen"))
    from handhold.synthesis.grasps.energies import self_penetration

    ours = self_penetration(joints, EnergyConfig())
    assert torch.allclose(ours, released + 0.018 * near, atol=1e-6)


def test_a_step_and_its_acceptance_agree(grasp):
    case = Case(grasp, "box")
    schedule = AnnealConfig()
    pose, indices = grasp.tensor("hand_pose"), grasp.tensor("contact_indices").long()
    slope = torch.from_numpy(grasp.output("box/grad"))
    square = running_square(torch.zeros(51), slope, schedule)
    grasp.compare("step/ema_grad2", square)
    grasp.compare("step/step_size", torch.tensor([schedule.step_length(0)]))
    moved = proposal(pose, slope, square, 0, schedule)
    grasp.compare("step/hand_pose", moved)
    mask = grasp.tensor("switch_mask").bool()
    indices[mask] = grasp.tensor("switch_values").long()
    grasp.compare("step/contact_indices", indices)
    new = case.energies(moved, indices).total(case.config)
    grasp.compare("step/new_total", new)
    heat = schedule.heat(0)
    grasp.compare("step/temperature", torch.tensor([heat]))
    old = torch.from_numpy(grasp.output("box/total"))
    grasp.compare("step/accept", accepted(old, new, grasp.tensor("accept_u"), heat).float())


def test_acceptance_later_in_the_run_agrees(grasp):
    schedule = AnnealConfig()
    heat = schedule.heat(int(grasp.tensor("accept_step")) - 1)
    grasp.compare("accept_case/temperature", torch.tensor([heat]))
    old, new = grasp.tensor("accept_old"), grasp.tensor("accept_new")
    kept = accepted(old, new, grasp.tensor("accept_uniforms"), heat)
    grasp.compare("accept_case/accept", kept.float())
