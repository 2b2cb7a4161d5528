"""Where vertebrae are: the centres of their bodies (PROTOCOL 1.1), and how far off predictions lie (PROTOCOL 2)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import cc3d
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from spineseg.geometry import Affine, Volume, index_to_mm
from spineseg.metrics.overlap import content_box

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
    """Voxels (N, 3) of the largest component of what lies at least half as deep inside as the deepest voxel.

    Of equally large ones that of the larger part counts, then the first in the mask's order.
    """
    parts = Parts.of(mask, spacing_mm)
    deepest = parts.deepest_mm2()
    largest = np.zeros((0, 3), np.int64)
    for n in np.argsort(-parts.voxels, kind="stable").tolist():
        if parts.voxels[n] <= len(largest):
            break
        if parts.reach_mm[n] ** 2 < deepest / 4 * (1 - _ROUNDING):
            continue
        components, _ = ndimage.label(parts.depth_mm2(n) >= deepest / 4 * (1 - _ROUNDING))
        sizes = np.bincount(components.ravel())
        sizes[0] = 0
        if sizes.max() > len(largest):
            largest = np.argwhere(components == int(sizes.argmax())) + [part.start for part in parts.box(n)]
    return largest


@dataclass(frozen=True, eq=False)
class Parts:
    """The 6-connected components of a mask (X, Y, Z), counted from 0, and how deep each is.

    The voxel outside a component that is nearest to one of its voxels is outside the mask: all on the way to it belong
    to the component, so that it would too if it were inside. Each component therefore has depths of its own, and only
    those that can matter are looked at: of a map scattered over a scan, few.

    Attributes:
        numbers: (X, Y, Z), component + 1, 0 outside the mask.
        voxels: (N,) of each component.
        edges: (N, 6), first and last voxel along X, Y and Z.
        spacing_mm: (3,).
        reach_mm: (N,), no voxel is deeper: neither box nor volume holds a larger ball.
    """

    numbers: NDArray[np.integer]
    voxels: NDArray[np.int64]
    edges: NDArray[np.int64]
    spacing_mm: NDArray[np.float64]
    reach_mm: NDArray[np.float64]
    _depths: dict[int, NDArray[np.float64]] = field(default_factory=dict)

    @classmethod
    def of(cls, mask: NDArray[np.bool_], spacing_mm: NDArray[np.float64]) -> "Parts":
        """Find the components of a mask."""
        numbers = cc3d.connected_components(np.ascontiguousarray(mask), connectivity=6)
        found = cc3d.statistics(numbers, no_slice_conversion=True)
        voxels = np.asarray(found["voxel_counts"], np.int64)[1:]
        edges = np.asarray(found["bounding_boxes"], np.int64).reshape(-1, 6)[1:]
        sides = ((edges[:, 1::2] - edges[:, ::2] + 2) / 2 * spacing_mm).min(axis=1)
        # A ball that holds the centres of voxels of one component alone holds, half a diagonal smaller, only them.
        ball = np.cbrt(voxels * (np.prod(spacing_mm) * 0.75 / np.pi)) + np.linalg.norm(spacing_mm) / 2
        return cls(numbers, voxels, edges, spacing_mm, np.minimum(sides, ball) * (1 + _ROUNDING))

    def box(self, n: int) -> Box:
        """Smallest box of a component."""
        x0, x1, y0, y1, z0, z1 = self.edges[n].tolist()
        return slice(x0, x1 + 1), slice(y0, y1 + 1), slice(z0, z1 + 1)

    def depth_mm2(self, n: int) -> NDArray[np.float64]:
        """``squared_depth_mm2`` of a component in its box, computed once."""
        if n not in self._depths:
            self._depths[n] = squared_depth_mm2(self.numbers[self.box(n)] == n + 1, self.spacing_mm)
        return self._depths[n]

    def deepest_mm2(self) -> float:
        """Squared depth of the mask's deepest voxel; 0 where it is empty."""
        deepest = 0.0
        for n in np.argsort(-self.reach_mm, kind="stable").tolist():
            if self.reach_mm[n] ** 2 <= deepest:
                break
            deepest = max(deepest, float(self.depth_mm2(n).max()))
        return deepest


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
        return cls(volume, {label: moved_box(box, content) for label, box in found if box is not None})

    def centre_mm(self, label: int, *, level: int | None) -> NDArray[np.float64]:
        """Body centre (3,) in mm of a label, by the rule of a level: C1's centre of mass, else the body's."""
        key = (label, level == C1)
        if key not in self._centres:
            box = self.boxes[label]
            affine = self.volume.affine.copy()
            affine[:3, 3] = index_to_mm(affine, [part.start for part in box])
            self._centres[key] = body_centre_mm(self.volume.array[box] == label, affine, level=level)
        return self._centres[key]


def moved_box(box: tuple[slice, ...], content: tuple[slice, ...]) -> Box:
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
