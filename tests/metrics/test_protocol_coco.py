"""COCO's rules against pycocotools: categories, area ranges, one class, parts."""

import contextlib
import io
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from spineseg.geometry import Volume
from spineseg.metrics.protocol_coco import coco_detections, coco_results, states_at
from spineseg.predictions.instances import SliceInstances, from_masks
from spineseg.predictions.masks import areas_px, hulls
from spineseg.predictions.slicing import slice_labels

SHAPE = (4, 120, 130)  # large enough for all three area ranges
AFFINE = np.diag([3.0, 1.0, 1.0, 1.0])
STATS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")


def rectangle(random: np.random.Generator) -> tuple[slice, slice]:
    height, width = random.integers(4, 110, 2)
    y, z = random.integers(0, SHAPE[1] - height + 1), random.integers(0, SHAPE[2] - width + 1)
    return slice(y, y + height), slice(z, z + width)


def truth(random: np.random.Generator) -> Volume:
    labels = np.zeros(SHAPE, np.uint8)
    for plane in labels:
        for level in random.permutation([20, 21, 22, 23])[: random.integers(0, 5)]:
            plane[rectangle(random)] = level
    return Volume(labels, AFFINE)


def detections(random: np.random.Generator, reference: Volume) -> dict[int, SliceInstances]:
    """Masks near the reference's, elsewhere, and twice; some with another level's name, many with equal scores."""
    found = {}
    for index, plane in enumerate(reference.array):
        masks, levels = [], []
        for level in [int(v) for v in np.unique(plane) if v]:
            for _ in range(random.integers(0, 3)):
                masks.append(np.roll(plane == level, random.integers(-4, 5), axis=random.integers(0, 2)))
                levels.append(level if random.random() < 0.7 else 24)
        for _ in range(random.integers(0, 3)):
            mask = np.zeros(SHAPE[1:], bool)
            mask[rectangle(random)] = True
            masks.append(mask)
            levels.append(int(random.integers(20, 25)))
        if masks:
            scores = random.integers(1, 6, len(masks)) / 10
            found[index] = from_masks(index, np.stack(masks), scores, levels=levels)
    return found


def by_coco(truths: list[SliceInstances], found: list[SliceInstances], *, named: bool) -> dict[str, float]:
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []

    def entries(s: SliceInstances, image: int) -> list[dict[str, Any]]:
        return [
            {"image_id": image, "category_id": int(level), "segmentation": dict(rle)}
            for rle, level in zip(s.masks, s.levels, strict=True)
        ]

    for image, (g, s) in enumerate(zip(truths, found, strict=True), start=1):
        for entry, area, (y0, z0, y1, z1) in zip(entries(g, image), areas_px(g.masks), hulls(g.masks), strict=True):
            box = [z0, y0, z1 - z0, y1 - y0]
            annotations.append(entry | {"id": len(annotations) + 1, "area": float(area), "iscrowd": 0, "bbox": box})
        results += [e | {"score": float(x)} for e, x in zip(entries(s, image), s.scores, strict=True)]
    if not annotations or not results:
        return {}
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        images = [{"id": n, "height": SHAPE[1], "width": SHAPE[2]} for n in range(1, len(truths) + 1)]
        levels = {int(level) for part in (*truths, *found) for level in part.levels}
        categories = [{"id": level} for level in sorted(levels)]
        coco.dataset = {"images": images, "annotations": annotations, "categories": categories}
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "segm")
        evaluation.params.useCats = int(named)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = evaluation.stats[:6].tolist()
    return dict(zip(STATS, [float("nan") if value == -1 else value for value in values], strict=True))


