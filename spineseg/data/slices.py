"""Sagittal slices as training samples: read from the store, varied, with bitmap targets straight from the label map."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypedDict, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from spineseg.data.augmentation import (
    HUImage,
    Image,
    LabelMap,
    Part,
    Patch,
    SliceAugmentation,
    at_part,
    shown_part,
    warp,
)
from spineseg.data.planes import Planes
from spineseg.data.sampling import permutation
from spineseg.data.store import StoredCase
from spineseg.data.targets import compose, instance_targets
from spineseg.errors import ConfigError

Classes = Literal["vertebra", "levels"]
Masks = Literal["bitmap", "polygon"]

# Without a mosaic, ids are the levels themselves.
_ALL = np.arange(256, dtype=np.uint8)
# A mosaic takes its other slices from the draws around it, which are read anyway and kept meanwhile; Ultralytics' takes
# them from the images it read last.
MOSAIC_DRAWS = 32
STRIDE = 32  # the coarsest level of the detectors' feature pyramids
# One pixel wide there, torch 2.14's channels_last convolutions in bfloat16 read memory that nobody wrote.
LEAST_SIDE = 2 * STRIDE


class SliceRef(NamedTuple):
    """One sagittal slice: the case's id and its index ``x`` along X of the canonical grid.

    A tuple, since Lightning cannot move a batch that holds frozen dataclasses.
    """

    case: str
    x: int


class SliceSample(TypedDict):
    """One image with its instances, in network pixels: H and W are the slice's Y and Z."""

    image: Tensor  # (C, H, W) float32 in 0..1
    index_map: Tensor  # (H, W) uint8; 0 background, i + 1 the i-th instance
    classes: Tensor  # (N,) float32
    boxes: Tensor  # (N, 4) float32, x0, y0, x1, y1 in pixels, half-open: the hull of the instance's pixels
    ref: SliceRef


class SliceBatch(TypedDict):
    """A batch of slices, padded at the far ends to one size; see ``InstanceTargets`` for the loss's part."""

    images: Tensor  # (B, C, H, W) float32
    index_map: Tensor  # (B, H, W) uint8
    classes: Tensor  # (N,) float32
    boxes: Tensor  # (N, 4) float32, centre x, centre y, width, height, ÷ W or H
    batch_index: Tensor  # (N,) float32
    refs: list[SliceRef]


@dataclass(frozen=True)
class SliceReader:
    """How a slice becomes an image and a map of classes.

    Args:
        window_hu: lower and upper end of the HU window, mapped to 0..1.
        context: neighbouring slices on either side, as further channels (2 context + 1 in all).
        classes: ``vertebra`` for one class, ``levels`` for one class a level.
        levels: the contiguous class list of named networks, canonical level ids.
        masks: of training: ``bitmap``, as the label map has them, or ``polygon``, as one filled outline each.
    """

    window_hu: tuple[float, float]
    context: int
    classes: Classes
    levels: tuple[int, ...]
    masks: Masks = "bitmap"

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return 2 * self.context + 1

    @property
    def num_classes(self) -> int:
        """Classes of a network that reads these slices."""
        return 1 if self.classes == "vertebra" else len(self.levels)

    def image(self, case: StoredCase, index: int) -> Image:
        """The slice and its neighbours, windowed: (Y, Z, C). Beyond the volume the border slice is repeated."""
        return self.scale(self.stack(case, index))

    def stack(self, case: StoredCase, index: int, part: Part | None = None) -> HUImage:
        """The slice and its neighbours in HU: (Y, Z, C). Beyond the volume the border slice is repeated.

        Args:
            case: an opened case.
            index: of the slice.
            part: of the slice, to read that alone.
        """
        low, high = max(index - self.context, 0), min(index + self.context + 1, case.shape[0])
        y0, y1, z0, z1 = part or (0, case.shape[1], 0, case.shape[2])
        return self._channels(case.read_image_box((slice(low, high), slice(y0, y1), slice(z0, z1))), index - low)

    def window(self, stack: NDArray[np.int16], middle: int) -> Image:
        """Window a stack of slices (K, Y, Z) in HU around slice ``middle``: (Y, Z, C)."""
        return self.scale(self._channels(stack, middle))

    def interleaved(self, planes: Sequence[NDArray[np.int16]]) -> HUImage:
        """Slices (Y, Z) as the channels of one image (Y, Z, C)."""
        # cv2 interleaves planes several times as fast as a transposed copy does.
        return cast(HUImage, cv2.merge(list(planes)).reshape(*planes[0].shape, -1))

    def neighbours(self, index: int, count: int) -> list[int]:
        """Indices of the slice and its neighbours, of ``count``; beyond the volume the border slice is repeated."""
        return [min(max(i, 0), count - 1) for i in range(index - self.context, index + self.context + 1)]

    def scale(self, hu: NDArray[np.int16]) -> Image:
        """Map HU to 0..1 by the window."""
        return self.scale_in_place(hu.astype(np.float32))

    def scale_in_place(self, image: Image) -> Image:
        """The same for HU that are floats already, in their place."""
        low, high = self.window_hu
        image -= np.float32(low)
        image /= np.float32(high - low)
        return np.clip(image, 0, 1, out=image)

    def _channels(self, stack: NDArray[np.int16], middle: int) -> HUImage:
        return self.interleaved([stack[pick] for pick in self.neighbours(middle, len(stack))])

    def class_of(self, level: int) -> int | None:
        """The network's class of a level; None for a level outside the class list."""
        if self.classes == "vertebra":
            return 0
        return self.levels.index(level) if level in self.levels else None


