"""Run-length masks (COCO's, column-major) and the geometry of masks and boxes in one sagittal slice.

A slice is an array (Y, Z) of the case's grid in canonical RAS+; a run-length mask has ``size`` [Y, Z]. Boxes are
half-open (y0, z0, y1, z1) in pixels.
"""

from collections.abc import Sequence
from typing import Final, TypedDict, cast

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]
# A mask on its box's pixels, and the position (y, z) of the first one.
Crop = tuple[NDArray[np.bool_], tuple[int, int]]
# pycocotools 2.0.11 puts the number of masks into eight bits, which NumPy 2 refuses from 256 on.
_AREAS_AT_ONCE: Final = 255


class Rle(TypedDict):
    """A mask as COCO's compressed run lengths; ``counts`` is text, so that it goes into JSON as it is."""

    size: list[int]
    counts: str


def encode(mask: Mask) -> Rle:
    """Encode a dense mask (Y, Z).

    >>> encode(np.eye(2, dtype=bool))
    {'size': [2, 2], 'counts': '0120'}
    """
    return _text(coco.encode(np.asfortranarray(mask, dtype=np.uint8)))


def encode_stack(masks: Mask) -> tuple[Rle, ...]:
    """Encode dense masks (N, Y, Z)."""
    if len(masks) == 0:
        return ()
    return tuple(_text(rle) for rle in coco.encode(np.asfortranarray(np.moveaxis(masks, 0, -1), dtype=np.uint8)))


def encode_crop(crop: Mask, corner: tuple[int, int], size: tuple[int, int]) -> Rle:
    """Encode the mask of shape ``size`` that is ``crop`` (h, w) at ``corner`` (y0, z0) and empty elsewhere.

    The work goes with the crop, not with the slice.

    >>> encode_crop(np.ones((1, 1), bool), (1, 1), (2, 2)) == encode(np.array([[False, False], [False, True]]))
    True
    """
    height, width = crop.shape
    padded = np.zeros((width, height + 2), np.int8)
    padded[:, 1:-1] = crop.T
    steps = np.diff(padded, axis=1)
    columns, rows = np.nonzero(steps == 1)
    offset = (columns + corner[1]) * size[0] + corner[0]
    starts, ends = offset + rows, offset + np.nonzero(steps == -1)[1]
    # A run that goes on at the head of the next column is one run.
    apart = starts[1:] != ends[:-1]
    edges = np.stack([starts[np.r_[True, apart]], ends[np.r_[apart, True]]], 1).ravel() if len(starts) else starts
    counts = np.diff(edges, prepend=0, append=size[0] * size[1])
    if counts[-1] == 0 and len(counts) > 1:
        counts = counts[:-1]
    return _text(coco.frPyObjects({"size": list(size), "counts": counts.tolist()}, *size))


def decode(rle: Rle) -> Mask:
    """Decode to a dense mask (Y, Z)."""
    return decode_box(rle, (0, 0, rle["size"][0], rle["size"][1]))


def decode_box(rle: Rle, box: tuple[int, int, int, int]) -> Mask:
    """Decode the part of a mask inside a half-open box (y0, z0, y1, z1): (y1 − y0, z1 − z0).

    The work goes with the box, not with the slice.
    """
    y0, z0, y1, z1 = box
    height = rle["size"][0]
    counts = _counts(rle["counts"])
    ends = np.clip(np.cumsum(counts), z0 * height, z1 * height)
    lengths = np.diff(ends, prepend=z0 * height)
    return np.repeat(np.arange(len(counts)) % 2 == 1, lengths).reshape(z1 - z0, height)[:, y0:y1].T


def areas_px(masks: Sequence[Rle]) -> NDArray[np.int64]:
    """Areas (N,) in pixels."""
    found = np.zeros(len(masks), np.int64)
    for first in range(0, len(masks), _AREAS_AT_ONCE):
        part = slice(first, first + _AREAS_AT_ONCE)
        found[part] = coco.area(list(masks[part]))
    return found


def hulls(masks: Sequence[Rle]) -> Floats:
    """Smallest boxes (N, 4) that hold the masks; an empty mask gives zeros."""
    if len(masks) == 0:
        return np.zeros((0, 4))
    # COCO's x is the column, our Z; its y is the row, our Y.
    z0, y0, width, height = np.asarray(coco.toBbox(list(masks)), np.float64).reshape(-1, 4).T
    return np.stack([y0, z0, y0 + height, z0 + width], axis=1)


def mask_iou(first: Sequence[Rle], second: Sequence[Rle]) -> Floats:
    """Intersection over union of each pair: (N, M)."""
    if len(first) == 0 or len(second) == 0:
        return np.zeros((len(first), len(second)))
    return np.asarray(coco.iou(list(first), list(second), [0] * len(second)), np.float64)


def box_iou(first: Floats, second: Floats) -> Floats:
    """Intersection over union of half-open boxes (N, 4) and (M, 4): (N, M); boxes without area give 0.

    >>> box_iou(np.array([[0.0, 0, 2, 2]]), np.array([[0.0, 1, 2, 3], [5, 5, 6, 6]])).round(3).tolist()
    [[0.333, 0.0]]
    """
    # Axis by axis: half the time of arrays (N, M, 2).
    (y0, z0, y1, z1), (v0, w0, v1, w1) = first.T[:, :, None], second.T
    rows = np.maximum(np.minimum(y1, v1) - np.maximum(y0, v0), 0)
    common = rows * np.maximum(np.minimum(z1, w1) - np.maximum(z0, w0), 0)
    union = (y1 - y0) * (z1 - z0) + (v1 - v0) * (w1 - w0) - common
    return cast(Floats, np.divide(common, union, out=np.zeros_like(common), where=union > 0))


def _counts(text: str) -> NDArray[np.int64]:
    """Run lengths of COCO's compressed text: five bits a character, low first, from the third on as differences."""
    raw = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - 48
    last = np.flatnonzero((raw & 0x20) == 0)
    start = np.concatenate([[0], last[:-1] + 1])
    shift = 5 * (np.arange(len(raw)) - np.repeat(start, last - start + 1))
    counts = np.add.reduceat((raw & 0x1F) << shift, start)
    counts -= np.where(raw[last] & 0x10, np.left_shift(1, shift[last] + 5), 0)
    counts[1::2] = np.cumsum(counts[1::2])
    counts[2::2] = np.cumsum(counts[2::2])
    return cast(NDArray[np.int64], counts)


def _text(rle: dict[str, object]) -> Rle:
    size, counts = cast(list[int], rle["size"]), cast(bytes, rle["counts"])
    return Rle(size=[int(n) for n in size], counts=counts.decode("ascii"))
