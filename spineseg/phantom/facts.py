"""What ``SIMULATED.json`` says of a case: plain numbers, names and lists, rounded."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spineseg.geometry import label_counts
from spineseg.phantom.curves import measured_curves, tilts
from spineseg.phantom.shapes import Frame
from spineseg.phantom.subject import Subject
from spineseg.phantom.variants import OSTEOPOROSIS_HU
from spineseg.vertebrae import level_name

_TISSUES = ("trabecular_hu", "cortical_hu", "muscle_hu", "fat_hu", "vessel_hu", "lung_hu", "disc_hu", "fat_mm")
_SCOLIOSIS_DEG = 10.0  # from here on a curve is called a scoliosis


def subject_facts(subject: Subject, frames: Mapping[int, Frame]) -> dict[str, Any]:
    """The person: who he is, how his spine is curved, what is unusual about it (see ``PhantomOptions``)."""
    largest = max((abs(bend.cobb_deg) for bend in subject.scoliosis), default=0.0)
    findings = set[str](subject.variants)
    findings |= {"osteoporosis"} if subject.trabecular_hu < OSTEOPOROSIS_HU else set()
    findings |= {"scoliosis"} if largest >= _SCOLIOSIS_DEG else set()
    rotation = max(abs(turn) for _, turn in tilts(subject.levels, subject.scoliosis).values())
    below = dict(zip(subject.levels, subject.levels[1:], strict=False))
    curves: dict[str, Any] = {name: round(value, 1) for name, value in measured_curves(subject.levels, frames).items()}
    curves["scoliosis"] = [
        {
            "upper": level_name(bend.upper),
            "lower": level_name(bend.lower),
            "cobb_deg": round(abs(bend.cobb_deg), 2),
            "convex": "right" if bend.cobb_deg > 0 else "left",
        }
        for bend in subject.scoliosis
    ]
    curves["rotation_deg"] = round(rotation, 1)
    return {
        "age_years": round(subject.age_years, 1),
        "sex": subject.sex,
        "size": round(subject.size, 4),
        "column": [level_name(level) for level in subject.levels],
        "rib_pairs": subject.rib_pairs,
        "curves": curves,
        "variants": sorted(findings),
        "fractures": {
            level_name(level): {"kind": broken.kind, "grade": broken.grade, "loss": round(broken.loss, 3)}
            for level, broken in subject.fractures.items()
        },
        "fused": [f"{level_name(v)}-{level_name(below[v])}" for v in subject.levels if v in subject.fused],
        "vacuum": [f"{level_name(v)}-{level_name(below[v])}" for v in subject.levels if v in subject.vacuum],
        "osteophytes_mm": {
            level_name(level): round(subject.sizes[level].osteophyte, 1)
            for level in subject.levels
            if subject.sizes[level].osteophyte > 0
        },
        "sacralised": round(subject.sacralised, 2),
        "hemivertebra": None if subject.hemivertebra is None else level_name(subject.hemivertebra),
        "contrast": subject.vessel_hu > 100,
    } | {name: round(float(getattr(subject, name)), 1) for name in _TISSUES}


def levels_in(labels: NDArray[np.uint8]) -> set[int]:
    """The values of a label map but 0."""
    return set(np.flatnonzero(label_counts(labels, 256)).tolist()) - {0}


def view_facts(levels: tuple[int, ...], labels: NDArray[np.uint8]) -> dict[str, list[str]]:
    """Levels in view, and those whose mask the border of the scan cuts, cranial to caudal."""
    seen = levels_in(labels)
    faces = (np.moveaxis(labels, axis, 0)[end] for axis in range(3) for end in (0, -1))
    cut = {int(level) for face in faces for level in np.unique(face)}
    return {
        "levels": [level_name(level) for level in levels if level in seen],
        "cut_levels": [level_name(level) for level in levels if level in cut],
    }
