"""Average precision of masks and boxes against pycocotools' COCOeval on whatever hypothesis comes up with."""

import contextlib
import io
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from spineseg.metrics.detection import average_precision
from spineseg.metrics.matching import IOU_THRESHOLDS, match_batch, match_slice, states_of
from spineseg.predictions.masks import encode

SIZE = (14, 18)
Kind = Literal["segm", "bbox"]


@dataclass(frozen=True)
class Scene:
    """One slice: masks (N, Y, Z) of the references and the detections, all of one class."""

    references: NDArray[np.bool_]
    crowd: NDArray[np.bool_]
    detections: NDArray[np.bool_]
    scores: NDArray[np.float64]


@st.composite
def blobs(draw: st.DrawFn, most: int) -> NDArray[np.bool_]:
    """Rectangles, some with a second part far away or a hole; few places, so that many overlap or coincide."""
    masks = np.zeros((draw(st.integers(0, most)), *SIZE), bool)
    for mask in masks:
        y, z, height, width = (draw(st.integers(*bounds)) for bounds in ((0, 8), (0, 11), (1, 5), (1, 6)))
        mask[y : y + height, z : z + width] = True
        if draw(st.booleans()):
            mask[SIZE[0] - 1 - y, SIZE[1] - 1 - z] ^= True
        if not mask.any():
            mask[y, z] = True
    return masks


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    references = draw(blobs(5))
    detections = draw(blobs(7))
    # A share of the detections repeats references to the pixel: IoU 1, several times the same.
    copies = [index for index in range(len(references)) if draw(st.booleans())]
    detections = np.concatenate([detections, references[copies]])
    levels = st.integers(0, 4) if draw(st.booleans()) else st.integers(0, 1000)
    scores = np.array([draw(levels) for _ in detections], float) / 1000
    crowd = np.array([draw(st.integers(0, 5)) == 0 for _ in references], bool)
    return Scene(references, crowd, detections, scores)


def coco_box(mask: NDArray[np.bool_]) -> list[float]:
    rows, columns = np.nonzero(mask)
    low, high = (columns.min(), rows.min()), (columns.max() + 1, rows.max() + 1)
    return [float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1])]


def areas(masks: NDArray[np.bool_], kind: Kind) -> NDArray[np.float64]:
    boxes = np.array([coco_box(mask) for mask in masks]).reshape(-1, 4)
    return boxes[:, 2] * boxes[:, 3] if kind == "bbox" else masks.sum((1, 2)).astype(float)


def by_coco(found: list[Scene], kind: Kind, least: float, limit: int) -> NDArray[np.float64]:
    """AP (T,) by pycocotools."""
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image, scene in enumerate(found, start=1):
        for mask, crowd, area in zip(scene.references, scene.crowd, areas(scene.references, kind), strict=True):
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image, "category_id": 1, "bbox": coco_box(mask)}
                | {"area": float(area), "iscrowd": int(crowd), "segmentation": encode(mask)}
            )
        for mask, score in zip(scene.detections, scene.scores, strict=True):
            shape = {"segmentation": encode(mask)} if kind == "segm" else {"bbox": coco_box(mask)}
            results.append({"image_id": image, "category_id": 1, "score": float(score)} | shape)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        images = [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in range(1, len(found) + 1)]
        truth.dataset = {"info": {}, "images": images, "annotations": annotations, "categories": [{"id": 1}]}
        truth.createIndex()
        found_by = truth.loadRes(results) if results else COCO()
        if not results:
            found_by.dataset = {**truth.dataset, "annotations": []}
            found_by.createIndex()
        run = COCOeval(truth, found_by, kind)
        run.params.areaRng, run.params.areaRngLbl, run.params.maxDets = [[least, 1e10]], ["all"], [limit]
        run.evaluate()
        run.accumulate()
    precision = run.eval["precision"][:, :, 0, 0, 0]
    return np.where((precision > -1).any(axis=1), precision.mean(axis=1), np.nan)


