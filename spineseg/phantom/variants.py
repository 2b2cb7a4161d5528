"""Anatomical variants and diseases of the spine: how often they occur, and what they do to a column's sizes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Final, Literal, get_args

from spineseg.phantom.difficulty import Rates
from spineseg.phantom.draws import Draws
from spineseg.phantom.sizes import COLUMN, SIZES, LevelSize
from spineseg.vertebrae import L6, ORDER, T13, level_id, rank

Variant = Literal[
    "t13",
    "l6",
    "t12_absent",
    "l5_absent",
    "sacralised",
    "hemivertebra",
    "block",
    "ankylosis",
    "fracture",
    "degeneration",
    "vacuum",
]
VARIANTS: Final[tuple[Variant, ...]] = get_args(Variant)
NUMERIC: Final[tuple[Variant, ...]] = VARIANTS[:4]  # of which a person has one at most

FractureKind = Literal["wedge", "biconcave", "crush"]
KINDS: Final[tuple[FractureKind, ...]] = get_args(FractureKind)
# Loss of height by Genant's grade (Genant 1993: 20-25, 25-40, more than 40 %); the worst drawn is 60 %.
GRADES: Final[dict[int, tuple[float, float]]] = {1: (0.20, 0.25), 2: (0.25, 0.40), 3: (0.40, 0.60)}
OSTEOPOROSIS_HU: Final = 100.0  # of L1's trabecular bone; below it: osteoporosis likely (Pickhardt 2013, Jang 2019)


@dataclass(frozen=True)
class Prior:
    """Share of people with a variant: as ``published``, and ``oversampled``; ``aged``: at 60, and rising with age.

    The shares are of persons drawn, not of cases on disk: no layout has a value for T13 or L6, so that who has one in
    view is replaced by another person (see ``scene.draw_scene``), and 0 % of the cases show either.
    """

    published: float
    oversampled: float
    aged: bool
    source: str


_TINS: Final = "Tins 2016, MRI, n = 418"
_REMEMBERED: Final = "remembered order of magnitude; to be checked before it is quoted"
PRIORS: Final[dict[Variant, Prior]] = {
    "t13": Prior(0.018, 0.06, False, f"{_TINS}: one level more 4.3 %; its share of these {_REMEMBERED}"),
    "l6": Prior(0.025, 0.06, False, f"{_TINS}: one level more 4.3 %; its share of these {_REMEMBERED}"),
    "t12_absent": Prior(0.016, 0.06, False, f"{_TINS}: one level less 3.3 %; its share of these {_REMEMBERED}"),
    "l5_absent": Prior(0.017, 0.05, False, f"{_TINS}: one level less 3.3 %; its share of these {_REMEMBERED}"),
    "sacralised": Prior(0.033, 0.10, False, f"{_TINS}: lumbosacral transitional vertebra 3.3 %"),
    "hemivertebra": Prior(0.001, 0.05, False, f"0.5-1 in 1000 births; {_REMEMBERED}"),
    "block": Prior(0.006, 0.06, False, f"congenital, C2-C3 first; {_REMEMBERED}"),
    "ankylosis": Prior(0.03, 0.06, True, f"DISH and ankylosing spondylitis with bone across discs; {_REMEMBERED}"),
    "fracture": Prior(0.10, 0.30, True, f"any grade, one in eight women over 50; {_REMEMBERED}"),
    "degeneration": Prior(0.40, 0.55, True, f"osteophytes and low discs; {_REMEMBERED}"),
    "vacuum": Prior(0.20, 0.40, False, f"of people with degeneration; {_REMEMBERED}"),
}


def chance(variant: Variant, rates: Rates, age_years: float, trabecular_hu: float) -> float:
    """Probability of a variant in a person: a disease of age is absent at 30 years and has twice the prior at 90.

    >>> chance("ankylosis", "published", 60.0, 140.0), chance("fracture", "none", 60.0, 140.0)
    (0.03, 0.0)
    """
    if rates == "none":
        return 0.0
    prior = PRIORS[variant]
    share = prior.published if rates == "published" else prior.oversampled
    weight = min(2.0, max(0.0, (age_years - 30.0) / 30.0)) if prior.aged else 1.0
    if variant == "fracture":
        # Thin bone breaks: chosen so that the mean over people of 60 is the prior.
        weight *= 2.5 if trabecular_hu < OSTEOPOROSIS_HU else 0.7
    return min(1.0, share * weight)


@dataclass(frozen=True)
class Fracture:
    """A fractured body: ``loss`` is the share of height lost (front, middle, or all of it, by kind).

    ``wedge_deg`` is the angle by which its end plates have closed in front: the kyphosis that it adds.
    """

    kind: FractureKind
    grade: int
    loss: float
    wedge_deg: float


def column_of(numeric: Variant | None) -> tuple[int, ...]:
    """Levels, cranial to caudal, of a person with a numeric variant.

    >>> len(column_of(None)), len(column_of("l6")), level_id("T12") in column_of("t12_absent")
    (25, 26, False)
    """
    changes = {"t13": {T13}, "l6": {L6}, "t12_absent": {level_id("T12")}, "l5_absent": {level_id("L5")}}
    changed = set(COLUMN) ^ (changes[numeric] if numeric is not None else set())
    return tuple(sorted(changed, key=rank))


def typical_sizes(levels: tuple[int, ...]) -> dict[int, LevelSize]:
    """Mean sizes of a column's levels: where it is a level longer or shorter, its ends change least abruptly."""
    sizes = {level: SIZES[level] for level in levels if level in SIZES}
    t11, t12, l1, l4, l5 = (SIZES[level_id(name)] for name in ("T11", "T12", "L1", "L4", "L5"))
    if T13 in levels:
        between = mixed(t12, l1)
        sizes[T13] = replace(
            t12, **{name: getattr(between, name) for name in ("height_posterior", "height_anterior", "width", "disc")}
        )
    if L6 in levels:
        sizes[level_id("L5")], sizes[L6] = mixed(l4, l5), l5
    if level_id("T12") not in levels:
        sizes[level_id("T11")] = mixed(t11, t12)
    if level_id("L5") not in levels:
        sizes[level_id("L4")] = mixed(l4, l5)
    return sizes