class SliceDataset(Dataset[SliceSample]):
    """Training or validation slices; item ``draw`` is a pure function of (seed, draw).

    Draws count on through the epochs: draw ``epoch * length + i`` is the i-th sample of that epoch, and the order is a
    fresh permutation of all slices each time they have all been seen. A run's position is therefore one integer.

    Args:
        cases: the opened store by case id.
        refs: the slices to draw from.
        reader: how they are read.
        size: (Y, Z) of the network's image; null keeps the slice's own, padded to the stride.
        augmentation: null for validation: slices in order, as they are.
        epochs: the run's length, for the mosaic's closing phase.
        length: samples an epoch; null takes every slice once.
        seed: the run's seed.
        min_pixels: instances with fewer pixels left after the warp are background.
    """

    def __init__(
        self,
        cases: Mapping[str, StoredCase],
        refs: Sequence[SliceRef],
        reader: SliceReader,
        *,
        size: tuple[int, int] | None = None,
        augmentation: SliceAugmentation | None = None,
        epochs: int = 1,
        length: int | None = None,
        seed: int = 0,
        min_pixels: int = 4,
    ) -> None:
        """Check that there is something to draw."""
        if not refs:
            raise ConfigError("no slices to draw from: the split's cases hold no vertebra, or the split is empty")
        if augmentation is not None and size is None:
            raise ConfigError("augmented slices need data.image_size")
        self.cases, self.refs, self.reader = cases, tuple(refs), reader
        self.size, self.augmentation, self.epochs, self.seed = size, augmentation, epochs, seed
        self.length, self.min_pixels = length or len(self.refs), min_pixels
        used: dict[str, set[int]] = {}
        for ref in self.refs if augmentation is not None else ():
            used.setdefault(ref.case, set()).update(reader.neighbours(ref.x, cases[ref.case].shape[0]))
        self._planes = Planes(cases, {case: len(indices) for case, indices in used.items()}, MOSAIC_DRAWS)

    def __len__(self) -> int:
        """Samples an epoch."""
        return self.length

    def __getitem__(self, draw: int) -> SliceSample:
        """The sample of a draw; see the class for what a draw is."""
        # One thread a worker: the loader's parallelism is its workers.
        cv2.setNumThreads(0)
        if self.augmentation is None:
            return self._plain(self.refs[draw % len(self.refs)])
        assert self.size is not None
        image, index_map = np.zeros((*self.size, self.reader.channels), np.float32), np.zeros(self.size, np.uint8)
        classes, boxes = self._draw(draw, image, index_map)
        return _sample(image, index_map, classes, boxes, self.ref_of(draw))

    def __getitems__(self, draws: Sequence[int]) -> "SliceBatch | list[SliceSample]":
        """The samples of some draws; training slices come as a batch, each drawn in its place of it."""
        if self.augmentation is None:
            return [self[draw] for draw in draws]
        cv2.setNumThreads(0)
        assert self.size is not None
        # Fresh memory of zeros costs nothing where nothing is drawn.
        images = np.zeros((len(draws), *self.size, self.reader.channels), np.float32)
        index_map = np.zeros((len(draws), *self.size), np.uint8)
        drawn = [self._draw(draw, images[i], index_map[i]) for i, draw in enumerate(draws)]
        return _batch(images, index_map, drawn, [self.ref_of(draw) for draw in draws])

    def _draw(
        self, draw: int, image: Image, index_map: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Draw a training slice into zeros; its classes and boxes as in ``SliceSample``."""
        assert self.augmentation is not None
        rng = np.random.default_rng((self.seed, draw))
        ref = self.ref_of(draw)
        if self.augmentation.uses_mosaic(rng, draw // self.length, self.epochs):
            others = draw - draw % MOSAIC_DRAWS + rng.integers(0, MOSAIC_DRAWS, 3)
            patches, levels = self._mosaic([ref, *(self.ref_of(int(other)) for other in others)], rng)
        else:
            patches, levels = self._single(ref, rng), _ALL
        return compose(patches, levels, self.reader, self.augmentation, rng, self.min_pixels, image, index_map)

    def ref_of(self, draw: int) -> SliceRef:
        """The slice that a draw starts from."""
        round_, position = divmod(draw, len(self.refs))
        return self.refs[int(permutation(self.seed, round_, len(self.refs))[position])]

    def _read(self, ref: SliceRef) -> tuple[HUImage, LabelMap]:
        case = self.cases[ref.case]
        return self.reader.stack(case, ref.x), case.read_label(ref.x)

    def _plain(self, ref: SliceRef) -> SliceSample:
        hu, labels = self._read(ref)
        pad = [(0, padding(side)) for side in labels.shape]
        image = np.pad(self.reader.scale(hu), [*pad, (0, 0)])
        padded = np.zeros(image.shape[:2], np.uint8)
        padded[: labels.shape[0], : labels.shape[1]] = labels
        index_map, classes, boxes = instance_targets(padded, _ALL, self.reader, self.min_pixels)
        return _sample(image, index_map, classes, boxes, ref)

    def _single(self, ref: SliceRef, rng: np.random.Generator) -> list[Patch]:
        assert self.augmentation is not None and self.size is not None
        shape = self.cases[ref.case].shape[1:]
        matrix = self.augmentation.single(shape, self.size, rng)
        part = shown_part(matrix, shape, self.size)
        if part[0] >= part[1] or part[2] >= part[3]:
            return []
        patch = warp(*self._part(ref, part), at_part(matrix, part), self.size, self._dark)
        return [] if patch is None else [patch]

    def _mosaic(self, refs: Sequence[SliceRef], rng: np.random.Generator) -> tuple[list[Patch], NDArray[np.uint8]]:
        """The patches of four slices, with ids of their own, and the levels that those stand for."""
        assert self.augmentation is not None and self.size is not None
        tiles = [self._planes.label(ref.case, ref.x) for ref in refs]
        plan = self.augmentation.mosaic_of([_shape(tile.map) for tile in tiles], self.size, rng)
        # Tiles can hold the same level: each gets ids of its own, whose levels are remembered.
        levels = np.concatenate([np.zeros(1, np.uint8), *(tile.present for tile in tiles)])
        dtype = np.min_scalar_type(len(levels))
        patches: list[Patch] = []
        first = 1
        for ref, tile, (matrix, whole) in zip(refs, tiles, plan, strict=True):
            ids = np.zeros(256, dtype)
            ids[tile.present] = first + np.arange(len(tile.present))
            first += len(tile.present)
            seen = shown_part(matrix, _shape(tile.map), self.size)
            y0, z0 = max(whole[0], seen[0]), max(whole[2], seen[2])
            y1, z1 = min(whole[1], seen[1]), min(whole[3], seen[3])
            if y1 - y0 < 2 or z1 - z0 < 2:
                continue
            part = y0, y1, z0, z1
            patch = warp(*self._kept_part(ref, part), at_part(matrix, part), self.size, self._dark)
            if patch is not None:
                patches.append(patch._replace(labels=cast(LabelMap, cv2.LUT(patch.labels, ids))))
        return patches, levels

    def _part(self, ref: SliceRef, part: Part) -> tuple[HUImage, LabelMap]:
        if self._planes.all_fit:
            return self._kept_part(ref, part)
        case = self.cases[ref.case]
        labels = case.read_label_box((slice(ref.x, ref.x + 1), slice(*part[:2]), slice(*part[2:])))[0]
        return self.reader.stack(case, ref.x, part), labels

    def _kept_part(self, ref: SliceRef, part: Part) -> tuple[HUImage, LabelMap]:
        """A part of a slice and its neighbours, and of its labels, from memory."""
        indices = self.reader.neighbours(ref.x, self.cases[ref.case].shape[0])
        low, high = min(indices), max(indices) + 1
        planes = self._planes.image(ref.case, low, high)
        window = slice(*part[:2]), slice(*part[2:])
        image = self.reader.interleaved([planes[i - low][window] for i in indices])
        return image, self._planes.label(ref.case, ref.x).map[window]

    @property
    def _dark(self) -> float:
        return self.reader.window_hu[0]


def _sample(
    image: Image,
    index_map: NDArray[np.uint8],
    classes: NDArray[np.float32],
    boxes: NDArray[np.float32],
    ref: SliceRef,
) -> SliceSample:
    return SliceSample(
        image=torch.from_numpy(image).permute(2, 0, 1),
        index_map=torch.from_numpy(index_map),
        classes=torch.from_numpy(classes),
        boxes=torch.from_numpy(boxes),
        ref=ref,
    )


def collate(samples: Sequence[SliceSample] | SliceBatch) -> SliceBatch:
    """Stack samples; smaller ones are padded with zeros at the far ends. A batch is one already."""
    if isinstance(samples, dict):
        return samples
    height, width = (max(sample["index_map"].shape[axis] for sample in samples) for axis in (0, 1))
    # Channels last in memory, as the samples come and as convolutions like it.
    images = np.zeros((len(samples), height, width, samples[0]["image"].shape[0]), np.float32)
    index_map = np.zeros((len(samples), height, width), np.uint8)
    for i, sample in enumerate(samples):
        rows, columns = sample["index_map"].shape
        images[i, :rows, :columns] = sample["image"].permute(1, 2, 0).numpy()
        index_map[i, :rows, :columns] = sample["index_map"].numpy()
    drawn = [(sample["classes"].numpy(), sample["boxes"].numpy()) for sample in samples]
    return _batch(images, index_map, drawn, [sample["ref"] for sample in samples])


def _batch(
    images: NDArray[np.float32],
    index_map: NDArray[np.uint8],
    drawn: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]],
    refs: list[SliceRef],
) -> SliceBatch:
    """A batch of images (B, H, W, C), index maps (B, H, W), and each one's classes and boxes in pixels."""
    height, width = index_map.shape[1:]
    corners = np.concatenate([boxes for _, boxes in drawn]) / np.array([width, height, width, height], np.float32)
    low, high = corners[:, :2], corners[:, 2:]
    lengths = [len(classes) for classes, _ in drawn]
    return SliceBatch(
        images=torch.from_numpy(images).permute(0, 3, 1, 2),
        index_map=torch.from_numpy(index_map),
        classes=torch.from_numpy(np.concatenate([classes for classes, _ in drawn])),
        boxes=torch.from_numpy(np.concatenate([(low + high) / 2, high - low], axis=1)),
        batch_index=torch.from_numpy(np.repeat(np.arange(len(drawn), dtype=np.float32), lengths)),
        refs=refs,
    )


def _shape(labels: LabelMap) -> tuple[int, int]:
    return labels.shape[0], labels.shape[1]


def padding(side: int) -> int:
    """Pixels to add to a side, so that a network takes it whole.

    >>> padding(3), padding(64), padding(65)
    (61, 0, 31)
    """
    return max(LEAST_SIDE - side, -side % STRIDE)
