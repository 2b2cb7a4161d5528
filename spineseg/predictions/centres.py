"""Body centres of all labels of a map."""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from spineseg.geometry import Affine, index_to_mm
from spineseg.metrics.localisation import body_centre_mm

# Voxels to which a body centre is found: finer grids are thinned, which moves it by a fraction of this.
CENTRE_SPACING_MM: Final = 1.0


def label_centres_mm(labels: NDArray[np.integer], affine: Affine, *, named: bool) -> dict[int, NDArray[np.float64]]:
    """Body centre (3,) in mm, RAS+, of each label that occurs.

    Args:
        labels: (X, Y, Z), canonical level ids or numbers.
        affine: voxel → mm.
        named: whether labels are levels, of which C1 has a centre of its own kind.
    """
    step = np.maximum(1, np.rint(CENTRE_SPACING_MM / np.linalg.norm(affine[:3, :3], axis=0)).astype(int))
    boxes: list[tuple[slice, ...] | None] = list(ndimage.find_objects(labels))
    found = {}
    for label, box in enumerate(boxes, start=1):
        if box is None:
            continue
        mask, stride = labels[box] == label, step
        thin = mask[tuple(slice(None, None, s) for s in step)]
        if thin.any():
            mask = thin
        else:
            stride = np.ones(3, int)
        place = affine.copy()
        place[:3, :3] = affine[:3, :3] * stride
        place[:3, 3] = index_to_mm(affine, [part.start for part in box])
        found[label] = body_centre_mm(mask, place, level=label if named else None)
    return found
