"""From a label map to instances: one a level (or numbered vertebra) in each sagittal slice."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from spineseg.predictions.instances import SliceInstances
from spineseg.predictions.masks import Rle, encode_crop

Labels = NDArray[np.integer]


def slice_labels(
    labels: Labels,
    *,
    indices: Iterable[int] | None = None,
    probability: NDArray[np.generic] | None = None,
) -> list[SliceInstances]:
    """Cut a label map into the instances of its sagittal slices.

    An instance is all pixels of one value in one slice; its ``levels`` entry is that value (for a one-class map the
    vertebra's number). The score is 1, or the mean of ``probability`` over the pixels.

    Args:
        labels: (X, Y, Z) in the canonical frame, 0 = background.
        indices: slices to give, in that order; None = all, those without an instance too.
        probability: (X, Y, Z), probability of the label at each voxel; uint8 counts as 255 = 1.
    """
    wanted = list(range(labels.shape[0])) if indices is None else [int(i) for i in indices]
    size = (labels.shape[1], labels.shape[2])
    position = {index: n for n, index in enumerate(wanted)}
    found: list[list[tuple[int, Rle, tuple[int, int, int, int], float]]] = [[] for _ in wanted]
    scale = 255.0 if probability is not None and probability.dtype == np.uint8 else 1.0
    boxes: list[tuple[slice, ...] | None] = list(ndimage.find_objects(labels))
    for value, box in enumerate(boxes, start=1):
        if box is None:
            continue
        block = labels[box] == value
        x0, y0, z0 = (int(part.start) for part in box)
        for x in np.flatnonzero(block.any(axis=(1, 2))):
            if (n := position.get(x0 + int(x))) is None:
                continue
            mask = block[x]
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            hull = (y0 + int(rows[0]), z0 + int(columns[0]), y0 + int(rows[-1]) + 1, z0 + int(columns[-1]) + 1)
            score = 1.0 if probability is None else float(probability[box][x][mask].mean(dtype=np.float64)) / scale
            found[n].append((value, encode_crop(mask, (y0, z0), size), hull, score))
    return [
        SliceInstances(
            index=index,
            size=size,
            masks=tuple(rle for _, rle, _, _ in rows),
            scores=np.array([score for *_, score in rows], np.float32),
            levels=np.array([value for value, *_ in rows], np.int64),
            boxes=np.array([hull for _, _, hull, _ in rows], np.float64),
        )
        for index, rows in zip(wanted, found, strict=True)
    ]
