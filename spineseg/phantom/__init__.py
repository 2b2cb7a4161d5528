"""The digital spine: a CT scan and its exact labels, drawn from a seed.

``simulate_case`` is a pure function of (seed, index, options): a subject is drawn, his bones are implicit shapes in
each vertebra's frame along the spine's curve, a painter turns them into true HU, and the scanner blurs and adds noise.
"""

from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, get_args

import numpy as np

from spineseg.errors import ConfigError
from spineseg.geometry import Volume
from spineseg.phantom.painting import Painter, Texture
from spineseg.phantom.scanner import field_of_view, scan
from spineseg.phantom.sizes import COLUMN
from spineseg.phantom.subject import draw_subject, spine_frames
from spineseg.phantom.trunk import build_trunk
from spineseg.vertebrae import level_name

Layout = Literal["csi2014", "kaggle"]
Size = Literal["full", "small"]
DifficultyName = Literal["easy", "default", "hard"]

# Part of SIMULATED.json: raise it with every change that moves a voxel.
GENERATOR_VERSION: Final = "1"


@dataclass(frozen=True)
class PhantomOptions:
    """What to simulate: whose field of view, how large, how varied."""

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

    Args:
        seed: of the data set.
        index: of the case in it, from 0.
        options: the field of view, the size and the difficulty.

    Returns:
        Image in HU and labels as canonical ids of every vertebra in view, C1 to L5 and the sacrum's S1.
    """
    # One stream a stage: another draw in one stage leaves the others as they are.
    body, view, texture, device, noise = (
        np.random.Generator(np.random.PCG64(child)) for child in np.random.SeedSequence([seed, index]).spawn(5)
    )
    subject = draw_subject(body, options.difficulty)
    frames = spine_frames(subject)
    trunk = build_trunk(subject, frames)
    grid = field_of_view(view, options.layout, options.size, subject, frames, trunk)
    painter = Painter(subject, grid, Texture.draw(texture, 1.3, 1.2), Texture.draw(texture, 5.0, 2.0))
    canvas = painter.soft_tissue(trunk)
    labels = painter.skeleton(canvas, frames, trunk)
    image, settings = scan(device, noise, canvas, grid, options.difficulty)
    drawn = {name: value for name, value in asdict(subject).items() if name != "sizes"}
    facts: dict[str, Any] = {name: round(float(value), 3) for name, value in drawn.items()} | settings
    facts["levels"] = [level_name(level) for level in COLUMN if (labels == level).any()]
    return SimulatedCase(Volume(image, grid.affine), Volume(labels, grid.affine), facts)
