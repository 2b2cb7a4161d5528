"""The curve along which the vertebrae stand: inclinations, scoliosis with its rotation, and each level's frame."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spineseg.phantom.shapes import Frame, Vec
from spineseg.vertebrae import T13, level_id

if TYPE_CHECKING:
    from spineseg.phantom.subject import Subject

# Share of the lumbar lordosis reached going up from S1 to the lowest thoracic level, in six equal steps (five lumbar
# levels): four fifths lie between L4 and S1.
_LORDOSIS = (0.0, 0.4, 0.68, 0.84, 0.92, 0.97, 1.0)
_RESTING = 7.0  # mean lean from S1 to T1 of the average person, degrees: he lies on his back
_TAIL = 6  # levels beyond a scoliosis over which the column comes back upright
_COMPENSATED = 0.5  # share of a wedge fracture's angle that the discs near it take back


@dataclass(frozen=True)
class Bend:
    """One curve of a scoliosis between its end vertebrae, which tilt most.

    Args:
        upper: end vertebra above; ``lower`` the one below.
        cobb_deg: angle between the two, + = convex to the right.
        rotation: axial rotation at the apex, degrees a degree of Cobb; the bodies turn to the convex side.
    """

    upper: int
    lower: int
    cobb_deg: float
    rotation: float


def thoracic_end(levels: Sequence[int]) -> int:
    """The lowest thoracic level of a column, from which lordosis is measured down and kyphosis up."""
    return max(level for level in levels if level_id("T1") <= level <= level_id("T12") or level == T13)


def inclinations(subject: "Subject") -> dict[int, float]:
    """Forward lean of each level's z axis in degrees: + when its top lies in front of its bottom.

    S1 to the lowest thoracic level makes the lordosis, from there to T1 the kyphosis, C7 to C2 the cervical lordosis;
    wedge fractures add their angle.
    """
    levels = subject.levels[::-1]
    first, last = levels.index(thoracic_end(levels)), levels.index(level_id("T1"))
    lean: dict[int, float] = {}
    # L3 lies about level, so the lean at the sacrum is what lies below it.
    sacral = _LORDOSIS[3] * subject.lordosis_deg - 4.0
    for position, level in enumerate(levels[: first + 1]):
        place = position / first * (len(_LORDOSIS) - 1)
        low = min(int(place), len(_LORDOSIS) - 2)
        share = _LORDOSIS[low] + (place - low) * (_LORDOSIS[low + 1] - _LORDOSIS[low])
        lean[level] = sacral - share * subject.lordosis_deg
    for position in range(first + 1, last + 1):
        share = (position - first) / (last - first)
        # Kyphosis is strongest in the middle: a smooth step rather than a straight line.
        lean[levels[position]] = lean[levels[first]] + subject.kyphosis_deg * (0.45 * share + 0.55 * _smooth(share))
    for position, level in enumerate(levels[last + 1 :]):
        lean[level] = lean[levels[last]] - 4.0 - subject.cervical_deg * min(1.0, position / 5)
    for broken, fracture in subject.fractures.items():
        middle = levels.index(broken)
        for position, level in enumerate(levels):
            step = 0.5 + 0.5 * ((position > middle) - (position < middle))
            back = _COMPENSATED * min(1.0, max(0.0, (position - middle) / 9 + 0.5))
            lean[level] += fracture.wedge_deg * (step - back)
    # Whoever is rounder than that tips back on the table, pelvis and all.
    tipped = 0.8 * (_RESTING - sum(lean[level] for level in levels[: last + 1]) / (last + 1))
    return {level: angle + tipped for level, angle in lean.items()}


def tilts(levels: Sequence[int], bends: Sequence[Bend]) -> dict[int, tuple[float, float]]:
    """Sideways tilt (+ = top to the right) and axial turn of each level, degrees.

    Between end vertebrae the tilt runs from one extreme to the other, so that it differs by the Cobb angle. Two bends
    share an end vertebra and lie on opposite sides.

    Args:
        levels: of the column, cranial to caudal.
        bends: one or two, caudal first; none = straight.
    """
    column = list(levels[::-1])
    found = dict.fromkeys(column, (0.0, 0.0))
    if not bends:
        return found
    below, above = bends[0], bends[-1]
    start, end = column.index(below.lower), column.index(above.upper)
    # What two bends share is a quarter of both; a single one is halved.
    shared = below.cobb_deg / 2 if len(bends) == 1 else (below.cobb_deg - above.cobb_deg) / 4
    points = [(max(0, start - _TAIL), 0.0, 0.0), (start, below.cobb_deg - shared, 0.0)]
    points.append((column.index(below.upper), -shared, below.rotation * below.cobb_deg))
    if len(bends) == 2:
        points.append((end, -above.cobb_deg - shared, above.rotation * above.cobb_deg))
    points.append((min(len(column) - 1, end + _TAIL), 0.0, 0.0))
    for (low, first, _), (high, second, turn) in itertools.pairwise(points):
        shares = [_smooth(step / (high - low)) for step in range(high - low + 1)]
        # Where the ends are an odd number of levels apart, no vertebra stands at the very apex.
        most = max(share * (1.0 - share) for share in shares) or 1.0
        for position, share in enumerate(shares, low):
            turned = -turn * share * (1.0 - share) / most
            found[column[position]] = (first + share * (second - first), turned)
    return found


def _smooth(share: float) -> float:
    return share * share * (3.0 - 2.0 * share)


def _frame(origin: Vec, lean_deg: float, tilt_deg: float, turn_deg: float) -> Frame:
    """Frame turned about its own z, leaning forward about x, then tilted sideways about y."""
    lean, tilt, turn = (math.radians(v) for v in (lean_deg, tilt_deg, turn_deg))
    rows: list[Vec] = []
    for axis in ((math.cos(turn), math.sin(turn), 0.0), (-math.sin(turn), math.cos(turn), 0.0), (0.0, 0.0, 1.0)):
        x, y, z = axis
        y, z = y * math.cos(lean) + z * math.sin(lean), -y * math.sin(lean) + z * math.cos(lean)
        x, z = x * math.cos(tilt) + z * math.sin(tilt), -x * math.sin(tilt) + z * math.cos(tilt)
        rows.append((x, y, z))
    return Frame(origin, (rows[0], rows[1], rows[2]))


def spine_frames(subject: "Subject") -> dict[int, Frame]:
    """Frame of every level from C1 to S1, origin at the centre of its body, in world mm; L3 is the origin.

    Neighbouring centres are half a body, the gap between the rims and half a body apart along the mean of their axes.
    """
    lean = inclinations(subject)
    sideways = tilts(subject.levels, subject.scoliosis)
    frames: dict[int, Frame] = {}
    below: int | None = None
    for level in reversed(subject.levels):
        frame = _frame((0.0, 0.0, 0.0), lean[level], *sideways[level])
        if below is not None:
            size = subject.sizes[level]
            step = subject.sizes[below].height / 2 + size.rim_gap + size.height / 2
            x, y, z = (a + b for a, b in zip(frame.axes[2], frames[below].axes[2], strict=True))
            step /= math.sqrt(x * x + y * y + z * z)
            u, v, w = frames[below].origin
            frame = Frame((u + step * x, v + step * y, w + step * z), frame.axes)
        frames[level] = frame
        below = level
    u, v, w = frames[level_id("L3")].origin
    return {
        level: Frame((frame.origin[0] - u, frame.origin[1] - v, frame.origin[2] - w), frame.axes)
        for level, frame in frames.items()
    }


def middle_frame(above: Frame, below: Frame, above_height: float, below_height: float) -> Frame:
    """Frame halfway between two bodies' facing end plates: where a disc sits."""
    top = above.world((0.0, 0.0, -above_height / 2))
    bottom = below.world((0.0, 0.0, below_height / 2))
    origin = tuple((a + b) / 2 for a, b in zip(top, bottom, strict=True))
    rows: list[Vec] = []
    for first, second in zip(above.axes, below.axes, strict=True):
        x, y, z = (a + b for a, b in zip(first, second, strict=True))
        length = math.sqrt(x * x + y * y + z * z)
        rows.append((x / length, y / length, z / length))
    return Frame((origin[0], origin[1], origin[2]), (rows[0], rows[1], rows[2]))


def lean_of(frame: Frame) -> float:
    """Forward lean of a frame's z axis, degrees."""
    return math.degrees(math.asin(frame.axes[2][1]))


def measured_curves(levels: Sequence[int], frames: Mapping[int, Frame]) -> dict[str, float]:
    """Lordosis, kyphosis and cervical lordosis between the levels' axes, degrees, fractures and all."""
    end = thoracic_end(levels)

    def between(first: int, second: int) -> float:
        return lean_of(frames[first]) - lean_of(frames[second])

    return {
        "lordosis_deg": between(levels[-1], end),
        "kyphosis_deg": between(level_id("T1"), end),
        "cervical_deg": between(level_id("C7"), level_id("C2")),
    }
