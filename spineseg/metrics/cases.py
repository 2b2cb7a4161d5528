"""One case → tidy rows of its metrics, and rows of its slice detections."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spineseg.errors import DataError
from spineseg.geometry import Grid, Volume, canonical, canonical_grid, index_to_mm, restore
from spineseg.metrics.case_rows import CaseMaps, Row, Status, row, volume_rows
from spineseg.metrics.detection import DEFAULT_SCORE_THRESHOLD, Counts
from spineseg.metrics.edges import EdgeDecision, EdgePolicy, decide, labels_at_faces, within
from spineseg.metrics.localisation import Bodies
from spineseg.metrics.overlap import Confusion, confusion
from spineseg.metrics.points import Points, point_rows
from spineseg.metrics.pooling import counts_by_subject
from spineseg.metrics.slices import score_slices
from spineseg.metrics.surface import SurfaceDistances
from spineseg.predictions.store import CasePrediction

# Reference and prediction may lie this far apart: what float32 headers leave.
GRID_TOLERANCE_MM = 0.1


@dataclass(frozen=True, eq=False)
class CaseScores:
    """What a case adds to an evaluation.

    Attributes:
        rows: level (name, empty for the whole case), space, metric, parameter, value, status.
        detections: see ``slices.score_slices``.
        edge: the decision on the field of view.
        parts: as ``detections``, by 8-connected part; None unless asked for.
    """

    rows: pd.DataFrame
    detections: pd.DataFrame
    edge: EdgeDecision
    parts: pd.DataFrame | None = None


def score_case(
    reference: Volume,
    prediction: CasePrediction,
    *,
    edge: EdgePolicy,
    cut_levels: tuple[int, ...] | None = None,
    reference_named: bool = True,
    score_threshold: float | None = None,
    points_mm: Points | None = None,
    by_part: bool = False,
) -> CaseScores:
    """Score one case on its native grid.

    The prediction may be stored with its axes in another order or direction than the reference.

    Args:
        reference: label map, canonical ids (or numbers that only tell vertebrae apart).
        prediction: what the model says.
        edge: how levels cut by the field of view are scored.
        cut_levels: those levels; None = the labels that touch a face of the reference's volume.
        reference_named: whether reference labels are levels.
        score_threshold: of the exclusive map; None = 0.25.
        points_mm: the set's own centroid (3,) of each level; None where it has none.
        by_part: match slices by 8-connected part, too.

    Raises:
        DataError: prediction and reference do not lie on the same grid.
    """
    pair = MapPair.of(reference, prediction, cut_levels=cut_levels, reference_named=reference_named)
    return pair.score(edge, score_threshold=score_threshold, points_mm=points_mm, by_part=by_part)


@dataclass(frozen=True, eq=False)
class MapPair:
    """A case's two label maps in the canonical frame, and what every rule of the field of view needs of them.

    Attributes:
        prediction: what the model says.
        reference: its label map and body centres.
        found: the same of the prediction.
        pairs: confusion of the two.
        cut: reference labels that the field of view cuts.
        reference_named: whether reference labels are levels.
        distances: see ``CaseMaps``.
    """

    prediction: CasePrediction
    reference: Bodies
    found: Bodies
    pairs: Confusion
    cut: tuple[int, ...]
    reference_named: bool
    distances: dict[int, SurfaceDistances] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        reference: Volume,
        prediction: CasePrediction,
        *,
        cut_levels: tuple[int, ...] | None,
        reference_named: bool,
    ) -> "MapPair":
        """Bring both maps to one grid; see ``score_case``."""
        # Permuted and flipped to the canonical frame once: voxels stay the native ones, and slices are cut there.
        truth = _canonical(reference)
        found = _canonical(on_reference_grid(prediction, reference.grid).labels)
        cut = tuple(sorted(labels_at_faces(truth.array))) if cut_levels is None else cut_levels
        pairs = confusion(truth.array, found.array)
        return cls(prediction, Bodies.of(truth), Bodies.of(found), pairs, cut, reference_named)

    def score(
        self,
        edge: EdgePolicy,
        *,
        score_threshold: float | None = None,
        points_mm: Points | None = None,
        by_part: bool = False,
    ) -> CaseScores:
        """Score under one rule of the field of view; see ``score_case``."""
        truth, found = self.reference.volume, self.found.volume
        named = self.reference_named and self.prediction.kind == "levels"
        decision = decide(truth, found, self.pairs, self.cut, edge, named=named)
        matched = partial(
            score_slices,
            truth,
            found,
            self.prediction.slices,
            decision,
            slice_kind=self.prediction.slice_kind,
            kind=self.prediction.kind,
            named=named,
            score_threshold=DEFAULT_SCORE_THRESHOLD if score_threshold is None else score_threshold,
        )
        detections = matched()
        scored, pairs, distances = self.found, self.pairs, self.distances
        if decision.slab_mm is not None:
            scored, distances = Bodies.of(within(found, decision.slab_mm)), {}
            pairs = confusion(within(truth, decision.slab_mm).array, scored.volume.array)
        maps = CaseMaps(
            reference=self.reference,
            prediction=scored,
            pairs=pairs,
            edge=decision,
            cut=self.cut,
            named=named,
            reference_named=self.reference_named,
            distances=distances,
        )
        rows = [
            *volume_rows(maps),
            *point_rows(maps, points_mm),
            *_slice_rows(detections, empty=not decision.levels),
        ]
        return CaseScores(pd.DataFrame(rows), detections, decision, matched(by_part=True) if by_part else None)


def _slice_rows(detections: pd.DataFrame, *, empty: bool) -> Iterator[Row]:
    true, false, missed, iou = counts_by_subject(detections.assign(subject=""), [""])[0]
    counts = Counts(true, false, missed, iou)
    status: Status = "empty" if empty else "ok"
    for metric in ("precision", "recall", "f1", "pq"):
        yield row("", metric, getattr(counts, metric), status, "iou=0.5", "2d")
    for metric, value in (("true_positives", true), ("false_positives", false), ("misses", missed)):
        yield row("", metric, value, status, "iou=0.5", "2d")


def _canonical(volume: Volume) -> Volume:
    turned = canonical(volume)
    return Volume(np.ascontiguousarray(turned.array), turned.affine)


def on_reference_grid(prediction: CasePrediction, reference: Grid) -> CasePrediction:
    """Bring a prediction whose voxels are the reference's to the reference's axes; others are refused.

    Raises:
        DataError: another field of view or spacing, or voxels that lie elsewhere (in mm).
    """
    labels = prediction.labels
    if reference.distance_mm(labels.grid) <= GRID_TOLERANCE_MM:
        return replace(prediction, labels=Volume(labels.array, reference.affine))
    upright, expected = canonical(labels), canonical_grid(reference)
    if (apart := expected.distance_mm(upright.grid)) <= GRID_TOLERANCE_MM:
        return replace(prediction, labels=restore(upright, reference))
    what = f"shape {labels.shape} and spacing {_millimetres(labels.grid)}, expected {reference.shape} and "
    what += f"{_millimetres(reference)}"
    if upright.shape == expected.shape:
        what = f"its voxels lie up to {apart:.2f} mm from the reference's ({what})"
    else:
        ends = [_ends_mm(grid) for grid in (upright.grid, expected)]
        what += f"; its field of view ends up to {np.linalg.norm(ends[0] - ends[1], axis=1).max():.2f} mm elsewhere"
    raise DataError(
        f"case '{prediction.case}': the prediction is not on the reference's grid: {what}. "
        "Resample it to the case's own image, with nearest neighbours."
    )


def _ends_mm(grid: Grid) -> NDArray[np.float64]:
    """Outer corners (2, 3) of the first and the last voxel."""
    return index_to_mm(grid.affine, np.stack([np.full(3, -0.5), np.array(grid.shape) - 0.5]))


def _millimetres(grid: Grid) -> str:
    return " × ".join(f"{step:.4g}" for step in grid.spacing_mm) + " mm"