def overlaps(scene: Scene, kind: Kind) -> NDArray[np.float64]:
    """IoU (D, G) by counting pixels, or of the hulls; of crowds the share of the detection."""
    pairs = [scene.detections, scene.references]
    if kind == "bbox":
        pairs = [filled(masks) for masks in pairs]
    first, second = (masks.reshape(len(masks), SIZE[0] * SIZE[1]).astype(np.float64) for masks in pairs)
    shared = first @ second.T
    union = np.where(scene.crowd, first.sum(1)[:, None], first.sum(1)[:, None] + second.sum(1) - shared)
    return shared / np.maximum(union, 1)


def filled(masks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    boxes = np.zeros_like(masks)
    for box, mask in zip(boxes, masks, strict=True):
        rows, columns = np.nonzero(mask)
        box[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
    return boxes


def by_slices(found: list[Scene], kind: Kind, least: float, limit: int) -> NDArray[np.float64]:
    """AP (T,) by ``match_slice``."""
    states, count = [], 0
    for scene in found:
        ignore = scene.crowd | (areas(scene.references, kind) < least)
        count += int((~ignore).sum())
        states.append(
            match_slice(
                overlaps(scene, kind),
                scene.scores,
                ignore=ignore,
                crowd=scene.crowd,
                drop=areas(scene.detections, kind) < least,
                max_detections=limit,
            )
        )
    return average_precision(np.concatenate([s.scores for s in found]), np.concatenate(states, axis=1), count)


def by_batch(found: list[Scene], kind: Kind, least: float, limit: int) -> NDArray[np.float64]:
    """AP (T,) by ``match_batch`` on padded arrays, as ``evaluate`` does it."""
    orders = [np.argsort(-s.scores, kind="stable")[:limit] for s in found]
    n, g = max(map(len, orders)), max(len(s.references) for s in found)
    iou, drop = np.full((len(found), n, g), -1.0), np.zeros((len(found), n), bool)
    ignore, crowd = np.ones((len(found), g), bool), np.zeros((len(found), g), bool)
    for i, (scene, order) in enumerate(zip(found, orders, strict=True)):
        there = len(scene.references)
        iou[i, : len(order), :there] = overlaps(scene, kind)[order]
        drop[i, : len(order)] = areas(scene.detections, kind)[order] < least
        ignore[i, :there] = scene.crowd | (areas(scene.references, kind) < least)
        crowd[i, :there] = scene.crowd
    states = states_of(match_batch(iou, ignore, crowd=crowd), ignore, drop)
    kept = np.concatenate([states[i, :, : len(order)] for i, order in enumerate(orders)], axis=1)
    scores = np.concatenate([s.scores[order] for s, order in zip(found, orders, strict=True)])
    return average_precision(scores, kept, int((~ignore).sum()))


@pytest.mark.parametrize("kind", ["segm", "bbox"])
@given(
    found=st.lists(scenes(), min_size=1, max_size=4),
    least=st.sampled_from([0.0, 4.0, 9.0]),
    limit=st.sampled_from([1, 3, 100]),
)
@example(
    found=[Scene(np.zeros((0, *SIZE), bool), np.zeros(0, bool), np.zeros((0, *SIZE), bool), np.zeros(0))],
    least=0.0,
    limit=100,
)
@example(
    found=[Scene(np.ones((1, *SIZE), bool), np.ones(1, bool), np.ones((3, *SIZE), bool), np.ones(3))],
    least=0.0,
    limit=100,
)
@example(
    found=[Scene(np.ones((2, *SIZE), bool), np.zeros(2, bool), np.ones((3, *SIZE), bool), np.ones(3))],
    least=0.0,
    limit=1,
)
@settings(max_examples=150, deadline=None)
def test_equals_cocoeval(kind: Kind, found: list[Scene], least: float, limit: int) -> None:
    """Small references are ignored, small unmatched detections too, and detections beyond the limit of a slice."""
    expected = by_coco(found, kind, least, limit)
    assert expected.shape == IOU_THRESHOLDS.shape
    np.testing.assert_allclose(by_slices(found, kind, least, limit), expected, atol=1e-6, rtol=0)
    np.testing.assert_allclose(by_batch(found, kind, least, limit), expected, atol=1e-6, rtol=0)
