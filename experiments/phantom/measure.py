"""Measures the digital spine on its masks and sets the means beside published sizes.

Vertebrae of whole spines (C1 to S1) are voxelised as labels; every length is read from the voxels in the frame of its
vertebra, none from the parameters that made it.
"""

import argparse
import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from published import COLUMNS, EXTENTS, PUBLISHED
from rich.progress import track

from spineseg.metrics.localisation import body_centre_mm
from spineseg.phantom import GENERATOR_VERSION
from spineseg.phantom.curves import spine_frames
from spineseg.phantom.scene import case_streams
from spineseg.phantom.shapes import Frame, VoxelGrid
from spineseg.phantom.sizes import COLUMN
from spineseg.phantom.skeleton import placed_vertebrae
from spineseg.phantom.subject import Subject, draw_subject
from spineseg.vertebrae import SACRUM, level_id, level_name

SPACING_MM: Final = 0.9
STEP_MM: Final = 0.5  # between samples in a vertebra's frame
# Wedging by scoliosis and rims grown by age below these lengths leave a level in.
_LATERAL_MM: Final = 4.0
_OSTEOPHYTE_MM: Final = 0.5  # a disc that has degenerated has longer ones about it
_EXTENT_NAMES: Final = ("extent_lr", "extent_ap", "extent_si")


@dataclass(frozen=True)
class Spine:
    """The labels of a whole spine (X, Y, Z, canonical ids) and the frames of its vertebrae."""

    subject: Subject
    frames: Mapping[int, Frame]
    labels: NDArray[np.uint8]
    grid: VoxelGrid

    def sample(self, frame: Frame, x: NDArray, y: NDArray, z: NDArray) -> NDArray[np.uint8]:  # type: ignore[type-arg]
        """Labels (len(x), len(y), len(z)) at the points of a grid in a vertebra's frame, mm; nearest voxel."""
        index = []
        for axis in range(3):
            world = (
                frame.origin[axis]
                + x[:, None, None] * frame.axes[0][axis]
                + y[None, :, None] * frame.axes[1][axis]
                + z[None, None, :] * frame.axes[2][axis]
            )
            nearest = np.rint((world - self.grid.origin[axis]) / self.grid.spacing[axis]).astype(np.int64)
            index.append(np.clip(nearest, 0, self.grid.shape[axis] - 1))
        return self.labels[index[0], index[1], index[2]]


def voxelise(seed: int, difficulty: str) -> Spine:
    """Draw the person that ``simulate`` draws first as case 0 of a seed of ``csi2014``, and label his whole spine."""
    subject = draw_subject(case_streams(seed, "csi2014", 0)[0], difficulty)
    frames = spine_frames(subject)
    origins = np.array([frame.origin for frame in frames.values()])
    low = origins.min(axis=0) - np.array([62, 110, 60])
    high = origins.max(axis=0) + np.array([62, 50, 45])
    shape = np.ceil((high - low) / SPACING_MM).astype(int)
    grid = VoxelGrid((int(shape[0]), int(shape[1]), int(shape[2])), (SPACING_MM,) * 3, (low[0], low[1], low[2]))
    labels = np.zeros(grid.shape, np.uint8)
    for placed in placed_vertebrae(subject, frames, grid):
        box, distance, _ = placed.evaluated
        labels[box.slices][distance < 0] = placed.bone.level or 0
    return Spine(subject, frames, labels, grid)


