"""One case → tidy rows of its metrics, and rows of its slice detections."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from spineseg.errors import DataError
from spineseg.geometry import Grid, Volume, canonical
from spineseg.metrics.case_rows import CaseMaps, Row, Status, row, volume_rows
from spineseg.metrics.detection import DEFAULT_SCORE_THRESHOLD, Counts
from spineseg.metrics.edges import EdgeDecision, EdgePolicy, decide, labels_at_faces, within
from spineseg.metrics.localisation import Bodies
from spineseg.metrics.overlap import confusion
from spineseg.metrics.pooling import counts_by_subject
from spineseg.metrics.slices import score_slices
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
    """

    rows: pd.DataFrame
    detections: pd.DataFrame
    edge: EdgeDecision


def score_case(
    reference: Volume,
    prediction: CasePrediction,
    *,
    edge: EdgePolicy,
    cut_levels: tuple[int, ...] | None = None,
    reference_named: bool = True,
    score_threshold: float | None = None,
) -> CaseScores:
    """Score one case on its native grid.

    Args:
        reference: label map, canonical ids (or numbers that only tell vertebrae apart).
        prediction: what the model says.
        edge: how levels cut by the field of view are scored.
        cut_levels: those levels; None = the labels that touch a face of the reference's volume.
        reference_named: whether reference labels are levels.
        score_threshold: of the exclusive map; None = 0.25.

    Raises:
        DataError: prediction and reference do not lie on the same grid.
    """
    _check_grid(reference.grid, prediction)
    named = reference_named and prediction.kind == "levels"
    # Permuted and flipped to the canonical frame once: voxels stay the native ones, and slices are cut there.
    truth = _canonical(reference)
    found = _canonical(Volume(prediction.labels.array, reference.affine))
    cut = tuple(sorted(labels_at_faces(truth.array))) if cut_levels is None else cut_levels
    pairs = confusion(truth.array, found.array)
    decision = decide(truth, found, pairs, cut, edge, named=named)
    detections = score_slices(
        truth,
        found,
        prediction.slices,
        decision,
        slice_kind=prediction.slice_kind,
        kind=prediction.kind,
        named=named,
        score_threshold=DEFAULT_SCORE_THRESHOLD if score_threshold is None else score_threshold,
    )
    scored = found
    if decision.slab_mm is not None:
        scored = within(found, decision.slab_mm)
        pairs = confusion(within(truth, decision.slab_mm).array, scored.array)
    maps = CaseMaps(
        reference=Bodies.of(truth),
        prediction=Bodies.of(scored),
        pairs=pairs,
        edge=decision,
        cut=cut,
        named=named,
        reference_named=reference_named,
    )
    rows = [*volume_rows(maps), *_slice_rows(detections, empty=not decision.levels)]
    return CaseScores(pd.DataFrame(rows), detections, decision)


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


def _check_grid(reference: Grid, prediction: CasePrediction) -> None:
    found = prediction.labels.grid
    if (apart := reference.distance_mm(found)) <= GRID_TOLERANCE_MM:
        return
    if found.shape != reference.shape:
        what = f"shape {found.shape}, expected {reference.shape}"
    else:
        what = (
            f"grids that lie up to {apart:.2f} mm apart (spacing {found.spacing_mm}, expected {reference.spacing_mm})"
        )
    raise DataError(
        f"case '{prediction.case}': the prediction is not on the reference's grid: {what}. "
        "Resample it to the case's own image, with nearest neighbours."
    )
