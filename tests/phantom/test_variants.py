"""Who is drawn: how often what occurs, and whether the spine's frames have the angles and heights drawn."""

import collections
import itertools
import json
import math
import tracemalloc
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from spineseg.phantom.curves import lean_of, measured_curves, spine_frames, thoracic_end, tilts
from spineseg.phantom.difficulty import DIFFICULTIES
from spineseg.phantom.facts import levels_in, subject_facts, view_facts
from spineseg.phantom.shapes import Frame
from spineseg.phantom.subject import Subject, draw_subject
from spineseg.phantom.variants import (
    GRADES,
    KINDS,
    NUMERIC,
    PRIORS,
    VARIANTS,
    Variant,
    chance,
    column_of,
    lateral_deg,
    typical_sizes,
    wedge_deg,
)
from spineseg.vertebrae import L6, SACRUM, level_id, level_name, rank

HARD = 200
NAMES = tuple(DIFFICULTIES)


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def tilt_of(frame: Frame) -> float:
    """Tilt of a frame's z axis to the right as a frontal picture shows it, degrees."""
    return math.degrees(math.atan2(frame.axes[2][0], frame.axes[2][2]))


@cache
def people(difficulty: str, count: int) -> tuple[Subject, ...]:
    return tuple(draw_subject(generator(seed), difficulty) for seed in range(count))


def test_every_variant_grade_and_kind_occurs_in_200_hard_subjects() -> None:
    found = set[str]().union(*(person.variants for person in people("hard", HARD)))
    assert found == set(VARIANTS)
    broken = {(f.kind, f.grade) for person in people("hard", HARD) for f in person.fractures.values()}
    assert broken == set(itertools.product(KINDS, GRADES))
    bends = collections.Counter(len(person.scoliosis) for person in people("hard", HARD))
    assert bends[1] > 100 and bends[2] > 25
    cobb = [max(abs(bend.cobb_deg) for bend in person.scoliosis) for person in people("hard", HARD)]
    assert 0.3 < np.mean(np.array(cobb) > 10) < 0.7 and max(cobb) > 30


def test_easy_subjects_have_no_variant_and_stand_straight() -> None:
    for person in people("easy", 100):
        assert not person.variants and not person.scoliosis and not person.fractures and not person.fused
        assert {row.lateral for row in person.sizes.values()} == {0.0}
        for frame in spine_frames(person).values():
            x, y, z = frame.axes
            assert frame.origin[0] == 0.0 and x == (1.0, 0.0, 0.0) and y[0] == 0.0 and z[0] == 0.0


def test_variants_are_as_frequent_as_their_priors_say() -> None:
    count = 2000
    drawn = people("default", count)
    for name in VARIANTS:
        chances = [chance(name, "published", person.age_years, person.trabecular_hu) for person in drawn]
        if name == "vacuum":
            chances = [p * ("degeneration" in person.variants) for p, person in zip(chances, drawn, strict=True)]
        expected, deviation = sum(chances), math.sqrt(sum(p * (1 - p) for p in chances))
        assert abs(sum(name in person.variants for person in drawn) - expected) <= 4 * deviation + 1, name
    assert PRIORS["t13"].published + PRIORS["l6"].published == pytest.approx(0.043)
    assert PRIORS["t12_absent"].published + PRIORS["l5_absent"].published == pytest.approx(0.033)
    assert PRIORS["sacralised"].published == pytest.approx(0.033)
    assert np.mean(["fracture" in person.variants for person in drawn]) == pytest.approx(0.11, abs=0.05)


def test_a_draw_takes_as_much_from_the_generator_whatever_is_drawn() -> None:
    words = set()
    for seed, difficulty in itertools.product(range(30), NAMES):
        rng, counted = generator(seed), np.random.PCG64(seed)
        assert draw_subject(rng, difficulty) == draw_subject(generator(seed), difficulty)
        count = 0
        while counted.state != rng.bit_generator.state and count < 1000:
            counted.advance(1)
            count += 1
        words.add(count)
    assert len(words) == 1 and words != {1000}


def test_age_sex_and_bone_go_together() -> None:
    drawn = people("default", 2000)
    age, bone, size = (np.array([getattr(p, n) for p in drawn]) for n in ("age_years", "trabecular_hu", "size"))
    slope, at_zero = np.polyfit(age - 25, bone, 1)
    assert slope == pytest.approx(-2.5, abs=0.35) and at_zero == pytest.approx(226, abs=10)
    assert np.std(bone - 226 + 2.5 * (age - 25)) == pytest.approx(40, abs=5)
    assert bone.min() >= 30
    women = np.array([person.sex == "female" for person in drawn])
    assert size[women].mean() / size[~women].mean() == pytest.approx(0.90, abs=0.01)
    assert size.std() == pytest.approx(0.07, abs=0.006) and size.mean() == pytest.approx(1.0, abs=0.006)
    ratios = [
        person.sizes[level].width / person.size / row.width
        for person in drawn[:100]
        if not set(NUMERIC) & person.variants
        for level, row in typical_sizes(person.levels).items()
    ]
    assert np.std(ratios) == pytest.approx(0.03, abs=0.004)