def measure(spine: Spine) -> dict[str, dict[str, float]]:
    """Sizes by level name and column; what a level does not have, or has otherwise by a variant, is absent."""
    if spine.subject.levels != COLUMN:
        return {}  # a level more or less shifts the sizes of its neighbours
    whole = {level: _crop(spine, level) for level in spine.subject.levels}
    centres = {
        level: body_centre_mm(mask, affine, level=level) for level, (mask, affine) in whole.items() if mask.any()
    }
    found: dict[str, dict[str, float]] = {}
    for level, below in zip(spine.subject.levels, (*spine.subject.levels[1:], None), strict=True):
        name = level_name(level) if level != SACRUM else "S1"
        if not _is_plain(spine.subject, level):
            continue
        mask, _ = whole[level]
        row = _atlas(spine, level) if name == "C1" else _body(spine, level, dens=name == "C2")
        points = np.argwhere(mask) * SPACING_MM
        row["volume"] = float(mask.sum()) * SPACING_MM**3 / 1000
        extents = points.max(axis=0) - points.min(axis=0) + SPACING_MM
        row |= dict(zip(_EXTENT_NAMES, extents.tolist(), strict=True))
        if below is not None and level not in spine.subject.fused and _is_plain(spine.subject, below):
            row["pitch"] = float(np.linalg.norm(centres[level] - centres[below]))
            if name != "C1":
                row["disc"] = _gap(spine, level, below)
        found[name] = {column: value for column, value in row.items() if np.isfinite(value)}
    return found


def _is_plain(subject: Subject, level: int) -> bool:
    """Whether no fracture, hemivertebra, osteophyte or sacralisation changed the sizes of a level."""
    size = subject.sizes[level]
    if level in subject.fractures or level == subject.hemivertebra or size.concavity:
        return False
    if subject.sacralised and level in subject.levels[-2:]:
        return False
    return abs(size.lateral) < _LATERAL_MM and size.osteophyte < _OSTEOPHYTE_MM


