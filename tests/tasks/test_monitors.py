"""In-loop monitors on cases worked out by hand."""

import pytest
import torch
from torch import Tensor

from spineseg.models.detections import Detections
from spineseg.tasks.monitors import MonitoredSlice, monitor_slice, monitors


def slice_of(shapes: list[tuple[int, int, int, int]], size: int = 32) -> tuple[Tensor, Tensor]:
    """Index map and boxes (y0, z0, y1, z1) of rectangles."""
    index_map = torch.zeros((size, size), dtype=torch.uint8)
    for i, (y0, z0, y1, z1) in enumerate(shapes):
        index_map[y0:y1, z0:z1] = i + 1
    return index_map, torch.tensor(shapes).float().reshape(-1, 4)


def found(shapes: list[tuple[int, int, int, int]], scores: list[float], classes: list[int]) -> Detections:
    masks = torch.zeros((len(shapes), 32, 32), dtype=torch.bool)
    for mask, (y0, z0, y1, z1) in zip(masks, shapes, strict=True):
        mask[y0:y1, z0:z1] = True
    return Detections(torch.tensor(shapes).float().reshape(-1, 4), torch.tensor(scores), torch.tensor(classes), masks)


def monitored(
    key: tuple[str, int],
    truth: list[tuple[int, int, int, int]],
    classes: list[int],
    detections: Detections,
) -> MonitoredSlice:
    index_map, boxes = slice_of(truth)
    return monitor_slice(key, detections, index_map, torch.tensor(classes).float(), boxes)


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


def test_pixel_counts_are_exact_under_autocast() -> None:
    truth = torch.zeros((64, 64), dtype=torch.uint8)
    truth[:37, :41] = 1
    masks = truth[None] > 0
    masks[0, 0, 0] = False
    boxes = torch.tensor([[0.0, 0, 37, 41]])
    found_one = Detections(boxes, torch.tensor([0.9]), torch.tensor([0]), masks)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        item = monitor_slice(("a", 0), found_one, truth, torch.tensor([0.0]), boxes)
    assert item.masks[:, 0].tolist() == [1] * 10 and item.overlap == (1516, 1516, 1517)
