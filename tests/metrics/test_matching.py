"""Matching and average precision against pycocotools' COCOeval."""

import contextlib
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from spineseg.metrics.detection import average_precision, average_precision_by_class
from spineseg.metrics.matching import (
    FALSE_POSITIVE,
    IGNORED,
    IOU_THRESHOLDS,
    TRUE_POSITIVE,
    match_batch,
    match_slice,
    states_of,
)

SIZE = (32, 40)


@dataclass(frozen=True)
class Scene:
    """Boxes (N, 4) as y0, z0, y1, z1 with classes; detections with scores; crowds among the references."""

    references: NDArray[np.float64]
    reference_classes: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    detections: NDArray[np.float64]
    classes: NDArray[np.int64]
    scores: NDArray[np.float64]


def boxes(random: np.random.Generator, n: int) -> NDArray[np.float64]:
    corner = random.integers(0, (24, 30), (n, 2))
    return np.concatenate([corner, corner + random.integers(2, 9, (n, 2))], axis=1).astype(float)


def scene(random: np.random.Generator, *, crowds: bool, ties: bool, many: bool, n_classes: int) -> Scene:
    references = boxes(random, int(random.integers(0, 12 if many else 4)))
    near = references[random.integers(0, len(references), 3 * len(references))] if len(references) else references
    near = near + random.integers(-1, 2, near.shape) * np.array([1, 1, 0, 0])
    detections = np.concatenate([near, boxes(random, int(random.integers(0, 120 if many else 4)))])
    scores = random.random(len(detections))
    return Scene(
        references=references,
        reference_classes=random.integers(1, n_classes + 1, len(references)),
        crowd=random.random(len(references)) < (0.3 if crowds else 0.0),
        detections=detections,
        classes=random.integers(1, n_classes + 1, len(detections)),
        scores=np.round(scores, 1) if ties else scores,
    )


def xywh(box: NDArray[np.float64]) -> list[float]:
    y0, z0, y1, z1 = box.tolist()
    return [z0, y0, z1 - z0, y1 - y0]


def coco_precision(scenes: list[Scene], n_classes: int, least_area: float) -> NDArray[np.float64]:
    """AP (T, K) by pycocotools; references and unmatched detections below ``least_area`` are ignored."""
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image, s in enumerate(scenes, start=1):
        for box, name, crowd in zip(s.references, s.reference_classes, s.crowd, strict=True):
            _, _, w, h = xywh(box)
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image, "category_id": int(name), "bbox": xywh(box)}
                | {"area": w * h, "iscrowd": int(crowd)}
            )
        for box, name, score in zip(s.detections, s.classes, s.scores, strict=True):
            results.append({"image_id": image, "category_id": int(name), "bbox": xywh(box), "score": float(score)})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": image} for image in range(1, len(scenes) + 1)],
            "annotations": annotations,
            "categories": [{"id": name} for name in range(1, n_classes + 1)],
        }
        truth.createIndex()
        run = COCOeval(truth, truth.loadRes(results), "bbox")
        run.params.areaRng, run.params.areaRngLbl = [[least_area, 1e10]], ["all"]
        run.evaluate()
        run.accumulate()
    precision = run.eval["precision"][:, :, :, 0, -1]
    return np.where((precision > -1).any(axis=1), precision.mean(axis=1), np.nan)