def test_discs_and_canals_differ_between_people_as_published() -> None:
    drawn = people("easy", 400)

    def spread(name: str, *levels: str) -> float:
        return float(np.mean([np.std([getattr(person.sizes[level_id(v)], name) for person in drawn]) for v in levels]))

    assert 1.2 < spread("disc", "L1", "L2", "L3", "L4", "L5") < 1.9
    assert 0.7 < spread("disc", "T8", "T9", "T10", "T11", "T12") < 1.3
    assert 1.2 < spread("canal_depth", "C5", "T6", "L3") < 2.3
    assert 1.5 < spread("canal_width", "C5", "T6", "L3") < 4.0
    shares = np.array([[p.sizes[v].disc / p.size / typical_sizes(p.levels)[v].disc for v in (15, 22)] for p in drawn])
    assert shares.min() > 0.4 and shares.max() < 1.7 and shares.mean() == pytest.approx(1.0, abs=0.02)
    # High discs go together in a person, and not wholly.
    assert 0.3 < np.corrcoef(shares.T)[0, 1] < 0.8


def test_curves_lie_round_the_published_means() -> None:
    whole = [person for person in people("default", 2000) if not person.fractures]
    found = [measured_curves(person.levels, spine_frames(person)) for person in whole]
    for name, mean, deviation in (("lordosis_deg", 36.8, 13.2), ("kyphosis_deg", 38.0, 9.0), ("cervical_deg", 10, 10)):
        values = np.array([curve[name] for curve in found])
        assert values.mean() == pytest.approx(mean, abs=1.5), name
        assert values.std() == pytest.approx(deviation, abs=2.0), name
    old = np.array([person.age_years > 70 for person in whole])
    kyphosis = np.array([curve["kyphosis_deg"] for curve in found])
    assert kyphosis[old].mean() > kyphosis[~old].mean() + 5
    # Four fifths of the lordosis lie between the end plates of L4 and S1.
    person = next(p for p in whole if p.levels == column_of(None))
    frames = spine_frames(person)
    lean = {name: lean_of(frames[level_id(name)]) for name in ("S1", "L4", "L3")}
    share = (lean["S1"] - (lean["L4"] + lean["L3"]) / 2) / person.lordosis_deg
    assert share == pytest.approx(0.8, abs=0.06)


@pytest.mark.parametrize("difficulty", ["default", "hard"])
def test_end_vertebrae_are_tilted_by_the_cobb_angle_and_the_apex_is_turned(difficulty: str) -> None:
    for person in people(difficulty, HARD):
        frames = spine_frames(person)
        tilt = {level: tilt_of(frame) for level, frame in frames.items()}
        for bend in person.scoliosis:
            assert tilt[bend.lower] - tilt[bend.upper] == pytest.approx(bend.cobb_deg, abs=1e-6)
            inside = [v for v in person.levels if rank(bend.upper) <= rank(v) <= rank(bend.lower)]
            # The end vertebrae are the most tilted ones of the whole bend.
            assert max(tilt[v] for v in inside) - min(tilt[v] for v in inside) == pytest.approx(abs(bend.cobb_deg))
            turns = {v: tilts(person.levels, person.scoliosis)[v][1] for v in inside}
            assert turns[bend.upper] == turns[bend.lower] == 0.0
            most = max(turns.values(), key=abs)
            assert -most / bend.cobb_deg == pytest.approx(bend.rotation)
            # Convex to the right: the middle stands to the right of the ends, and turns its front there.
            middle = np.mean([frames[v].origin[0] for v in inside[1:-1]])
            ends = np.mean([frames[v].origin[0] for v in (inside[0], inside[-1])])
            assert (middle - ends) * bend.cobb_deg > 0
            apex = max(turns, key=lambda v: abs(turns[v]))
            assert frames[apex].axes[1][0] * bend.cobb_deg > 0
        largest = max((abs(b.cobb_deg) for b in person.scoliosis), default=0.0)
        assert max(tilt.values()) - min(tilt.values()) == pytest.approx(largest, abs=1e-6)


@pytest.mark.parametrize("difficulty", NAMES)
def test_frames_follow_any_column(difficulty: str) -> None:
    for person in people(difficulty, HARD):
        frames = spine_frames(person)
        assert tuple(frames)[::-1] == person.levels
        assert person.levels[0] == 1 and person.levels[-1] == SACRUM
        for above, below in itertools.pairwise(person.levels):
            upper, lower = person.sizes[above], person.sizes[below]
            # Between the end plates' middles lies a disc, whatever wedges, hollows and tilts the bodies.
            top = frames[above].world((0.0, 0.0, -upper.height / 2))
            bottom = frames[below].world((0.0, 0.0, lower.height / 2))
            assert 0.0 < math.dist(top, bottom) < upper.disc + 1.5, (level_name(above), upper.disc)
            assert top[2] > bottom[2]
            if above in person.fused:
                assert 1.0 <= upper.disc <= 2.0
        for frame in frames.values():
            axes = np.array(frame.axes)
            assert np.allclose(axes @ axes.T, np.eye(3), atol=1e-9) and np.linalg.det(axes) > 0


