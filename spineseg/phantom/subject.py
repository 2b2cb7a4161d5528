"""One simulated person: the draws that make him, and the curve along which his vertebrae stand."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from spineseg.phantom.shapes import Frame, Vec
from spineseg.phantom.sizes import COLUMN, DIFFICULTIES, SIZES, LevelSize
from spineseg.vertebrae import SACRUM, level_id

# Share of the lumbar lordosis (T12 to S1) reached at each level from below: four fifths lie between L4 and S1.
_LORDOSIS = {"S1": 0.0, "L5": 0.4, "L4": 0.68, "L3": 0.84, "L2": 0.92, "L1": 0.97, "T12": 1.0}


@dataclass(frozen=True)
class Subject:
    """What a person is made of; all angles in degrees, HU of the tissues before the scanner.

    ``size`` is the one factor that scales every length; ``sizes`` holds each level's own sizes, already scaled.
    """

    size: float
    sizes: Mapping[int, LevelSize]
    lordosis_deg: float
    kyphosis_deg: float
    cervical_deg: float
    scoliosis_deg: float
    scoliosis_period_mm: float
    trabecular_hu: float
    cortical_hu: float
    muscle_hu: float
    fat_hu: float
    vessel_hu: float
    lung_hu: float
    disc_hu: float
    fat_mm: float
    arm_ratio: float

    @property
    def spans(self) -> tuple[float, float]:
        """Half width and depth of the trunk in mm."""
        return 150.0 * self.size + 0.8 * self.fat_mm, 205.0 * self.size + 1.6 * self.fat_mm


def draw_subject(rng: np.random.Generator, difficulty: str) -> Subject:
    """Draw a person; the number of draws does not depend on the values drawn.

    Means: lordosis lying 36.8° (T12 to S1), kyphosis lying 38° (T1 to T12), cervical lordosis 8° (C2 to C7).
    """
    spread = DIFFICULTIES[difficulty]

    def normal(mean: float, deviation: float, low: float, high: float) -> float:
        return float(np.clip(rng.normal(mean, deviation), low, high))

    def uniform(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    size = normal(1.0, spread.size_sd, 0.8, 1.2)
    residuals = {level: normal(1.0, spread.residual_sd, 0.9, 1.1) for level in COLUMN}
    contrast = uniform(0, 1) < spread.contrast_share
    enhanced, plain = uniform(150, 300), uniform(38, 50)
    return Subject(
        size=size,
        sizes={level: SIZES[level].scaled(size * residuals[level]) for level in COLUMN},
        lordosis_deg=normal(36.8, spread.curve_sd_deg, 5, 65),
        kyphosis_deg=normal(38, spread.curve_sd_deg, 12, 65),
        cervical_deg=normal(8, spread.curve_sd_deg, -5, 25),
        scoliosis_deg=uniform(-spread.scoliosis_deg, spread.scoliosis_deg),
        scoliosis_period_mm=uniform(350, 600),
        trabecular_hu=uniform(*spread.trabecular_hu),
        cortical_hu=uniform(*spread.cortical_hu),
        muscle_hu=normal(54, 6, 30, 68),
        fat_hu=normal(-98, 6, -115, -80),
        vessel_hu=enhanced if contrast else plain,
        lung_hu=normal(-870, 20, -910, -800),
        disc_hu=normal(88, 8, 70, 110),
        fat_mm=uniform(8, 26),
        arm_ratio=uniform(0.9, 1.1),
    )


def _inclinations(subject: Subject) -> dict[int, float]:
    """Forward lean of each level's z axis in degrees: + when its top lies in front of its bottom."""
    # L3 lies about level, so the lean at the sacrum is what lies below it.
    sacral = _LORDOSIS["L3"] * subject.lordosis_deg - 4.0
    lean = {level_id(name): sacral - share * subject.lordosis_deg for name, share in _LORDOSIS.items()}
    lowest, top = level_id("T12"), level_id("T1")
    for level in range(top, lowest):
        share = (lowest - level) / (lowest - top)
        # Kyphosis is strongest in the middle: a smooth step rather than a straight line.
        lean[level] = lean[lowest] + subject.kyphosis_deg * (0.45 * share + 0.55 * share * share * (3 - 2 * share))
    for level in range(1, top):
        share = min(1.0, (top - level) / 6)
        lean[level] = lean[top] - subject.cervical_deg * share - 6.0 * share
    return lean


