"""One simulated person: the draws that make him."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from spineseg.phantom import variants
from spineseg.phantom.column import Factors, draw_column
from spineseg.phantom.curves import Bend
from spineseg.phantom.difficulty import DIFFICULTIES, Rates
from spineseg.phantom.draws import Draws
from spineseg.phantom.sizes import LevelSize
from spineseg.phantom.variants import Fracture, Variant
from spineseg.vertebrae import ORDER, SACRUM, T13, level_id

Sex = Literal["female", "male"]

_FEMALE: Final = 0.90  # women's widths and heights a man's (Duman 2026, Chen 2011)
_BALANCE: Final = 0.4  # correlation of kyphosis with lordosis (remembered: 0.3-0.5)
# Spread of disc heights beyond that of all lengths, of a person's and of a single disc's, and of a person's canal: with
# the size factor discs come to 17 %, lumbar ones to 1.2-1.9 mm, and canals to 1.2-2.3 mm, as published.
_DISC_SDS: Final = (0.12, 0.10)
_CANAL_SD: Final = 0.07


@dataclass(frozen=True)
class Subject:
    """What a person is made of; all angles in degrees, HU of the tissues before the scanner.

    ``size`` is the one factor that scales every length (women's mean 0.95, men's 1.05); ``sizes`` holds each level's
    own sizes, already scaled, with his own discs and canal and with what his diseases did to them; ``levels`` are his
    own, cranial to caudal; ``fused`` are those grown together with the next one below; ``vacuum`` those with gas in the
    disc below;
    ``sacralised`` is how far, 0 to 1, the last lumbar level has joined the sacrum; ``scoliosis`` holds one or two
    bends, caudal first, or none; ``variants`` names what is unusual about him. Lordosis and kyphosis are those that
    he had before his ``fractures``; ``depth_ratio`` scales the trunk from front to back.
    """

    age_years: float
    sex: Sex
    size: float
    sizes: Mapping[int, LevelSize]
    levels: tuple[int, ...]
    fused: frozenset[int]
    vacuum: frozenset[int]
    sacralised: float
    rib_pairs: int
    fractures: Mapping[int, Fracture]
    hemivertebra: int | None
    variants: frozenset[Variant]
    lordosis_deg: float
    kyphosis_deg: float
    cervical_deg: float
    scoliosis: tuple[Bend, ...]
    trabecular_hu: float
    cortical_hu: float
    muscle_hu: float
    fat_hu: float
    vessel_hu: float
    lung_hu: float
    disc_hu: float
    fat_mm: float
    depth_ratio: float


def draw_subject(rng: np.random.Generator, difficulty: str) -> Subject:
    """Draw a person; the number of draws does not depend on the values drawn.

    Means: lordosis lying 36.8° (lowest thoracic level to S1), kyphosis lying 33° at 40 years and 0.3° more a year
    after (T1 to the lowest thoracic level), cervical lordosis 10° (C2 to C7); trabecular bone of L1 226 HU at
    25 years and 2.5 less each year (Jang 2019), not below 30.
    """
    spread = DIFFICULTIES[difficulty]
    draws = Draws(rng)
    age = draws.uniform(*spread.age_years)
    sex: Sex = "female" if draws.happens(0.5) else "male"
    # The two sexes' means are apart by twice this; the rest of the spread lies within each.
    apart = (1 - _FEMALE) / (1 + _FEMALE)
    size = draws.normal(1.0, max(spread.size_sd**2 - apart**2, 1e-4) ** 0.5, 0.85, 1.15)
    size += -apart if sex == "female" else apart
    residuals = {level: draws.normal(1.0, spread.residual_sd, 0.9, 1.1) for level in ORDER}
    usual = draws.normal(1.0, _DISC_SDS[0], 0.5, 1.5)
    discs = {level: min(max(usual * draws.normal(1.0, _DISC_SDS[1], 0.5, 1.5), 0.5), 1.5) for level in ORDER}
    canal = draws.normal(1.0, _CANAL_SD, 0.8, 1.2)
    trabecular = draws.normal(226.0 - 2.5 * (age - 25.0), spread.trabecular_sd, 30.0, 330.0)

    found = _draw_variants(draws, spread.variants, age, trabecular)
    factors = {level: Factors(size * residuals[level], discs[level], canal) for level in ORDER}
    column = draw_column(draws, found, spread.cobb_deg, factors)
    # Who has more lordosis has more kyphosis.
    lordosis, kyphosis = draws.normal(0.0, 1.0, -3.0, 3.0), draws.normal(0.0, 1.0, -3.0, 3.0)
    kyphosis = _BALANCE * lordosis + math.sqrt(1 - _BALANCE**2) * kyphosis
    contrast = draws.happens(spread.contrast_share)
    enhanced, plain = draws.uniform(150, 300), draws.uniform(38, 50)
    return Subject(
        age_years=age,
        sex=sex,
        size=size,
        sizes=column.sizes,
        levels=column.levels,
        fused=column.fused,
        vacuum=column.vacuum,
        sacralised=column.sacralised,
        rib_pairs=13 if "t13" in found else 11 if "t12_absent" in found else 12,
        fractures=column.fractures,
        hemivertebra=column.hemivertebra,
        variants=found if column.vacuum else found - {"vacuum"},
        lordosis_deg=min(max(36.8 + 13.2 * spread.curve_spread * lordosis, 5.0), 70.0),
        kyphosis_deg=min(max(33.0 + 0.3 * max(0.0, age - 40.0) + 9.0 * spread.curve_spread * kyphosis, 12.0), 70.0),
        cervical_deg=draws.normal(10.0, 10.0 * spread.curve_spread, -15, 35),
        scoliosis=column.scoliosis,
        trabecular_hu=trabecular,
        cortical_hu=draws.uniform(*spread.cortical_hu),
        muscle_hu=draws.normal(62.0 - 0.2 * (age - 20.0), 6, 30, 70),
        fat_hu=draws.normal(-98, 6, -115, -80),
        vessel_hu=enhanced if contrast else plain,
        lung_hu=draws.normal(-870, 20, -910, -800),
        disc_hu=draws.normal(88, 8, 70, 110),
        fat_mm=draws.uniform(8, 26),
        depth_ratio=draws.uniform(0.9, 1.1),
    )


def _draw_variants(draws: Draws, rates: Rates, age: float, trabecular: float) -> frozenset[Variant]:
    """Draw what is unusual about a person: one numeric variant at most, the others each on their own."""
    found: set[Variant] = set()
    place = draws.uniform()
    for name in variants.NUMERIC:
        place -= variants.chance(name, rates, age, trabecular)
        if place < 0:
            found.add(name)
            break
    for name in variants.VARIANTS[len(variants.NUMERIC) :]:
        if draws.happens(variants.chance(name, rates, age, trabecular)):
            found.add(name)
    return frozenset(found - {"vacuum"} if "degeneration" not in found else found)


def is_thoracic(level: int) -> bool:
    """Whether ribs hang on a level."""
    return level_id("T1") <= level <= level_id("T12") or level == T13


def is_cervical(level: int) -> bool:
    """Whether a level is one of C3 to C7, which have uncinate processes and holes for the vertebral arteries."""
    return level_id("C3") <= level <= level_id("C7")


def is_sacral(level: int) -> bool:
    """Whether a level is the first sacral vertebra."""
    return level == SACRUM