def mixed(first: LevelSize, second: LevelSize) -> LevelSize:
    """The mean of two levels."""
    names = [field.name for field in fields(LevelSize)]
    return replace(first, **{name: (getattr(first, name) + getattr(second, name)) / 2 for name in names})


def wedge_deg(size: LevelSize) -> float:
    """Angle between a body's end plates, + when it is lower in front."""
    return math.degrees(math.atan2(size.height_posterior - size.height_anterior, size.depth))


def fractured(size: LevelSize, kind: FractureKind, grade: int, loss: float) -> tuple[LevelSize, Fracture]:
    """Break a body: the front (wedge), the middle (biconcave) or all of it (crush) loses a share of its height."""
    if kind == "wedge":
        broken = replace(size, height_anterior=size.height_anterior * (1 - loss))
    elif kind == "biconcave":
        broken = replace(size, concavity=size.concavity + loss * size.height / 2)
    else:
        broken = replace(
            size,
            height_anterior=size.height_anterior * (1 - loss),
            height_posterior=size.height_posterior * (1 - loss),
        )
    return broken, Fracture(kind, grade, loss, max(0.0, wedge_deg(broken) - wedge_deg(size)))


# Where bodies break most: the thoracolumbar junction and the middle of the chest.
_BREAKS: Final = {
    **{f"T{number}": 0.25 for number in (4, 5, 9, 10)},
    **{"T6": 0.5, "T7": 1.0, "T8": 1.0, "T11": 1.5, "T12": 2.5, "T13": 2.5},
    **{"L1": 2.5, "L2": 1.5, "L3": 0.7, "L4": 0.5, "L5": 0.2},
}


def draw_fractures(draws: Draws, sizes: Mapping[int, LevelSize], broken: bool) -> dict[int, tuple[LevelSize, Fracture]]:
    """Draw one to four fractured bodies, each with its kind and grade; none unless ``broken``."""
    count = 1 + draws.index((0.55, 0.25, 0.12, 0.08))
    keys: dict[int, float] = {}
    found: dict[int, tuple[LevelSize, Fracture]] = {}
    for name, weight in _BREAKS.items():
        level = level_id(name)
        # The smallest of exponential keys: a weighted choice without putting back.
        keys[level] = -math.log(max(draws.uniform(), 1e-12)) / weight
        kind, grade = KINDS[draws.index((0.55, 0.3, 0.15))], 1 + draws.index((0.45, 0.38, 0.17))
        loss = draws.uniform(*GRADES[grade])
        if level in sizes:
            found[level] = fractured(sizes[level], kind, grade, loss)
    chosen = sorted(found, key=keys.__getitem__)[: count if broken else 0]
    return {level: found[level] for level in ORDER if level in chosen}


