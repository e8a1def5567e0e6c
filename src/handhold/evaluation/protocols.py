"""The protocols by name: our own, the servers', and those of the published tables."""

from __future__ import annotations

from handhold.errors import InputError
from handhold.evaluation.protocol import Given, ObjectRule, Protocol

BOXED: tuple[Given, ...] = ("image", "intrinsics", "hand_box", "side")
FUSED: tuple[Given, ...] = (*BOXED, "object_box", "object_name")  # crop of hand and object together
GRASPED: tuple[Given, ...] = (*FUSED, "grasping")  # such a crop only for hands that hold it
PITCHER = "019_pitcher_base"  # of HO3D's evaluation, not in its training

JOINTS = ("hand: all/mpjpe_mm", "hand: all/pa_mpjpe_mm")
MESHES = ("hand: all/mpvpe_mm", "hand: all/pa_mpvpe_mm")
F_ALIGNED = ("hand: all/pa_f@5", "hand: all/pa_f@15")
SERVER = (
    "hand: all/mpjpe_mm",
    "hand: all/mpjpe_auc",
    "hand: all/pa_mpjpe_mm",
    "hand: all/pa_mpjpe_auc",
    "hand: all/st_mpjpe_mm",
    "hand: all/st_mpjpe_auc",
    "hand: all/mpvpe_mm",
    "hand: all/mpvpe_auc",
    "hand: all/pa_mpvpe_mm",
    "hand: all/pa_mpvpe_auc",
    "hand: all/f@5",
    "hand: all/f@15",
    *F_ALIGNED,
)
SCENES = tuple(
    f"hand: {scene}/{number}"
    for scene in ("all", "hand-only", "hand-object")
    for number in (
        "mpjpe_mm",
        "mpjpe_auc",
        "pa_mpjpe_mm",
        "pa_mpjpe_auc",
        "mpvpe_mm",
        "mpvpe_auc",
        "pa_mpvpe_mm",
        "pa_mpvpe_auc",
        "f@5",
        "f@15",
        "pa_f@5",
        "pa_f@15",
    )
)
PCKS = tuple(
    f"joints: {seen}/pck@{share}"
    for seen in ("all", "visible", "occluded")
    for share in (0.05, 0.1, 0.15)
)
SERVER_NOTE = (
    "As the server does: the hand moved to the wrist that the evaluation's files give (as "
    "published entries are), so its unaligned columns are root-aligned; Procrustes may reflect, "
    "meshes are aligned on their own. Compared with the joints and meshes published in 2024."
)
MOVED = "Hand moved to the true wrist"

OWN = (
    Protocol(
        name="deployable",
        given=("image", "intrinsics"),
        note="Hands, sides, grasps and object boxes are the method's own; a missed hand counts "
        "in recall and in PCK, not in the 3D means.",
    ),
    Protocol(
        name="boxes",
        given=BOXED,
        note="True hand boxes and sides; object boxes and grasps are the method's own.",
    ),
    Protocol(
        name="official",
        given=(*GRASPED, "wrist"),
        note="What the authors of the HOPE methods give theirs: true boxes of hand and object, "
        "the object's name, a crop chosen with the true grasp label, and to HOISDF the wrist's "
        "true position.",
    ),
)

SERVERS = (
    *(
        Protocol(
            name=f"ho3d-{version}/server",
            table=f"HO3D {version}'s evaluation server",
            data=(f"ho3d-{version}/evaluation",),
            given=BOXED,
            box="label",
            rules=("root", "pa", "st"),
            note=SERVER_NOTE,
            columns=SERVER,
        )
        for version in ("v2", "v3")
    ),
    Protocol(
        name="freihand/official",
        table="FreiHAND's evaluation script",
        data=("freihand/evaluation",),
        given=BOXED,
        rules=("absolute", "root", "pa"),
        note="Absolute errors in the camera frame, and after Procrustes that may reflect; meshes "
        "are aligned on their own. The box is tight around the published joints, which stand for "
        "the different boxes of the entries.",
        columns=(
            "hand: all/absolute_mpjpe_mm",
            "hand: all/absolute_mpjpe_auc",
            "hand: all/pa_mpjpe_mm",
            "hand: all/pa_mpjpe_auc",
            "hand: all/absolute_mpvpe_mm",
            "hand: all/absolute_mpvpe_auc",
            "hand: all/pa_mpvpe_mm",
            "hand: all/pa_mpvpe_auc",
            "hand: all/absolute_f@5",
            "hand: all/absolute_f@15",
            *F_ALIGNED,
        ),
    ),
    Protocol(
        name="dexycb/official",
        table="the hand pose task of DexYCB's toolkit",
        data=tuple(f"dexycb/s{n}-test" for n in range(4)),
        given=BOXED,
        rules=("absolute", "root", "pa"),
        note="Joints only: absolute, root-relative and after Procrustes that may reflect. The box "
        "is tight around the labelled joints.",
        columns=(
            "hand: all/absolute_mpjpe_mm",
            "hand: all/absolute_mpjpe_auc",
            "hand: all/mpjpe_mm",
            "hand: all/mpjpe_auc",
            "hand: all/pa_mpjpe_mm",
            "hand: all/pa_mpjpe_auc",
        ),
    ),
    Protocol(
        name="hint/hamer",
        table="HInt's tables as HaMeR evaluates them",
        data=("hint",),
        given=("image", "hand_box", "side"),
        note="HInt as HaMeR evaluates it: the annotated box and side; PCK by the box's longer "
        "side, the mean over joints of each joint's share, of all, visible and hidden joints.",
        box="label",
        occlusion=True,
        columns=PCKS,
    ),
)

