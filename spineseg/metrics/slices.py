"""Slice AP of one case (PROTOCOL 5): the sagittal slices' detections with their states at every IoU."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spineseg.geometry import Volume, index_to_mm
from spineseg.metrics.components import split_parts
from spineseg.metrics.detections_table import CELLS, REFERENCE, STATE_COLUMNS, state_columns
from spineseg.metrics.edges import EdgeDecision, outside, plane_inside, within
from spineseg.metrics.matching import IGNORED, IOU_THRESHOLDS, MAX_DETECTIONS, match_batch, states_of
from spineseg.predictions.instances import UNNAMED, SliceInstances, exclusive, nms_keep
from spineseg.predictions.masks import areas_px, box_iou, decode, decode_box, encode_stack, hulls, mask_iou
from spineseg.predictions.slicing import slice_labels
from spineseg.predictions.store import LabelKind, SliceKind

SLICE_STEP_MM: Final = 3.0
LEAST_AREA_MM2: Final = 50.0


def slice_indices(count: int, spacing_mm: float) -> list[int]:
    """Slices that are scored: round(3 k ÷ spacing), k = 0, 1, …; all of them from 3 mm on.

    >>> slice_indices(10, 1.5), slice_indices(3, 5.0)
    ([0, 2, 4, 6, 8], [0, 1, 2])
    """
    if spacing_mm >= SLICE_STEP_MM:
        return list(range(count))
    steps = np.rint(SLICE_STEP_MM * np.arange(count) / spacing_mm).astype(int)
    return [int(step) for step in steps if step < count]


@dataclass(frozen=True, eq=False)
class _Detections:
    """Detections of one slice by falling score; ``gone`` have left the score, ``loose`` are ignored when unmatched."""

    instances: SliceInstances
    gone: NDArray[np.bool_]
    loose: NDArray[np.bool_]


def score_slices(
    reference: Volume,
    prediction: Volume,
    slices: Mapping[int, SliceInstances] | None,
    edge: EdgeDecision,
    *,
    slice_kind: SliceKind,
    kind: LabelKind,
    named: bool,
    score_threshold: float,
    by_part: bool = False,
) -> pd.DataFrame:
    """Match the detections of the scored slices of one case.

    Args:
        reference: canonical frame, canonical level ids.
        prediction: its label map on the same grid.
        slices: instances by slice; None = those of the label map.
        edge: the case's decision on the field of view.
        slice_kind: whether ``slices`` are a detector's, which overlap.
        kind: whether the model names levels.
        named: whether levels are scored as classes; else the named columns are all "ignored".
        score_threshold: of the exclusive map.
        by_part: match 8-connected parts instead of instances (the ``component`` mode; exclusive map only).

    Returns:
        A row for each detection of each set and for each reference instance: ``detections_table.COLUMNS`` without
        source, case and subject, and ``STATE_COLUMNS``. ``iou`` is the mask IoU with the agnostic match at 0.5.
    """
    indices = slice_indices(reference.shape[0], reference.spacing_mm[0])
    truth = slice_labels(_inside(reference, edge).array, indices=indices)
    found = slices
    if found is None:
        found = {s.index: s for s in slice_labels(prediction.array, indices=indices)}
    # Only slices that are cut from the label map here bear its values. Stored ones bear the network's own classes, and
    # labelling may have renamed the map since: they belong to the label under most of their pixels.
    numbered = slices is None
    pixel_mm2 = reference.spacing_mm[1] * reference.spacing_mm[2]
    whole = truth
    if by_part:
        truth = [split_parts(g).instances for g in truth]
    tables = [_reference_rows(truth, edge, pixel_mm2)]
    for which in ("exclusive",) if by_part else ("native", "exclusive"):
        parts = []
        for g in whole:
            s = found.get(g.index)
            s = g.take([]) if s is None else s.take(np.argsort(-s.scores, kind="stable")[:MAX_DETECTIONS])
            if which == "exclusive" and slice_kind == "detections":
                s = exclusive(s, score_threshold, named=kind == "levels")
            judged = _judge(s, g, prediction, edge, numbered=numbered)
            parts.append(_in_parts(judged) if by_part else judged)
        suppress = which == "native" and slice_kind == "detections"
        table = _match(parts, truth, edge, pixel_mm2, named=named, suppress=suppress)
        table.insert(0, "set", which)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _in_parts(whole: _Detections) -> _Detections:
    """Parts share what the field of view says of their instance."""
    parts = split_parts(whole.instances)
    return _Detections(parts.instances, whole.gone[parts.owner], whole.loose[parts.owner])


def _inside(reference: Volume, edge: EdgeDecision) -> Volume:
    return reference if edge.slab_mm is None else within(reference, edge.slab_mm)


def _reference_rows(truth: Sequence[SliceInstances], edge: EdgeDecision, pixel_mm2: float) -> pd.DataFrame:
    areas = [areas_px(g.masks) * pixel_mm2 for g in truth]
    rows = pd.DataFrame(
        {
            "set": REFERENCE,
            "slice": np.repeat([g.index for g in truth], [len(g) for g in truth]).astype(np.int32),
            "level": np.concatenate([g.levels for g in truth]).astype(np.int32),
            "score": np.float32(np.nan),
            "area_mm2": np.concatenate(areas).astype(np.float32),
            "counted": np.concatenate([~_ignored(g, edge, a) for g, a in zip(truth, areas, strict=True)]),
            "iou": np.float32(np.nan),
        }
    )
    states = pd.DataFrame(np.full((len(rows), len(STATE_COLUMNS)), IGNORED, np.int8), columns=list(STATE_COLUMNS))
    return pd.concat([rows, states], axis=1)


def _ignored(g: SliceInstances, edge: EdgeDecision, area_mm2: NDArray[np.floating]) -> NDArray[np.bool_]:
    return ~np.isin(g.levels, edge.levels) | (area_mm2 < LEAST_AREA_MM2)


def _judge(
    s: SliceInstances,
    truth: SliceInstances,
    prediction: Volume,
    edge: EdgeDecision,
    *,
    numbered: bool,
) -> _Detections:
    """Apply the field-of-view decision to the detections of a slice."""
    if numbered:
        gone = np.isin(s.levels, edge.dropped)
        loose = np.zeros(len(s), bool)
    else:
        # What belongs to an object shares its decision: only what belongs to none is judged by its own place.
        owner = _owners(s, prediction) if edge.policy == "ignore" or edge.dropped else np.zeros(len(s), np.int64)
        gone = np.isin(owner, edge.dropped) & (owner > 0)
        loose = _beyond(s, prediction, edge) & (owner == 0)
        if loose.any():
            # "Unmatched" is one decision for all IoUs: a detection on a counted reference is none of the edge's.
            counted = truth.take(np.isin(truth.levels, edge.levels))
            loose &= ~(mask_iou(s.masks, counted.masks) >= IOU_THRESHOLDS[0]).any(axis=1)
    if edge.slab_mm is not None and len(s):
        inside = plane_inside(s.index, prediction, edge.slab_mm)
        masks = encode_stack(np.stack([decode(rle) & inside for rle in s.masks]))
        kept = areas_px(masks) > 0
        s, gone, loose = s.with_masks(masks), gone[kept], loose[kept]
    return _Detections(s, gone, loose)


def _owners(s: SliceInstances, prediction: Volume) -> NDArray[np.int64]:
    """Predicted label (N,) under most of each detection's labelled pixels; 0 where there is none."""
    plane = prediction.array[s.index]
    owners = np.zeros(len(s), np.int64)
    for n, (rle, (y0, z0, y1, z1)) in enumerate(zip(s.masks, hulls(s.masks).astype(int), strict=True)):
        under = plane[y0:y1, z0:z1][decode_box(rle, (y0, z0, y1, z1))]
        counts = np.bincount(under[under > 0])
        owners[n] = counts.argmax() if len(counts) else UNNAMED
    return owners


