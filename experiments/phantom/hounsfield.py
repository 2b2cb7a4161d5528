"""Hounsfield units by tissue, read from scans and their masks by the same rules for simulated and real ones."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scans import Scan
from scipy import ndimage

from spineseg.geometry import index_to_mm, mm_to_index
from spineseg.metrics.localisation import body_centre_mm
from spineseg.vertebrae import SACRUM, level_id, level_name

Floats = NDArray[np.float32]

# Published range of the means over scans, with its mark; None where the table gives none.
PUBLISHED: Final[dict[str, tuple[float, float, str] | None]] = {
    "whole vertebra, mean": (180, 380, "M"),
    "whole vertebra, 5 %": (30, 130, "M"),
    "whole vertebra, 95 %": (400, 950, "M"),
    "outer voxels, mean": (230, 430, "M"),
    "outer voxels, 95 %": (470, 1010, "M"),
    "trabecular L1, mean": (51, 270, "V"),
    "trabecular, sd in a body": (30, 50, "M"),
    "disc": (70, 110, "R"),
    "canal": (10, 40, "R"),
    "muscle": (15, 65, "V"),
    "fat": (-120, -50, "R"),
    "lung": (-910, -850, "V"),
    "air": (-990, -966, "M"),
    "noise, sd in soft tissue": (9, 60, "V"),
}
HISTOGRAMS: Final = ("whole vertebra", "outer voxels", "trabecular", "disc", "canal", "muscle", "fat", "lung", "air")
_BALL_MM: Final = 3.0


@dataclass(frozen=True)
class Tissues:
    """HU samples of a scan's tissues, its scalar values by name, and whole vertebrae by level (mean, 5 %, 95 %)."""

    samples: Mapping[str, Floats]
    values: Mapping[str, float]
    levels: Mapping[str, tuple[float, float, float]]


