"""Where a vertebra is: the centre of its body (PROTOCOL 1.1)."""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from spineseg.geometry import Affine, index_to_mm

C1: Final = 1


def body_centre_mm(mask: NDArray[np.bool_], affine: Affine, *, level: int | None = None) -> NDArray[np.float64]:
    """Body centre (3,) in mm of a vertebra's mask (X, Y, Z).

    Centroid of the largest 6-connected component of the voxels whose distance to the mask's outside (in mm; what lies
    beyond the volume is outside) is at least half the largest; C1, which has no body: centre of mass.

    Args:
        mask: not empty; a crop will do if ``affine`` is the crop's.
        affine: voxel → mm.
        level: canonical id where known.

    >>> body_centre_mm(np.ones((3, 3, 3), bool), np.diag([2.0, 1, 1, 1])).tolist()
    [2.0, 1.0, 1.0]
    """
    if level == C1:
        core = mask
    else:
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        distance = np.asarray(ndimage.distance_transform_edt(np.pad(mask, 1), sampling=spacing))[1:-1, 1:-1, 1:-1]
        parts, _ = ndimage.label(distance >= distance.max() / 2)
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0
        core = parts == int(sizes.argmax())
    return index_to_mm(affine, np.argwhere(core).mean(axis=0))
