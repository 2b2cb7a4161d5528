"""Sagittal slices as training samples: read from the store, varied, with bitmap targets straight from the label map."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
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
from spineseg.data.store import StoredCase
from spineseg.errors import ConfigError

Classes = Literal["vertebra", "levels"]

# Without a mosaic, ids are the levels themselves.
_ALL = np.arange(256, dtype=np.uint8)
# A mosaic takes its other slices from the draws around it, which are read anyway and kept meanwhile; Ultralytics' takes
# them from the images it read last.
MOSAIC_DRAWS = 32
STRIDE = 32  # the coarsest level of the detectors' feature pyramids


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
    """

    window_hu: tuple[float, float]
    context: int
    classes: Classes
    levels: tuple[int, ...]

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
        picks = np.clip(np.arange(middle - self.context, middle + self.context + 1), 0, len(stack) - 1)
        # cv2 interleaves planes several times as fast as a transposed copy does.
        return cast(HUImage, cv2.merge([stack[pick] for pick in picks]).reshape(*stack.shape[1:], -1))

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
        self._tiles: dict[SliceRef, tuple[HUImage, LabelMap, NDArray[np.uint8]]] = {}

    def __len__(self) -> int:
        """Samples an epoch."""
        return self.length

    def __getitem__(self, draw: int) -> SliceSample:
        """The sample of a draw; see the class for what a draw is."""
        # One thread a worker: the loader's parallelism is its workers.
        cv2.setNumThreads(0)
        if self.augmentation is None:
            return self._plain(self.refs[draw % len(self.refs)])
        rng = np.random.default_rng((self.seed, draw))
        ref = self.ref_of(draw)
        if self.augmentation.uses_mosaic(rng, draw // self.length, self.epochs):
            others = draw - draw % MOSAIC_DRAWS + rng.integers(0, MOSAIC_DRAWS, 3)
            return self._mosaic([ref, *(self.ref_of(int(other)) for other in others)], rng)
        return self._single(ref, rng)

    def ref_of(self, draw: int) -> SliceRef:
        """The slice that a draw starts from."""
        round_, position = divmod(draw, len(self.refs))
        return self.refs[int(_permutation(self.seed, round_, len(self.refs))[position])]

    def _read(self, ref: SliceRef) -> tuple[HUImage, LabelMap]:
        case = self.cases[ref.case]
        return self.reader.stack(case, ref.x), case.read_label(ref.x)

    def _plain(self, ref: SliceRef) -> SliceSample:
        hu, labels = self._read(ref)
        pad = [(0, -side % STRIDE) for side in labels.shape]
        image = np.pad(self.reader.scale(hu), [*pad, (0, 0)])
        padded = np.zeros(image.shape[:2], np.uint8)
        padded[: labels.shape[0], : labels.shape[1]] = labels
        return self._sample(image, padded, _ALL, ref)

    def _single(self, ref: SliceRef, rng: np.random.Generator) -> SliceSample:
        assert self.augmentation is not None and self.size is not None
        case = self.cases[ref.case]
        matrix = self.augmentation.single(case.shape[1:], self.size, rng)
        part = shown_part(matrix, case.shape[1:], self.size)
        patches: list[Patch | None] = []
        if part[0] < part[1] and part[2] < part[3]:
            y, z = slice(*part[:2]), slice(*part[2:])
            labels = case.read_label_box((slice(ref.x, ref.x + 1), y, z))[0]
            image = self.reader.stack(case, ref.x, part)
            patches.append(warp(image, labels, at_part(matrix, part), self.size, self._dark))
        return self._composed(patches, rng, _ALL, ref)

    def _mosaic(self, refs: Sequence[SliceRef], rng: np.random.Generator) -> SliceSample:
        assert self.augmentation is not None and self.size is not None
        tiles = [self._kept_tile(ref) for ref in refs]
        plan = self.augmentation.mosaic_of([_shape(labels) for _, labels, _ in tiles], self.size, rng)
        # Tiles can hold the same level: each gets ids of its own, whose levels are remembered.
        levels = np.concatenate([np.zeros(1, np.uint8), *(present for _, _, present in tiles)])
        dtype = np.min_scalar_type(len(levels))
        patches: list[Patch | None] = []
        first = 1
        for (image, labels, present), (matrix, whole) in zip(tiles, plan, strict=True):
            ids = np.zeros(256, dtype)
            ids[present] = first + np.arange(len(present))
            first += len(present)
            seen = shown_part(matrix, _shape(labels), self.size)
            y0, z0 = max(whole[0], seen[0]), max(whole[2], seen[2])
            y1, z1 = min(whole[1], seen[1]), min(whole[3], seen[3])
            if y1 - y0 < 2 or z1 - z0 < 2:
                continue
            moved = at_part(matrix, (y0, y1, z0, z1))
            patch = warp(image[y0:y1, z0:z1], labels[y0:y1, z0:z1], moved, self.size, self._dark)
            if patch is not None:
                patches.append(patch._replace(labels=cast(LabelMap, cv2.LUT(patch.labels, ids))))
        return self._composed(patches, rng, levels, refs[0])

    def _kept_tile(self, ref: SliceRef) -> tuple[HUImage, LabelMap, NDArray[np.uint8]]:
        """A slice, its labels and its levels; the last ones are kept, which changes nothing but the time."""
        tile = self._tiles.pop(ref, None)
        if tile is None:
            image, labels = self._read(ref)
            tile = image, labels, np.flatnonzero(np.bincount(labels.ravel(), minlength=256)[1:]).astype(np.uint8) + 1
            if len(self._tiles) >= MOSAIC_DRAWS:
                del self._tiles[next(iter(self._tiles))]
        self._tiles[ref] = tile
        return tile

    def _composed(
        self, patches: Sequence[Patch | None], rng: np.random.Generator, levels: NDArray[np.uint8], ref: SliceRef
    ) -> SliceSample:
        """Window the patches, draw them, vary the image; what lies outside is as dark as the window gets: 0."""
        assert self.augmentation is not None and self.size is not None
        there = [patch for patch in patches if patch is not None]
        image = np.zeros((*self.size, self.reader.channels), np.float32)
        ids: LabelMap = np.zeros(self.size, np.result_type(np.uint8, *(patch.labels.dtype for patch in there)))
        rows = [slice(patch.top, patch.top + patch.image.shape[0]) for patch in there]
        columns = [slice(patch.left, patch.left + patch.image.shape[1]) for patch in there]
        for patch, y, z in zip(there, rows, columns, strict=True):
            # The corners of turned tiles lie in each other's patches, and are 0 there.
            np.maximum(image[y, z], self.reader.scale_in_place(patch.image), out=image[y, z])
            np.maximum(ids[y, z], patch.labels, out=ids[y, z])
        shown = tuple(edge for part in (rows, columns) for edge in _hull(part))
        return self._sample(self.augmentation.intensity(image, rng, cast(Part, shown)), ids, levels, ref)

    @property
    def _dark(self) -> float:
        return self.reader.window_hu[0]

    def _sample(self, image: Image, ids: LabelMap, levels: NDArray[np.uint8], ref: SliceRef) -> SliceSample:
        index_map, classes, boxes = instance_targets(ids, levels, self.reader, self.min_pixels)
        return SliceSample(
            image=torch.from_numpy(image).permute(2, 0, 1),
            index_map=torch.from_numpy(index_map),
            classes=torch.from_numpy(classes),
            boxes=torch.from_numpy(boxes),
            ref=ref,
        )


def instance_targets(
    ids: LabelMap, levels: NDArray[np.uint8], reader: SliceReader, min_pixels: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
    """Instances of a map of ids (H, W): index map, classes (N,) and boxes (N, 4) as in ``SliceSample``.

    One instance is all pixels of one id, several parts and holes included.

    Args:
        ids: 0 is background.
        levels: the level that each id stands for.
        reader: which levels are classes.
        min_pixels: smaller instances become background, and so does what an index map of 8 bits cannot number.
    """
    # Few pixels are of an instance; the work goes with those.
    spots = np.flatnonzero(ids != 0)
    values = ids.ravel()[spots]
    counts = np.bincount(values, minlength=1)
    lookup = np.zeros(len(counts), np.uint8)
    classes: list[int] = []
    for value in np.flatnonzero(counts >= max(min_pixels, 1)):
        of = reader.class_of(int(levels[value]))
        if of is None or len(classes) == 255:
            continue
        classes.append(of)
        lookup[value] = len(classes)
    index_map = np.zeros(ids.shape, np.uint8)
    numbers = lookup[values]
    index_map.ravel()[spots] = numbers
    rows, columns = np.divmod(spots, ids.shape[1])
    y0, y1 = _extents(numbers, rows, len(classes), ids.shape[0])
    x0, x1 = _extents(numbers, columns, len(classes), ids.shape[1])
    return index_map, np.array(classes, np.float32), np.stack([x0, y0, x1, y1], axis=1).astype(np.float32)


def _extents(
    numbers: NDArray[np.uint8], places: NDArray[np.int64], count: int, length: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First place (count,) of each number from 1 on, and the place after its last; ``places`` lie below ``length``."""
    taken = np.bincount(numbers * np.int64(length) + places, minlength=(count + 1) * length) > 0
    each = taken[: (count + 1) * length].reshape(count + 1, length)[1:]
    return each.argmax(axis=1), length - each[:, ::-1].argmax(axis=1)


def collate(samples: Sequence[SliceSample]) -> SliceBatch:
    """Stack samples; smaller ones are padded with zeros at the far ends."""
    height, width = (max(sample["index_map"].shape[axis] for sample in samples) for axis in (0, 1))
    # Channels last in memory, as the samples come and as convolutions like it.
    shape = (len(samples), height, width, samples[0]["image"].shape[0])
    images = samples[0]["image"].new_empty(shape).permute(0, 3, 1, 2)
    index_map = samples[0]["index_map"].new_empty((len(samples), height, width))
    boxes, batch_index = [], []
    for i, sample in enumerate(samples):
        rows, columns = sample["index_map"].shape
        for whole, part in ((images[i], sample["image"]), (index_map[i], sample["index_map"])):
            whole[..., :rows, :columns] = part
            whole[..., rows:, :] = 0
            whole[..., :rows, columns:] = 0
        corners = sample["boxes"] / torch.tensor([width, height, width, height])
        boxes.append(torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], dim=1))
        batch_index.append(torch.full((len(corners),), float(i)))
    return SliceBatch(
        images=images,
        index_map=index_map,
        classes=torch.cat([sample["classes"] for sample in samples]),
        boxes=torch.cat(boxes),
        batch_index=torch.cat(batch_index),
        refs=[sample["ref"] for sample in samples],
    )


@lru_cache(maxsize=4)
def _permutation(seed: int, round_: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, round_, count)).permutation(count)


def _hull(parts: Sequence[slice]) -> tuple[int, int]:
    return min((part.start for part in parts), default=0), max((part.stop for part in parts), default=0)


def _shape(labels: LabelMap) -> tuple[int, int]:
    return labels.shape[0], labels.shape[1]