def _frame(origin: Vec, lean_deg: float, tilt_deg: float, turn_deg: float) -> Frame:
    """Frame leaning forward about x, then tilting sideways about y, then turning about z."""
    lean, tilt, turn = (math.radians(v) for v in (lean_deg, tilt_deg, turn_deg))
    rows: list[Vec] = []
    for axis in ((1.0, 0.0, 0.0), (0.0, math.cos(lean), -math.sin(lean)), (0.0, math.sin(lean), math.cos(lean))):
        x, y, z = axis
        x, z = x * math.cos(tilt) + z * math.sin(tilt), -x * math.sin(tilt) + z * math.cos(tilt)
        x, y = x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn)
        rows.append((x, y, z))
    return Frame(origin, (rows[0], rows[1], rows[2]))


def spine_frames(subject: Subject) -> dict[int, Frame]:
    """Frame of every level from C1 to S1, origin at the centre of its body, in world mm; L3 is the origin.

    Neighbouring centres are half a body, the disc and half a body apart along the mean of their axes.
    """
    lean = _inclinations(subject)
    frames: dict[int, Frame] = {}
    origin: Vec = (0.0, 0.0, 0.0)
    height = 0.0
    below: int | None = None
    for level in reversed(COLUMN):
        size = subject.sizes[level]
        if below is not None:
            lower = subject.sizes[below]
            step = lower.height / 2 + size.disc + size.height / 2
            height += step
            mean = math.radians((lean[below] + lean[level]) / 2)
            tilt = _tilt(subject, height)
            sideways = math.radians(tilt)
            origin = (
                origin[0] + step * math.sin(sideways),
                origin[1] + step * math.cos(sideways) * math.sin(mean),
                origin[2] + step * math.cos(sideways) * math.cos(mean),
            )
        tilt = _tilt(subject, height)
        frames[level] = _frame(origin, lean[level], tilt, 0.4 * tilt)
        below = level
    anchor = frames[level_id("L3")].origin
    return {
        level: Frame(
            (frame.origin[0] - anchor[0], frame.origin[1] - anchor[1], frame.origin[2] - anchor[2]), frame.axes
        )
        for level, frame in frames.items()
    }


def _tilt(subject: Subject, height: float) -> float:
    return 0.5 * subject.scoliosis_deg * math.sin(2 * math.pi * height / subject.scoliosis_period_mm)


def middle_frame(above: Frame, below: Frame, above_height: float, below_height: float, lean: float = 0.5) -> Frame:
    """Frame halfway between two bodies' facing end plates: where a disc sits."""
    top = above.world((0.0, 0.0, -above_height / 2))
    bottom = below.world((0.0, 0.0, below_height / 2))
    origin = tuple(lean * a + (1 - lean) * b for a, b in zip(top, bottom, strict=True))
    rows: list[Vec] = []
    for first, second in zip(above.axes, below.axes, strict=True):
        x, y, z = (a + b for a, b in zip(first, second, strict=True))
        length = math.sqrt(x * x + y * y + z * z)
        rows.append((x / length, y / length, z / length))
    return Frame((origin[0], origin[1], origin[2]), (rows[0], rows[1], rows[2]))


def is_thoracic(level: int) -> bool:
    """Whether ribs hang on a level."""
    return level_id("T1") <= level <= level_id("T12")


def is_cervical(level: int) -> bool:
    """Whether a level is one of C3 to C7, which have uncinate processes and holes for the vertebral arteries."""
    return level_id("C3") <= level <= level_id("C7")


def is_sacral(level: int) -> bool:
    """Whether a level is the first sacral vertebra."""
    return level == SACRUM