# Share of degenerate people whose disc below a level is low and has osteophytes about it.
_WORN: Final = {
    **{"C3": 0.2, "C4": 0.4, "C5": 0.7, "C6": 0.65, "C7": 0.2, "T6": 0.15, "T7": 0.25, "T8": 0.3, "T9": 0.3},
    **{"T10": 0.3, "T11": 0.25, "L1": 0.2, "L2": 0.3, "L3": 0.4, "L4": 0.6, "L5": 0.6, "L6": 0.6},
}


def degenerate(
    draws: Draws, sizes: Mapping[int, LevelSize], worn: bool, vacuum: bool
) -> tuple[dict[int, LevelSize], frozenset[int]]:
    """Wear discs down; returns the changed sizes and the levels whose disc below holds gas (one at least if asked)."""
    changed = dict(sizes)
    levels = [level for level in ORDER if level in sizes]
    low_discs, gas = [], set()
    for name, share in _WORN.items():
        level = level_id(name)
        low, left, spur = draws.happens(share), draws.uniform(0.35, 0.8), draws.uniform(1.5, 5.5)
        gassy = draws.happens(0.4) and rank(level) >= rank(level_id("T8"))  # a neck's discs hold gas more rarely
        if not (worn and low and level in sizes):
            continue
        below = levels[levels.index(level) + 1]
        # A cervical spur is shorter than a lumbar one, as its body is.
        spur *= min(1.0, sizes[level].depth / 30.0)
        changed[level] = replace(
            changed[level], disc=changed[level].disc * left, osteophyte=max(changed[level].osteophyte, spur)
        )
        if below != levels[-1]:
            changed[below] = replace(changed[below], osteophyte=max(changed[below].osteophyte, 0.8 * spur))
        low_discs.append(level)
        if gassy:
            gas.add(level)
    if not gas:
        gas.update(low_discs[-1:])
    return changed, frozenset(gas if vacuum else ())


_BLOCKS: Final = (("C2", 0.4), ("C5", 0.15), ("C6", 0.1), ("T3", 0.05), ("T6", 0.1), ("L2", 0.05), ("L4", 0.15))


def draw_fusions(draws: Draws, levels: tuple[int, ...], block: bool, ankylosis: bool) -> frozenset[int]:
    """Levels grown together with the next one below: one congenital pair, or a run of three to six in the chest."""
    pair = level_id(_BLOCKS[draws.index([share for _, share in _BLOCKS])][0])
    if levels.index(pair) == len(levels) - 2:  # four lumbar levels: the one above has a disc of its own below it
        pair = levels[-3]
    start = levels.index(level_id("T5")) + draws.index((1, 1, 1, 1))
    run = levels[start : start + 3 + draws.index((1, 1, 1, 1))]
    pairs = {pair} if block else set()
    return frozenset(pairs | (set(run) if ankylosis else set()))


_HALVED: Final = ("T5", "T6", "T7", "T8", "T9", "T10", "T11", "L1", "L2", "L3")


def draw_hemivertebra(draws: Draws, sizes: Mapping[int, LevelSize]) -> tuple[int, LevelSize]:
    """A level grown on one side only: low, and half as high again at one edge as in the middle."""
    names = [name for name in _HALVED if level_id(name) in sizes]
    level = level_id(names[draws.index([1.0] * len(names))])
    side = 1.0 if draws.happens(0.5) else -1.0
    size = sizes[level]
    height = draws.uniform(0.58, 0.7)
    small = replace(
        size, height_anterior=size.height_anterior * height, height_posterior=size.height_posterior * height
    )
    return level, replace(small, lateral=side * draws.uniform(0.7, 1.0) * small.height)


def lateral_deg(size: LevelSize) -> float:
    """Angle between a body's end plates seen from the front, + when it is higher at its right edge."""
    return math.degrees(math.atan2(size.lateral, size.width))
