"""Who lies in the scanner, and what of him is in view: all that is decided before a voxel is painted."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from spineseg.phantom.curves import spine_frames
from spineseg.phantom.outline import Trunk, build_trunk
from spineseg.phantom.shapes import Frame, VoxelGrid
from spineseg.phantom.subject import Subject, draw_subject
from spineseg.phantom.views import field_of_view
from spineseg.vertebrae import CONVENTIONS, SACRUM, level_name

_REACH_MM: Final = 45.0  # of the processes, up and down from a body's end plates
_NUMBERS: Final = {"csi2014": 0, "kaggle": 1}  # of the layouts; another one's comes after these


@dataclass(frozen=True, eq=False)
class Scene:
    """A person, the grid of his scan, and the generators of what is still to be drawn.

    ``redrawn`` names the levels, of persons drawn before him, that the layout cannot express.
    """

    subject: Subject
    frames: Mapping[int, Frame]
    trunk: Trunk
    grid: VoxelGrid
    redrawn: tuple[str, ...]
    texture: np.random.Generator
    device: np.random.Generator
    noise: np.random.Generator


def case_streams(seed: int, layout: str, index: int, attempt: int = 0) -> tuple[np.random.Generator, ...]:
    """Generators of a case: of the person, his field of view, textures, scanner, noise and surroundings.

    One stream a stage, so that another draw in one stage leaves the others as they are. Neither two layouts, two seeds
    nor two cases share one; the size and the difficulty have no part in them.

    Args:
        seed: of the set, any whole number from 0.
        layout: of the set.
        index: of the case.
        attempt: how many persons were drawn for this case before.
    """
    entropy = np.random.SeedSequence(seed, spawn_key=(_NUMBERS[layout], index, attempt))
    return tuple(np.random.Generator(np.random.PCG64(child)) for child in entropy.spawn(6))


def draw_scene(seed: int, index: int, layout: str, size: str, difficulty: str) -> Scene:
    """Draw a case's person and field of view, until no level is in view that the layout has no value for.

    Two layouts of a seed show different persons, so that a network trained on the one has met nobody of the other. Of
    one layout, sizes and difficulties may show the same person, older or sicker: score no network on another of these.

    CSI 2014's hundreds and Kaggle's 1 to 25 have none for T13 and L6. To give such a level another's name would make
    the truth false, to leave it out would make a vertebra background; so another person is drawn.
    """
    redrawn: list[str] = []
    for attempt in itertools.count():
        body, view, texture, device, noise, around = case_streams(seed, layout, index, attempt)
        subject = draw_subject(body, difficulty)
        frames = spine_frames(subject)
        trunk = build_trunk(subject, frames, around)
        grid = field_of_view(view, layout, size, difficulty, subject, frames, trunk)
        nameless = _nameless(subject, frames, grid, layout)
        if not nameless:
            break
        redrawn += nameless
    return Scene(subject, frames, trunk, grid, tuple(redrawn), texture, device, noise)


def _nameless(subject: Subject, frames: Mapping[int, Frame], grid: VoxelGrid, layout: str) -> list[str]:
    """Names of the levels that may be in view and for which the layout's masks have no value."""
    known = {*CONVENTIONS[layout].table.values(), SACRUM}
    low, high = grid.origin[2], grid.origin[2] + grid.spacing[2] * (grid.shape[2] - 1)

    def in_view(level: int) -> bool:
        reach = subject.sizes[level].height / 2 + _REACH_MM
        return low - reach < frames[level].origin[2] < high + reach

    return [level_name(level) for level in subject.levels if level not in known and in_view(level)]
