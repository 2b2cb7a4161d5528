"""What the field of view cuts off (PROTOCOL 7): one decision a case, which every metric shares."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from spineseg.geometry import Affine, Volume, index_to_mm, label_counts
from spineseg.metrics.localisation import body_centre_mm
from spineseg.metrics.overlap import Confusion, content_box

EdgePolicy = Literal["ignore", "count", "crop"]
LEAST_SHARE_INSIDE: Final = 0.3
_ROUNDING_MM: Final = 1e-6


@dataclass(frozen=True)
class EdgeDecision:
    """Which labels of a case are scored.

    Attributes:
        policy: the rule.
        levels: reference labels that count (V).
        ignored: reference labels that are neither found nor missed.
        kept: predicted labels that count (P).
        dropped: predicted labels that leave the score.
        range_mm: annotated range of z; unmatched detections outside it are ignored. None = they count.
        slab_mm: range of z outside of which nothing is scored (``crop``). None = the whole volume.
        given_to_cut: those of ``dropped`` that the best matching gives to cut references.
    """

    policy: EdgePolicy
    levels: tuple[int, ...]
    ignored: tuple[int, ...]
    kept: tuple[int, ...]
    dropped: tuple[int, ...]
    range_mm: tuple[float, float] | None = None
    slab_mm: tuple[float, float] | None = None
    given_to_cut: tuple[int, ...] = ()


def decide(
    reference: Volume, prediction: Volume, pairs: Confusion, cut: tuple[int, ...], policy: EdgePolicy, *, named: bool
) -> EdgeDecision:
    """Decide once for a case which references and predictions count.

    ``ignore``: cut references leave; so do predictions that the best matching gives to them, and unmatched ones that
    touch a face of the volume or whose body centre lies outside the annotated range. ``crop``: only the slab between
    the outer ends of the first and last uncut reference is scored; predictions that lie mostly outside it leave, and
    so do those that the best matching gives to cut references, unless more of what they hold of the slab lies on uncut
    ones (one object over many vertebrae). ``count``: everything counts. Without any reference there is no range to lie
    outside of and no slab: then every prediction counts under ``crop``, and every one that touches no face under
    ``ignore``.

    Args:
        reference: label map (X, Y, Z).
        prediction: label map on the same grid.
        pairs: their confusion.
        cut: reference labels that the field of view cuts.
        policy: the rule.
        named: whether predicted labels are levels (C1 has a centre of its own).
    """
    labels, found = pairs.reference_ids, pairs.prediction_ids
    gone = tuple(label for label in labels if label in cut)
    levels = tuple(label for label in labels if label not in cut)
    if policy == "count" or (policy == "crop" and not labels):
        return EdgeDecision(policy, labels, (), found, ())
    match = pairs.matching()
    given = {match[label] for label in gone if label in match}
    if policy == "crop":
        return _crop(reference, prediction, levels, gone, found, given)
    range_mm = extent_mm(reference.array > 0, reference.affine) if labels else None
    dropped = set(given)
    unmatched = [label for label in found if label not in match.values()]
    if unmatched:
        touching = labels_at_faces(prediction.array)
        boxes = ndimage.find_objects(prediction.array)
        for label in unmatched:
            box = boxes[label - 1]
            mask = prediction.array[box] == label
            corner = [part.start for part in box]
            affine = prediction.affine.copy()
            affine[:3, 3] = index_to_mm(affine, corner)
            height = body_centre_mm(mask, affine, level=label if named else None)[2]
            if label in touching or (range_mm is not None and outside(height, range_mm)):
                dropped.add(label)
    kept = tuple(label for label in found if label not in dropped)
    left = tuple(sorted(dropped))
    return EdgeDecision("ignore", levels, gone, kept, left, range_mm, given_to_cut=tuple(sorted(given)))


def _crop(
    reference: Volume,
    prediction: Volume,
    levels: tuple[int, ...],
    gone: tuple[int, ...],
    found: tuple[int, ...],
    given: Collection[int],
) -> EdgeDecision:
    if not levels:
        return EdgeDecision("crop", (), gone, (), found)
    slab = extent_mm(np.isin(reference.array, levels), reference.affine)
    whole = label_counts(prediction.array, max(found, default=0) + 1)
    scored = within(prediction, slab).array
    inside = label_counts(scored, len(whole))
    # A cut level may lie mostly inside the slab (a process at a lateral face): what finds it is no spurious level.
    on_cut, on_uncut = (
        np.bincount(scored[np.isin(reference.array, labels)], minlength=len(whole)) for labels in (gone, levels)
    )
    cut = tuple(sorted(label for label in given if on_uncut[label] <= on_cut[label]))
    dropped = tuple(p for p in found if inside[p] < LEAST_SHARE_INSIDE * whole[p] or p in cut)
    kept = tuple(p for p in found if p not in dropped)
    return EdgeDecision("crop", levels, gone, kept, dropped, slab_mm=slab, given_to_cut=cut)


def within(volume: Volume, slab_mm: tuple[float, float]) -> Volume:
    """Clear all labels whose voxel centre has a z outside the slab."""
    array = volume.array.copy()
    for x in range(len(array)):
        array[x][~plane_inside(x, volume, slab_mm)] = 0
    return volume.with_array(array)


def plane_inside(x: int, volume: Volume, slab_mm: tuple[float, float]) -> NDArray[np.bool_]:
    """Whether each pixel (Y, Z) of the sagittal slice ``x`` lies inside a slab of z in mm."""
    per_x, per_y, per_z, origin = volume.affine[2]
    y, z = np.ogrid[: volume.shape[1], : volume.shape[2]]
    height = origin + per_x * x + per_y * y + per_z * z
    return np.asarray((height >= slab_mm[0] - _ROUNDING_MM) & (height <= slab_mm[1] + _ROUNDING_MM))


def extent_mm(mask: NDArray[np.bool_], affine: Affine) -> tuple[float, float]:
    """Lowest and highest z in mm of a mask's voxel centres; the mask is not empty."""
    box = content_box(mask)
    index = np.argwhere(mask[box]) + [part.start for part in box]
    height = index @ affine[2, :3] + affine[2, 3]
    return float(height.min()), float(height.max())


def outside(height_mm: ArrayLike, range_mm: tuple[float, float]) -> NDArray[np.bool_]:
    """Whether each z lies outside a closed range.

    >>> outside([10.0, 9.0], (10.0, 20.0)).tolist()
    [False, True]
    """
    height = np.asarray(height_mm, np.float64)
    return np.asarray((height < range_mm[0] - _ROUNDING_MM) | (height > range_mm[1] + _ROUNDING_MM))


def labels_at_faces(labels: NDArray[np.integer]) -> frozenset[int]:
    """Labels with a voxel on one of the faces of the array.

    A slice by itself has none along its own axis: both would be the slice, and everything in it would touch them.

    >>> sorted(labels_at_faces(np.pad(np.full((1, 1, 1), 5), 1))), sorted(labels_at_faces(np.full((2, 2, 2), 5)))
    ([], [5])
    >>> sorted(labels_at_faces(np.pad(np.full((1, 1, 1), 5), ((0, 0), (1, 1), (1, 1)))))
    []
    """
    axes = [axis for axis in range(3) if labels.shape[axis] > 1]
    faces = [np.take(labels, end, axis=axis) for axis in axes for end in (0, -1)]
    return frozenset(int(value) for face in faces for value in np.unique(face) if value)
