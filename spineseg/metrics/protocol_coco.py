"""Slice AP under COCO's own rules: detections as they are, areas in pixels, mean over the categories present.

What sets it apart from PROTOCOL 5: detections overlap as the model gives them, nothing is ignored for the field of
view, every level with an annotation is a category, and area ranges are counted in pixels of the scan.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spineseg.geometry import Volume
from spineseg.metrics.components import split_parts
from spineseg.metrics.detection import average_precision_by_class
from spineseg.metrics.matching import IOU_THRESHOLDS, MAX_DETECTIONS, match_batch, states_of
from spineseg.metrics.slices import LEAST_AREA_MM2, slice_indices
from spineseg.predictions.instances import SliceInstances
from spineseg.predictions.masks import areas_px, mask_iou
from spineseg.predictions.slicing import slice_labels
from spineseg.predictions.store import SliceKind

Mode = Literal["instance", "component"]
MODES: Final[tuple[Mode, ...]] = ("instance", "component")
# cocoeval's areaRng, in pixels; both ends belong to a range.
AREAS: Final[Mapping[str, tuple[float, float]]] = {
    "all": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}
NAMINGS: Final = ("agnostic", "named")
STATE_COLUMNS: Final = tuple(f"{naming}_{area}" for naming in NAMINGS for area in AREAS)
COLUMNS: Final = ("mode", "reference", "slice", "level", "score", "area_px", "counted", *STATE_COLUMNS)
_IGNORED_WORD: Final = sum(2 << (2 * t) for t in range(len(IOU_THRESHOLDS)))


def coco_detections(
    reference: Volume,
    prediction: Volume,
    slices: Mapping[int, SliceInstances] | None,
    *,
    slice_kind: SliceKind,
    named: bool,
) -> pd.DataFrame:
    """Match the detections of the scored slices of one case as COCO does.

    An image is a slice, an annotation all pixels of a level in it (mode ``instance``) or one 8-connected part of them
    (``component``; parts below 50 mm² are ignored, PROTOCOL 5.2); the slices of a label map are parted alike, a
    detector's detections are what they are.

    Args:
        reference: label map, canonical frame.
        prediction: the same of the prediction, on the same grid.
        slices: instances by slice; None = those of the prediction's label map, with score 1.
        slice_kind: whether ``slices`` are a detector's.
        named: whether levels are categories; else the named columns are all "ignored".

    Returns:
        A row for each annotation and each detection (``COLUMNS``). The columns of states hold those at the ten IoUs,
        two bits each, the lowest IoU in the lowest bits; see ``states_at``.
    """
    indices = slice_indices(reference.shape[0], reference.spacing_mm[0])
    truth = slice_labels(reference.array, indices=indices)
    if slices is None:
        found = slice_labels(prediction.array, indices=indices)
    else:
        found = [slices.get(g.index, g.take([])) for g in truth]
    pixel_mm2 = reference.spacing_mm[1] * reference.spacing_mm[2]
    tables = []
    for mode in MODES:
        parted = mode == "component"
        annotations = [split_parts(s).instances if parted else s for s in truth]
        cut = parted and slice_kind == "label_map"
        detections = [split_parts(s).instances if cut else s for s in found]
        least = LEAST_AREA_MM2 / pixel_mm2 if parted else 0.0
        tables.append(_matched(mode, annotations, detections, least, named=named))
    return pd.concat(tables, ignore_index=True)


def coco_results(table: pd.DataFrame, *, named: bool) -> dict[str, float]:
    """COCO's numbers of a whole set; NaN where nothing is annotated.

    ``<mode> ap``, ``ap50``, ``ap75`` and ``ap_small`` to ``ap_large``, and the same with ``_named``.

    Args:
        table: ``coco_detections`` of all cases, one below the other.
        named: whether levels are categories.
    """
    results: dict[str, float] = {}
    for mode in MODES:
        rows = table[table["mode"] == mode]
        for naming in NAMINGS:
            for area in AREAS:
                known = named or naming == "agnostic"
                value = _average_precision(rows, naming, area) if known else np.full(len(IOU_THRESHOLDS), np.nan)
                tail = "_named" if naming == "named" else ""
                if area == "all":
                    results |= {f"{mode} ap{tail}": float(value.mean())}
                    results |= {f"{mode} ap50{tail}": float(value[0]), f"{mode} ap75{tail}": float(value[5])}
                else:
                    results[f"{mode} ap_{area}{tail}"] = float(value.mean())
    return results


def _average_precision(rows: pd.DataFrame, naming: str, area: str) -> NDArray[np.float64]:
    """Average precision (10,): mean over the categories with an annotation in the area's range."""
    is_reference = rows["reference"].to_numpy(bool)
    category = rows["level"].to_numpy(np.int64) if naming == "named" else np.zeros(len(rows), np.int64)
    counted = is_reference & rows["counted"].to_numpy(bool) & _inside(rows["area_px"].to_numpy(np.float64), area)
    names, totals = np.unique(category[counted], return_counts=True)
    found = rows[~is_reference]
    states = states_at(found[f"{naming}_{area}"].to_numpy(np.int64))
    values = average_precision_by_class(
        found["score"].to_numpy(np.float64),
        states,
        category[~is_reference],
        dict(zip(names.tolist(), totals.tolist(), strict=True)),
    )
    return np.mean(list(values.values()), axis=0) if values else np.full(len(IOU_THRESHOLDS), np.nan)


