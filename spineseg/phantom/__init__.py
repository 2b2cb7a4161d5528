"""The digital spine: a CT scan and its exact labels, drawn from a seed.

``simulate_case`` is a pure function of (seed, index, options): a subject is drawn, his bones are implicit shapes in
each vertebra's frame along the spine's curve, a painter turns them into true HU, and the scanner blurs and adds noise.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from spineseg.errors import ConfigError
from spineseg.geometry import Volume
from spineseg.phantom.facts import subject_facts, view_facts
from spineseg.phantom.metal import draw_implants
from spineseg.phantom.painting import Painter
from spineseg.phantom.scanner import draw_settings, scan
from spineseg.phantom.scene import draw_scene
from spineseg.phantom.skeleton import BonePainter
from spineseg.phantom.textures import Texture
from spineseg.phantom.views import broad_heights

Layout = Literal["csi2014", "kaggle"]
Size = Literal["full", "small"]
DifficultyName = Literal["easy", "default", "hard"]

# Part of SIMULATED.json: raise it with every change that moves a voxel (tests/phantom/test_golden.py asks for it).
GENERATOR_VERSION: Final = "3"


@dataclass(frozen=True)
class PhantomOptions:
    """What to simulate: whose field of view, how large, how varied.

    A case's facts, as ``SIMULATED.json`` holds them, are plain JSON; levels go by their names, angles are in degrees:

    - ``age_years``, ``sex``, ``size`` (the one factor on all lengths), ``column`` (all of the person's levels, in view
      or not), ``rib_pairs``, ``contrast`` (medium in the vessels), ``fat_mm`` under the skin, and the tissues' HU
      before the scanner (``trabecular_hu`` is L1's);
    - ``curves``: ``lordosis_deg`` (lowest thoracic level to S1), ``kyphosis_deg`` (T1 to the lowest thoracic level) and
      ``cervical_deg`` (C2 to C7) between the levels' axes, fractures and all; ``scoliosis``: one entry a bend with
      ``upper`` and ``lower`` end vertebra, ``cobb_deg`` and ``convex`` side; ``rotation_deg`` at the apex;
    - ``variants``: names of ``variants.PRIORS``, and ``osteoporosis`` (L1 below 100 HU) and ``scoliosis`` (10° and
      more); ``fractures``: level → ``kind``, Genant ``grade`` and ``loss`` of height (share); ``fused`` and ``vacuum``
      (gas in the disc): pairs of levels; ``osteophytes_mm`` by level; ``sacralised`` (0 to 1); ``hemivertebra``;
    - ``levels`` in view, and ``cut_levels``, those whose mask the border of the scan cuts;
    - ``redrawn``: levels of persons drawn before this one whom the layout cannot express: neither CSI 2014's hundreds
      nor Kaggle's 1 to 25 have a value for T13 or L6, so who shows one in view is replaced by another person; a level
      too few is expressed by the value that is left out;
    - ``scanner``: its ``Settings``, the ``metal`` drawn (in view or not) and the person's ``turn_deg`` about z.
    """

    layout: Layout = "csi2014"
    size: Size = "small"
    difficulty: DifficultyName = "default"

    def __post_init__(self) -> None:
        """Refuse unknown choices."""
        for name, found, choices in (
            ("layout", self.layout, get_args(Layout)),
            ("size", self.size, get_args(Size)),
            ("difficulty", self.difficulty, get_args(DifficultyName)),
        ):
            if found not in choices:
                raise ConfigError(f"simulate: {name}={found} is unknown; expected one of {', '.join(choices)}")


@dataclass(frozen=True, eq=False)
class SimulatedCase:
    """A scan with its truth, axes RAS: int16 HU, uint8 canonical ids, and plain facts about the draw."""

    image: Volume
    labels: Volume
    facts: dict[str, Any]


def simulate_case(seed: int, index: int, options: PhantomOptions) -> SimulatedCase:
    """Simulate one case; the same arguments give the same bytes in any process.

    Cases of another layout, seed or index show another person; those of another size or difficulty may show the same.

    Args:
        seed: of the data set.
        index: of the case in it, from 0.
        options: the field of view, the size and the difficulty.

    Returns:
        Image in HU, labels as canonical ids of every vertebra in view down to S1 (the sacrum's id), and the facts that
        ``PhantomOptions`` lists.
    """
    scene = draw_scene(seed, index, options.layout, options.size, options.difficulty)
    subject, frames, trunk, grid, texture = scene.subject, scene.frames, scene.trunk, scene.grid, scene.texture
    fine, coarse = Texture.draw(texture, 1.3, 1.2), Texture.draw(texture, 5.0, 2.0)
    trabeculae = Texture.draw(texture, (1.0, 1.0, 2.5), 1.0)
    canvas = Painter(subject, grid, fine, coarse).soft_tissue(trunk, frames)
    labels = BonePainter(subject, grid, trabeculae, Texture(coarse.tile, 0.8)).skeleton(canvas, frames, trunk)
    settings = draw_settings(scene.device, options.layout, options.difficulty, grid)
    metal, implants = draw_implants(scene.device, options.difficulty, subject, frames)
    image = scan(settings, scene.noise, canvas, grid, implants, broad_heights(frames))
    del canvas  # twice the size of the image
    facts = subject_facts(subject, frames) | view_facts(subject.levels, labels)
    facts |= {"redrawn": list(scene.redrawn), "scanner": settings.facts() | {"metal": metal, "turn_deg": grid.turn_deg}}
    return SimulatedCase(Volume(image, grid.affine), Volume(labels, grid.affine), facts)