@pytest.mark.parametrize("seed", range(12))
def test_every_number_is_pycocotools(seed: int) -> None:
    random = np.random.default_rng(seed)
    volumes = [truth(random) for _ in range(3)]
    found = [detections(random, volume) for volume in volumes]
    tables = [
        coco_detections(v, v, s, slice_kind="detections", named=True) for v, s in zip(volumes, found, strict=True)
    ]
    ours = coco_results(pd.concat(tables, ignore_index=True), named=True)
    truths = [g for volume in volumes for g in slice_labels(volume.array)]
    guesses = [
        s.get(g.index, g.take([])) for volume, s in zip(volumes, found, strict=True) for g in slice_labels(volume.array)
    ]
    for named in (False, True):
        expected = by_coco(truths, guesses, named=named)
        for name, value in expected.items():
            assert ours[f"instance {name}{'_named' if named else ''}"] == pytest.approx(value, abs=1e-6, nan_ok=True)


def test_the_area_ranges_all_occur() -> None:
    tables = []
    for seed in range(4):
        random = np.random.default_rng(seed)
        volume = truth(random)
        found = detections(random, volume)
        tables.append(coco_detections(volume, volume, found, slice_kind="detections", named=True))
    ours = coco_results(pd.concat(tables, ignore_index=True), named=True)
    assert all(np.isfinite(ours[f"instance ap_{area}"]) for area in ("small", "medium", "large"))


def test_parts_are_annotations_of_their_own() -> None:
    labels = np.zeros((1, 40, 60), np.uint8)
    labels[0, 5:15, 5:15] = labels[0, 5:15, 30:40] = 20
    labels[0, 30:33, 5:8] = 20  # 9 mm²: no part
    reference, half = Volume(labels, AFFINE), labels.copy()
    half[0, :, 20:] = 0
    table = coco_detections(reference, Volume(half, AFFINE), None, slice_kind="label_map", named=True)
    counts = table[table["reference"]].groupby("mode")["counted"].agg(["size", "sum"])
    assert counts.loc["instance"].tolist() == [1, 1]
    assert counts.loc["component"].tolist() == [3, 2]
    results = coco_results(table, named=True)
    # One of two parts; of the instance, 109 of 209 pixels.
    assert results["component ap50"] == pytest.approx(51 / 101, abs=1e-6)
    assert results["instance ap50"] == pytest.approx(1)
    assert results["component ap_named"] == results["component ap"]


def test_a_detectors_detections_are_never_parted() -> None:
    mask = np.zeros((1, 40, 60), bool)
    mask[0, 5:15, 5:15] = mask[0, 5:15, 30:40] = True
    reference = Volume((mask * 20).astype(np.uint8), AFFINE)
    slices = {0: from_masks(0, mask, [0.5], levels=[20])}
    for kind, count in (("detections", 1), ("label_map", 2)):
        table = coco_detections(reference, reference, slices, slice_kind=kind, named=True)  # type: ignore[arg-type]
        assert len(table[~table["reference"] & (table["mode"] == "component")]) == count


def test_one_class_models_have_no_named_number() -> None:
    labels = np.zeros((2, 30, 30), np.uint8)
    labels[:, 5:20, 5:20] = 20
    volume = Volume(labels, AFFINE)
    results = coco_results(coco_detections(volume, volume, None, slice_kind="label_map", named=False), named=False)
    assert results["instance ap"] == results["component ap"] == pytest.approx(1)
    assert all(np.isnan(value) for name, value in results.items() if name.endswith("_named"))


def test_words_hold_a_state_for_each_iou() -> None:
    words = np.array([0, 1, 2, 1 << 2, 2 << 18])
    states = states_at(words)
    assert states.shape == (10, 5)
    assert states[0].tolist() == [0, 1, 2, 0, 0] and states[1].tolist() == [0, 0, 0, 1, 0] and states[9, 4] == 2


def test_an_empty_set_gives_nan() -> None:
    empty = Volume(np.zeros((2, 9, 9), np.uint8), AFFINE)
    results = coco_results(coco_detections(empty, empty, None, slice_kind="label_map", named=True), named=True)
    assert results and all(np.isnan(value) for value in results.values())