HOPE = (
    Protocol(
        name="dexycb-s0/hflnet",
        table="HFL-Net, tables 3 and 4 (DexYCB S0, both hands)",
        data=("dexycb/s0-test",),
        given=FUSED,
        alignment="proper",
        objects=ObjectRule(samples="all"),
        note=f"{MOVED}; PA without reflections, joints only. Objects: ADD-0.1D, ADD-S for bowl, "
        "wood block, extra large clamp and foam brick, mean of the classes.",
        columns=(*JOINTS, "object/add-0.1d_class_mean"),
    ),
    Protocol(
        name="ho3d-v2/hflnet",
        table="HFL-Net, HO3D v2",
        data=("ho3d-v2/evaluation",),
        given=FUSED,
        box="label",
        rules=("root", "pa", "st"),
        objects=ObjectRule(samples="all", nearest="none", leave_out=(PITCHER,)),
        note=f"{SERVER_NOTE} Objects: ADD-0.1D, no symmetries, mean of three classes (the pitcher, "
        "which no training shows, is left out).",
        columns=(*SERVER, "object/add-0.1d_class_mean"),
    ),
    Protocol(
        name="ho3d-v2/liu",
        table="Liu et al., HO3D v2",
        data=("ho3d-v2/evaluation",),
        given=FUSED,
        box="label",
        rules=("root", "pa", "st"),
        objects=ObjectRule(samples="all", nearest="none", leave_out=(PITCHER,)),
        note=f"{SERVER_NOTE} Objects: ADD-0.1D, no symmetries, mean of three classes.",
        columns=("hand: all/pa_mpjpe_mm", "hand: all/pa_mpvpe_mm", "object/add-0.1d_class_mean"),
    ),
    *(
        Protocol(
            name=f"dexycb-{setup}/unihope",
            table=f"UniHOPE, DexYCB {setup.upper()} (all, hand-only, hand-object)",
            data=(f"dexycb/{setup}-test",),
            given=GRASPED,
            objects=ObjectRule(diameters=share, pixels=pixels),
            note=f"{MOVED}; Procrustes may reflect. Scenes by the true grasp label, which also "
            "chooses the crop. Objects that are held by label: ADD(-S) within "
            f"{share:g} of the box's diagonal, mean over samples, REP within {pixels:g} px. The "
            "sections by visibility are its table 6.",
            columns=(*SCENES, f"object/add-{share:g}d", "object/rep"),
        )
        for setup, share, pixels in (("s0", 0.1, 5.0), ("s1", 0.1, 5.0), ("s3", 0.5, 20.0))
    ),
    Protocol(
        name="ho3d-v2/unihope",
        table="UniHOPE, HO3D v2",
        data=("ho3d-v2/evaluation",),
        given=GRASPED,
        box="label",
        rules=("root", "pa", "st"),
        objects=ObjectRule(nearest="none"),
        note=f"{SERVER_NOTE} Scenes by the grasp label (the authors' is manual and not published; "
        "ours is made from the object's motion). Objects that are held: ADD-0.1D without "
        "symmetries.",
        columns=(*SERVER, "object/add-0.1d", "object/rep"),
    ),
    Protocol(
        name="freihand/unihope",
        table="UniHOPE, table 5 (trained on DexYCB, tested on FreiHAND)",
        data=("freihand/evaluation",),
        given=BOXED,
        note=f"{MOVED}; Procrustes may reflect. The authors' loader is not published: the box, "
        "tight around the labelled joints, is our choice.",
        columns=(*JOINTS, *MESHES),
    ),
    Protocol(
        name="dexycb-s0/hoisdf",
        table="HOISDF, tables 1 and 3 (DexYCB S0, both hands)",
        data=("dexycb/s0-test",),
        given=(*FUSED, "wrist"),
        alignment="proper",
        objects=ObjectRule(samples="all", nearest="every"),
        note=f"{MOVED}, whose place the network is told; PA without reflections, F-scores on "
        "aligned meshes. Objects: OCE, MCE, ADD-S of every object. The authors leave out hands "
        "without a box; here they count as missed.",
        columns=(
            *JOINTS,
            *MESHES,
            "hand: all/mpvpe_auc",
            "hand: all/pa_mpvpe_auc",
            *F_ALIGNED,
            "object/oce_mm",
            "object/mce_mm",
            "object/add-s_mm",
        ),
    ),
    Protocol(
        name="dexycb-s0-close/hoisdf",
        table="HOISDF, table 2 (right hands near the object)",
        data=("dexycb/s0-test-close",),
        given=(*FUSED, "wrist"),
        alignment="proper",
        objects=ObjectRule(samples="all", nearest="every"),
        note=f"{MOVED}, whose place the network is told; PA without reflections. Objects: OCE, "
        "MCE, ADD-S of every object. The authors' list of frames has no published rule; the split "
        "follows ArtiBoost's (right hands within 50 mm).",
        columns=(*JOINTS, "object/oce_mm", "object/mce_mm", "object/add-s_mm"),
    ),
    Protocol(
        name="ho3d-v2/hoisdf",
        table="HOISDF, HO3D v2",
        data=("ho3d-v2/evaluation",),
        given=(*FUSED, "wrist"),
        box="label",
        rules=("root", "pa", "st"),
        objects=ObjectRule(samples="all", nearest="every", leave_out=(PITCHER,)),
        note=f"{SERVER_NOTE} The network is told the wrist's place. Objects without the pitcher: "
        "OME, ADD-S of every object.",
        columns=(
            "hand: all/mpjpe_mm",
            "hand: all/st_mpjpe_mm",
            "hand: all/pa_mpjpe_mm",
            "object/add_mm",
            "object/add-s_mm",
        ),
    ),
    Protocol(
        name="ho3d-v2/keypoint-transformer",
        table="Keypoint Transformer, HO3D v2",
        data=("ho3d-v2/evaluation",),
        given=FUSED,
        box="label",
        rules=("root", "pa", "st"),
        objects=ObjectRule(samples="all", nearest="none", from_wrist=True),
        note=f"{SERVER_NOTE} Joints only. Objects: MSSD, with a half turn about z for mustard "
        "bottle, potted meat can and bleach cleanser, translations relative to the wrist.",
        columns=("hand: all/mpjpe_mm", "hand: all/st_mpjpe_mm", "hand: all/pa_mpjpe_mm")
        + ("object/mssd_mm",),
    ),
)

