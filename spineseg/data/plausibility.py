"""Whether an image can be HU and a mask can be a spine: pure functions on arrays, without files."""

import itertools
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

import cc3d
import numpy as np
from numpy.typing import NDArray

from spineseg.geometry import Affine, Volume, index_to_mm
from spineseg.vertebrae import L6, ORDER, T13, level_name, rank

# Scanners' air lies at -966 to -1000, lung down to -850; a peak outside this range is no air peak.
AIR_HU: Final = (-1060, -800)
_SPAN: Final = 1 << 16
_PLANES: Final = 32
# Less than two lumbar vertebrae.
_NEAR_MM: Final = 60.0


@dataclass(frozen=True)
class Verdict:
    """What was found: ``fatal`` stops the preparation, ``findings`` are warnings, ``facts`` are plain numbers."""

    fatal: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
    air_peak_hu: int | None = None
    bone_mean_hu: float | None = None


def histogram(array: NDArray[np.int16]) -> NDArray[np.int64]:
    """Count each int16 value, (65536,) from -32768 up; slab by slab, so that a long scan needs no second copy."""
    counts = np.zeros(_SPAN, np.int64)
    for start in range(0, array.shape[0], _PLANES):
        slab = np.ascontiguousarray(array[start : start + _PLANES]).view(np.uint16).ravel()
        counts += np.bincount(slab, minlength=_SPAN)
    return cast(NDArray[np.int64], np.roll(counts, _SPAN // 2))


def check_hounsfield(array: NDArray[np.int16], labels: NDArray[np.uint8] | None) -> Verdict:
    """Judge by the air peak, soft tissue, fat and bone whether values are HU.

    Air (or lung) must peak within ``AIR_HU``; without air in view, fat must lie below zero; some tissue must lie above
    -500; the mean inside the mask must be that of bone. Padding (one or two values below -1200) is left out.

    Args:
        array: int16 (X, Y, Z).
        labels: the mask on the same grid, or None.
    """
    counts = histogram(array)
    values = np.arange(_SPAN) - _SPAN // 2
    low = counts[values < -1200]
    pad = np.sort(low)[-2:].sum()
    total = int(counts.sum() - pad)
    if total == 0 or np.count_nonzero(counts) == 1:
        return Verdict(fatal=("the image holds one value only, expected a CT; copy or export it again",))
    fatal: list[str] = []
    findings: list[str] = []
    peak: int | None = None
    hint = "check data.source.hu_offset and the file's rescale intercept"
    seen = f"values from {values[counts > 0][0]} to {values[counts > 0][-1]}"
    in_air = (values >= -1200) & (values < -700)
    if low.sum() - pad > 0.01 * total:
        found = int(values[values < -1200][np.argmax(_smooth(low))])
        fatal.append(f"air peak expected near -1000 HU, found {found} ({seen}); {hint}")
    elif counts[values > -500].sum() < 0.02 * total:
        fatal.append(f"air peak expected near -1000 HU, found hardly any tissue above -500 ({seen}); {hint}")
    elif counts[in_air].sum() >= 0.002 * total:
        peak = int(values[in_air][np.argmax(_smooth(counts[in_air]))])
        if not AIR_HU[0] <= peak <= AIR_HU[1]:
            findings.append(f"air peak: {peak} HU, expected near -1000")
    else:
        kept = counts.copy()
        kept[values < -1200] = 0
        lowest = int(values[np.searchsorted(np.cumsum(kept), 0.005 * kept.sum())])
        if lowest > -20:
            fatal.append(f"air peak expected near -1000 HU or fat near -100, found neither ({seen}); {hint}")
    bone: float | None = None
    if labels is not None and labels.any() and not fatal:
        bone = float(array[labels > 0].mean())
        if bone < -200:
            fatal.append(
                f"the mask's mean is {bone:.0f} HU, expected bone (50 to 1000): the mask belongs to another image"
            )
        elif bone > 1000:
            fatal.append(f"the mask's mean is {bone:.0f} HU, expected bone (50 to 1000); {hint}")
        elif bone < 50:
            findings.append(f"bone: mean inside the mask {bone:.0f} HU, expected 50 to 1000")
    return Verdict(tuple(fatal), tuple(findings), peak, bone)


def _smooth(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.convolve(counts, np.ones(9), mode="same")


@dataclass(frozen=True)
class Part:
    """A level's second largest part: voxels, distance (mm) from the largest, what it touches most (level, mm²)."""

    voxels: int
    apart_mm: float
    host: int | None
    contact_mm2: float


@dataclass(frozen=True)
class LevelShape:
    """One level of a mask: voxels, share of its largest part, number of parts, that part's centre (mm), its box.

    ``contacts`` holds the other levels that it touches and the area (mm²) of their common voxel faces.
    """

    level: int
    voxels: int
    parts: int
    largest: float
    centre_mm: tuple[float, float, float]
    low: tuple[int, int, int]
    high: tuple[int, int, int]
    second: Part | None = None
    contacts: Mapping[int, float] = field(default_factory=dict)


def level_shapes(labels: Volume) -> dict[int, LevelShape]:
    """Describe every level of a mask; boxes are half-open in voxels of its own grid, parts are 26-connected."""
    filled = [np.flatnonzero(labels.array.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    if not filled[0].size:
        return {}
    start = np.array([index[0] for index in filled])
    crop = np.ascontiguousarray(labels.array[tuple(slice(i[0], i[-1] + 1) for i in filled)])
    parts = cc3d.connected_components(crop, connectivity=26)
    statistics = cc3d.statistics(parts)
    level_of = np.zeros(len(statistics["voxel_counts"]), np.int64)
    level_of[parts.ravel()] = crop.ravel()
    touching = _touching(parts, labels.spacing_mm, level_of)
    shapes = {}
    for level in np.unique(level_of[1:]):
        members = np.flatnonzero(level_of == level)
        members = members[members > 0]
        members = members[np.argsort(-statistics["voxel_counts"][members], kind="stable")]
        counts = statistics["voxel_counts"][members]
        boxes = [statistics["bounding_boxes"][member] for member in members]
        centres = index_to_mm(labels.affine, statistics["centroids"][members[:2]] + start)
        low = [int(min(box[axis].start for box in boxes) + start[axis]) for axis in range(3)]
        high = [int(max(box[axis].stop for box in boxes) + start[axis]) for axis in range(3)]
        second = None
        if len(members) > 1:
            around = touching.get(int(members[1]), {})
            host = max(around, key=lambda other: around[other], default=None)
            apart_mm = float(np.linalg.norm(centres[1] - centres[0]))
            second = Part(int(counts[1]), apart_mm, host, 0.0 if host is None else around[host])
        contacts: dict[int, float] = defaultdict(float)
        for member in members:
            for other, area in touching.get(int(member), {}).items():
                contacts[other] += area
        shapes[int(level)] = LevelShape(
            level=int(level),
            voxels=int(counts.sum()),
            parts=len(members),
            largest=float(counts[0] / counts.sum()),
            centre_mm=(float(centres[0][0]), float(centres[0][1]), float(centres[0][2])),
            low=(low[0], low[1], low[2]),
            high=(high[0], high[1], high[2]),
            second=second,
            contacts=dict(contacts),
        )
    return shapes


def _touching(
    parts: NDArray[Any], spacing_mm: tuple[float, float, float], level_of: NDArray[np.int64]
) -> dict[int, dict[int, float]]:
    """For each part the levels that it touches, with the area (mm²) of the common faces."""
    areas: dict[int, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    found = cc3d.contacts(parts, connectivity=6, surface_area=True, anisotropy=spacing_mm)
    for (one, other), area in found.items():
        areas[int(one)][int(level_of[other])] += float(area)
        areas[int(other)][int(level_of[one])] += float(area)
    return areas


def content_box(array: NDArray[np.int16]) -> tuple[tuple[int, int], ...]:
    """Half-open box (low, high) of each axis after planes of one constant value (padding) are taken from its ends."""
    box = []
    for axis, length in enumerate(array.shape):
        planes = np.moveaxis(array, axis, 0)
        low = next((i for i in range(length) if not _constant(planes[i])), 0)
        high = next((i + 1 for i in reversed(range(low, length)) if not _constant(planes[i])), length)
        box.append((low, high))
    return tuple(box)


def _constant(plane: NDArray[np.int16]) -> bool:
    return bool((plane == plane.flat[0]).all())


def cut_levels(shapes: Iterable[LevelShape], box: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """Levels whose mask touches (or passes) a face of the content box."""
    return tuple(
        shape.level
        for shape in shapes
        if any(low <= b[0] or high >= b[1] for low, high, b in zip(shape.low, shape.high, box, strict=True))
    )


def check_levels(
    shapes: dict[int, LevelShape],
    affine: Affine,
    class_list: Sequence[int],
    expected: int | None,
    cut: Collection[int] = (),
) -> Verdict:
    """Judge the order of levels along z, gaps, fragments, crumbs, the number of levels and the class list.

    Args:
        shapes: of canonical levels.
        affine: of the mask's grid, for volumes.
        class_list: the source's levels.
        expected: number of levels, if the set promises one.
        cut: levels at a face of the volume; what little is seen of one may lie below its neighbour, or in parts.
    """
    if not shapes:
        return Verdict(findings=("empty: the mask has no labelled voxel",))
    found = sorted(shapes, key=rank)
    findings: list[str] = []
    fatal: list[str] = []
    pairs = list(itertools.pairwise(found))
    inverted = [(a, b) for a, b in pairs if shapes[a].centre_mm[2] <= shapes[b].centre_mm[2]]
    if len(inverted) > len(pairs) / 2:
        fatal.append(
            f"levels run the wrong way: {len(inverted)} of {len(pairs)} neighbours have the more cranial level lower "
            f"in z (first: {level_name(inverted[0][0])} below {level_name(inverted[0][1])}); expected z to fall from "
            "cranial to caudal. The label convention (CSI 2014: data.source.larger) or the affine is wrong"
        )
    elif wrong := [(a, b) for a, b in inverted if not _mere_end(shapes[a], shapes[b], cut)]:
        findings.append("order: " + ", ".join(f"{level_name(a)} lies below {level_name(b)}" for a, b in wrong))
    column = [level for level in ORDER if level not in (T13, L6) or level in shapes]
    between = column[column.index(found[0]) : column.index(found[-1])]
    if missing := [level_name(level) for level in between if level not in shapes]:
        findings.append(f"gap: no {' '.join(missing)} between {level_name(found[0])} and {level_name(found[-1])}")
    for shape in shapes.values():
        # What the border of the scan leaves of a vertebra may well be two joints and the tip of a process.
        if shape.parts > 1 and shape.largest < 0.99 and shape.level not in cut:
            findings.append(f"fragments: {level_name(shape.level)} {shape.parts} parts, largest {shape.largest:.0%}")
    voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    # The crumb rule of PROTOCOL 1.5.
    least = max(0.5, 0.05 * float(np.median([shape.voxels for shape in shapes.values()])) * voxel_ml)
    for shape in shapes.values():
        if shape.voxels * voxel_ml < least:
            findings.append(f"crumb: {level_name(shape.level)} {shape.voxels} voxels, {shape.voxels * voxel_ml:.2f} ml")
    if expected is not None and len(found) != expected:
        findings.append(
            f"levels: {len(found)} ({level_name(found[0])} to {level_name(found[-1])}), expected {expected}"
        )
    if outside := [level_name(level) for level in found if level not in class_list]:
        findings.append(f"class list: {' '.join(outside)} not in data.source.levels")
    return Verdict(tuple(fatal), tuple(findings))


def _mere_end(a: LevelShape, b: LevelShape, cut: Collection[int]) -> bool:
    """Whether the smaller of two levels is cut, near, and less than half of the other: a spinous process, say."""
    small, large = sorted((a, b), key=lambda shape: shape.voxels)
    near = np.linalg.norm(np.subtract(a.centre_mm, b.centre_mm)) < _NEAR_MM
    return bool(near and small.level in cut and 2 * small.voxels < large.voxels)
