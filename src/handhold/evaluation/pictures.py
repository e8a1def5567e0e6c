"""The pictures of a folder, of shards or of a published set, and networks that tell their features
for FID."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from handhold.data.sources import FORM, SetSpec
from handhold.errors import InputError, MissingFileError
from handhold.evaluation.inception import Inception
from handhold.evaluation.metrics.images import features_of, read_features
from handhold.geometry import crop
from handhold.inference.images import SUFFIXES, read_photo
from handhold.models.detector.weights import load_detector
from handhold.models.hub import local_file
from handhold.models.loading import load_model
from handhold.scene import Sample
from handhold.synthesis.conditions import crop_affine
from handhold.synthesis.shards import OPTIONAL, ShardDataset

Features = Literal["unihope-small", "hand-detector", "inception"]
Crop = Literal["hand", "whole"]
Image = NDArray[np.uint8]


class PictureNetwork:
    """features: whose. weights: a file, or `hub:OWNER/REPOSITORY/FILE`; None: those that ship with
    the package. name: network and weights, for reports. Raises InputError for Inception without
    weights, and what reading them raises.

    "unihope-small": the means of the last maps of UniHOPE's two streams, hand's and object's (640
    numbers, pictures resized to its 128 pixels). "hand-detector": the mean of the detector's
    coarsest map before its pyramid (192, pictures resized to 320 pixels). "inception": FID's own,
    `Inception` (2048). Figures of different features cannot be compared.
    """

    def __init__(self, features: Features, weights: str | None = None, device: str = "cpu") -> None:
        if features not in get_args(Features):
            raise InputError(
                f"features: expected one of {', '.join(get_args(Features))}, found {features!r}"
            )
        if features == "inception" and weights is None:
            raise InputError(
                "features inception: its weights do not come with the package; give their file or "
                "hub:OWNER/REPOSITORY/FILE (--weights), or take unihope-small or hand-detector"
            )
        file = None if weights is None else local_file(weights)
        self.name = features if file is None else f"{features} ({file.name})"
        self.device = torch.device(device)
        if features == "inception":
            self.network: Any = Inception.load(str(weights))
            self.size = None
        elif features == "hand-detector":
            self.network = load_detector(file)
            self.size = self.network.config.input_size
        else:
            self.network = load_model("unihope-small", file).network
            self.size = self.network.config.input_size
        self.network.eval().to(self.device)

    @torch.no_grad()
    def __call__(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """Pictures (H, W, 3) uint8 of any sizes -> (B, D)."""
        if self.size is None:
            return self.network.of(images)
        shape = (self.size, self.size)
        small = np.stack([cv2.resize(x, shape, interpolation=cv2.INTER_AREA) for x in images])
        batch = torch.from_numpy(small).to(self.device).permute(0, 3, 1, 2).float() / 255
        maps = self.network.backbone(batch)
        last = [maps["c5_hand"], maps["c5_obj"]] if isinstance(maps, dict) else [maps[-1]]
        return torch.cat([found.mean((2, 3)) for found in last], 1).cpu().numpy()


@dataclass(frozen=True, kw_only=True)
class PictureSet:
    """features (N, D). title: what they are of. given: they were stored, no network made them.
    left_out: samples without a hand to crop."""

    title: str
    features: NDArray[Any]
    given: bool = False
    left_out: int = 0


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How pictures are chosen. crop: of labelled samples the first hand's crop as the image
    synthesizer is trained with (`conditions.crop_affine`, left hands mirrored), or the whole photo;
    pictures of a plain folder are always whole. size: of such crops in pixels. count: at most so
    many, evenly spread."""

    crop: Crop = "hand"
    size: int = 128
    count: int | None = None
    mano: Path | None = None


def features_of_source(text: str, network: PictureNetwork, choice: Choice) -> PictureSet:
    """The features of FOLDER, which holds shards (.tar), pictures, or stored features (.npy), or of
    NAME/SPLIT:FOLDER, a published set.

    Raises InputError for other texts and where no sample has a hand to crop, MissingFileError, and
    what reading raises.
    """
    spec = SetSpec.parse(text)
    folder = Path(text.removeprefix("shards:"))
    if spec is not None:
        unused = ("hand_mask", "hand_mask_amodal", "object_mask", "depth")
        return _of_samples(text, spec.open(mano=choice.mano, skip=unused), network, choice)
    if not folder.is_dir():
        raise MissingFileError(f"{text}: no such folder; expected FOLDER or {FORM}")
    if any(folder.glob("*.tar")):
        return _of_samples(text, ShardDataset(folder, skip=OPTIONAL), network, choice)
    files = sorted(x for x in folder.iterdir() if x.suffix.lower() in SUFFIXES and x.name[0] != ".")
    if files:
        chosen = [files[i] for i in _spread(len(files), choice.count)]
        found = features_of((read_photo(path).image for path in chosen), network)
        return PictureSet(title=f"{len(found):,} pictures of {text}", features=found)
    if any(folder.glob("*.npy")):
        stored = read_features(folder)
        stored = stored[list(_spread(len(stored), choice.count))]
        title = f"{len(stored):,} stored features of {text}"
        return PictureSet(title=title, features=stored, given=True)
    raise InputError(f"{text}: expected shards (.tar), pictures or stored features (.npy) in it")


def _spread(length: int, count: int | None) -> range | list[int]:
    if count is None or count >= length:
        return range(length)
    return [i * length // count for i in range(count)]


def _of_samples(text: str, samples: Any, network: PictureNetwork, choice: Choice) -> PictureSet:
    left_out = 0

    def pictures() -> Iterator[Image]:
        nonlocal left_out
        for number in _spread(len(samples), choice.count):
            image = picture_of(samples[number], choice)
            if image is None:
                left_out += 1
            else:
                yield image

    try:
        found = features_of(pictures(), network)
    except InputError:
        if left_out:
            raise InputError(
                f"{text}: no hand in it has a side and 2D joints to crop by; --crop whole takes "
                "whole photos"
            ) from None
        raise
    kind = "hand crops" if choice.crop == "hand" else "photos"
    title = f"{len(found):,} {kind} of {text}"
    return PictureSet(title=title, features=found, left_out=left_out)


def picture_of(sample: Sample, choice: Choice) -> Image | None:
    """What of a sample is looked at; None where it has no hand to crop.

    A photo that is such a crop already, as made ones are, is taken as it is.
    """
    if choice.crop == "whole":
        return sample.image
    if not sample.hands:
        return None
    hand, (height, width) = sample.hands[0], sample.image.shape[:2]
    try:
        affine = crop_affine(hand, sample.camera, choice.size)
    except InputError:  # no side, no joints, or outside the photo
        return None
    whole = np.diag([choice.size / width, choice.size / height, 1.0])
    if hand.side == "left":
        whole = whole @ crop.flip_affine(width)
    ends = np.array([[0, 0, 1], [width, height, 1]]).T
    if np.abs((affine - whole) @ ends).max() <= 2 * choice.size / width:  # the crop rule's rounding
        image = sample.image[:, ::-1] if hand.side == "left" else sample.image
        shape = (choice.size, choice.size)
        return np.asarray(cv2.resize(image, shape, interpolation=cv2.INTER_AREA), np.uint8)
    return crop.warp(sample.image, affine, choice.size)
