"""The trunk's outline round the spine: skin and the wall of chest and belly, by height."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spineseg.phantom.habitus import Habitus, draw_habitus
from spineseg.phantom.sacrum import sacral_pieces
from spineseg.phantom.shapes import Array, Box, Frame, Vec
from spineseg.phantom.subject import Subject
from spineseg.vertebrae import ORDER, level_id

Profile = NDArray[np.float64]
Rows = dict[tuple[str, float], tuple[float, ...]]

# Half width and half depth of the trunk, and muscle behind the centre of the body, by level and mm above its centre;
# mm for size 1 and no fat, arms up.
_SKIN: Rows = {
    ("C1", 60): (76, 96, 90),
    ("C1", 10): (74, 94, 82),
    ("C3", 0): (60, 84, 64),
    ("C4", 0): (58, 82, 64),
    ("C5", 0): (58, 66, 64),
    ("C6", 0): (60, 58, 58),
    ("C7", 0): (84, 60, 60),
    ("T1", 0): (135, 70, 63),
    ("T3", 0): (165, 88, 64),
    ("T6", 0): (158, 103, 60),
    ("T10", 0): (148, 106, 60),
    ("L1", 0): (140, 100, 67),
    ("L3", 0): (136, 94, 72),
    ("L5", 0): (150, 92, 74),
    ("S1", 0): (162, 94, 74),
    ("S1", -90): (174, 100, 90),
    ("S1", -180): (165, 98, 82),
}
# Chest and belly inside the ribs: half width, front and back of the cavity from the centre of the body.
_CAVITY: Rows = {
    ("T1", 14): (40, 32, 4),
    ("T1", 0): (52, 38, 12),
    ("T2", 0): (82, 52, 24),
    ("T3", 0): (102, 70, 34),
    ("T4", 0): (114, 86, 39),
    ("T6", 0): (127, 110, 44),
    ("T8", 0): (133, 124, 46),
    ("T10", 0): (134, 134, 46),
    ("T12", 0): (132, 140, 43),
    ("L2", 0): (136, 142, 37),
    ("L4", 0): (136, 140, 26),
    ("S1", 20): (124, 136, 6),
    ("S1", -30): (90, 130, 6),
    ("S1", -75): (62, 112, 34),
    ("S1", -120): (56, 105, 30),
}
# Depth of the furrow over the spinous processes, and of the fat over the loins, where it is thickest.
_BACK: Rows = {
    ("C3", 0): (3, 0.2),
    ("T1", 0): (1, 0.3),
    ("T5", 0): (3, 0.3),
    ("T12", 0): (7, 0.5),
    ("L3", 0): (11, 0.8),
    ("S1", 0): (5, 1.0),
    ("S1", -60): (14, 1.0),
    ("S1", -120): (30, 1.0),
}


def landmark(frames: Mapping[int, Frame], name: str) -> int:
    """The person's own level nearest to a named one, the one above it where that is missing: T11 for T12, L4 for L5."""
    wanted = ORDER.index(level_id(name))
    return min(frames, key=lambda level: abs(ORDER.index(level) - wanted))


@dataclass(frozen=True, eq=False)
class Ring:
    """A rounded outline by height: arrays over ascending heights of its middle, back end and half axes, mm."""

    z: Array
    x: Array
    back: Array
    half_width: Array
    half_depth: Array

    def distance(self, box: Box, groove: Array | None = None) -> Array:
        """Signed distance along the ray from the middle, mm; ``groove`` is a furrow's depth by height."""
        x, width, depth = (by_height(v, self.z, box.z) for v in (self.x, self.half_width, self.half_depth))
        across = box.x - x
        along = box.y - by_height(self.back, self.z, box.z) - depth
        if groove is not None:
            furrow = by_height(groove, self.z, box.z) * np.exp(-((across / 22.0) ** 2))
            along = along - furrow * np.clip(-along / depth, 0.0, 1.2)
        # A squircle: fuller than an ellipse; the limit keeps its formula from coming back to 1 far outside.
        u, v = np.minimum((across / width) ** 2, 2.4), np.minimum((along / depth) ** 2, 2.4)
        radius = np.sqrt(u + v - np.float32(0.35) * u * v) + np.float32(1e-3)
        reach: Array = np.sqrt(across * across + along * along) * (1.0 - 1.0 / radius)
        return reach

    def point(self, z: float, angle: float, outset: float) -> Vec:
        """Point ``outset`` mm outside, ``angle`` (radians) round from the back: + to the right, - to the left."""
        x, back, width, depth = (
            float(np.interp(z, self.z, v)) for v in (self.x, self.back, self.half_width, self.half_depth)
        )
        sine, cosine = np.sin(angle), np.cos(angle)
        # From the ellipse out to the squircle.
        fuller = 1.0 / np.sqrt(1.0 - 0.35 * (sine * cosine) ** 2)
        across, along = (width * fuller + outset) * sine, (depth * fuller + outset) * cosine
        return x + float(across), back + depth - float(along), z


@dataclass(frozen=True, eq=False)
class Trunk:
    """The trunk round one spine: arrays over ``z`` (mm, ascending), and what the person is like."""

    skin: Ring
    cavity: Ring  # chest and belly inside ribs and muscle
    spine_x: Array
    spine_y: Array
    body_radius: Array
    gutter: Array  # how far the cavity reaches behind the centre of the body, beside it
    fat: Array  # under the skin
    loin_fat: Array  # how much thicker it is at the back, as a share
    groove: Array
    apex_z: float  # of the lungs
    dome_z: float  # of the diaphragm
    habitus: Habitus

    @property
    def z(self) -> Array:
        """Heights of the arrays."""
        return self.skin.z

    @property
    def back(self) -> Array:
        """Skin of the back, y."""
        return self.skin.back

    @property
    def half_depth(self) -> Array:
        """Half of the distance from back to front."""
        return self.skin.half_depth

    def at(self, values: Array, z: Array) -> Array:
        """Interpolate one of the arrays to other heights, (1, 1, n)."""
        return by_height(values, self.z, z)


