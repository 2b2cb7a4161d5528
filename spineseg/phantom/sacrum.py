"""The sacrum below S1 and the coccyx, which no mask labels."""

import itertools
import math
from collections.abc import Iterator, Mapping

from spineseg.phantom.bones import Bone, Part
from spineseg.phantom.shapes import WORLD, Body, Frame, Limb, Shape
from spineseg.phantom.subject import Subject
from spineseg.vertebrae import SACRUM

# S2 to S5 and three pieces of the coccyx: turn of the axis against the piece above (degrees, + = top forward),
# size relative to S1, height (mm), half span of the lateral mass (mm) and its half thickness.
_PIECES = (
    (12.0, 0.78, 23.0, 49.0, 12.0),
    (4.0, 0.62, 20.0, 41.0, 9.5),
    (-16.0, 0.50, 18.0, 30.0, 7.5),
    (-22.0, 0.42, 16.0, 21.0, 6.0),
    (-14.0, 0.30, 11.0, 0.0, 0.0),
    (-12.0, 0.22, 9.0, 0.0, 0.0),
    (-10.0, 0.16, 8.0, 0.0, 0.0),
)
# Remnants of the discs above each piece, mm.
_GAPS = (2.0, 0.8, 0.4, 0.4, 2.0, 1.5, 1.5)


def sacral_pieces(subject: Subject, frames: Mapping[int, Frame]) -> list[Frame]:
    """Frames of the pieces below S1: one under the other along the sacrum's curve."""
    s, top = subject.size, frames[SACRUM]
    lean = math.degrees(math.asin(max(-1.0, min(1.0, top.axes[2][1]))))
    height = subject.sizes[SACRUM].height
    origin, found = top.origin, []
    for (turn, _, tall, _, _), gap in zip(_PIECES, _GAPS, strict=True):
        half = math.radians(lean + turn / 2)
        lean += turn
        step = height / 2 + gap + tall * s / 2
        origin = (origin[0], origin[1] - step * math.sin(half), origin[2] - step * math.cos(half))
        height = tall * s
        sine, cosine = math.sin(math.radians(lean)), math.cos(math.radians(lean))
        found.append(Frame(origin, ((1.0, 0.0, 0.0), (0.0, cosine, -sine), (0.0, sine, cosine))))
    return found


def sacrum(subject: Subject, frames: Mapping[int, Frame]) -> Iterator[Bone]:
    """Wings beside S1 and the four fused vertebrae below it with canal, foramina and crest, then the coccyx."""
    s, size, top = subject.size, subject.sizes[SACRUM], frames[SACRUM]
    places = [top, *sacral_pieces(subject, frames)]
    spans = [(56.0, 15.0), *((piece[3], piece[4]) for piece in _PIECES[:4])]
    # The lateral masses in one piece with the wings: they meet the hip bones in the sacro-iliac joints.
    parts: list[Part] = []
    holes: list[Shape] = []
    for side in (-1.0, 1.0):
        ends = [
            place.world((side * (span - thick) * s, -(6.0 if k else 13.0) * s, (-4.5 if k == 0 else 0.0) * s))
            for k, (place, (span, thick)) in enumerate(zip(places, spans, strict=False))
        ]
        for (a, b), (_, first), (_, second) in zip(itertools.pairwise(ends), spans, spans[1:], strict=False):
            parts.append(
                Part(
                    Limb(a, b, (first * s, first * s), (second * s, second * s), (0.0, 1.0, 0.0)),
                    0.36,
                    8.0,
                    compact=False,
                )
            )
        inner = top.world((side * 0.5 * size.width, -0.16 * size.depth, 0.0))
        parts.append(
            Part(
                Limb(inner, ends[0], (12.0 * s, 12.0 * s), (14.0 * s, 14.0 * s), (0.0, 1.0, 0.3)),
                0.36,
                8.0,
                compact=False,
            )
        )
        for above, below, (_, share, _, span, _) in zip(places, places[1:5], _PIECES, strict=False):
            # Between two fused bodies their spokes leave a foramen, front to back.
            middle = [(a + b) / 2 for a, b in zip(above.origin, below.origin, strict=True)]
            axis = below.axes[1]
            x = middle[0] + side * (0.5 * share * size.width + 0.12 * span * s)
            front, back = (tuple(c + r * s * v for c, v in zip((x, *middle[1:]), axis, strict=True)) for r in (26, -34))
            wide = (5.5 * s * (0.6 + share / 2), 5.0 * s * (0.6 + share / 2))
            holes.append(Limb((front[0], front[1], front[2]), (back[0], back[1], back[2]), wide))
    canal = ((0.0, -16.0 * s, 14.0 * s), (0.0, -16.0 * s, -14.0 * s))
    for place in places[1:5]:
        start, end = (place.world(point) for point in canal)
        holes.append(Limb(start, end, (4.5 * s, 9.0 * s), (4.0 * s, 7.0 * s), place.axes[1]))
    # Not into S1 itself, whose body and arch are another bone.
    holes.append(
        Limb(top.world((0, 0, 4)), top.world((0, 0, -4)), (0.5 * size.depth, 0.5 * size.width), None, top.axes[1])
    )
    for place, (_, share, tall, span, thick) in zip(places[1:5], _PIECES, strict=False):
        half = 0.5 * share * size.width
        for side in (-1.0, 1.0):
            start, end = (
                place.world((side * 0.6 * half, -3.0 * s, 0.0)),
                place.world((side * (span - thick) * s, -6.0 * s, 0.0)),
            )
            parts.append(Part(Limb(start, end, (0.32 * tall * s, thick * s)), 0.36, 6.0, compact=False))
        depth = share * size.depth * 0.8
        for side in (-1.0, 1.0):
            behind = -(0.5 * depth + 15.0 * s * share + 4.0)
            lamina = Limb(
                place.world((side * (span - thick) * 0.7 * s, -0.5 * depth - 2.0, 0.0)),
                place.world((0.0, behind, -2.0)),
                (0.5 * tall * s, 3.2),
            )
            parts.append(Part(lamina, 0.26, 3.0))
        crest = Limb(place.world((0.0, behind - 1.0, 4.0)), place.world((0.0, behind - 5.0 * share, -4.0)), (5.0, 2.6))
        parts.append(Part(crest, 0.26, 3.0))
    yield Bone(WORLD, tuple(parts), tuple(holes), density=0.5)
    for place, (_, share, tall, _, _) in zip(places[1:], _PIECES, strict=False):
        width, depth = share * size.width, share * size.depth * (0.8 if share > 0.4 else 0.6)
        body = Body(width, depth, tall * s, tall * s, 0.8, 0.05)
        yield Bone(place, (Part(body, 0.36, 0.0, compact=False),), density=0.8)
