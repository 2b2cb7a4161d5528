"""Where vertebrae are: the centres of their bodies (PROTOCOL 1.1), and how far off predictions lie (PROTOCOL 2)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from spineseg.geometry import Affine, Volume, index_to_mm
from spineseg.metrics.overlap import content_box, content_parts

C1: Final = 1
_ROUNDING: Final = 1e-9
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
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    core = np.argwhere(mask) if level == C1 else _largest_core(mask, spacing)
    return index_to_mm(affine, core.mean(axis=0))


def _largest_core(mask: NDArray[np.bool_], spacing_mm: NDArray[np.float64]) -> NDArray[np.int64]:
    """Voxels (N, 3) of the largest component of what lies at least half as deep inside as the deepest voxel."""
    depths: list[tuple[tuple[slice, ...], NDArray[np.float64]]] = []
    deepest = 0.0
    parts = content_parts(mask)
    # Parts do not touch, so that each has its own depths; the thickest first, and those too thin to matter never.
    reach = [
        min((part.stop - part.start + 1) / 2 * s for part, s in zip(box, spacing_mm, strict=True)) for box in parts
    ]
    for box, most in sorted(zip(parts, reach, strict=True), key=lambda pair: -pair[1]):
        if most**2 >= deepest / 4:
            depth = squared_depth_mm2(mask[box], spacing_mm)
            depths.append((box, depth))
            deepest = max(deepest, float(depth.max()))
    largest = np.zeros((0, 3), np.int64)
    for box, depth in depths:
        components, _ = ndimage.label(depth >= deepest / 4 * (1 - _ROUNDING))
        sizes = np.bincount(components.ravel())
        sizes[0] = 0
        if sizes.max() > len(largest):
            largest = np.argwhere(components == int(sizes.argmax())) + [part.start for part in box]
    return largest


def squared_depth_mm2(mask: NDArray[np.bool_], spacing_mm: ArrayLike) -> NDArray[np.float64]:
    """Squared distance in mm² of each voxel (X, Y, Z) to the nearest one outside the mask or the array; 0 outside.

    Axis by axis, as Felzenszwalb and Huttenlocher (2012) do it. Their parabolas are tried one after the other: no voxel
    of a vertebra is deep, so that few can matter, and each is one step for the whole array.

    >>> squared_depth_mm2(np.ones((3, 3, 5), bool), (2.0, 2.0, 1.0))[1, 1].tolist()
    [1.0, 4.0, 9.0, 4.0, 1.0]
    """
    spacing = np.asarray(spacing_mm, np.float64)
    padded = np.pad(mask, 1)
    place = np.arange(padded.shape[2], dtype=np.int32)
    before = np.maximum.accumulate(np.where(padded, 0, place), axis=2)
    after = np.minimum.accumulate(np.where(padded, place[-1], place)[:, :, ::-1], axis=2)[:, :, ::-1]
    depth = np.square(np.minimum(place - before, after - place) * spacing[2])
    for axis in (1, 0):
        # The axis of the steps leads, so that a step is a slice.
        near = np.moveaxis(depth, axis, 0)
        best, most = near.copy(), float(depth.max())
        for step in range(1, len(near)):
            if (further := (step * spacing[axis]) ** 2) >= most:
                break
            np.minimum(best[step:], near[:-step] + further, out=best[step:])
            np.minimum(best[:-step], near[step:] + further, out=best[:-step])
        depth = np.moveaxis(best, 0, axis)
    return np.asarray(depth[1:-1, 1:-1, 1:-1])


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
        # Where there is background alone nothing need be looked for.
        content = content_box(volume.array)
        inside = volume.array[content]
        found = enumerate(ndimage.find_objects(inside) if inside.size else [], start=1)
        return cls(volume, {label: _moved(box, content) for label, box in found if box is not None})

    def centre_mm(self, label: int, *, level: int | None) -> NDArray[np.float64]:
        """Body centre (3,) in mm of a label, by the rule of a level: C1's centre of mass, else the body's."""
        key = (label, level == C1)
        if key not in self._centres:
            box = self.boxes[label]
            affine = self.volume.affine.copy()
            affine[:3, 3] = index_to_mm(affine, [part.start for part in box])
            self._centres[key] = body_centre_mm(self.volume.array[box] == label, affine, level=level)
        return self._centres[key]


def _moved(box: tuple[slice, ...], content: tuple[slice, ...]) -> Box:
    """A box inside another one, in the frame of the whole."""
    x, y, z = (slice(o.start + i.start, o.start + i.stop) for i, o in zip(box, content, strict=True))
    return x, y, z


def common_box(boxes: Mapping[int, Box], label: int, other: Mapping[int, Box], other_label: int) -> Box:
    """Smallest box around a label of one map and a label of another.

    >>> common_box({1: np.s_[0:2, 3:4, 0:1]}, 1, {5: np.s_[1:3, 0:1, 0:1]}, 5)
    (slice(0, 3, None), slice(0, 4, None), slice(0, 1, None))
    """
    x, y, z = (
        slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(boxes[label], other[other_label], strict=True)
    )
    return x, y, z


def error_summary(errors_mm: ArrayLike, *, found: float) -> dict[str, float | None]:
    """Median, mean and 95th percentile of centroid errors, never without the share of levels that have one.

    Args:
        errors_mm: (N,) of the levels found; None instead of a number where there are none.
        found: levels found ÷ reference levels; NaN (None in the result) without reference levels.

    >>> error_summary([1.0, 2.0, 6.0], found=0.75)
    {'median': 2.0, 'mean': 3.0, 'p95': 5.6, 'found': 0.75}
    """
    errors = np.asarray(errors_mm, np.float64)
    none = not len(errors)
    return {
        "median": None if none else float(np.median(errors)),
        "mean": None if none else float(errors.mean()),
        "p95": None if none else float(np.percentile(errors, 95)),
        "found": found if np.isfinite(found) else None,
    }
