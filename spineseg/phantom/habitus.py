"""What differs from person to person around the spine: how he lies, how fat his muscles are, what he drank."""

from dataclasses import dataclass

import numpy as np

from spineseg.phantom.shapes import Array
from spineseg.phantom.subject import Subject

_SPOTS = 160


@dataclass(frozen=True, eq=False)
class Habitus:
    """Draws of one case that no bone of the spine depends on.

    Args:
        arms_down: arms beside the trunk; else beside the head, as most trunk scans are taken.
        table: whether the table lies in the reconstructed field; ``blanket_mm`` cloth over the front, 0 = none.
        venous: contrast medium has reached the veins and the whole kidney; only with contrast in the vessels.
        oral_hu: HU of contrast medium in stomach and bowel, 0 = none; ``excreted`` whether urine holds some.
        muscle_fat: share of the dorsal muscles turned to fat, from 0.02 (young) to 0.5 (old).
        belly_fat: how far fat parts the organs of the belly, 0 to 1.
        plaque: share of the great vessels' wall that is calcified.
        spots: uniform numbers, (160, 4): places and fillings of loops, plaques and vessels.
    """

    arms_down: bool
    table: bool
    blanket_mm: float
    venous: bool
    oral_hu: float
    excreted: bool
    muscle_fat: float
    belly_fat: float
    plaque: float
    spots: Array


def draw_habitus(rng: np.random.Generator, subject: Subject) -> Habitus:
    """Draw what surrounds the spine; the number of draws does not depend on the values drawn."""
    u = [float(v) for v in rng.uniform(size=10)]
    # The older, the fatter the muscles and the stiffer the vessels.
    years = float(np.clip((subject.age_years - 30.0) / 55.0, 0.0, 1.0))
    return Habitus(
        arms_down=u[0] < 0.3,
        table=u[1] < 0.85,
        blanket_mm=2.5 if u[2] < 0.25 else 0.0,
        venous=u[3] < 0.6,
        oral_hu=180.0 + 420.0 * u[5] if u[4] < 0.25 else 0.0,
        excreted=u[6] < 0.35 and subject.vessel_hu > 100,
        muscle_fat=0.02 + (0.08 + 0.4 * years) * u[7],
        belly_fat=min(1.0, 0.6 * u[8] + 0.5 * (subject.fat_mm - 8.0) / 18.0),
        plaque=years * u[9],
        spots=rng.uniform(size=(_SPOTS, 4)).astype(np.float32),
    )