def _crop(spine: Spine, level: int) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """The mask of a level on its own box, and the box's affine."""
    reach = np.array([70.0, 110.0, 75.0])
    centre = (np.array(spine.frames[level].origin) - spine.grid.origin) / SPACING_MM
    low = np.maximum(0, np.floor(centre - reach / SPACING_MM)).astype(int)
    high = np.ceil(centre + reach / SPACING_MM).astype(int)
    part = spine.labels[low[0] : high[0], low[1] : high[1], low[2] : high[2]] == level
    inside = [np.flatnonzero(part.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    first = [int(i[0]) for i in inside]
    mask = part[tuple(slice(int(i[0]), int(i[-1]) + 1) for i in inside)]
    affine = np.diag([SPACING_MM] * 3 + [1.0])
    affine[:3, 3] = np.array(spine.grid.origin) + (low + first) * SPACING_MM
    return mask, affine


def _axis(low: float, high: float) -> NDArray[np.float64]:
    return np.arange(low, high + STEP_MM / 2, STEP_MM)


def _span(filled: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Length in mm from the first to the last filled sample along the last axis; 0 where there is none."""
    last = filled.shape[-1] - np.argmax(filled[..., ::-1], axis=-1)
    return np.where(filled.any(axis=-1), (last - np.argmax(filled, axis=-1)) * STEP_MM, 0.0)


def _empty_run(filled: NDArray[np.bool_], start: int) -> NDArray[np.float64]:
    """Length in mm of the gap that holds sample ``start`` of the last axis; NaN where it is filled or open."""
    right, left = filled[..., start:], filled[..., start::-1]
    length = (np.argmax(right, axis=-1) + np.argmax(left, axis=-1) - 1) * STEP_MM
    bounded = right.any(axis=-1) & left.any(axis=-1) & ~filled[..., start]
    return np.where(bounded, length, np.nan)


def _body(spine: Spine, level: int, *, dens: bool) -> dict[str, float]:
    """Body and canal of C2 to S1 from samples about the middle plane and through the body."""
    frame = spine.frames[level]
    x, y, z = _axis(-1.5, 1.5), _axis(-75, 32), _axis(-26, 45 if dens else 26)
    middle = spine.sample(frame, x, y, z) == level
    centre_y, centre_z = int(np.argmin(np.abs(y))), int(np.argmin(np.abs(z)))
    # Walls of the body at half height, then its highest and lowest point along the middle.
    slab = middle[:, :, centre_z - 3 : centre_z + 4]
    ahead = np.argmin(slab[:, centre_y:], axis=1)
    behind = np.argmin(slab[:, centre_y::-1], axis=1)
    front, back = float(np.median(y[centre_y] + ahead * STEP_MM)), float(np.median(y[centre_y] - behind * STEP_MM))
    depth = front - back
    column = (y > back - 3.0) & (y < front + 4.0)
    heights = _span(middle[:, column]).mean(axis=0)
    along = y[column]
    row = {"height_anterior": float(heights[along > front - 0.25 * depth].max())}
    if dens:
        row["height_anterior"] = float(heights.max())
    else:
        row["height_posterior"] = float(heights[along < back + 0.25 * depth].max())
    tops = z[np.flatnonzero(middle[:, column].any(axis=(0, 1)))]
    bottom, top = float(tops[0]), float(tops[-1])
    if not dens:
        rim = z > top - 0.28 * (top - bottom)
        row["depth"] = float(_span(np.swapaxes(middle[:, column][:, :, rim], 1, 2)).mean(axis=0).max())
        across = _axis(-45, 45)
        # In front of the pedicles' roots, where a thick pedicle would pass for the end plate.
        level_y = (y > (front + back) / 2) & (y < (front + back) / 2 + 0.16 * depth)
        plate = spine.sample(frame, across, y[level_y], z[rim]) == level
        row["width"] = float(_span(np.moveaxis(plate, 0, 2)).mean(axis=0).max())
    top = 0.7 * float(spine.subject.sizes[level].height) / 2 if dens else top
    return row | _canal(spine, level, middle, (y, z), back, top)


def _canal(
    spine: Spine,
    level: int,
    middle: NDArray[np.bool_],
    axes: tuple[NDArray[np.float64], NDArray[np.float64]],
    back: float,
    top: float,
) -> dict[str, float]:
    """Narrowest middle depth over the height of the arch, and narrowest width between the pedicles."""
    y, z = axes
    start = int(np.argmin(np.abs(y - (back - 6.0))))
    rows = np.swapaxes(middle[:, :, np.abs(z) < top], 1, 2)
    gaps = _empty_run(rows, start)
    closed = gaps[:, np.isfinite(gaps).all(axis=0)]
    if not closed.size:
        return {}
    depth = float(closed.mean(axis=0).min())
    across = _axis(-32, 32)
    inner = _axis(back - 0.6 * depth, back - 0.4 * depth)
    pedicles = _axis(0.1 * top, 0.8 * top)
    block = np.moveaxis(spine.sample(spine.frames[level], across, inner, pedicles) == level, 0, 2)
    widths = _empty_run(block, len(across) // 2)
    between = widths[:, np.isfinite(widths).all(axis=0)]
    return {"canal_depth": depth, "canal_width": float(between.mean(axis=0).min()) if between.size else float("nan")}


def _atlas(spine: Spine, level: int) -> dict[str, float]:
    """C1's ring: heights of its arches in the middle plane, hole, and width of the whole bone in its frame."""
    frame = spine.frames[level]
    x, y, z = _axis(-1.5, 1.5), _axis(-60, 32), _axis(-20, 20)
    middle = spine.sample(frame, x, y, z) == level
    inside = np.flatnonzero(middle.any(axis=(0, 2)))
    # The hole is the largest step between filled samples.
    cut = int(np.argmax(np.diff(inside)))
    hole = int(inside[cut] + inside[cut + 1]) // 2
    front, rear = middle[:, hole:], middle[:, :hole]
    rows = np.swapaxes(middle[:, :, np.abs(z) < 3.0], 1, 2)
    across = _axis(-50, 50)
    plane = spine.sample(frame, across, _axis(y[inside[cut]], y[inside[cut + 1]]), _axis(-3, 3)) == level
    gaps = _empty_run(np.moveaxis(plane, 0, 2), len(across) // 2)
    shadow = spine.sample(frame, across, _axis(-50, 32), z) == level
    return {
        "height_anterior": float(_span(front).mean(axis=0).max()),
        "height_posterior": float(_span(rear).mean(axis=0).max()),
        "canal_depth": float(np.nanmedian(_empty_run(rows, hole))),
        "canal_width": float(np.nanmax(gaps)) if np.isfinite(gaps).any() else float("nan"),
        "width": float(_span(shadow.any(axis=(1, 2))[None])[0]),
    }


def _gap(spine: Spine, above: int, below: int) -> float:
    """Height in mm of what lies between two bodies in the middle of their disc, along the line of their centres."""
    upper, lower = spine.frames[above], spine.frames[below]
    line = np.array(lower.origin) - np.array(upper.origin)
    length = float(np.linalg.norm(line))
    down = line / length
    ahead = np.array(upper.axes[1]) - down * float(np.dot(upper.axes[1], down))
    ahead /= np.linalg.norm(ahead)
    axes = tuple(tuple(float(v) for v in axis) for axis in (np.cross(ahead, down), ahead, down))
    frame = Frame(upper.origin, axes)  # type: ignore[arg-type]
    block = spine.sample(frame, _axis(-3, 3), _axis(-3, 3), np.arange(0.0, length, 0.1))
    return float(((block != above) & (block != below)).sum(axis=2).mean() * 0.1)


@dataclass(frozen=True)
class Cell:
    """A measured cell over all subjects beside the published one."""

    level: str
    column: str
    mean: float
    sd: float
    n: int

    @property
    def verdict(self) -> str:
        """``yes`` or ``no``: whether it lies within one standard deviation across people."""
        return "yes" if PUBLISHED[self.level][self.column].meets(self.mean, self.column, self.level) else "no"

    @property
    def narrow_verdict(self) -> str:
        """``yes`` or ``no``: whether it differs by no more than a millimetre or chance."""
        known = PUBLISHED[self.level][self.column]
        return "yes" if known.meets_narrowly(self.mean, self.column, self.sd, self.n) else "no"

    @property
    def bias(self) -> float:
        """Signed difference from the middle of what is published."""
        return PUBLISHED[self.level][self.column].bias(self.mean)


def summarise(subjects: Iterable[Mapping[str, Mapping[str, float]]]) -> tuple[list[Cell], dict[str, list[list[float]]]]:
    """Means of the published cells, and all extents by group of levels."""
    subjects = list(subjects)
    cells = []
    for level, published in PUBLISHED.items():
        for column in published:
            values = [s[level][column] for s in subjects if column in s.get(level, {})]
            if values:
                sd = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
                cells.append(Cell(level, column, float(np.mean(values)), sd, len(values)))
    extents: dict[str, list[list[float]]] = {}
    for group in EXTENTS:
        first, last = (level_id(end) for end in group.split("–"))
        for number in range(first, last + 1):
            place = level_name(number)
            rows = [[s[place][extent] for extent in _EXTENT_NAMES] for s in subjects if place in s]
            if rows:
                extents.setdefault(group, []).append(np.mean(rows, axis=0).tolist())
    return cells, extents


def write(output: Path, cells: list[Cell], extents: dict[str, list[list[float]]], *, seeds: int, note: str) -> str:
    """Write sizes.csv (a row a cell) and sizes.md (a row a level); returns the verdict in a sentence."""
    output.mkdir(parents=True, exist_ok=True)
    with (output / "sizes.csv").open("w", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        header = ("level", "column", "mean", "sd", "n", "low", "high", "mark", "binds", "within", "narrow", "bias")
        table.writerow(header)
        for cell in cells:
            known = PUBLISHED[cell.level][cell.column]
            values = (f"{cell.mean:.2f}", f"{cell.sd:.2f}", cell.n, known.low, known.high, known.mark)
            verdicts = ("yes" if known.binds else "no", cell.verdict, cell.narrow_verdict, f"{cell.bias:+.2f}")
            table.writerow((cell.level, cell.column, *values, *verdicts))
    binding = [cell for cell in cells if PUBLISHED[cell.level][cell.column].binds]
    other = [cell for cell in cells if not PUBLISHED[cell.level][cell.column].binds]
    verdict = (
        f"{sum(c.verdict == 'yes' for c in binding)} of {len(binding)} cells marked V or M and "
        f"{sum(c.verdict == 'yes' for c in other)} of {len(other)} remembered ones lie within one standard deviation "
        f"across people; {sum(c.narrow_verdict == 'yes' for c in binding)} and "
        f"{sum(c.narrow_verdict == 'yes' for c in other)} within 1 mm (volumes: 5 %) or two standard errors"
    )
    text = [
        f"SIMULATED, generator {GENERATOR_VERSION}: means ± sd, {seeds} seeds ({note}) → published, with its mark.",
        "**Bold**: off by more than one published sd; \\*: by more than 1 mm (5 %) and two standard errors.",
        "",
    ]
    text += [f"{verdict}.", "", "| level | " + " | ".join(c.replace("_", " ") for c in COLUMNS) + " |"]
    text.append("|---" * (len(COLUMNS) + 1) + "|")
    by_place = {(cell.level, cell.column): cell for cell in cells}
    for level in PUBLISHED:
        shown = [_shown(by_place.get((level, column))) for column in COLUMNS]
        text.append(f"| {level} | " + " | ".join(shown) + " |")
    text += ["", "Mean signed difference from the middle of what is published, mm (volume: ml).", ""]
    text += ["| cells | " + " | ".join(c.replace("_", " ") for c in COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, group in (("V, M", binding), ("all", cells)):
        biases = [[cell.bias for cell in group if cell.column == column] for column in COLUMNS]
        text.append(f"| {name} | " + " | ".join(f"{np.mean(b):+.2f} ({len(b)})" if b else "–" for b in biases) + " |")
    text += ["", "Boxes of whole vertebrae, mm: least and largest level mean of the group → published.", ""]
    text += ["| levels | left–right | front–back | head–foot |", "|---|---|---|---|"]
    for span, rows in extents.items():
        low, high = np.min(rows, axis=0), np.max(rows, axis=0)
        shown = [f"{a:.0f}–{b:.0f} → {c}–{d}" for a, b, (c, d) in zip(low, high, EXTENTS[span], strict=True)]
        text.append(f"| {span} | " + " | ".join(shown) + " |")
    (output / "sizes.md").write_text("\n".join(text) + "\n", encoding="utf-8")
    return verdict


def _shown(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    known = PUBLISHED[cell.level][cell.column]
    value = f"{cell.mean:.1f} ± {cell.sd:.1f}"
    value += " \\*" if cell.narrow_verdict == "no" else ""
    return f"{value if cell.verdict == 'yes' else f'**{value}**'} → {known.text} {known.mark}"


def measure_seeds(seeds: int, difficulty: str, output: Path) -> str:
    """Measure seeds 0, 1, … and write the tables; returns the verdict and what is out of tolerance."""
    found = [measure(voxelise(seed, difficulty)) for seed in track(range(seeds), "sizes")]
    cells, extents = summarise(found)
    note = f"difficulty {difficulty}; levels changed by a fracture, a variant or degeneration are left out"
    lines = [write(output, cells, extents, seeds=seeds, note=note)]
    for cell in cells:
        known = PUBLISHED[cell.level][cell.column]
        if cell.verdict == "no":
            place = f"  {cell.level:4}{cell.column:17}{cell.mean:6.1f} ± {cell.sd:.1f}  n = {cell.n}"
            lines.append(f"{place}  published {known.text} {known.mark}")
    return "\n".join(lines)


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=40, help="subjects to measure, seeds 0, 1, …")
    parser.add_argument("--difficulty", default="default", choices=("easy", "default", "hard"))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder of sizes.csv and sizes.md")
    options = parser.parse_args()
    print(measure_seeds(options.seeds, options.difficulty, options.output))


if __name__ == "__main__":
    main()
