"""Slice AP of a case against pycocotools' COCOeval on the same slices, and the ignore rules one by one."""

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from spineseg.geometry import Volume
from spineseg.metrics.cases import score_case
from spineseg.metrics.matching import IGNORED
from spineseg.metrics.pooling import ap_from_detections
from spineseg.metrics.slices import slice_indices
from spineseg.predictions.instances import SliceInstances, exclusive, from_masks, nms_agnostic
from spineseg.predictions.masks import areas_px
from spineseg.predictions.slicing import slice_labels
from spineseg.predictions.store import CasePrediction

AFFINE = np.diag([3.0, 2.0, 2.5, 1.0])  # 5 mm² a pixel: 50 mm² are 10 pixels
PIXEL_MM2 = 5.0
LEVELS = (19, 20, 21)


def reference(seed: int, planes: int = 8) -> Volume:
    random = np.random.default_rng(seed)
    labels = np.zeros((planes, 30, 40), np.uint8)
    for x in range(1, planes - 1):
        for n, level in enumerate(LEVELS):
            y, z = random.integers(2, 12), 3 + 12 * n
            labels[x, y : y + random.integers(2, 14), z : z + random.integers(2, 9)] = level
    return Volume(labels, AFFINE)


def detections(truth: Volume, seed: int) -> dict[int, SliceInstances]:
    """Shifted, doubled, renamed and invented detections with tied scores."""
    random = np.random.default_rng([seed, 1])
    found = {}
    for s in slice_labels(truth.array):
        masks, levels = [], []
        for level in s.levels:
            for _ in range(random.integers(0, 4)):
                mask = truth.array[s.index] == level
                masks.append(np.roll(mask, random.integers(-2, 3, 2), (0, 1)) & (random.random(mask.shape) < 0.95))
                levels.append(int(level) if random.random() < 0.8 else int(random.choice(LEVELS)))
        for _ in range(random.integers(0, 4)):
            mask = np.zeros(s.size, bool)
            y, z = random.integers(1, 20), random.integers(1, 30)
            mask[y : y + random.integers(1, 8), z : z + random.integers(1, 8)] = True
            masks.append(mask)
            levels.append(int(random.choice(LEVELS)))
        stack = np.array(masks) if masks else np.zeros((0, *s.size), bool)
        found[s.index] = from_masks(s.index, stack, random.random(len(stack)).round(1), levels=levels)
    return found


def coco_ap(slices: list[SliceInstances], truth: list[SliceInstances], kind: str, *, named: bool) -> Any:
    """AP (10,) by pycocotools on run-length masks, with its area rule at 50 mm²."""
    annotations, results = [], []
    for image, g in enumerate(truth, start=1):
        for rle, level, box, area in zip(g.masks, g.levels, g.boxes, areas_px(g.masks), strict=True):
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image, "category_id": int(level) if named else 1}
                | {"segmentation": rle, "bbox": xywh(box), "area": float(area) * PIXEL_MM2, "iscrowd": 0}
            )
    for image, s in enumerate(slices, start=1):
        for rle, level, score, box in zip(s.masks, s.levels, s.scores, s.boxes, strict=True):
            place = {"segmentation": rle} if kind == "segm" else {"bbox": xywh(box)}
            results.append(
                {"image_id": image, "category_id": int(level) if named else 1, "score": float(score)} | place
            )
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "info": {},
            "images": [{"id": n, "height": 30, "width": 40} for n in range(1, len(truth) + 1)],
            "annotations": annotations,
            "categories": [{"id": n} for n in (LEVELS if named else (1,))],
        }
        coco.createIndex()
        found = coco.loadRes(results)
        # The area of an instance is its mask's, for boxes too, and in mm².
        areas = np.concatenate([areas_px(s.masks) for s in slices])
        for entry, area in zip(found.dataset["annotations"], areas, strict=True):
            entry["area"] = float(area) * PIXEL_MM2
        run = COCOeval(coco, found, kind)
        run.params.areaRng, run.params.areaRngLbl = [[50.0, 1e10]], ["all"]
        run.evaluate()
        run.accumulate()
    precision = run.eval["precision"][:, :, :, 0, -1]
    per_class = np.where((precision > -1).any(axis=1), precision.mean(axis=1), np.nan)
    return np.nanmean(per_class, axis=1)