def read_tissues(scan: Scan) -> Tissues:
    """Sample a scan's tissues by its mask.

    Trabecular: a body's voxels at least 60 % of the largest distance, and 5 mm, inside. Outer voxels: those with a
    face outside. Disc: a ball about the middle between two lumbar body centres. Canal: a ball in the middle of the gap
    behind a body. Muscle: balls 28 mm behind the canal's middle and 24 mm beside it. Fat, lung, air: voxels, two from
    the edge, of regions in their range. Noise: the sd that a fifth of all boxes of 5³ voxels in soft tissue stay below.
    """
    image, labels = scan.image.array.astype(np.float32), scan.labels.array
    pieces: dict[str, list[Floats]] = {name: [] for name in HISTOGRAMS}
    levels: dict[str, tuple[float, float, float]] = {}
    spreads: list[float] = []
    l1: list[float] = []
    centres: dict[int, NDArray[np.float64]] = {}
    outside = ndimage.binary_dilation(labels == 0) & (labels > 0)
    boxes = ndimage.find_objects(labels)
    for level in (int(v) for v in np.unique(labels) if v):
        box = boxes[level - 1]
        mask = labels[box] == level
        if mask.sum() * float(np.prod(scan.image.spacing_mm)) < 5000 or _cut(box, labels.shape):
            continue
        hu = image[box][mask]
        low, high = np.percentile(hu, (5, 95)).tolist()
        levels[level_name(level)] = (float(hu.mean()), low, high)
        pieces["whole vertebra"].append(hu)
        pieces["outer voxels"].append(image[box][mask & outside[box]])
        depth = np.asarray(ndimage.distance_transform_edt(np.pad(mask, 1), sampling=scan.image.spacing_mm))[
            1:-1, 1:-1, 1:-1
        ]
        core = image[box][depth > max(5.0, 0.6 * float(depth.max()))]
        if core.size >= 30:
            pieces["trabecular"].append(core)
            spreads.append(float(core.std()))
            l1 += [float(core.mean())] * (level == level_id("L1"))
        affine = scan.labels.affine.copy()
        affine[:3, 3] = index_to_mm(affine, [part.start for part in box])
        centres[level] = body_centre_mm(mask, affine, level=level)
    for level, centre in centres.items():
        if level + 1 in centres and level_id("T12") <= level < level_id("L5"):
            ball = _ball(scan, (centre + centres[level + 1]) / 2, _BALL_MM)
            pieces["disc"].append(image[ball][labels[ball] == 0])
        canal = _canal_middle(scan, centre, level) if level != SACRUM else None
        if canal is not None:
            ball = _ball(scan, canal, _BALL_MM)
            pieces["canal"].append(image[ball][labels[ball] == 0])
            for side in (-24.0, 24.0):
                ball = _ball(scan, canal + np.array([side, -28.0, 0.0]), _BALL_MM)
                pieces["muscle"].append(image[ball][labels[ball] == 0])
    for name, low, high in (("fat", -150, -50), ("lung", -935, -700), ("air", -1024, -940)):
        smooth = ndimage.uniform_filter(image, 3)
        inner = ndimage.binary_erosion((smooth > low) & (smooth < high), iterations=2)
        pieces[name].append(image[inner][:: max(1, int(inner.sum()) // 50_000)])
    samples = {name: np.concatenate([*parts, np.zeros(0, np.float32)]) for name, parts in pieces.items()}
    whole, outer = samples["whole vertebra"], samples["outer voxels"]
    values = {name: float(np.median(samples[name])) for name in HISTOGRAMS[3:] if samples[name].size >= 10}
    if whole.size:
        values |= dict(zip(list(PUBLISHED)[:3], (whole.mean(), *np.percentile(whole, (5, 95))), strict=True))
        values |= dict(zip(list(PUBLISHED)[3:5], (outer.mean(), np.percentile(outer, 95)), strict=True))
    if l1:
        values["trabecular L1, mean"] = l1[0]
    if spreads:
        values["trabecular, sd in a body"] = float(np.mean(spreads))
    values["noise, sd in soft tissue"] = _noise(image, labels)
    return Tissues(samples, {name: float(value) for name, value in values.items()}, levels)


def _cut(box: tuple[slice, ...], shape: tuple[int, ...]) -> bool:
    return any(part.start == 0 or part.stop == n for part, n in zip(box, shape, strict=True))


def _ball(scan: Scan, centre_mm: NDArray[np.float64], radius_mm: float) -> tuple[NDArray[np.int64], ...]:
    """Indices of the voxels within a ball that lie in the volume."""
    spacing = np.array(scan.image.spacing_mm)
    middle = mm_to_index(scan.image.affine, centre_mm)
    low = np.maximum(0, np.ceil(middle - radius_mm / spacing)).astype(int)
    high = np.minimum(np.array(scan.image.shape) - 1, np.floor(middle + radius_mm / spacing)).astype(int)
    grid = np.stack(np.meshgrid(*(np.arange(a, b + 1) for a, b in zip(low, high, strict=True)), indexing="ij"), axis=-1)
    near = grid.reshape(-1, 3)[(((grid.reshape(-1, 3) - middle) * spacing) ** 2).sum(axis=1) <= radius_mm**2]
    return near[:, 0], near[:, 1], near[:, 2]


def _canal_middle(scan: Scan, centre: NDArray[np.float64], level: int) -> NDArray[np.float64] | None:
    """Middle (mm) of the gap behind a body, in the level of its centre; None where there is none of 8 to 30 mm."""
    behind = centre[None] - np.arange(0.0, 70.0, 0.5)[:, None] * np.array([[0.0, 1.0, 0.0]])
    index = np.rint(mm_to_index(scan.labels.affine, behind)).astype(int)
    inside = ((index >= 0) & (index < scan.labels.shape)).all(axis=1)
    filled = scan.labels.array[tuple(index[inside].T)] > 0
    if not filled.size or filled.all():
        return None
    first = int(np.argmin(filled))
    gap = int(np.argmax(filled[first:]))
    if not 16 <= gap <= 60:
        return None
    middle: NDArray[np.float64] = behind[first + gap // 2]
    return middle


def _noise(image: Floats, labels: NDArray[np.generic]) -> float:
    mean = ndimage.uniform_filter(image, 5)
    square = ndimage.uniform_filter(image.astype(np.float64) ** 2, 5)
    soft = (mean > 20) & (mean < 90) & (labels == 0)
    spread = np.sqrt(np.maximum(square - mean.astype(np.float64) ** 2, 0))[soft]
    return float(np.percentile(spread, 20)) if spread.size else float("nan")


def write_table(groups: Mapping[str, Sequence[Tissues]], path: Path) -> None:
    """Write a row a group and value: mean, sd and number of scans, and whether the mean lies in the published range."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(("group", "tissue", "mean", "sd", "least", "largest", "scans", "low", "high", "mark", "within"))
        for group, scans in groups.items():
            for name, known in PUBLISHED.items():
                found = np.array([scan.values[name] for scan in scans if name in scan.values])
                found = found[np.isfinite(found)]
                if known is None or not found.size:
                    continue
                row = [f"{v:.0f}" for v in (found.mean(), found.std(), found.min(), found.max())]
                within = "yes" if known[0] <= found.mean() <= known[1] else "no"
                table.writerow((group, name, *row, found.size, *known, within))
    with path.with_name(f"{path.stem}_levels.csv").open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(("group", "level", "mean", "p5", "p95", "scans"))
        for group, scans in groups.items():
            names = {name for scan in scans for name in scan.levels}
            for name in sorted(names, key=level_id):
                rows = [scan.levels[name] for scan in scans if name in scan.levels]
                table.writerow((group, name, *(f"{v:.0f}" for v in np.mean(rows, axis=0)), len(rows)))


def draw_histograms(groups: Mapping[str, Sequence[Tissues]], path: Path, title: str) -> None:
    """Draw a panel a tissue, a line a group, all scans of a group pooled."""
    figure = Figure(figsize=(11, 8), layout="constrained")
    for panel, name in zip(figure.subplots(3, 3).ravel(), HISTOGRAMS, strict=True):
        pooled = {group: np.concatenate([scan.samples[name] for scan in scans]) for group, scans in groups.items()}
        everything = np.concatenate([*pooled.values(), np.zeros(0, np.float32)])
        if everything.size:
            low, high = np.percentile(everything, (0.5, 99.5)).tolist()
            bins = np.linspace(low, high, 60)
            for group, values in pooled.items():
                if values.size:
                    panel.hist(values, bins, density=True, histtype="step", label=group)
        known = PUBLISHED.get(name) or PUBLISHED.get(f"{name}, mean")
        if known is not None:
            panel.axvspan(known[0], known[1], color="0.9", zorder=0, label=f"means published [{known[2]}]")
        panel.set(title=name, xlabel="HU", yticks=[])
        panel.legend(fontsize=6)
    figure.suptitle(title)
    figure.savefig(path, dpi=80)
