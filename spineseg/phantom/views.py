"""Fields of view: which part of the person is scanned, how wide, and how the person lies in the scanner."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from spineseg.phantom.difficulty import DIFFICULTIES
from spineseg.phantom.draws import Draws
from spineseg.phantom.outline import Trunk
from spineseg.phantom.shapes import Frame, Vec, VoxelGrid
from spineseg.phantom.subject import Subject
from spineseg.vertebrae import SACRUM, level_id


@dataclass(frozen=True)
class View:
    """A range of levels, how often it is scanned, how far below the last one it goes on (mm), and its half width.

    The levels are ones that nobody lacks.
    """

    top: str
    bottom: str
    weight: float
    below_mm: tuple[float, float] = (8.0, 30.0)
    half_width_mm: tuple[float, float] = (62.0, 78.0)


# Kaggle's scans are of mixed origin: most show a part of the spine, some the whole trunk and some a strip about it.
VIEWS: Final[dict[str, View]] = {
    "lumbar": View("T11", "S1", 0.18, (15.0, 70.0)),
    "thoracolumbar": View("T7", "S1", 0.12, (8.0, 60.0)),
    "thoracic": View("C7", "L1", 0.13),
    "whole": View("C1", "S1", 0.08, (8.0, 60.0)),
    "cervical": View("C1", "T5", 0.1, half_width_mm=(50.0, 72.0)),
    "narrow": View("T3", "S1", 0.15, (8.0, 40.0), (34.0, 48.0)),
    "chest": View("C7", "L3", 0.12, half_width_mm=(80.0, 165.0)),
    "abdomen": View("T10", "S1", 0.12, (40.0, 130.0), (90.0, 175.0)),
}


def view_at(share: float) -> View:
    """The view at a place, 0 to 1, in the views by weight."""
    ends = np.cumsum([view.weight for view in VIEWS.values()])
    return list(VIEWS.values())[min(int(np.searchsorted(ends, share * ends[-1], side="right")), len(VIEWS) - 1)]


def extent_mm(subject: Subject, frames: Mapping[int, Frame], level: int) -> tuple[Vec, Vec]:
    """World-aligned corners that hold the body and the arch of a vertebra without its transverse processes."""
    size, frame = subject.sizes[level], frames[level]
    back = size.canal_back - size.spinous_back - 4.0
    half = size.height / 2
    low = (-size.width / 2, back, -half - size.disc - 10)
    return frame.world_bounds(low, (size.width / 2, size.depth / 2, half + 6))


def field_of_view(
    rng: np.random.Generator,
    layout: str,
    size: str,
    difficulty: str,
    subject: Subject,
    frames: Mapping[int, Frame],
    trunk: Trunk,
) -> VoxelGrid:
    """Choose the voxel grid of a scan, and turn the person in it about his long axis.

    CSI 2014: the whole thoracic and lumbar spine in a narrow field, square pixels of 0.31-0.45 mm (full, 512 × 512) or
    about 1.15 mm (small), slices of 1 or 1.35 mm. Kaggle: 1.5 mm voxels over one of ``VIEWS``; ``full`` has the whole
    width of the trunk in all but the narrow ones.
    """
    source, limit = Draws(rng), DIFFICULTIES[difficulty].turn_deg
    draws = [source.uniform() for _ in range(7)]
    turn = round(source.normal(0.0, limit / 2, -limit, limit), 2)
    placed = {level: frame.turned(turn) for level, frame in frames.items()}
    if layout == "csi2014":
        return _csi2014(draws, size, subject, placed, turn)
    view = view_at(draws[0])
    high = placed[level_id(view.top)].origin[2] + 8.0 + 22.0 * draws[1]
    low = placed[level_id(view.bottom)].origin[2] - _between(view.below_mm, draws[2])
    seen = [level for level in subject.levels if low < placed[level].origin[2] < high]
    corners = [extent_mm(subject, placed, level) for level in seen]
    front = max(c[1][1] for c in corners) + 16.0 + 24.0 * draws[5]
    back = min(c[0][1] for c in corners) - 14.0 - 12.0 * draws[4]
    half_width = _between(view.half_width_mm, draws[3])
    if size == "full" and view is not VIEWS["narrow"]:
        half_width = 150.0 + 40.0 * draws[3]
    if half_width > 100.0:
        z = np.linspace(low, high, 50)
        skin = float(np.interp(z, trunk.z, trunk.back).min())
        back = skin - 15.0 - 30.0 * draws[4]
        front = skin + 2 * float(np.interp(z, trunk.z, trunk.half_depth).max()) + 20.0
    # Nobody lies quite in the middle.
    center = float(np.mean([placed[level].origin[0] for level in seen])) + 0.22 * half_width * (draws[6] - 0.5)
    counts = [max(8, round(v / _KAGGLE_MM)) for v in (2 * half_width, front - back, high - low)]
    return VoxelGrid((counts[0], counts[1], counts[2]), (_KAGGLE_MM,) * 3, (center - half_width, back, low), turn)


def broad_heights(frames: Mapping[int, Frame]) -> tuple[float, float]:
    """Heights of the shoulders and the hips, mm."""
    return frames[level_id("T1")].origin[2] - 5.0, frames[SACRUM].origin[2] - 80.0


_KAGGLE_MM: Final = 1.5


def _between(ends: tuple[float, float], share: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * share


def _csi2014(
    draws: list[float], size: str, subject: Subject, placed: Mapping[int, Frame], turn_deg: float
) -> VoxelGrid:
    labelled = [level for level in subject.levels if level >= level_id("T1") and level != SACRUM]
    corners = [extent_mm(subject, placed, level) for level in labelled]
    back, front = min(c[0][1] for c in corners) - 6.0, max(c[1][1] for c in corners) + 8.0
    # T1 and L5 lie wholly inside; some of C7 and S1 is seen, and not labelled.
    low = corners[-1][0][2] - 6.0 - 20.0 * draws[0]
    high = corners[0][1][2] + 8.0 + 20.0 * draws[1]
    columns, rows = (512, 512) if size == "full" else (120, 152)
    pixel = 0.31 + 0.14 * draws[2] if size == "full" else 1.1 + 0.1 * draws[2]
    pixel = round(max(pixel, (front - back) / rows, 116.0 * subject.size / columns), 6)
    thickness = 1.0 if size == "full" else 1.35
    center = float(np.mean([placed[level].origin[0] for level in labelled])) + 5.0 * (draws[4] - 0.5)
    middle = (front + back) / 2 + 4.0 * draws[3]
    origin = (center - pixel * (columns - 1) / 2, middle - pixel * (rows - 1) / 2, low)
    return VoxelGrid((columns, rows, round((high - low) / thickness)), (pixel, pixel, thickness), origin, turn_deg)