def _beyond(s: SliceInstances, prediction: Volume, edge: EdgeDecision) -> NDArray[np.bool_]:
    """Whether ``ignore`` may leave each box out: it touches a face, or its centre lies outside the annotated range."""
    if edge.policy != "ignore":
        return np.zeros(len(s), bool)
    count, height, width = prediction.shape
    y0, z0, y1, z1 = s.boxes.T
    touching = (y0 <= 0) | (z0 <= 0) | (y1 >= height) | (z1 >= width)
    if count > 1:
        touching |= s.index in (0, count - 1)
    if edge.range_mm is None:
        return np.asarray(touching)
    centres = np.stack([np.full(len(s), s.index), (y0 + y1 - 1) / 2, (z0 + z1 - 1) / 2], axis=1)
    heights = index_to_mm(prediction.affine, centres)[:, 2]
    return np.asarray(outside(heights, edge.range_mm) | touching)


def _match(
    parts: Sequence[_Detections],
    truth: Sequence[SliceInstances],
    edge: EdgeDecision,
    pixel_mm2: float,
    *,
    named: bool,
    suppress: bool,
) -> pd.DataFrame:
    """Rows of all detections of one set: matched over all slices at once, in padded arrays (S, D, G)."""
    n_detections = max((len(p.instances) for p in parts), default=0)
    n_references = max((len(g) for g in truth), default=0)
    shape = (len(parts), n_detections, n_references)
    iou = {kind: np.full(shape, -1.0) for kind in ("mask", "box")}
    same_level = np.zeros(shape, bool)
    exists, gone, drop, suppressed = (np.zeros(shape[:2], bool) for _ in range(4))
    ignore = np.ones((len(parts), n_references), bool)
    area = np.zeros(shape[:2])
    for n, (part, g) in enumerate(zip(parts, truth, strict=True)):
        s, rows, columns = part.instances, len(part.instances), len(g)
        area[n, :rows] = areas_px(s.masks) * pixel_mm2
        exists[n, :rows], gone[n, :rows] = True, part.gone
        drop[n, :rows] = part.gone | part.loose | (area[n, :rows] < LEAST_AREA_MM2)
        if suppress:
            suppressed[n, :rows] = ~np.isin(np.arange(rows), nms_keep(s.boxes, s.scores))
        ignore[n, :columns] = _ignored(g, edge, areas_px(g.masks) * pixel_mm2)
        iou["mask"][n, :rows, :columns] = mask_iou(s.masks, g.masks)
        iou["box"][n, :rows, :columns] = box_iou(s.boxes, g.boxes)
        same_level[n, :rows, :columns] = s.levels[:, None] == g.levels[None, :]
    states: dict[str, NDArray[np.int8]] = {}
    match_iou = np.zeros(shape[:2])
    for kind, by_level in CELLS:
        # What has left the score, or is suppressed among all classes, can match nothing and is no false positive.
        out = gone if by_level else gone | suppressed
        possible = ~out[:, :, None] & (same_level if by_level else True)
        matches = match_batch(np.where(possible, iou[kind], -1.0), ignore)
        found = states_of(matches, ignore, drop | out)
        if by_level and not named:
            found = np.full_like(found, IGNORED)
        states |= {column: found[:, t][exists] for t, column in enumerate(state_columns(kind, named=by_level))}
        if (kind, by_level) == ("mask", False) and n_references:
            first = matches[:, 0]
            value = np.take_along_axis(iou["mask"], np.maximum(first, 0)[:, :, None], axis=2)[:, :, 0]
            match_iou = np.where(first >= 0, value, 0.0)
    instances = [part.instances for part in parts]
    rows_of = {
        "slice": np.repeat([s.index for s in instances], [len(s) for s in instances]).astype(np.int32),
        "level": np.concatenate([s.levels if named else 0 * s.levels for s in instances]).astype(np.int32),
        "score": np.concatenate([s.scores for s in instances]),
        "area_mm2": area[exists].astype(np.float32),
        "counted": np.ones(int(exists.sum()), bool),
        "iou": match_iou[exists].astype(np.float32),
    }
    return pd.DataFrame(rows_of | states)
