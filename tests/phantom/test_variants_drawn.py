"""Each variant in voxels: labels stay one piece a level and in order, and the bodies have the heights drawn."""

import itertools
from collections.abc import Callable

import cc3d
import numpy as np
import pytest
from numpy.typing import NDArray

from spineseg.phantom.curves import spine_frames
from spineseg.phantom.facts import view_facts
from spineseg.phantom.outline import build_trunk
from spineseg.phantom.shapes import VoxelGrid
from spineseg.phantom.skeleton import BonePainter
from spineseg.phantom.subject import Subject, draw_subject
from spineseg.phantom.textures import Texture
from spineseg.phantom.variants import FractureKind, Variant
from spineseg.vertebrae import level_id, level_name


def worst(kind: FractureKind) -> Callable[[Subject], int | None]:
    """Find a body broken in one way, as badly as can be."""
    return lambda person: next((v for v, f in person.fractures.items() if f.kind == kind and f.grade == 3), None)


def named(variant: Variant, level: str) -> Callable[[Subject], int | None]:
    """Find a level of those who have a variant."""
    return lambda person: level_id(level) if variant in person.variants else None


# Where a person shows what the family is about; None = another person is wanted.
FAMILIES: dict[str, Callable[[Subject], int | None]] = {
    "t13": named("t13", "T13"),
    "l6": named("l6", "L6"),
    "t12_absent": named("t12_absent", "T11"),
    "l5_absent": named("l5_absent", "L4"),
    "sacralised": lambda person: person.levels[-2] if person.sacralised > 0.8 else None,
    "hemivertebra": lambda person: person.hemivertebra,
    "block": lambda person: min(person.fused) if len(person.fused) == 1 else None,
    "ankylosis": lambda person: sorted(person.fused)[2] if len(person.fused) >= 4 else None,
    "degeneration": lambda person: max(person.vacuum) if len(person.vacuum) >= 2 else None,
    "scoliosis": lambda person: next((b.upper for b in person.scoliosis if abs(b.cobb_deg) > 33), None),
    "wedge": worst("wedge"),
    "biconcave": worst("biconcave"),
    "crush": worst("crush"),
}


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def found(family: str) -> tuple[Subject, int]:
    """The first hard subject of the family, and where to look."""
    for seed in itertools.count():
        person = draw_subject(generator(seed), "hard")
        level = FAMILIES[family](person)
        if level is not None:
            return person, level
    raise AssertionError


def painted(person: Subject, level: int) -> tuple[NDArray[np.uint8], VoxelGrid]:
    """Labels within 65 mm of a level, in voxels of 1.25 mm."""
    frames = spine_frames(person)
    trunk = build_trunk(person, frames, generator(1))
    x, y, z = frames[level].origin
    grid = VoxelGrid((96, 104, 104), (1.25, 1.25, 1.25), (x - 60.0, y - 95.0, z - 65.0))
    texture = Texture.draw(generator(2), 1.0, 1.0)
    canvas = np.full(grid.shape, 40.0, np.float32)
    return BonePainter(person, grid, texture, texture).skeleton(canvas, frames, trunk), grid


@pytest.mark.parametrize("family", list(FAMILIES))
def test_levels_stay_one_piece_and_in_order(family: str) -> None:
    person, level = found(family)
    labels, grid = painted(person, level)
    assert (labels == level).any()
    frames = spine_frames(person)
    cut = view_facts(person.levels, labels)["cut_levels"]
    heights = []
    for seen in person.levels:
        mask = labels == seen
        if not mask.any():
            continue
        z = np.nonzero(mask)[2]
        if level_name(seen) not in cut:
            assert cc3d.connected_components(mask.astype(np.uint8), connectivity=26, return_N=True)[1] == 1, seen
        heights.append(float(z.mean()))
        origin = np.array(frames[seen].origin)
        place = np.rint((origin - grid.origin) / grid.spacing).astype(int)
        if seen != 1 and (place >= 1).all() and (place < np.array(labels.shape) - 1).all():
            assert labels[tuple(place)] == seen
    assert (np.diff(heights) < 0).all() and len(heights) >= 3


@pytest.mark.parametrize("kind", ["wedge", "biconcave", "crush"])
def test_broken_bodies_have_lost_the_height_in_the_mask(kind: str) -> None:
    person, level = found(kind)
    labels, grid = painted(person, level)
    frame, size = spine_frames(person)[level], person.sizes[level]

    def height(forward: float) -> float:
        """Height of the mask along the body's axis, at a place from back (-1) to front (1)."""
        steps = np.arange(-25.0, 25.0, 0.25)
        points = np.array([frame.world((0.0, forward * size.depth / 2, float(v))) for v in steps])
        index = np.rint((points - grid.origin) / grid.spacing).astype(int)
        return 0.25 * float((labels[tuple(index.T)] == level).sum())

    front, middle, back = height(0.75), height(0.0), height(-0.6)
    if kind == "wedge":
        assert front < 0.8 * back
    elif kind == "biconcave":
        assert middle < 0.72 * min(front, back)
    else:
        assert max(front, back) < 0.75 * person.sizes[person.levels[person.levels.index(level) + 1]].height
