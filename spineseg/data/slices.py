"""Sagittal slices as training samples: read from the store, varied, with bitmap targets straight from the label map."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple, TypedDict, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from spineseg.data.augmentation import HUImage, Image, LabelMap, SliceAugmentation, warp
from spineseg.data.store import StoredCase
from spineseg.errors import ConfigError

Classes = Literal["vertebra", "levels"]

# Without a mosaic, ids are the levels themselves.
_ALL = np.arange(256, dtype=np.uint8)
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

    def stack(self, case: StoredCase, index: int) -> HUImage:
        """The slice and its neighbours in HU: (Y, Z, C). Beyond the volume the border slice is repeated."""
        low, high = max(index - self.context, 0), min(index + self.context + 1, case.shape[0])
        return self._channels(case.read_image(low, high), index - low)

    def window(self, stack: NDArray[np.int16], middle: int) -> Image:
        """Window a stack of slices (K, Y, Z) in HU around slice ``middle``: (Y, Z, C)."""
        return self.scale(self._channels(stack, middle))

    def scale(self, hu: NDArray[np.int16]) -> Image:
        """Map HU to 0..1 by the window."""
        low, high = self.window_hu
        image = hu.astype(np.float32)
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
            others = [self.refs[i] for i in rng.integers(0, len(self.refs), 3)]
            return self._mosaic([ref, *others], rng)
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
        image, labels = self._read(ref)
        matrix = self.augmentation.single(_shape(labels), self.size, rng)
        canvas, drawn = self._canvas()
        warp(image, labels, matrix, canvas, drawn)
        return self._sample(self.augmentation.intensity(self.reader.scale(canvas), rng), drawn, _ALL, ref)

    def _mosaic(self, refs: Sequence[SliceRef], rng: np.random.Generator) -> SliceSample:
        assert self.augmentation is not None and self.size is not None
        tiles = [self._read(ref) for ref in refs]
        plan = self.augmentation.mosaic_of([_shape(labels) for _, labels in tiles], self.size, rng)
        canvas, drawn = self._canvas()
        levels = [np.zeros(1, np.uint8)]
        for (image, labels), (matrix, (y0, y1, z0, z1)) in zip(tiles, plan, strict=True):
            if y1 - y0 < 2 or z1 - z0 < 2:
                continue
            offset = np.eye(3)
            offset[:2, 2] = z0, y0
            # Tiles can hold the same level: each gets ids of its own, whose levels are remembered.
            present = np.flatnonzero(np.bincount(labels.ravel(), minlength=256)[1:]) + 1
            ids = np.zeros(256, np.uint16)
            ids[present] = sum(map(len, levels)) + np.arange(len(present))
            levels.append(present.astype(np.uint8))
            part = np.ascontiguousarray(image[y0:y1, z0:z1])
            warp(part, ids[labels[y0:y1, z0:z1]], matrix @ offset, canvas, drawn)
        varied = self.augmentation.intensity(self.reader.scale(canvas), rng)
        return self._sample(varied, drawn, np.concatenate(levels), refs[0])

    def _canvas(self) -> tuple[HUImage, LabelMap]:
        """What lies outside the slice is as dark as the window gets."""
        assert self.size is not None
        dark = max(int(np.floor(self.reader.window_hu[0])), -(1 << 15))
        return np.full((*self.size, self.reader.channels), dark, np.int16), np.zeros(self.size, np.uint16)

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
    counts = np.bincount(ids.ravel(), minlength=1)
    lookup = np.zeros(max(len(counts), 1), np.uint8)
    classes: list[int] = []
    for value in np.flatnonzero(counts >= max(min_pixels, 1)):
        of = reader.class_of(int(levels[value])) if value else None
        if of is None or len(classes) == 255:
            continue
        classes.append(of)
        lookup[value] = len(classes)
    index_map = lookup[ids]
    hulls = ndimage.find_objects(index_map, max_label=len(classes)) if classes else []
    boxes = [(columns.start, rows.start, columns.stop, rows.stop) for rows, columns in hulls]
    return index_map, np.array(classes, np.float32), np.array(boxes, np.float32).reshape(-1, 4)


def collate(samples: Sequence[SliceSample]) -> SliceBatch:
    """Stack samples; smaller ones are padded with zeros at the far ends."""
    height, width = (max(sample["index_map"].shape[axis] for sample in samples) for axis in (0, 1))
    # Channels last in memory, as the samples come and as convolutions like it.
    shape = (len(samples), height, width, samples[0]["image"].shape[0])
    images = samples[0]["image"].new_zeros(shape).permute(0, 3, 1, 2)
    index_map = samples[0]["index_map"].new_zeros((len(samples), height, width))
    boxes, batch_index = [], []
    for i, sample in enumerate(samples):
        rows, columns = sample["index_map"].shape
        images[i, :, :rows, :columns] = sample["image"]
        index_map[i, :rows, :columns] = sample["index_map"]
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


class DrawSampler(Sampler[int]):
    """The draws of an epoch that fall to this process: every ``world``-th, none repeated to fill up."""

    def __init__(self, length: int, *, rank: int = 0, world: int = 1) -> None:
        """Split the ``length`` draws of an epoch among ``world`` processes."""
        super().__init__()
        self.length, self.rank, self.world, self.epoch = length, rank, world, 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning tells the epoch before each one."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        """Draws of this epoch."""
        start = self.epoch * self.length
        return iter(range(start + self.rank, start + self.length, self.world))

    def __len__(self) -> int:
        """Draws an epoch in this process."""
        return len(range(self.rank, self.length, self.world))


@lru_cache(maxsize=4)
def _permutation(seed: int, round_: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, round_, count)).permutation(count)


def _shape(labels: LabelMap) -> tuple[int, int]:
    return labels.shape[0], labels.shape[1]
