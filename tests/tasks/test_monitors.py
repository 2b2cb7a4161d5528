"""In-loop monitors on cases worked out by hand."""

import numpy as np
import pytest
import torch

from spineseg.metrics.matching import match_slice
from spineseg.models.detections import SliceDetections, draw, draw_in_boxes
from spineseg.predictions.instances import nms_keep
from spineseg.tasks.monitors import DICE_SCORE, Found, MonitoredSlice, monitor_slice, monitors

Shapes = list[tuple[int, int, int, int]]


def slice_of(shapes: Shapes, size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Index map and boxes (y0, z0, y1, z1) of rectangles."""
    index_map = np.zeros((size, size), np.uint8)
    for i, (y0, z0, y1, z1) in enumerate(shapes):
        index_map[y0:y1, z0:z1] = i + 1
    return index_map, np.array(shapes, float).reshape(-1, 4)


def found(shapes: Shapes, scores: list[float], classes: list[int]) -> Found:
    crops = [(np.ones((y1 - y0, z1 - z0), bool), (y0, z0)) for y0, z0, y1, z1 in shapes]
    boxes = np.array(shapes, float).reshape(-1, 4)
    return Found(boxes, np.array(scores, float), np.array(classes, np.int64), crops)


def monitored(key: tuple[str, int], truth: Shapes, classes: list[int], detections: Found) -> MonitoredSlice:
    index_map, boxes = slice_of(truth)
    return monitor_slice(key, detections, index_map, np.array(classes, np.int64), boxes)


TWO = [(2, 2, 10, 10), (12, 2, 20, 10)]


def test_perfect_detections_score_one() -> None:
    item = monitored(("a", 0), TWO, [0, 1], found(TWO, [0.9, 0.8], [0, 1]))
    values = monitors([item], num_classes=2)
    for name in ("mask_map50", "box_map50", "mask_map50_95", "box_map50_95", "dice", "mask_map50_named"):
        assert values[name] == pytest.approx(1)
    assert values["score_threshold"] == pytest.approx(0.8)


def test_wrong_names_cost_only_the_named_value() -> None:
    values = monitors([monitored(("a", 0), TWO, [0, 1], found(TWO, [0.9, 0.8], [1, 0]))], num_classes=2)
    assert values["mask_map50"] == pytest.approx(1)
    assert values["mask_map50_named"] == 0


def test_a_false_detection_above_a_true_one() -> None:
    """One reference; a false one ranks first: precision 1/2 at every recall."""
    item = monitored(("a", 0), TWO[:1], [0], found([(20, 20, 30, 30), TWO[0]], [0.9, 0.5], [0, 0]))
    assert monitors([item], num_classes=1)["mask_map50"] == pytest.approx(0.5)


def test_slices_without_vertebrae_count_their_false_detections() -> None:
    good = monitored(("a", 0), TWO, [0, 0], found(TWO, [0.6, 0.5], [0, 0]))
    empty = monitored(("a", 1), [], [], found(TWO[:1], [0.9], [0]))
    assert monitors([good], num_classes=1)["mask_map50"] == pytest.approx(1)
    assert monitors([good, empty], num_classes=1)["mask_map50"] < 0.7


def test_dice_is_of_the_foreground_at_a_score_of_a_quarter() -> None:
    item = monitored(("a", 0), TWO, [0, 0], found([*TWO], [0.9, 0.2], [0, 0]))
    assert monitors([item], num_classes=1)["dice"] == pytest.approx(2 * 64 / (64 + 128))


def test_order_and_repeats_do_not_matter() -> None:
    items = [
        monitored(("a", i), TWO, [0, 0], found([TWO[0], (5 + i, 15, 20, 25)], [0.5, 0.5], [0, 0])) for i in range(4)
    ]
    expected = monitors(items, num_classes=1)
    assert monitors(items[::-1], num_classes=1) == expected
    assert monitors([*items, items[2]], num_classes=1) == expected


def test_nothing_to_find_and_nothing_found() -> None:
    none = found([], [], [])
    assert monitors([monitored(("a", 0), [], [], none)], num_classes=1)["mask_map50"] == 0
    assert monitors([monitored(("a", 0), TWO, [0, 0], none)], num_classes=1)["mask_map50"] == 0
    assert monitors([], num_classes=1)["dice"] == 0
    assert "score_threshold" not in monitors([monitored(("a", 0), TWO, [0, 0], none)], num_classes=1)


def test_states_are_those_of_whole_masks() -> None:
    """Crops that lie anywhere, partly empty and overlapping, against IoU and union of full-size masks."""
    rng = np.random.default_rng(0)
    for _ in range(30):
        index_map = np.zeros((40, 48), np.uint8)
        for i in range(4):
            y, z = rng.integers(0, (30, 38))
            index_map[y : y + 9, z : z + 9] = i + 1
        truth = np.stack([index_map == i + 1 for i in range(4)])
        corners = [tuple(int(v) for v in rng.integers(0, (30, 38))) for _ in range(12)]
        crops = [(rng.random((9, 10)) < 0.8, corner) for corner in corners]
        whole = np.zeros((12, 40, 48), bool)
        for mask, (crop, (y, z)) in zip(whole, crops, strict=True):
            mask[y : y + 9, z : z + 10] = crop
        boxes = np.array([(y, z, y + 9, z + 10) for y, z in corners], float)
        scores, classes = rng.random(12), rng.integers(0, 2, 12)
        references = rng.integers(0, 2, 4)
        hulls = np.array([(*np.argwhere(mask).min(0), *np.argwhere(mask).max(0) + 1) for mask in truth], float)
        item = monitor_slice(("a", 0), Found(boxes, scores, classes, crops), index_map, references, hulls)
        shared = (whole[:, None] & truth[None]).sum((2, 3))
        iou = shared / np.maximum((whole[:, None] | truth[None]).sum((2, 3)), 1)
        expected = match_slice(iou, scores, classes=classes, reference_classes=references)
        np.testing.assert_array_equal(item.named_masks, expected)
        np.testing.assert_array_equal(item.masks, match_slice(iou[item.agnostic], scores[item.agnostic]))
        good = whole[scores >= DICE_SCORE].any(0)
        assert item.overlap == ((good & (index_map > 0)).sum(), good.sum(), (index_map > 0).sum())


@pytest.mark.parametrize("seed", range(4))
def test_masks_that_are_not_drawn_could_not_have_mattered(seed: int) -> None:
    """Detections around and beside the references as a network gives them, against every mask drawn whole."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    index_map, hulls = slice_of([(8 + 20 * i, 10, 22 + 20 * i, 40) for i in range(4)], size=96)
    index_map[8:96, 10:14] = 0  # references that do not fill their boxes
    hulls[:, 1] = 14
    count = 90
    near = hulls[rng.integers(0, 4, count)] + rng.normal(0, 1, (count, 4)) * rng.choice([1, 4, 20], (count, 1))
    low, high = np.minimum(near[:, :2], near[:, 2:]), np.maximum(near[:, :2], near[:, 2:])
    boxes = torch.tensor(np.stack([low[:, 1], low[:, 0], high[:, 1], high[:, 0]], axis=1), dtype=torch.float32)
    # Logits that are mostly positive: masks about as large as their boxes.
    prototypes = torch.rand(32, 24, 24, generator=generator)
    coefficients = torch.randn(count, 32, generator=generator) + 0.6
    scores = torch.rand(count, generator=generator).sort(descending=True).values ** 3
    classes = torch.randint(0, 2, (count,), generator=generator)
    item = SliceDetections(boxes, scores, classes, torch.ones(count, 2), coefficients, prototypes)
    corners, crops = draw_in_boxes(item, (96, 96))
    named = np.array([0, 1, 0, 1])
    result = monitor_slice(
        ("a", 0), Found(corners, scores.double().numpy(), classes.numpy(), crops), index_map, named, hulls
    )
    whole = draw(item, (96, 96)).masks.numpy()
    truth = np.stack([index_map == i + 1 for i in range(4)])
    iou = (whole[:, None] & truth).sum((2, 3)) / np.maximum((whole[:, None] | truth).sum((2, 3)), 1)
    assert (iou >= 0.5).sum() > 5 and ((iou > 0) & (iou < 0.5)).sum() > 20
    kept = nms_keep(corners, scores.numpy())
    np.testing.assert_array_equal(result.agnostic, kept)
    np.testing.assert_array_equal(result.masks, match_slice(iou[kept], scores[kept]))
    np.testing.assert_array_equal(
        result.named_masks, match_slice(iou, scores, classes=classes.numpy(), reference_classes=named)
    )
    good = whole[scores.numpy() >= DICE_SCORE].any(0)
    assert result.overlap == ((good & (index_map > 0)).sum(), good.sum(), (index_map > 0).sum())
