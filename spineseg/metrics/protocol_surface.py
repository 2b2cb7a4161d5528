"""HD95 as MONAI and as SimpleITK's users compute it: from the voxels of a mask's border (PROTOCOL 4).

Neither weighs by area, and they part on what a border is and on what the percentile is taken of, so that each is a
column with the tool's name. The protocol's own HD95 is ``surface.hd95``.
"""

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from spineseg.metrics.localisation import Box

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
# Whether what lies beyond each end of each axis is no background; a crop inside a volume has background all around.
Ends = tuple[tuple[bool, bool], tuple[bool, bool], tuple[bool, bool]]
NOWHERE: Final[Ends] = ((False, False),) * 3
PERCENTILE: Final = 95.0


def monai_hd95(a: Mask, b: Mask, spacing_mm: ArrayLike) -> float:
    """Larger of the two directed 95th percentiles of the distances between border voxels, in mm.

    A border voxel has a background neighbour across a face; beyond the array is background. Percentiles are
    interpolated. NaN where a mask is empty, which ``HausdorffDistanceMetric`` leaves out of its means.

    Source: monai 1.6 ``metrics/utils.py`` (``get_mask_edges``, ``get_surface_distance``) and
    ``metrics/hausdorff_distance.py``, with the spacing given.

    Args:
        a: mask (X, Y, Z).
        b: the other mask on the same grid.
        spacing_mm: of the grid.

    >>> voxel = np.zeros((4, 1, 1), bool)
    >>> voxel[0] = True
    >>> monai_hd95(voxel, voxel[::-1], (2.0, 1.0, 1.0))
    6.0
    """
    if not a.any() or not b.any():
        return float("nan")
    first, second = border_voxels(a), border_voxels(b)
    directed = (_nearest_mm(first, second, spacing_mm), _nearest_mm(second, first, spacing_mm))
    return float(max(np.percentile(side, PERCENTILE) for side in directed))


def simpleitk_hd95(a: Mask, b: Mask, spacing_mm: ArrayLike, ends: Ends = NOWHERE) -> float:
    """95th percentile of the distances of both contours' voxels in one list, in mm; NaN where a mask is empty.

    Contour voxels (``LabelContour``) have a background neighbour across a face; their distance is that of
    ``SignedMaurerDistanceMap``, to the nearest voxel of the other mask with a background neighbour across a face, an
    edge or a corner. Beyond the image is no background.

    Source: SimpleITK's notebook "Segmentation Evaluation" (34), whose list of distances goes both ways; its own
    ``HausdorffDistanceImageFilter`` has no percentile.

    Args:
        a: mask (X, Y, Z).
        b: the other mask on the same grid.
        spacing_mm: of the grid.
        ends: faces of the arrays that are the image's own.
    """
    if not a.any() or not b.any():
        return float("nan")
    contours = [border_voxels(mask, ends) for mask in (a, b)]
    targets = [border_voxels(mask, ends, corners=True) for mask in (a, b)]
    if not all(len(places) for places in targets):
        return float("nan")  # a mask that fills the image has no contour
    both = [
        _nearest_mm(own, other, spacing_mm) for own, other in zip(contours, reversed(targets), strict=True) if len(own)
    ]
    return float(np.percentile(np.concatenate(both), PERCENTILE)) if both else float("nan")


def image_ends(box: Box, shape: tuple[int, int, int]) -> Ends:
    """Which faces of a box are faces of the image of that shape."""
    x, y, z = ((part.start == 0, part.stop == length) for part, length in zip(box, shape, strict=True))
    return x, y, z


def border_voxels(mask: Mask, ends: Ends = NOWHERE, *, corners: bool = False) -> NDArray[np.int64]:
    """Places (N, 3) of a mask's voxels that have a background neighbour.

    Args:
        mask: (X, Y, Z).
        ends: faces beyond which lies no background.
        corners: whether neighbours across edges and corners count (26), or those across faces alone (6).

    >>> len(border_voxels(np.ones((3, 3, 3), bool))), len(border_voxels(np.ones((3, 3, 3), bool), ((True, True),) * 3))
    (26, 0)
    """
    padded = mask
    for axis, values in enumerate(ends):
        # Edge values stand for what lies beyond, where that is no background.
        padded = np.concatenate(
            [_beyond(padded, axis, 0, values[0]), padded, _beyond(padded, axis, -1, values[1])], axis
        )
    inner = np.ones_like(mask)
    if corners:
        inside = padded
        for axis in range(3):
            n = inside.shape[axis] - 2
            inside = _part(inside, axis, 0, n) & _part(inside, axis, 1, n) & _part(inside, axis, 2, n)
        inner = inside
    else:
        for axis in range(3):
            middle = padded
            for other in {0, 1, 2} - {axis}:
                middle = _part(middle, other, 1, mask.shape[other])
            inner &= _part(middle, axis, 0, mask.shape[axis]) & _part(middle, axis, 2, mask.shape[axis])
    return np.argwhere(mask & ~inner)


def _beyond(mask: Mask, axis: int, end: int, repeated: bool) -> Mask:
    face = np.take(mask, [end], axis=axis)
    return face if repeated else np.zeros_like(face)


def _part(mask: Mask, axis: int, start: int, length: int) -> Mask:
    return mask[tuple(slice(start, start + length) if a == axis else slice(None) for a in range(3))]


def _nearest_mm(own: NDArray[np.int64], other: NDArray[np.int64], spacing_mm: ArrayLike) -> Floats:
    """Distance in mm of each place (N, 3) to the nearest of some others (M, 3)."""
    spacing = np.asarray(spacing_mm, np.float64)
    tree = cKDTree(other * spacing, balanced_tree=False, compact_nodes=False)
    return np.asarray(tree.query(own * spacing)[0], np.float64)
