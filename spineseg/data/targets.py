"""Patches of slices drawn into one training image, and the instances that it then shows."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from spineseg.data.augmentation import Image, LabelMap, Patch, SliceAugmentation

if TYPE_CHECKING:
    from spineseg.data.slices import SliceReader

# Before version 5, cv2 looks up values of 8 bits only.
_LOOKS_UP_16_BITS = int(cv2.__version__.split(".")[0]) >= 5


def compose(
    patches: Sequence[Patch],
    levels: NDArray[np.uint8],
    reader: "SliceReader",
    augmentation: SliceAugmentation,
    rng: np.random.Generator,
    min_pixels: int,
    image: Image,
    index_map: NDArray[np.uint8],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Window patches, draw them, vary the image; what lies outside is as dark as the window gets: 0.

    Args:
        patches: of one or more slices.
        levels: the level that each of the patches' ids stands for.
        reader: window and classes.
        augmentation: varies the intensity.
        rng: what that is drawn from.
        min_pixels: instances with fewer pixels are background.
        image: (H, W, C) zeros, to be drawn in.
        index_map: (H, W) zeros, to be drawn in.

    Returns:
        Classes (N,) and boxes (N, 4) as in ``SliceSample``.
    """
    rows = [slice(patch.top, patch.top + patch.image.shape[0]) for patch in patches]
    columns = [slice(patch.left, patch.left + patch.image.shape[1]) for patch in patches]
    top, bottom = _hull(rows)
    left, right = _hull(columns)
    table = None
    if augmentation.pointwise and all(patch.image.dtype == np.int16 for patch in patches):
        table = _table(reader, augmentation, rng)
    ids: LabelMap = np.zeros((bottom - top, right - left), np.result_type(np.uint8, *(p.labels.dtype for p in patches)))
    for number, (patch, y, z) in enumerate(zip(patches, rows, columns, strict=True)):
        place = ids[y.start - top : y.stop - top, z.start - left : z.stop - left]
        if not any(_meet(y, rows[i]) and _meet(z, columns[i]) for i in range(number)):
            _window(patch, table, reader, image[y, z])
            place[:] = patch.labels
            continue
        grey = _window(patch, table, reader, np.empty(patch.image.shape, np.float32))
        # The corners of turned tiles lie in each other's patches, and are 0 there.
        np.maximum(image[y, z], grey, out=image[y, z])
        np.maximum(place, patch.labels, out=place)
    if table is None:
        varied = augmentation.intensity(image, rng, (top, bottom, left, right))
        if varied is not image:
            image[:] = varied
    if reader.masks == "polygon":
        ids = outlined(ids)
    found, classes, boxes = instance_targets(ids, levels, reader, min_pixels)
    index_map[top:bottom, left:right] = found
    return classes, boxes + np.array([left, top, left, top], np.float32)


def _table(reader: "SliceReader", augmentation: SliceAugmentation, rng: np.random.Generator) -> NDArray[np.float32]:
    """The varied, windowed value of each int16 HU, by its bits as uint16.

    With whole HU, and no pixel looking at another, all values that there can be are varied in place of the pixels.
    """
    low, high = np.clip([np.floor(reader.window_hu[0]), np.ceil(reader.window_hu[1])], -(2**15), 2**15 - 1).astype(int)
    hu = np.arange(low, high + 1)
    curve = augmentation.intensity(reader.scale(hu.astype(np.int16)).reshape(1, -1, 1), rng).ravel()
    table = np.empty(2**16, np.float32)
    table[: 2**15], table[2**15 :] = curve[-1], curve[0]
    if low > 0:
        table[:low] = curve[0]
    if high < -1:
        table[high + 1 :] = curve[-1]
    table[hu & 0xFFFF] = curve
    return table


def _window(patch: Patch, table: NDArray[np.float32] | None, reader: "SliceReader", out: Image) -> Image:
    """Window a patch into ``out`` (h, w, C), and vary it where that is in the table."""
    if table is None:
        out[:] = patch.image
        return reader.scale_in_place(out)
    bits = patch.image.view(np.uint16)
    if _LOOKS_UP_16_BITS:
        # cv2 knows one channel as two dimensions.
        one = bits.shape[2] == 1
        cv2.LUT(bits[:, :, 0] if one else bits, table, out[:, :, 0] if one else out)
        return out
    out[:] = table[bits]
    return out


def outlined(ids: LabelMap) -> LabelMap:
    """Instances as one polygon each gives them, in the way YOLO's converters write masks.

    The outer contours of all parts, each joined to the next by a line between their nearest points, filled: holes such
    as the spinal canal are lost. Where two polygons overlap, the instance with fewer pixels lies on top. A mask of one
    part without a hole stays as it is.

    Args:
        ids: (H, W), 0 is background.
    """
    drawn = np.zeros_like(ids)
    values, counts = np.unique(ids[ids != 0], return_counts=True)
    for value in values[np.argsort(-counts, kind="stable")]:
        filled = (ids == value).astype(np.uint8)
        contours, _ = cv2.findContours(filled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(filled, contours, -1, 1, cv2.FILLED)
        for part, following in itertools.pairwise(contour[:, 0] for contour in contours):
            distance = cdist(part, following)
            start, end = np.unravel_index(distance.argmin(), distance.shape)
            cv2.line(filled, part[start].tolist(), following[end].tolist(), 1)
        drawn[filled != 0] = value
    return drawn


def instance_targets(
    ids: LabelMap, levels: NDArray[np.uint8], reader: "SliceReader", min_pixels: int
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
    rows = spots // ids.shape[1]  # many times as fast as divmod
    columns = spots - rows * ids.shape[1]
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


def _hull(parts: Sequence[slice]) -> tuple[int, int]:
    return min((part.start for part in parts), default=0), max((part.stop for part in parts), default=0)


def _meet(first: slice, second: slice) -> bool:
    return bool(first.start < second.stop and second.start < first.stop)
