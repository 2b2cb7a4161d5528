"""Rows of ``metrics.csv`` that one case's label maps give: levels, then the whole case."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Literal

import numpy as np

from spineseg.geometry import Affine
from spineseg.metrics.edges import EdgeDecision
from spineseg.metrics.error_split import (
    LevelError,
    coherently_shifted,
    is_mixed,
    shift,
    split_errors,
    spurious,
)
from spineseg.metrics.identification import Identification, all_right, anchored, crumbs, identified
from spineseg.metrics.localisation import Bodies, common_box
from spineseg.metrics.overlap import Confusion
from spineseg.metrics.surface import SurfaceDistances, assd, hd95, nsd, surface_distances
from spineseg.vertebrae import LEVELS, level_name

Status = Literal["ok", "missed", "spurious", "ignored", "n/a", "empty"]
Row = dict[str, Any]

# The headline first; 1 mm for CSI, 3 mm beside TotalSegmentator (PROTOCOL 4).
TOLERANCES_MM: Final = (2, 1, 3)
ERROR_TERMS: Final = ("naming", "mixed", "outline", "missed")
# Metrics that need a level's name; a one-class model has "n/a" under each.
OVERLAP_METRICS: Final = (("dice", ""), *(("nsd", f"tau={tau}") for tau in TOLERANCES_MM), ("hd95", ""), ("assd", ""))
NAMED_LEVEL_METRICS: Final = (
    *OVERLAP_METRICS,
    ("centroid_error_mm", ""),
    ("identified", ""),
    *((f"error_{term}", "") for term in ERROR_TERMS),
    ("shift", ""),
)
NAMED_CASE_METRICS: Final = (
    *("id", "id_precision", "id_f1", "all_right", "identified_levels", "predicted_levels", "crumbs"),
    *("anchored", "coherently_shifted"),
)
_ZERO_IF_SPURIOUS: Final = ("dice", "nsd")


@dataclass(frozen=True, eq=False)
class CaseMaps:
    """Both label maps of a case in the canonical frame, with what all its metrics share.

    Attributes:
        reference: label map (X, Y, Z), whole.
        prediction: label map on the same grid, cleared outside the slab of ``crop``.
        pairs: confusion of the two, inside the slab.
        edge: the decision on the field of view.
        cut: reference labels that the field of view cuts.
        named: whether labels are levels on both sides.
        reference_named: whether those of the reference are.
        distances: of the surfaces of each level that was asked for; filled on the way, to be shared between rules of
            the field of view that leave both maps as they are.
    """

    reference: Bodies
    prediction: Bodies
    pairs: Confusion
    edge: EdgeDecision
    cut: tuple[int, ...]
    named: bool
    reference_named: bool
    distances: dict[int, SurfaceDistances] = field(default_factory=dict)

    def surfaces(self, level: int) -> SurfaceDistances:
        """Distances between the surfaces of a level's two masks, each measured once."""
        if level not in self.distances:
            box = common_box(self.reference.boxes, level, self.prediction.boxes, level)
            volume = self.reference.volume
            masks = [part.volume.array[box] == level for part in (self.reference, self.prediction)]
            self.distances[level] = surface_distances(masks[0], masks[1], volume.spacing_mm)
        return self.distances[level]

    @cached_property
    def errors(self) -> dict[int, LevelError]:
        """Error split of each level that counts."""
        return split_errors(self.pairs, self.edge.levels, self.edge.kept)

    @cached_property
    def spurious(self) -> dict[int, float]:
        """Volume in ml of each predicted label on no vertebra."""
        return spurious(self.pairs, self.errors, self.edge.kept, self.voxel_ml)

    @cached_property
    def voxel_ml(self) -> float:
        """Volume of a voxel."""
        return voxel_volume_ml(self.reference.volume.affine)

    @cached_property
    def small(self) -> frozenset[int]:
        """Predicted labels that are crumbs."""
        volumes = self.pairs.prediction_voxels()
        return crumbs({label: volumes[label] * self.voxel_ml for label in self.edge.kept})

    @cached_property
    def located(self) -> tuple[int, ...]:
        """Predicted labels that say where a vertebra is: those that count and are no crumbs."""
        return tuple(label for label in self.edge.kept if label not in self.small)

    @cached_property
    def identified(self) -> dict[int, bool]:
        """Whether each level that counts is identified; named maps only."""
        references = {label: self.reference.centre_mm(label, level=label) for label in self.reference.boxes}
        predicted = {label: self.prediction.centre_mm(label, level=label) for label in self.located}
        return identified(references, predicted, self.edge.levels)

    @cached_property
    def shifts(self) -> dict[int, int]:
        """Steps from each matched level to its match's name; named maps only."""
        matches = {level: error.match for level, error in self.errors.items()}
        return {
            level: shift(level, match, self.reference.boxes) for level, match in matches.items() if match is not None
        }

    def distance_mm(self, level: int, label: int) -> float:
        """Distance of the body centres of a reference level and a predicted label, both by the level's rule."""
        rule = level if self.reference_named else None
        apart = self.reference.centre_mm(level, level=rule) - self.prediction.centre_mm(label, level=rule)
        return float(np.linalg.norm(apart))