def by_height(values: Array, heights: Array, z: Array) -> Array:
    """Interpolate values over ``heights`` to a box's z (1, 1, n)."""
    found: Array = np.interp(z.ravel(), heights, values).astype(np.float32)[None, None, :]
    return found


def build_trunk(subject: Subject, frames: Mapping[int, Frame], rng: np.random.Generator) -> Trunk:
    """Lay the trunk's outline round the spine and draw what surrounds it."""
    habitus = draw_habitus(rng, subject)
    s, fat = subject.size, subject.fat_mm
    places = np.array([frames[level].origin for level in reversed(subject.levels)])
    heights = places[:, 2]
    z = np.arange(heights[0] - 260.0, heights[-1] + 140.0, 4.0)
    width, depth, behind = _columns(_SKIN, z, frames, s)
    inner, front, gutter = _columns(_CAVITY, z, frames, s)
    groove, loin = _columns(_BACK, z, frames, 1.0)
    if habitus.arms_down:
        # Shoulders hang: wider at the chest's top, where the arms join, and low beside the neck.
        top = frames[landmark(frames, "T2")].origin[2]
        width = width + 26.0 * s * np.exp(-(((z - top) / 45.0) ** 2))
    else:
        # Raised, they lift the shoulders beside the neck.
        top = frames[landmark(frames, "C7")].origin[2]
        width = width + 40.0 * s * np.exp(-(((z - top) / 28.0) ** 2))
    # Neither skin nor chest follows every bend of the spine.
    middle = _smooth(np.interp(z, heights, places[:, 0]), 40)
    spine_y = np.interp(z, heights, places[:, 1])
    tail = [piece.origin for piece in reversed(sacral_pieces(subject, frames)[:5])]
    axis = np.interp(z, [*(p[2] for p in tail), *heights], [*(p[1] for p in tail), *places[:, 1]])
    ends = [frames[landmark(frames, name)].origin[2] for name in ("T10", "C7")]
    under = fat * np.interp(z, ends, [1.0, 0.4])
    behind_muscle = under * (1.0 + 0.5 * loin) + 1.8
    skin_back = _smooth(spine_y - behind - behind_muscle, 10)
    # Where a strong curve brings spinous processes close to it, the skin bulges over them.
    bulge = np.maximum(0.0, skin_back - _over_tips(subject, frames, z))
    skin_back = skin_back - _smooth(bulge, 2)
    half_width = _smooth(width, 5) + fat
    half_depth = (_smooth(depth + 0.5 * behind_muscle, 5) + 0.4 * fat) * subject.depth_ratio + _smooth(bulge, 2) / 2
    inner = np.minimum(_smooth(inner, 4), half_width - fat - 15.0 * s)
    front = np.minimum(_smooth(spine_y + front, 8), skin_back + 2 * half_depth - fat - 15.0 * s)
    back = _smooth(spine_y, 8) - _smooth(gutter, 4)
    depth = np.maximum(20.0, (front - back) / 2)
    radius = np.interp(z, heights, [subject.sizes[level].width / 2 for level in reversed(subject.levels)])
    skin = Ring(*(plain(v) for v in (z, middle, skin_back, half_width, half_depth)))
    cavity = Ring(*(plain(v) for v in (z, middle, back, inner, depth)))
    return Trunk(
        skin,
        cavity,
        spine_x=plain(np.interp(z, heights, places[:, 0])),
        spine_y=plain(axis),
        body_radius=plain(radius),
        gutter=plain(_smooth(gutter, 4)),
        fat=plain(under),
        loin_fat=plain(loin),
        groove=plain(groove),
        apex_z=frames[level_id("T1")].origin[2] + 12.0,
        dome_z=frames[landmark(frames, "T9")].origin[2],
        habitus=habitus,
    )


def _over_tips(subject: Subject, frames: Mapping[int, Frame], z: Profile) -> Profile:
    """How far back the skin lies at least, by height: 6 mm behind the tips of the spinous processes."""
    limit = np.full(z.shape, np.inf)
    for level in subject.levels:
        size = subject.sizes[level]
        tip = (0.0, size.canal_back - size.spinous_back - 1.0, -size.spinous_down)
        _, y, height = frames[level].world(tip)
        limit = np.minimum(limit, y - 6.0 + 0.02 * (z - height) ** 2)
    return limit


def plain(values: Profile) -> Array:
    """As float32."""
    return values.astype(np.float32)


def _columns(rows: Rows, z: Profile, frames: Mapping[int, Frame], scale: float) -> tuple[Profile, ...]:
    """Columns of a table by level and height above it, interpolated to ``z`` and scaled."""
    known = {frames[landmark(frames, name)].origin[2] + up * scale: row for (name, up), row in rows.items()}
    order = sorted(known)
    table = np.array([known[height] for height in order]) * scale
    return tuple(np.interp(z, order, column) for column in table.T)


def _smooth(values: Profile, steps: int) -> Profile:
    padded = np.pad(values, steps, mode="edge")
    total = np.concatenate([[0.0], np.cumsum(padded)])
    width = 2 * steps + 1
    smoothed: Profile = (total[width:] - total[:-width]) / width
    return smoothed