def states_at(words: NDArray[np.int64]) -> NDArray[np.int8]:
    """States (10, N) of ``matching`` from the two bits an IoU of each word (N,)."""
    shifts = 2 * np.arange(len(IOU_THRESHOLDS))
    return ((words[None, :] >> shifts[:, None]) & 3).astype(np.int8)


def _inside(area_px: NDArray[np.float64], area: str) -> NDArray[np.bool_]:
    low, high = AREAS[area]
    return np.asarray((area_px >= low) & (area_px <= high))


def _matched(
    mode: Mode,
    annotations: Sequence[SliceInstances],
    detections: Sequence[SliceInstances],
    least_px: float,
    *,
    named: bool,
) -> pd.DataFrame:
    """Rows of one mode: all slices are matched at once, in padded arrays (S, D, G)."""
    # Equal scores stand in the order of their categories, as cocoeval puts them together.
    found = [s.take(np.lexsort((s.levels, -s.scores))[:MAX_DETECTIONS]) for s in detections]
    shape = (len(found), max(map(len, found), default=0), max(map(len, annotations), default=0))
    iou, same = np.full(shape, -1.0), np.zeros(shape, bool)
    real, area = np.zeros(shape[:2], bool), np.zeros(shape[:2])
    truth_area, small = np.full((shape[0], shape[2]), -1.0), np.ones((shape[0], shape[2]), bool)
    for n, (s, g) in enumerate(zip(found, annotations, strict=True)):
        iou[n, : len(s), : len(g)] = mask_iou(s.masks, g.masks)
        same[n, : len(s), : len(g)] = s.levels[:, None] == g.levels[None, :]
        real[n, : len(s)], area[n, : len(s)] = True, areas_px(s.masks)
        truth_area[n, : len(g)] = areas_px(g.masks)
        small[n, : len(g)] = truth_area[n, : len(g)] < least_px
    words = {}
    for naming in NAMINGS:
        pairs = np.where(same, iou, -1.0) if naming == "named" else iou
        for name in AREAS:
            ignore = small | ~_inside(truth_area, name)
            drop = ~_inside(area, name) | (area < least_px)
            states = states_of(match_batch(pairs, ignore), ignore, drop).astype(np.int64)
            word = (states << (2 * np.arange(len(IOU_THRESHOLDS)))[None, :, None]).sum(axis=1)[real]
            words[f"{naming}_{name}"] = word if named or naming == "agnostic" else np.full_like(word, _IGNORED_WORD)
    rows = [_rows(mode, annotations, least_px, reference=True), _rows(mode, found, 0.0, reference=False)]
    for column in STATE_COLUMNS:
        rows[0][column], rows[1][column] = np.int32(_IGNORED_WORD), words[column].astype(np.int32)
    return pd.concat(rows, ignore_index=True)[list(COLUMNS)]


def _rows(mode: Mode, parts: Sequence[SliceInstances], least_px: float, *, reference: bool) -> pd.DataFrame:
    area = np.concatenate([areas_px(s.masks) for s in parts])
    return pd.DataFrame(
        {
            "mode": mode,
            "reference": np.full(len(area), reference),
            "slice": np.repeat([s.index for s in parts], [len(s) for s in parts]).astype(np.int32),
            "level": np.concatenate([s.levels for s in parts]).astype(np.int32),
            "score": np.concatenate([s.scores for s in parts]).astype(np.float32),
            "area_px": area.astype(np.int32),
            "counted": area >= least_px,
        }
    )