def volume_rows(maps: CaseMaps) -> Iterator[Row]:
    """All rows of a case that come from its label maps."""
    edge = maps.edge
    yield from _named_rows(maps)
    for level in edge.levels:
        match = maps.errors[level].match
        # Numbers that only tell vertebrae apart are no names, though some are those of levels.
        name = level if maps.reference_named else str(level)
        if match is None or match in maps.small:
            yield row(name, "d_free_mm", math.nan, "missed")
        else:
            yield row(name, "d_free_mm", maps.distance_mm(level, match), "ok")
    status: Status = "ok" if edge.levels else "empty"
    if not edge.levels:
        yield row("", "d_free_mm", math.nan, "empty")
    spine = maps.pairs.dice_union(edge.levels, edge.kept, edge.ignored)
    yield row("", "dice_spine", spine if edge.levels else math.nan, status)
    yield row("", "spurious_levels", len(maps.spurious), status)
    yield row("", "spurious_ml", sum(maps.spurious.values()), status)
    yield row("", "mixed_case", is_mixed(maps.pairs, edge.levels) if edge.levels else math.nan, status)
    yield row("", "visible_levels", len(edge.levels), status)


def _named_rows(maps: CaseMaps) -> Iterator[Row]:
    if not maps.named:
        for metric, parameter in (*NAMED_LEVEL_METRICS, *((name, "") for name in NAMED_CASE_METRICS)):
            yield row("", metric, math.nan, "n/a", parameter)
        return
    edge = maps.edge
    if not edge.levels:
        for metric, parameter in NAMED_LEVEL_METRICS:
            yield row("", metric, math.nan, "empty", parameter)
    for level in edge.levels:
        yield from _overlap_rows(maps, level)
        yield from _place_rows(maps, level)
        yield from _error_rows(maps, level)
    # A level that is ignored in the reference and predicted elsewhere is spurious, like any other name too many.
    for level in edge.ignored:
        if level not in edge.kept:
            yield from (row(level, metric, math.nan, "ignored", parameter) for metric, parameter in OVERLAP_METRICS)
    for level in edge.kept:
        if level not in edge.levels:
            for metric, parameter in OVERLAP_METRICS:
                yield row(level, metric, 0.0 if metric in _ZERO_IF_SPURIOUS else math.nan, "spurious", parameter)
    yield from _case_rows(maps)


def _overlap_rows(maps: CaseMaps, level: int) -> Iterator[Row]:
    if level not in maps.edge.kept:
        for metric, parameter in OVERLAP_METRICS:
            yield row(level, metric, 0.0 if metric in _ZERO_IF_SPURIOUS else math.nan, "missed", parameter)
        return
    yield row(level, "dice", maps.pairs.dice_of(level), "ok")
    distances = maps.surfaces(level)
    for tau in TOLERANCES_MM:
        yield row(level, "nsd", nsd(distances, tau), "ok", f"tau={tau}")
    yield row(level, "hd95", hd95(distances), "ok")
    yield row(level, "assd", assd(distances), "ok")


def _place_rows(maps: CaseMaps, level: int) -> Iterator[Row]:
    found = level in maps.located
    status: Status = "ok" if found else "missed"
    yield row(level, "centroid_error_mm", maps.distance_mm(level, level) if found else math.nan, status)
    yield row(level, "identified", maps.identified[level], status)


def _error_rows(maps: CaseMaps, level: int) -> Iterator[Row]:
    error = maps.errors[level]
    # Levels that are not predicted have their share of the split too: the terms' means then sum to 1 − Dice.
    status: Status = "ok" if level in maps.edge.kept else "missed"
    for term in ERROR_TERMS:
        yield row(level, f"error_{term}", getattr(error, term), status)
    moved = maps.shifts.get(level)
    yield row(level, "shift", math.nan if moved is None else moved, "missed" if moved is None else "ok")


def _case_rows(maps: CaseMaps) -> Iterator[Row]:
    edge, found = maps.edge, maps.identified
    status: Status = "ok" if edge.levels else "empty"
    counts = Identification(sum(found.values()), len(edge.levels), len(maps.located))
    for metric in ("id", "id_precision", "id_f1"):
        yield row("", metric, getattr(counts, metric), status)
    right = all_right(found, maps.spurious, maps.small) if edge.levels else math.nan
    yield row("", "all_right", right, status)
    yield row("", "identified_levels", counts.identified, status)
    yield row("", "predicted_levels", counts.predicted, status)
    yield row("", "crumbs", len(maps.small), status)
    yield row("", "anchored", anchored(maps.reference.boxes, maps.cut), status)
    yield row("", "coherently_shifted", coherently_shifted(maps.shifts.values(), len(edge.levels)), status)


def row(
    level: int | str, metric: str, value: float, status: Status, parameter: str = "", space: Literal["2d", "3d"] = "3d"
) -> Row:
    """One row; ``level`` is a label, or empty for the whole case."""
    name = level if isinstance(level, str) else level_name(level) if level in LEVELS else str(level)
    return {
        "level": name,
        "space": space,
        "metric": metric,
        "parameter": parameter,
        "value": float(value),
        "status": status,
    }


def voxel_volume_ml(affine: Affine) -> float:
    """Volume of a voxel in ml.

    >>> round(voxel_volume_ml(np.diag([-2.0, 4.0, 1.0, 1.0])), 6)
    0.008
    """
    return float(abs(np.linalg.det(affine[:3, :3]))) / 1000
