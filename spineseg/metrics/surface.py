"""Distances between the surfaces of two masks, weighted by area: HD95, ASSD, NSD (PROTOCOL 4).

The definition is that of DeepMind's surface-distance (Nikolov et al. 2018): the surface passes through the 2×2×2
neighbourhoods of voxels that are neither all inside nor all outside. Each is one element, at the neighbourhood's
middle, with the area of its piece of surface; its distance is that to the nearest element of the other surface. Outside
the array nothing is inside, so that a mask's face on the volume's border is surface.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from spineseg.metrics.overlap import content_box
from spineseg.metrics.surface_elements import FULL, element_areas_mm2, neighbourhood_codes

Floats = NDArray[np.float64]
# From so many voxels of the common box on (two parts of a level far apart), a tree of the elements is faster than a
# distance transform, which looks at every voxel.
_LARGE_BOX: Final = 1 << 21


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """Elements of two surfaces A and B, each side by rising distance.

    Attributes:
        a_mm: (N,) distance of A's elements to B; inf where B is empty.
        a_mm2: (N,) their areas.
        b_mm: (M,) distance of B's elements to A; inf where A is empty.
        b_mm2: (M,) their areas.
    """

    a_mm: Floats
    a_mm2: Floats
    b_mm: Floats
    b_mm2: Floats


def surface_distances(
    a: NDArray[np.bool_], b: NDArray[np.bool_], spacing_mm: tuple[float, float, float]
) -> SurfaceDistances:
    """Measure the distances between the surfaces of two masks (X, Y, Z) of one grid.

    >>> voxel = np.zeros((4, 1, 1), bool)
    >>> voxel[0] = True
    >>> d = surface_distances(voxel, voxel[::-1], (2.0, 1.0, 1.0))
    >>> d.a_mm.tolist(), hd95(d), assd(d), nsd(d, 5.0)
    ([4.0, 4.0, 4.0, 4.0, 6.0, 6.0, 6.0, 6.0], 6.0, 5.0, 0.5)
    """
    if a.shape != b.shape:
        raise ValueError(f"masks of shapes {a.shape} and {b.shape}")
    box = content_box(a, b)
    codes = [neighbourhood_codes(mask[box]) for mask in (a, b)]
    areas = element_areas_mm2(spacing_mm)
    surfaces = [(code != 0) & (code != FULL) for code in codes]
    sides: list[Floats] = []
    for own, code, other in ((surfaces[0], codes[0], surfaces[1]), (surfaces[1], codes[1], surfaces[0])):
        distance, area = _nearest_mm(own, other, spacing_mm), areas[code[own]]
        # Equal distances by area: the running sum of the areas, and with it the percentile, is then one of a kind.
        order = np.lexsort((area, distance))
        sides += [distance[order], area[order]]
    return SurfaceDistances(*sides)


def hd95(distances: SurfaceDistances) -> float:
    """Larger of the two directed 95th percentiles in mm; NaN if a mask is empty.

    A percentile is the distance of the first element, by rising distance, up to which 95 % of the area lies.
    """
    if not len(distances.a_mm) or not len(distances.b_mm):
        return float("nan")
    return max(_percentile(distances.a_mm, distances.a_mm2, 0.95), _percentile(distances.b_mm, distances.b_mm2, 0.95))


def assd(distances: SurfaceDistances) -> float:
    """Mean distance in mm over the area of both surfaces; NaN if a mask is empty."""
    if not len(distances.a_mm) or not len(distances.b_mm):
        return float("nan")
    total = distances.a_mm @ distances.a_mm2 + distances.b_mm @ distances.b_mm2
    return float(total / (distances.a_mm2.sum() + distances.b_mm2.sum()))


def nsd(distances: SurfaceDistances, tolerance_mm: float) -> float:
    """Share of both surfaces' area at most ``tolerance_mm`` from the other; 0 if one mask is empty, NaN if both are."""
    whole = distances.a_mm2.sum() + distances.b_mm2.sum()
    if whole == 0:
        return float("nan")
    near = distances.a_mm2[distances.a_mm <= tolerance_mm].sum() + distances.b_mm2[distances.b_mm <= tolerance_mm].sum()
    return float(near / whole)


def _percentile(distance: Floats, area: Floats, share: float) -> float:
    place = int(np.searchsorted(np.cumsum(area) / np.sum(area), share))
    return float(distance[min(place, len(distance) - 1)])


def _nearest_mm(own: NDArray[np.bool_], other: NDArray[np.bool_], spacing_mm: ArrayLike) -> Floats:
    """Distance in mm of each place of ``own``, in the order of the array, to the nearest of ``other``."""
    spacing = np.asarray(spacing_mm, np.float64)
    distance = np.zeros(int(own.sum()))
    # A good prediction shares most of the reference's surface: distance 0 needs no search.
    apart = ~other[own]
    if not apart.any():
        return distance
    if not other.any():
        distance[apart] = np.inf
        return distance
    places = np.argwhere(own)[apart]
    if own.size > _LARGE_BOX:
        found = cKDTree(np.argwhere(other) * spacing).query(places * spacing)[0]
    else:
        # Distances are taken at the surface alone; the transform would compute them everywhere.
        nearest = ndimage.distance_transform_edt(~other, sampling=spacing, return_distances=False, return_indices=True)
        steps = (np.stack([axis[tuple(places.T)] for axis in nearest], axis=1) - places) * spacing
        found = np.sqrt((steps * steps).sum(axis=1))
    distance[apart] = found
    return distance