def iou_matrix(s: Scene) -> NDArray[np.float64]:
    low = np.maximum(s.detections[:, None, :2], s.references[None, :, :2])
    high = np.minimum(s.detections[:, None, 2:], s.references[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(-1)
    of_detection, of_reference = area(s.detections)[:, None], area(s.references)[None, :]
    return common / np.where(s.crowd[None, :], of_detection, of_detection + of_reference - common)


def area(found: NDArray[np.float64]) -> NDArray[np.float64]:
    return (found[:, 2:] - found[:, :2]).prod(-1)


@pytest.mark.parametrize("crowds", [False, True])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("many", [False, True])
def test_average_precision_equals_cocoeval(crowds: bool, ties: bool, many: bool) -> None:
    n_classes, least_area = 3, 12.0
    for seed in range(4):
        random = np.random.default_rng([seed, crowds, ties, many])
        scenes = [scene(random, crowds=crowds, ties=ties, many=many, n_classes=n_classes) for _ in range(12)]
        if not any(len(s.detections) for s in scenes):
            continue
        ours = np.full((len(IOU_THRESHOLDS), n_classes), np.nan)
        kept: dict[int, list[Any]] = {name: [] for name in range(1, n_classes + 1)}
        count = dict.fromkeys(kept, 0)
        for s in scenes:
            ignore = s.crowd | (area(s.references) < least_area)
            pairs = iou_matrix(s)
            for name in kept:  # COCO's limit of 100 detections counts inside a class
                d, g = s.classes == name, s.reference_classes == name
                states = match_slice(
                    pairs[np.ix_(d, g)],
                    s.scores[d],
                    ignore=ignore[g],
                    crowd=s.crowd[g],
                    drop=area(s.detections[d]) < least_area,
                )
                kept[name].append((s.scores[d], states))
                count[name] += int((~ignore[g]).sum())
        for name, parts in kept.items():
            if count[name]:
                scores = np.concatenate([part[0] for part in parts])
                states = np.concatenate([part[1] for part in parts], axis=1)
                ours[:, name - 1] = average_precision(scores, states, count[name])
        np.testing.assert_allclose(ours, coco_precision(scenes, n_classes, least_area), atol=1e-6)


def test_one_matching_with_classes_equals_one_matching_a_class() -> None:
    random = np.random.default_rng(3)
    for _ in range(20):
        s = scene(random, crowds=False, ties=True, many=True, n_classes=3)
        pairs = iou_matrix(s)
        both = match_slice(
            pairs, s.scores, classes=s.classes, reference_classes=s.reference_classes, max_detections=10**6
        )
        for name in (1, 2, 3):
            d, g = s.classes == name, s.reference_classes == name
            alone = match_slice(pairs[np.ix_(d, g)], s.scores[d], max_detections=10**6)
            np.testing.assert_array_equal(both[:, d], alone)


def test_batch_equals_slice_by_slice() -> None:
    random = np.random.default_rng(4)
    iou = random.random((6, 9, 4)).round(1)
    iou[2, 5:] = -1
    iou[3, :, 2:] = -1
    ignore = random.random((6, 4)) < 0.3
    together = states_of(match_batch(iou, ignore), ignore, np.zeros((6, 9), bool))
    for n in range(6):
        alone = match_slice(iou[n], np.arange(9, 0, -1), ignore=ignore[n])
        np.testing.assert_array_equal(together[n], alone)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_a_lower_score_never_changes_the_states_above_it(seed: int) -> None:
    random = np.random.default_rng(seed)
    iou, scores = random.random((8, 3)), random.random(8)
    states = match_slice(iou, scores)
    kept = scores >= np.median(scores)
    np.testing.assert_array_equal(match_slice(iou[kept], scores[kept]), states[:, kept])


def test_ignored_references_take_only_what_no_counted_one_wants() -> None:
    iou = np.array([[0.6, 0.9], [0.0, 0.8]])
    states = match_slice(iou, [0.9, 0.8], ignore=[False, True], thresholds=np.array([0.5, 0.7]))
    assert states.tolist() == [[TRUE_POSITIVE, IGNORED], [IGNORED, FALSE_POSITIVE]]


def test_unmatched_detections_flagged_to_drop_are_ignored_and_matched_ones_stay() -> None:
    states = match_slice(np.array([[0.9], [0.0]]), [0.9, 0.8], drop=[True, True], thresholds=np.array([0.5]))
    assert states.tolist() == [[TRUE_POSITIVE, IGNORED]]


def test_no_detections_and_no_references() -> None:
    assert match_slice(np.zeros((0, 3)), []).shape == (10, 0)
    assert (match_slice(np.zeros((2, 0)), [0.5, 0.4]) == FALSE_POSITIVE).all()


def test_detections_beyond_the_limit_are_ignored() -> None:
    states = match_slice(np.zeros((3, 0)), [0.1, 0.9, 0.5], max_detections=2)
    assert states[0].tolist() == [IGNORED, FALSE_POSITIVE, FALSE_POSITIVE]


def test_classes_without_references_are_left_out() -> None:
    found = average_precision_by_class([0.9, 0.8], [[1, 0]], [1, 2], {1: 1, 2: 0})
    assert list(found) == [1]
    assert found[1] == pytest.approx([1.0])