HANDS = (
    Protocol(
        name="dexycb-s0/handoccnet",
        table="HandOccNet, DexYCB S0",
        data=("dexycb/s0-test",),
        given=BOXED,
        alignment="proper",
        note=f"{MOVED}; PA without reflections, joints only.",
        columns=JOINTS,
    ),
    Protocol(
        name="dexycb-s0/handbooster",
        table="HandBooster and H2ONet, DexYCB S0",
        data=("dexycb/s0-test",),
        given=BOXED,
        note="Joints and meshes relative to their own wrists; Procrustes may reflect, meshes are "
        "aligned on their own.",
        columns=(*JOINTS, *MESHES),
    ),
    *(
        Protocol(
            name=name,
            table=f"HandOS, {words}",
            data=data,
            given=("image", "intrinsics"),
            match="score",
            missed="zeros",
            note="From the whole image; the detection of the best score counts. A missed hand is "
            "all zeros, so that aligned it is the truth's middle, and within no threshold of AUC. "
            "Procrustes may reflect.",
            columns=columns,
        )
        for name, words, data, columns in (
            (
                "freihand/handos",
                "FreiHAND",
                ("freihand/evaluation",),
                ("hand: all/pa_mpjpe_mm", "hand: all/pa_mpvpe_mm", *F_ALIGNED),
            ),
            (
                "ho3d-v3/handos",
                "HO3D v3",
                ("ho3d-v3/evaluation",),
                ("hand: all/pa_mpjpe_mm", "hand: all/pa_mpvpe_mm", *F_ALIGNED),
            ),
            (
                "dexycb-s0/handos",
                "DexYCB",
                ("dexycb/s0-test",),
                ("hand: all/pa_mpjpe_mm", "hand: all/pa_mpvpe_mm", "hand: all/pa_mpjpe_auc"),
            ),
        )
    ),
    Protocol(
        name="hint/handos",
        table="HandOS, table 5 (HInt)",
        data=("hint",),
        given=("image",),
        least_iou=0.1,
        box="label",
        occlusion=True,
        note="From the whole image: detections are matched one to one with the annotated boxes "
        "(IoU of at least 0.1, our choice); a missed hand has no hit. PCK by the annotated box's "
        "longer side.",
        columns=PCKS,
    ),
)

PROTOCOLS = {entry.name: entry for entry in (*OWN, *SERVERS, *HOPE, *HANDS)}


def protocol(name: str) -> Protocol:
    """The protocol of that name; raises InputError that lists the names there are."""
    if name not in PROTOCOLS:
        raise InputError(f"protocol: found {name!r}, expected one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