@pytest.mark.parametrize(
    ("numeric", "thoracic", "lumbar", "ribs"),
    [
        ("t13", 13, 5, 13),
        ("l6", 12, 6, 12),
        ("t12_absent", 11, 5, 11),
        ("l5_absent", 12, 4, 12),
    ],
)
def test_numeric_variants_change_the_column(numeric: Variant, thoracic: int, lumbar: int, ribs: int) -> None:
    person = next(person for person in people("hard", HARD) if numeric in person.variants)
    names = [level_name(level) for level in person.levels]
    assert sum(name.startswith("T") for name in names) == thoracic
    assert sum(name.startswith("L") for name in names) == lumbar
    assert person.rib_pairs == ribs
    assert names[-1] == "sacrum" and names[-2] == f"L{lumbar}"
    assert thoracic_end(person.levels) == level_id(f"T{thoracic}")
    assert person.sizes.keys() == set(person.levels)


def test_fractures_have_the_height_of_their_grade_and_bend_the_spine() -> None:
    seen = 0
    for person in people("hard", HARD):
        plain = typical_sizes(person.levels)
        frames = spine_frames(person)
        for level, fracture in person.fractures.items():
            low, high = GRADES[fracture.grade]
            assert low <= fracture.loss <= high
            size, normal = person.sizes[level], plain[level]
            scale = size.width / normal.width
            front = 1 - size.height_anterior / scale / normal.height_anterior
            back = 1 - size.height_posterior / scale / normal.height_posterior
            middle = 2 * size.concavity / size.height
            expected = {
                "wedge": (fracture.loss, 0.0, 0.0),
                "biconcave": (0.0, 0.0, fracture.loss),
                "crush": (fracture.loss, fracture.loss, 0.0),
            }
            assert (front, back, middle) == pytest.approx(expected[fracture.kind], abs=1e-6)
            if fracture.kind == "wedge":
                assert wedge_deg(size) > wedge_deg(normal) + 2
            seen += 1
        whole = spine_frames(replace(person, fractures={}))
        others = sum(fracture.wedge_deg for fracture in person.fractures.values())
        for level, fracture in person.fractures.items():
            place = person.levels.index(level)
            above, below = person.levels[place - 1], person.levels[place + 1]
            gained = [lean_of(f[above]) - lean_of(f[below]) for f in (frames, whole)]
            # Kyphosis rises where the body is broken; the discs about take a little of it back.
            assert gained[0] - gained[1] >= fracture.wedge_deg - 0.12 * others - 1e-6
    assert seen > 60


def test_hemivertebra_is_a_scoliosis_of_its_own() -> None:
    found = [person for person in people("hard", HARD) if person.hemivertebra is not None]
    assert found
    for person in found:
        level = person.hemivertebra
        assert level is not None
        size = person.sizes[level]
        angle = lateral_deg(size)
        assert 12 < abs(angle) < 35 and size.height - abs(size.lateral) / 2 > 3
        tilt = {v: tilt_of(frame) for v, frame in spine_frames(person).items()}
        place = person.levels.index(level)
        assert tilt[person.levels[place + 1]] - tilt[person.levels[place - 1]] == pytest.approx(angle)
        assert [v for v, row in person.sizes.items() if row.lateral] == [level]


def test_facts_are_plain_json_and_name_what_was_drawn() -> None:
    for person in people("hard", 60):
        facts = subject_facts(person, spine_frames(person))
        assert json.loads(json.dumps(facts)) == facts
        assert person.variants <= set(facts["variants"])
        assert facts["fractures"].keys() == {level_name(level) for level in person.fractures}
        assert len(facts["fused"]) == len(person.fused) and len(facts["vacuum"]) == len(person.vacuum)
        assert ("osteoporosis" in facts["variants"]) == (person.trabecular_hu < 100)
        assert [bend["cobb_deg"] for bend in facts["curves"]["scoliosis"]] == [
            round(abs(bend.cobb_deg), 2) for bend in person.scoliosis
        ]


def test_levels_in_view_are_found_without_a_larger_copy() -> None:
    labels = np.zeros((64, 64, 512), np.uint8)
    labels[3, 4, 5], labels[60, 1, 2] = 20, SACRUM
    tracemalloc.start()
    assert levels_in(labels) == {20, SACRUM}
    assert tracemalloc.get_traced_memory()[1] < labels.nbytes / 2
    tracemalloc.stop()


def test_view_facts_name_the_levels_in_view_and_those_at_its_border() -> None:
    labels = np.zeros((8, 8, 12), np.uint8)
    labels[2:5, 2:5, 0:3] = SACRUM
    labels[2:5, 2:5, 4:6] = L6
    labels[2:5, 2:5, 7:9] = level_id("L5")
    labels[7, 2:5, 10:11] = level_id("L4")
    found = view_facts(column_of("l6"), labels)
    assert found == {"levels": ["L4", "L5", "L6", "sacrum"], "cut_levels": ["L4", "sacrum"]}
