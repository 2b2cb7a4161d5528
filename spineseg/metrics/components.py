"""Slice AP by parts (PROTOCOL 5.2): each 8-connected part of an instance is an instance of its own.

Only beside the rule of this project, for sets that were annotated by part (a spinous process apart from its body).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from spineseg.predictions.instances import SliceInstances
from spineseg.predictions.masks import Rle, decode_box, encode_crop, hulls

_EIGHT = np.ones((3, 3), bool)


@dataclass(frozen=True, eq=False)
class Parts:
    """Instances of a slice cut into their parts; ``owner`` (N,) is the position of the instance of each."""

    instances: SliceInstances
    owner: NDArray[np.int64]


def split_parts(s: SliceInstances) -> Parts:
    """Cut each instance into its 8-connected parts; all of them keep its score, level and distribution.

    >>> from spineseg.predictions.instances import from_masks
    >>> whole = from_masks(0, np.array([[[1, 0, 1, 1]]], bool), [0.5])
    >>> split_parts(whole).instances.boxes.tolist()
    [[0.0, 0.0, 1.0, 1.0], [0.0, 2.0, 1.0, 4.0]]
    """
    masks: list[Rle] = []
    owner: list[int] = []
    for n, (rle, (y0, z0, y1, z1)) in enumerate(zip(s.masks, hulls(s.masks).astype(int).tolist(), strict=True)):
        parts, _ = ndimage.label(decode_box(rle, (y0, z0, y1, z1)), _EIGHT)
        for part, box in enumerate(ndimage.find_objects(parts), start=1):
            masks.append(encode_crop(parts[box] == part, (y0 + box[0].start, z0 + box[1].start), s.size))
            owner.append(n)
    which = np.array(owner, np.int64)
    return Parts(s.take(which).with_masks(masks), which)
