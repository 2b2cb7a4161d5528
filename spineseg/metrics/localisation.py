"""Where vertebrae are: the centres of their bodies (PROTOCOL 1.1), and how far off predictions lie (PROTOCOL 2)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from spineseg.geometry import Affine, Volume, index_to_mm

C1: Final = 1
Box = tuple[slice, slice, slice]


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


@dataclass(frozen=True, eq=False)
class Bodies:
    """Masks and body centres of the labels of a map (X, Y, Z), each centre computed once.

    Attributes:
        volume: the label map.
        boxes: smallest box of each label.
    """

    volume: Volume
    boxes: Mapping[int, Box]
    _centres: dict[tuple[int, bool], NDArray[np.float64]] = field(default_factory=dict)

    @classmethod
    def of(cls, volume: Volume) -> "Bodies":
        """Find the boxes of all labels of a map."""
        found = enumerate(ndimage.find_objects(volume.array), start=1)
        return cls(volume, {label: (box[0], box[1], box[2]) for label, box in found if box is not None})

    def centre_mm(self, label: int, *, level: int | None) -> NDArray[np.float64]:
        """Body centre (3,) in mm of a label, by the rule of a level: C1's centre of mass, else the body's."""
        key = (label, level == C1)
        if key not in self._centres:
            box = self.boxes[label]
            affine = self.volume.affine.copy()
            affine[:3, 3] = index_to_mm(affine, [part.start for part in box])
            self._centres[key] = body_centre_mm(self.volume.array[box] == label, affine, level=level)
        return self._centres[key]


def common_box(boxes: Mapping[int, Box], label: int, other: Mapping[int, Box], other_label: int) -> Box:
    """Smallest box around a label of one map and a label of another.

    >>> common_box({1: np.s_[0:2, 3:4, 0:1]}, 1, {5: np.s_[1:3, 0:1, 0:1]}, 5)
    (slice(0, 3, None), slice(0, 4, None), slice(0, 1, None))
    """
    x, y, z = (
        slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(boxes[label], other[other_label], strict=True)
    )
    return x, y, z


def error_summary(errors_mm: ArrayLike, levels: int) -> dict[str, float | None]:
    """Median, mean and 95th percentile of centroid errors, never without the share of levels that have one.

    Args:
        errors_mm: (N,) of the levels found; NaN values are left out.
        levels: reference levels that count.

    >>> error_summary([1.0, 2.0, 6.0], levels=4)
    {'median': 2.0, 'mean': 3.0, 'p95': 5.6, 'found': 0.75}
    """
    errors = np.asarray(errors_mm, np.float64)
    errors = errors[np.isfinite(errors)]
    found = len(errors) / levels if levels else None
    if not len(errors):
        return {"median": None, "mean": None, "p95": None, "found": found}
    return {
        "median": float(np.median(errors)),
        "mean": float(errors.mean()),
        "p95": float(np.percentile(errors, 95).round(12)),
        "found": found,
    }
