"""Drawing masks on any grid of pixels."""

import numpy as np
import pytest
import torch
from torchvision.ops import nms

from spineseg.models.detections import SliceDetections, draw, draw_in_boxes, draw_on, suppress
from spineseg.models.yolo import RawDetections


def detections(boxes: list[list[float]], height: int, width: int, seed: int = 0) -> SliceDetections:
    generator = torch.Generator().manual_seed(seed)
    n = len(boxes)
    return SliceDetections(
        boxes=torch.tensor(boxes).reshape(-1, 4),
        scores=torch.linspace(0.9, 0.1, n),
        classes=torch.zeros(n, dtype=torch.long),
        distributions=torch.ones(n, 1),
        coefficients=torch.randn(n, 32, generator=generator),
        prototypes=torch.randn(32, height // 4, width // 4, generator=generator),
    )


BOXES = [[3.2, 5.9, 40.1, 30.0], [0.0, 0.0, 64.0, 48.0], [60.0, 40.0, 64.0, 48.0]]


def dense(found: SliceDetections, shape: tuple[int, int], step: tuple[float, float]) -> np.ndarray:
    _, crops = draw_on(found, shape, step)
    masks = np.zeros((len(found), *shape), bool)
    for mask, (crop, (y, z)) in zip(masks, crops, strict=True):
        mask[y : y + crop.shape[0], z : z + crop.shape[1]] = crop
    return masks


def test_native_drawing_at_network_pixels_equals_network_drawing() -> None:
    found = detections(BOXES, 48, 64)
    network = draw(found, (48, 64)).masks.numpy()
    native = dense(found, (48, 64), (1.0, 1.0))
    # A pixel is in a box by its centre here, by its corner there: only pixels on a box's edge may differ.
    inner = np.zeros_like(network)
    for mask, (x0, y0, x1, y1) in zip(inner, BOXES, strict=True):
        mask[int(np.ceil(y0)) : int(np.floor(y1)), int(np.ceil(x0)) : int(np.floor(x1))] = True
    assert (network[inner] == native[inner]).all()
    assert native.any()


@pytest.mark.parametrize("seed", range(3))
def test_masks_drawn_in_their_boxes_are_the_masks_drawn_whole(seed: int) -> None:
    beyond = [[-7.3, 30.2, 20.0, 60.0], [70.0, 50.0, 90.0, 60.0], [10.5, 8.0, 10.9, 8.4]]
    found = detections(BOXES + beyond, 48, 64, seed)
    whole = draw(found, (48, 64))
    boxes, crops = draw_in_boxes(found, (48, 64))
    np.testing.assert_allclose(boxes, whole.boxes.numpy())
    for mask, (crop, (y, z)) in zip(whole.masks.numpy(), crops, strict=True):
        pasted = np.zeros((48, 64), bool)
        pasted[y : y + crop.shape[0], z : z + crop.shape[1]] = crop
        np.testing.assert_array_equal(pasted, mask)
    alone = [crops[i][0] for i in range(len(crops))]  # drawn one by one, or some of them
    for one, (crop, _) in zip(alone, crops, strict=True):
        np.testing.assert_array_equal(one, crop)
    for one, (crop, _) in zip(alone[1:3], crops[1:3], strict=True):
        np.testing.assert_array_equal(one, crop)


@pytest.mark.parametrize("step", [(0.5, 0.5), (0.25, 1.0), (2.0, 1.5)])
def test_finer_and_coarser_grids_show_the_same_shape(step: tuple[float, float]) -> None:
    # A smooth prototype, so that sampling density does not matter.
    found = detections([[4.0, 4.0, 60.0, 44.0]], 48, 64)
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, 12), torch.linspace(-1, 1, 16), indexing="ij")
    prototypes = torch.zeros(32, 12, 16)
    prototypes[0] = 0.5 - rows**2 - columns**2
    coefficients = torch.zeros(1, 32)
    coefficients[0, 0] = 1
    found = SliceDetections(found.boxes, found.scores, found.classes, found.distributions, coefficients, prototypes)
    shape = (round(48 / step[0]), round(64 / step[1]))
    area = dense(found, shape, step).sum() * step[0] * step[1]
    assert area == pytest.approx(float(draw(found, (48, 64)).masks.sum()), rel=0.03)


def test_no_detections() -> None:
    found = detections([], 48, 64)
    assert draw(found, (48, 64)).masks.shape == (0, 48, 64)
    boxes, crops = draw_on(found, (96, 128), (0.5, 0.5))
    assert boxes.shape == (0, 4) and len(crops) == 0


def test_boxes_outside_the_grid_draw_nothing() -> None:
    found = detections([[70.0, 50.0, 90.0, 60.0]], 48, 64)
    boxes, crops = draw_on(found, (48, 64), (1.0, 1.0))
    assert crops[0][0].size == 0
    assert boxes[0].tolist() == [48, 64, 48, 64]


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("limit", [20, 100])
def test_suppression_of_a_short_list_is_that_of_the_whole(classes: int, limit: int) -> None:
    """More candidates than the first try takes, also where it leaves too few; against one class after the other."""
    generator = torch.Generator().manual_seed(classes)
    corners = torch.rand(3, 1500, 2, generator=generator) * torch.tensor([300.0, 300.0, 30.0])[:, None, None]
    boxes = torch.cat([corners, corners + 20 + 10 * torch.rand(3, 1500, 2, generator=generator)], dim=2)
    scores = torch.rand(3, 1500, classes, generator=generator) * (
        torch.rand(3, 1500, classes, generator=generator) < 0.6
    )
    raw = RawDetections(boxes, scores, torch.randn(3, 1500, 32, generator=generator), torch.zeros(3, 32, 8, 8), {})
    lengths = []
    for image, found in enumerate(suppress(raw, limit=limit)):
        pairs = []
        for of in range(classes):
            anchors = torch.where(scores[image, :, of] > 0.001)[0]
            kept = nms(boxes[image][anchors], scores[image, anchors, of], 0.7)
            pairs += [(float(scores[image, anchor, of]), of, int(anchor)) for anchor in anchors[kept]]
        best = sorted(pairs, reverse=True)[:limit]
        assert found.scores.tolist() == [value for value, _, _ in best]
        assert found.classes.tolist() == [of for _, of, _ in best]
        anchors = torch.tensor([anchor for _, _, anchor in best])
        assert torch.equal(found.boxes, boxes[image][anchors])
        assert torch.equal(found.coefficients, raw.coefficients[image][anchors])
        assert torch.equal(found.distributions, scores[image][anchors])
        lengths.append(len(found))
    assert lengths[0] == limit


def test_suppression_keeps_the_best_of_each_class() -> None:
    boxes = torch.tensor([[[0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]]]).float()
    scores = torch.tensor([[[0.9, 0.2], [0.8, 0.7], [0.0, 0.0005]]])
    raw = RawDetections(boxes, scores, torch.zeros(1, 3, 32), torch.zeros(1, 32, 8, 8), {})
    (found,) = suppress(raw)
    assert found.scores.tolist() == pytest.approx([0.9, 0.7])
    assert found.classes.tolist() == [0, 1]
    assert [len(one) for one in suppress(raw, limit=1)] == [1]
    assert found.take(torch.tensor([1])).distributions.tolist() == [pytest.approx([0.8, 0.7])]