def xywh(box: NDArray[np.float64]) -> list[float]:
    y0, z0, y1, z1 = box.tolist()
    return [z0, y0, z1 - z0, y1 - y0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("seed", range(6))
def test_every_ap_equals_cocoeval_on_the_same_slices(seed: int) -> None:
    truth = reference(seed)
    found = detections(truth, seed)
    empty = truth.with_array(np.zeros_like(truth.array))
    case = CasePrediction("c", empty, "levels", found, "detections")
    scored = score_case(truth, case, edge="count", cut_levels=(), score_threshold=0.3)
    table = scored.detections.assign(subject="a")
    references = slice_labels(truth.array)
    pasted = [exclusive(found[g.index], 0.3, named=True) for g in references]
    native = [found[g.index] for g in references]
    suppressed = [nms_agnostic(s) for s in native]
    for shape, kind in (("mask", "segm"), ("box", "bbox")):
        expected = {
            ("exclusive", False): coco_ap(pasted, references, kind, named=False),
            ("exclusive", True): coco_ap(pasted, references, kind, named=True),
            ("native", False): coco_ap(suppressed, references, kind, named=False),
            ("native", True): coco_ap(native, references, kind, named=True),
        }
        for (which, named), value in expected.items():
            ours = ap_from_detections(
                table, which="native" if which == "native" else "exclusive", shape=shape, named=named, levels=LEVELS
            )
            np.testing.assert_allclose(ours, value, atol=1e-6)


def test_slices_lie_three_millimetres_apart() -> None:
    assert slice_indices(11, 0.7) == [0, 4, 9]
    assert slice_indices(4, 3.0) == [0, 1, 2, 3]
    assert slice_indices(1, 0.35) == [0]
    for spacing in (0.29, 0.3125, 1.0, 1.5, 2.9):
        found = slice_indices(400, spacing)
        assert found == sorted(set(found))
        assert np.abs(np.array(found) * spacing - 3 * np.arange(len(found))).max() <= spacing / 2 + 1e-9


@pytest.mark.parametrize("spacing", [0.56, 0.72, 1.12, 1.36])
def test_rounding_is_that_of_the_quotient_and_not_of_a_rounded_factor(spacing: float) -> None:
    expected = [round(3 * k / spacing) for k in range(500)]
    assert slice_indices(500, spacing) == [index for index in expected if index < 500]


def box_column(*spans: tuple[int, int, int]) -> Volume:
    labels = np.zeros((5, 30, 60), np.uint8)
    for level, z0, z1 in spans:
        labels[1:4, 8:20, z0:z1] = level
    return Volume(labels, AFFINE)


def states(truth: Volume, slices: dict[int, SliceInstances] | None, labels: Volume, **options: Any) -> dict[str, Any]:
    """Number of each state of the exclusive map at IoU 0.5, agnostic."""
    kind = options.pop("kind", "instances")
    case = CasePrediction("c", labels, kind, slices, "label_map" if slices is None else "detections")
    table = score_case(truth, case, **{"edge": "ignore", **options}).detections
    rows = table[table["set"] == "exclusive"]["mask_agnostic_50"].value_counts()
    counted = int(((table["set"] == "reference") & table["counted"]).sum())
    return {"fp": rows.get(0, 0), "tp": rows.get(1, 0), "ignored": rows.get(2, 0), "references": counted}


def one_each(labels: Volume, *, score: float = 0.9) -> dict[int, SliceInstances]:
    """A one-class detector that finds exactly what a label map holds."""
    found = {}
    for s in slice_labels(labels.array):
        found[s.index] = SliceInstances(s.index, s.size, s.masks, 0 * s.scores + score, 0 * s.levels, s.boxes)
    return found


TRUTH = box_column((19, 50, 60), (20, 30, 40), (21, 10, 20))


def test_cut_levels_are_ignored_with_what_finds_them() -> None:
    found = states(TRUTH, one_each(TRUTH), TRUTH)
    assert found == {"fp": 0, "tp": 6, "ignored": 3, "references": 6}
    assert states(TRUTH, one_each(TRUTH), TRUTH, edge="count") == {"fp": 0, "tp": 9, "ignored": 0, "references": 9}
    # The label map alone says the same.
    assert states(TRUTH, None, TRUTH) == {"fp": 0, "tp": 6, "ignored": 3, "references": 6}


def test_unmatched_detections_beyond_the_annotated_range_are_ignored_those_inside_are_not() -> None:
    nothing = box_column()
    below, between = box_column((1, 2, 8)), box_column((1, 22, 28))
    assert states(TRUTH, one_each(below), nothing) == {"fp": 0, "tp": 0, "ignored": 3, "references": 6}
    assert states(TRUTH, one_each(between), nothing) == {"fp": 3, "tp": 0, "ignored": 0, "references": 6}
    assert states(TRUTH, one_each(below), nothing, edge="count")["fp"] == 3


def test_a_detection_shares_the_decision_of_the_object_it_belongs_to() -> None:
    # The model's T12 is much too low, overlaps the cut T12 a little and no other: the matching gives it to the cut one.
    low = box_column((1, 42, 52), (2, 30, 40), (3, 10, 20))
    assert states(TRUTH, one_each(low), low) == {"fp": 0, "tp": 6, "ignored": 3, "references": 6}
    # Without the object the same detections lie inside the annotated range and match nothing.
    assert states(TRUTH, one_each(low), box_column()) == {"fp": 3, "tp": 6, "ignored": 0, "references": 6}


def test_small_references_and_small_unmatched_detections_are_ignored() -> None:
    crumbs = TRUTH.array.copy()
    crumbs[2, 2:5, 2:5] = 22  # nine pixels: 45 mm²
    truth = TRUTH.with_array(crumbs)
    found = states(truth, one_each(TRUTH), TRUTH, cut_levels=())
    assert (found["references"], found["tp"]) == (9, 9)
    invented = TRUTH.array.copy()
    invented[2, 25:28, 22:25] = 23
    assert states(TRUTH, one_each(TRUTH.with_array(invented)), TRUTH, cut_levels=())["fp"] == 0


def test_slices_without_a_vertebra_count() -> None:
    everywhere = TRUTH.with_array(np.where(np.arange(5)[:, None, None] == 0, TRUTH.array[2], TRUTH.array))
    assert states(TRUTH, one_each(everywhere), box_column(), edge="count")["fp"] == 3


def test_crop_scores_the_part_of_a_detection_inside_the_slab() -> None:
    long = box_column((1, 30, 58), (2, 10, 20))
    found = states(TRUTH, one_each(long), long, edge="crop")
    # The slab ends at z = 40: what hangs over it is void, and what is left fits the reference exactly.
    assert found == {"fp": 0, "tp": 6, "ignored": 0, "references": 6}


def test_detections_below_the_threshold_stay_out_of_the_exclusive_map_only() -> None:
    case = CasePrediction("c", TRUTH, "instances", one_each(TRUTH, score=0.1), "detections")
    table = score_case(TRUTH, case, edge="count", score_threshold=0.2).detections
    assert (table["set"] == "exclusive").sum() == 0
    assert (table["set"] == "native").sum() == 9


def test_a_poor_slice_at_a_face_of_an_object_that_counts_is_false() -> None:
    truth = box_column((20, 44, 54), (21, 10, 20))
    labels = truth.array.copy()
    # One slice of the upper object lies at the face, beside its vertebra; the object as a whole is that vertebra.
    labels[1, :, 40:] = 0
    labels[1, 8:20, 56:60] = 20
    prediction = truth.with_array(labels)
    found = states(truth, one_each(prediction), prediction, cut_levels=())
    assert found == {"fp": 1, "tp": 5, "ignored": 0, "references": 6}
    # The same detections without an object are judged by their own place.
    assert states(truth, one_each(prediction), box_column(), cut_levels=())["ignored"] == 1


@pytest.mark.parametrize("edge", ["ignore", "crop"])
def test_renamed_label_maps_are_judged_by_their_objects_and_not_by_the_slices_older_names(edge: str) -> None:
    truth = box_column((21, 45, 55), (22, 30, 40), (23, 15, 25), (24, 0, 10))  # L2 to L4, and a cut L5
    # The network was one level off, and labelling has mended the map: its own L5 is the reference's L4.
    named = truth.array.copy()
    named[named > 0] += 1
    stored = {s.index: s for s in slice_labels(named)}
    case = CasePrediction("c", truth, "levels", stored, "label_map")
    scored = score_case(truth, case, edge=edge)  # type: ignore[arg-type]
    values = scored.rows.set_index(["metric", "level"])["value"]
    assert scored.edge.dropped == (24,)
    assert values[("id", "")] == values[("recall", "")] == values[("precision", "")] == 1
    table = scored.detections[scored.detections["set"] == "exclusive"]
    # Named AP stays with the network's own classes; what lies on the cut L5, called L6, has left.
    assert set(table.loc[table["mask_agnostic_50"] != IGNORED, "level"]) == {22, 23, 24}


def test_what_is_invented_in_a_slice_by_itself_is_false() -> None:
    picture = np.zeros((1, 80, 80), np.uint8)
    picture[0, 10:20, 10:20] = 1
    truth = Volume(picture, AFFINE)
    invented = picture.copy()
    invented[0, 40:50, 10:20] = 2
    labels = truth.with_array(invented)
    expected = {"fp": 1, "tp": 1, "ignored": 0, "references": 1}
    assert states(truth, one_each(labels), labels, cut_levels=None) == expected
    assert states(truth, one_each(labels), truth, cut_levels=None) == expected, "a detection of no object"


def test_a_slice_counts_its_hundred_surest_detections() -> None:
    grid = np.zeros((1, 130, 130), np.uint16)
    for number in range(101):
        y, z = 12 * (number // 10) + 1, 12 * (number % 10) + 1
        grid[0, y : y + 10, z : z + 10] = number + 1
    truth = Volume(grid, AFFINE)
    (s,) = one_each(truth).values()
    ranked = SliceInstances(0, s.size, s.masks, np.linspace(0.9, 0.1, 101, dtype=np.float32), s.levels, s.boxes)
    found = states(truth, {0: ranked}, truth, edge="count", score_threshold=0.05)
    assert (found["tp"], found["references"]) == (100, 101)
