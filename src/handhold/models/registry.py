"""The methods: one literal dictionary."""

from __future__ import annotations

from handhold.errors import InputError
from handhold.models.entry import ModelEntry
from handhold.models.h2onet import loss as h2onet_loss
from handhold.models.h2onet import official as h2onet_official
from handhold.models.h2onet import processor as h2onet_processor
from handhold.models.h2onet.model import H2ONet, H2ONetConfig
from handhold.models.handoccnet import loss as handoccnet_loss
from handhold.models.handoccnet import official as handoccnet_official
from handhold.models.handoccnet import processor as handoccnet_processor
from handhold.models.handoccnet.model import HandOccNet, HandOccNetConfig
from handhold.models.hflnet import loss as hflnet_loss
from handhold.models.hflnet import official as hflnet_official
from handhold.models.hflnet import processor as hflnet_processor
from handhold.models.hflnet.model import HFLNet, HFLNetConfig
from handhold.models.hoisdf import loss as hoisdf_loss
from handhold.models.hoisdf import official as hoisdf_official
from handhold.models.hoisdf import schedule as hoisdf_schedule
from handhold.models.hoisdf.model import HOISDF, HOISDFConfig
from handhold.models.hoisdf.processor import HoisdfProcessorConfig
from handhold.models.keypoint_transformer import loss as keypoint_loss
from handhold.models.keypoint_transformer import official as keypoint_official
from handhold.models.keypoint_transformer import schedule as keypoint_schedule
from handhold.models.keypoint_transformer.model import (
    KeypointTransformer,
    KeypointTransformerConfig,
)
from handhold.models.keypoint_transformer.processor import KeypointProcessorConfig
from handhold.models.mobrecon import loss as mobrecon_loss
from handhold.models.mobrecon import official as mobrecon_official
from handhold.models.mobrecon import processor as mobrecon_processor
from handhold.models.mobrecon.model import MobRecon, MobReconConfig
from handhold.models.nn.hope_config import HopeProcessorConfig
from handhold.models.semihand import loss as semihand_loss
from handhold.models.semihand import official as semihand_official
from handhold.models.semihand import processor as semihand_processor
from handhold.models.semihand.model import SemiHand, SemiHandConfig
from handhold.models.simplehand import loss as simplehand_loss
from handhold.models.simplehand import official as simplehand_official
from handhold.models.simplehand import processor as simplehand_processor
from handhold.models.simplehand.model import SimpleHand, SimpleHandConfig
from handhold.models.unihope import loss as unihope_loss
from handhold.models.unihope import official as unihope_official
from handhold.models.unihope import processor as unihope_processor
from handhold.models.unihope.model import UniHOPE, UniHOPEConfig

_HFLNET = "Lin et al., Harmonious Feature Learning for Interactive Hand-Object Pose, CVPR 2023"
_UNIHOPE = "Wang et al., UniHOPE: A Unified Approach for Hand-Only and Hand-Object Pose, CVPR 2025"
_SEMIHAND = "Liu et al., Semi-Supervised 3D Hand-Object Poses Estimation, CVPR 2021"
_HANDOCCNET = "Park et al., HandOccNet: Occlusion-Robust 3D Hand Mesh Estimation, CVPR 2022"
_MOBRECON = "Chen et al., MobRecon: Mobile-Friendly Hand Mesh Reconstruction, CVPR 2022"
_H2ONET = "Xu et al., H2ONet: Hand-Occlusion-and-Orientation-Aware Network, CVPR 2023"
_SIMPLEHAND = "Zhou et al., A Simple Baseline for Efficient Hand Mesh Reconstruction, CVPR 2024"
_KEYPOINT = "Hampali et al., Keypoint Transformer: Solving Joint Identification, CVPR 2022"
_HOISDF = "Qi et al., HOISDF: Constraining 3D Hand-Object Pose Estimation with SDFs, CVPR 2024"
_OURS = "Apache-2.0"
_NONE = "original code and weights: no licence given; this code Apache-2.0"
_MIXED = "original code and weights: no licence given (parts GPL-3.0); this code Apache-2.0"
_MIT = "original code and weights: MIT (the hand layer in them GPL-3.0); this code Apache-2.0"
_BSD = "original code and weights: BSD-3-Clause-Clear (parts CC BY-NC 4.0); this code Apache-2.0"
_POINTS = frozenset({"hand_mask_amodal", "depth"})
_EMBEDDINGS = "the paper's count leaves out learned positions and scales, which no layer holds"
_CHARGED = (
    f"{_EMBEDDINGS}, nor the projections of the mesh head's attention; it charges the transposed "
    "convolution 16 times"
)
_IDLE = "the paper's count leaves out a block that never runs and the lifting matrix"

