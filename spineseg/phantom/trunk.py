"""What surrounds the spine, put together: bones that are not labelled, organs, and the canal."""

import itertools
from collections.abc import Iterator, Mapping

from spineseg.phantom.abdomen import enhancement, muscles, upper_organs, vessels
from spineseg.phantom.bones import Bone
from spineseg.phantom.bowel import colon, small_bowel
from spineseg.phantom.chest import cartilages, chest_organs, lung_vessels, sternum
from spineseg.phantom.head import head_organs, skull
from spineseg.phantom.organ import Organ
from spineseg.phantom.outline import Trunk
from spineseg.phantom.pelvis import hips, pelvic_organs
from spineseg.phantom.sacrum import sacrum
from spineseg.phantom.shapes import Frame, Limb
from spineseg.phantom.shoulders import arms, shoulders
from spineseg.phantom.subject import Subject
from spineseg.vertebrae import level_id


def other_bones(subject: Subject, frames: Mapping[int, Frame], trunk: Trunk) -> Iterator[Bone]:
    """Every bone but the ribs that is not labelled."""
    yield from sacrum(subject, frames)
    yield from hips(subject, frames)
    yield from shoulders(subject, frames, trunk)
    yield from sternum(subject, frames, trunk)
    yield from skull(subject, frames)


def organs(subject: Subject, frames: Mapping[int, Frame], trunk: Trunk) -> Iterator[Organ]:
    """Organs, muscles and vessels in painting order."""
    wall = enhancement(subject, trunk)["wall"]
    yield from arms(subject, frames, trunk)
    yield from head_organs(subject, frames)
    yield from cartilages(subject, frames, trunk)
    yield from pelvic_organs(subject, frames, trunk)
    yield from small_bowel(subject, frames, trunk, wall)
    yield from colon(subject, frames, trunk, wall)
    yield from upper_organs(subject, frames, trunk)
    yield from muscles(subject, frames, trunk)
    yield from lung_vessels(subject, frames, trunk)
    yield from chest_organs(subject, frames, trunk)
    yield from vessels(subject, frames, trunk)


def canal_path(subject: Subject, frames: Mapping[int, Frame], share: float) -> Iterator[Limb]:
    """The spinal canal as rods from C1 to S1; ``share`` of its radius is filled (the sac inside its fat)."""
    places = []
    for level in subject.levels:
        size = subject.sizes[level]
        back = -30.0 * size.width / 20 / 2 if level == level_id("C1") else size.canal_y
        places.append((frames[level].world((0.0, back, 0.0)), size))
    for (a, first), (b, second) in itertools.pairwise(places):
        radii = [(share * v.canal_depth / 2, share * v.canal_width / 2) for v in (first, second)]
        yield Limb(a, b, radii[0], radii[1], (0.0, 1.0, 0.0))