MODELS: dict[str, ModelEntry] = {
    "hflnet": ModelEntry(
        summary="hand and held object, two streams that attend to each other; ResNet-50",
        paper=_HFLNET,
        licence=_MIXED,
        network=HFLNet,
        config=HFLNetConfig,
        processor=hflnet_processor.original,
        trained_on=HopeProcessorConfig.trained_on,
        loss=hflnet_loss.loss,
        loss_config=hflnet_loss.HFLNetLossConfig,
        parameters=46_080_659,
        paper_config=lambda: HFLNetConfig(input_size=128),
        paper_parameters=46_080_659,
        paper_gmacs=10.01,
        importer=hflnet_official.load_official,
        uses=("pose", "object"),
    ),
    "hflnet-small": ModelEntry(
        summary="HFL-Net's structure for processors",
        paper=_HFLNET,
        licence=_OURS,
        network=HFLNet,
        config=HFLNetConfig.small,
        processor=HopeProcessorConfig.deployable,
        trained_on=HopeProcessorConfig.trained_on,
        loss=hflnet_loss.loss,
        loss_config=hflnet_loss.HFLNetLossConfig.small,
        parameters=4_774_840,
        uses=("pose", "object"),
    ),
    "unihope": ModelEntry(
        summary="hands with and without object: HFL-Net with an object switch; ResNet-50",
        paper=_UNIHOPE,
        licence=_MIXED,
        network=UniHOPE,
        config=UniHOPEConfig,
        processor=unihope_processor.official,
        trained_on=HopeProcessorConfig.trained_on,
        loss=unihope_loss.loss,
        loss_config=unihope_loss.UniHOPELossConfig,
        parameters=57_127_703,
        paper_config=lambda: UniHOPEConfig(adaptation="none", skip_object=False),
        paper_parameters=46_375_703,
        paper_gmacs=10.04,
        importer=unihope_official.load_official,
        uses=("pose", "object", "grasp", "visibility"),
    ),
    "unihope-small": ModelEntry(
        summary="UniHOPE's structure for processors, with an object classifier",
        paper=_UNIHOPE,
        licence=_OURS,
        network=UniHOPE,
        config=UniHOPEConfig.small,
        processor=unihope_processor.small,
        trained_on=HopeProcessorConfig.trained_on,
        loss=unihope_loss.loss,
        loss_config=unihope_loss.UniHOPELossConfig.small,
        parameters=5_247_054,
        uses=("pose", "object", "grasp"),
    ),
    "semihand": ModelEntry(
        summary="hand and held object, the object attends to the hand; ResNet-50, large crops",
        paper=_SEMIHAND,
        licence=_NONE,
        network=SemiHand,
        config=SemiHandConfig,
        processor=semihand_processor.unihope,
        trained_on=HopeProcessorConfig.trained_on,
        loss=semihand_loss.loss,
        loss_config=semihand_loss.SemiHandLossConfig,
        parameters=34_480_019,
        paper_config=SemiHandConfig.counted,
        paper_parameters=34_480_000,
        paper_gmacs=39.44,
        importer=semihand_official.load_official,
        uses=("pose", "object"),
    ),
    "semihand-small": ModelEntry(
        summary="Liu et al.'s structure for processors, with an object classifier",
        paper=_SEMIHAND,
        licence=_OURS,
        network=SemiHand,
        config=SemiHandConfig.small,
        processor=HopeProcessorConfig.deployable,
        trained_on=HopeProcessorConfig.trained_on,
        loss=semihand_loss.loss,
        loss_config=semihand_loss.SemiHandLossConfig.small,
        parameters=2_714_536,
        uses=("pose", "object"),
    ),
    "handoccnet": ModelEntry(
        summary="hands that something hides: attention from visible to hidden places; ResNet-50",
        paper=_HANDOCCNET,
        licence=_NONE,
        network=HandOccNet,
        config=HandOccNetConfig,
        processor=handoccnet_processor.original,
        trained_on=HopeProcessorConfig.hand_trained_on,
        loss=handoccnet_loss.loss,
        loss_config=handoccnet_loss.HandOccNetLossConfig,
        parameters=38_729_272,
        paper_config=lambda: HandOccNetConfig(literal=True),
        paper_parameters=37_222_000,
        paper_gmacs=15.484,
        size_note=_EMBEDDINGS,
        importer=handoccnet_official.load_official,
        imported=handoccnet_processor.of_weights,
    ),
    "handoccnet-small": ModelEntry(
        summary="HandOccNet's structure for processors",
        paper=_HANDOCCNET,
        licence=_OURS,
        network=HandOccNet,
        config=HandOccNetConfig.small,
        processor=HopeProcessorConfig.deployable_hand,
        trained_on=HopeProcessorConfig.hand_trained_on,
        loss=handoccnet_loss.loss,
        loss_config=handoccnet_loss.HandOccNetLossConfig.small,
        parameters=1_294_744,
    ),
    "mobrecon": ModelEntry(
        summary="light network, vertices by spiral convolutions",
        paper=_MOBRECON,
        licence=_MIT,
        network=MobRecon,
        config=MobReconConfig,
        processor=mobrecon_processor.unihope,
        trained_on=HopeProcessorConfig.hand_trained_on,
        loss=mobrecon_loss.loss,
        loss_config=mobrecon_loss.MobReconLossConfig,
        parameters=8_760_861,
        paper_config=MobReconConfig,
        paper_parameters=8_233_000,
        paper_gmacs=0.461,
        size_note=_IDLE,
        importer=mobrecon_official.load_official,
        imported=mobrecon_processor.of_weights,
    ),
    "mobrecon-small": ModelEntry(
        summary="MobRecon's structure, a quarter as wide",
        paper=_MOBRECON,
        licence=_OURS,
        network=MobRecon,
        config=MobReconConfig.small,
        processor=HopeProcessorConfig.deployable_hand,
        trained_on=HopeProcessorConfig.hand_trained_on,
        loss=mobrecon_loss.loss,
        loss_config=mobrecon_loss.MobReconLossConfig.small,
        parameters=2_301_981,
    ),
    "h2onet": ModelEntry(
        summary="MobRecon's way to a mesh, and a branch for the hand's global rotation; one frame",
        paper=_H2ONET,
        licence=_MIT,
        network=H2ONet,
        config=H2ONetConfig,
        processor=h2onet_processor.original,
        trained_on=HopeProcessorConfig.hand_trained_on,
        loss=h2onet_loss.loss,
        loss_config=h2onet_loss.H2ONetLossConfig,
        parameters=26_428_472,
        paper_config=H2ONetConfig,
        paper_parameters=25_884_000,
        paper_gmacs=0.745,
        size_note=_IDLE,
        importer=h2onet_official.load_official,
    ),
    "h2onet-small": ModelEntry(
        summary="H2ONet's structure, a quarter as wide",
        paper=_H2ONET,
        licence=_OURS,
        network=H2ONet,
        config=H2ONetConfig.small,
        processor=HopeProcessorConfig.deployable_hand,
        trained_on=HopeProcessorConfig.hand_trained_on,
        loss=h2onet_loss.loss,
        loss_config=h2onet_loss.H2ONetLossConfig.small,
        parameters=4_528_454,
    ),
    "simplehand": ModelEntry(
        summary="FastViT and a short way from 2D joints to vertices",
        paper=_SIMPLEHAND,
        licence=_MIT,
        network=SimpleHand,
        config=SimpleHandConfig,
        processor=simplehand_processor.unihope,
        trained_on=HopeProcessorConfig.hand_trained_on,
        loss=simplehand_loss.loss,
        loss_config=simplehand_loss.SimpleHandLossConfig,
        parameters=49_391_003,
        paper_config=lambda: SimpleHandConfig(fold=False),
        paper_parameters=48_894_000,
        paper_gmacs=9.963,
        size_note=_CHARGED,
        importer=simplehand_official.load_official,
        imported=simplehand_processor.of_weights,
    ),
    "simplehand-small": ModelEntry(
        summary="SimpleHand's structure for processors",
        paper=_SIMPLEHAND,
        licence=_OURS,
        network=SimpleHand,
        config=SimpleHandConfig.small,
        processor=HopeProcessorConfig.deployable_hand,
        trained_on=HopeProcessorConfig.hand_trained_on,
        loss=simplehand_loss.loss,
        loss_config=simplehand_loss.SimpleHandLossConfig.small,
        parameters=2_813_783,
    ),
    "keypoint-transformer": ModelEntry(
        summary="hand and object from key points that a transformer tells apart; ResNet-50",
        paper=_KEYPOINT,
        licence=_BSD,
        network=KeypointTransformer,
        config=KeypointTransformerConfig,
        processor=KeypointProcessorConfig,
        trained_on=KeypointProcessorConfig.trained_on,
        loss=keypoint_loss.loss,
        loss_config=keypoint_loss.KeypointTransformerLossConfig,
        parameters=57_539_228,
        prepare=keypoint_schedule.prepare,
        paper_config=KeypointTransformerConfig,
        paper_parameters=52_793_000,
        paper_gmacs=12.657,
        size_note="without attention's projections and queries; theirs runs tokens through both "
        "networks",
        importer=keypoint_official.load_official,
        unused_labels=_POINTS,
        uses=("pose", "object"),
    ),
    "keypoint-transformer-small": ModelEntry(
        summary="Keypoint Transformer's structure for processors, one hand",
        paper=_KEYPOINT,
        licence=_OURS,
        network=KeypointTransformer,
        config=KeypointTransformerConfig.small,
        processor=lambda: KeypointProcessorConfig.trained_on("deployable"),
        trained_on=KeypointProcessorConfig.trained_on,
        loss=keypoint_loss.loss,
        loss_config=keypoint_loss.KeypointTransformerLossConfig.small,
        parameters=3_841_847,
        prepare=keypoint_schedule.prepare,
        unused_labels=_POINTS,
        uses=("pose", "object"),
    ),
    "hoisdf": ModelEntry(
        summary="hand and held object by two signed distance fields; ResNet-50; needs wrist",
        paper=_HOISDF,
        licence=_NONE,
        network=HOISDF,
        config=HOISDFConfig,
        processor=HoisdfProcessorConfig.official,
        trained_on=HoisdfProcessorConfig.trained_on,
        loss=hoisdf_loss.loss,
        loss_config=hoisdf_loss.HOISDFLossConfig,
        parameters=52_096_168,
        prepare=hoisdf_schedule.prepare,
        importer=hoisdf_official.load_official,
        imported=HoisdfProcessorConfig.of_weights,
        unused_labels=_POINTS,
        uses=("pose", "object"),
    ),
    "hoisdf-small": ModelEntry(
        summary="HOISDF's structure for processors; the wrist is estimated from the box",
        paper=_HOISDF,
        licence=_OURS,
        network=HOISDF,
        config=HOISDFConfig.small,
        processor=lambda: HoisdfProcessorConfig.trained_on("deployable"),
        trained_on=HoisdfProcessorConfig.trained_on,
        loss=hoisdf_loss.loss,
        loss_config=hoisdf_loss.HOISDFLossConfig.small,
        parameters=1_598_888,
        prepare=hoisdf_schedule.prepare,
        unused_labels=_POINTS,
        uses=("pose", "object"),
    ),
}


def list_models() -> list[str]:
    """Names that `load_model` and `build_model` accept."""
    return list(MODELS)


def entry(name: str) -> ModelEntry:
    """The method's entry; InputError lists the known names."""
    if name not in MODELS:
        raise InputError(f"model: expected one of {', '.join(MODELS)}, found {name!r}")
    return MODELS[name]
