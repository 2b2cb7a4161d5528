"""The network is Ultralytics': same loss, same masks, and weights that load safely."""

import copy
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from spineseg.errors import ConfigError, DataError
from spineseg.models import yolo
from spineseg.models.detections import draw, suppress
from spineseg.models.yolo import InstanceTargets, YOLOv8Seg, mask_targets, pretrained_weights


@pytest.fixture(scope="module")
def net() -> YOLOv8Seg:
    torch.manual_seed(0)
    return YOLOv8Seg(channels=3, num_classes=2, scale="n")


def targets_of(maps: Tensor, classes: list[list[int]]) -> InstanceTargets:
    """Targets from index maps (B, H, W); boxes are the hulls."""
    boxes, batch_index = [], []
    height, width = maps.shape[1:]
    for image, index_map in enumerate(maps):
        for i in range(len(classes[image])):
            rows, columns = torch.where(index_map == i + 1)
            y0, y1, x0, x1 = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
            boxes.append([(x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height])
            batch_index.append(float(image))
    return InstanceTargets(
        index_map=maps,
        classes=torch.tensor([float(c) for of in classes for c in of]),
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        batch_index=torch.tensor(batch_index),
    )


def example_targets() -> InstanceTargets:
    """Touching instances, one with a hole, one in two parts, and an image without any."""
    maps = torch.zeros((3, 64, 96), dtype=torch.uint8)
    maps[0, 8:40, 8:40] = 1
    maps[0, 16:24, 16:24] = 0
    maps[0, 8:40, 40:72] = 2
    maps[2, 4:20, 4:30] = 1
    maps[2, 40:56, 4:30] = 1
    return targets_of(maps, [[0, 1], [], [1]])


def test_the_loss_is_ultralytics(net: YOLOv8Seg) -> None:
    """Built independently from Ultralytics' parts, with one binary mask an instance instead of the index map."""
    from ultralytics.nn.tasks import SegmentationModel
    from ultralytics.utils import IterableSimpleNamespace
    from ultralytics.utils.loss import v8SegmentationLoss

    other = SegmentationModel("yolov8n-seg.yaml", ch=3, nc=2, verbose=False)
    other.load_state_dict(net.model.state_dict())
    other.args = IterableSimpleNamespace(box=7.5, cls=0.5, dfl=1.5, overlap_mask=False)
    targets = example_targets()
    masks = [
        (mask_targets(targets["index_map"])[int(image)] == i).float()
        for image, i in zip(targets["batch_index"], [1, 2, 1], strict=True)
    ]
    images = torch.rand(3, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    net.train()
    other.train()
    ours, parts = net.loss(net(images), targets)
    theirs, named = v8SegmentationLoss(other)(
        other(images),
        {
            "batch_idx": targets["batch_index"],
            "cls": targets["classes"],
            "bboxes": targets["boxes"],
            "masks": torch.stack(masks),
        },
    )
    torch.testing.assert_close(ours, theirs.sum(), rtol=1e-5, atol=1e-5)
    for name, value in named.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-5, atol=1e-5)


def test_a_batch_without_instances_has_a_finite_loss_and_gradient(net: YOLOv8Seg) -> None:
    net.train()
    loss, _ = net.loss(net(torch.rand(2, 3, 64, 64)), targets_of(torch.zeros((2, 64, 64), dtype=torch.uint8), [[], []]))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)
    net.zero_grad()


def test_masks_and_boxes_are_those_of_ultralytics_predictor(net: YOLOv8Seg) -> None:
    from ultralytics.utils.nms import non_max_suppression
    from ultralytics.utils.ops import process_mask

    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(3))
    net.eval()
    with torch.no_grad():
        raw = net.decode(images)
        (outputs, prototypes), _ = net.model(images)
        found = suppress(raw, score=1e-9, limit=20)
        expected = non_max_suppression(
            outputs.clone(), conf_thres=1e-9, iou_thres=0.7, max_det=20, nc=2, multi_label=True, max_nms=3000
        )
    assert len(found[0]) == 20
    for ours, theirs, prototype in zip(found, expected, prototypes, strict=True):
        torch.testing.assert_close(ours.boxes, theirs[:, :4])
        torch.testing.assert_close(ours.scores, theirs[:, 4])
        masks = process_mask(prototype, theirs[:, 6:], theirs[:, :4].clone(), (64, 96), upsample=True)
        # One pixel in 10 000 may differ: two orders of summing the same logits.
        assert (draw(ours, (64, 96)).masks != masks.bool()).float().mean() < 1e-4


def test_gray_input_through_coco_kernels_is_unchanged() -> None:
    """The sum of the RGB kernels on the middle channel equals three equal channels; neighbours start at zero."""
    torch.manual_seed(1)
    coco = YOLOv8Seg(channels=3, num_classes=1, scale="n").eval()
    ours = YOLOv8Seg(channels=5, num_classes=1, scale="n").eval()
    taken = ours.load_weights(coco.model.state_dict())
    assert taken == len(coco.model.state_dict())
    gray = torch.rand(1, 1, 64, 64)
    stack = torch.rand(1, 5, 64, 64)
    stack[:, 2:3] = gray
    with torch.no_grad():
        torch.testing.assert_close(
            ours.decode(stack).scores, coco.decode(gray.repeat(1, 3, 1, 1)).scores, rtol=1e-4, atol=1e-5
        )


def test_weights_of_another_class_count_load_but_for_the_head() -> None:
    coco = YOLOv8Seg(channels=3, num_classes=80, scale="n")
    ours = YOLOv8Seg(channels=3, num_classes=1, scale="n")
    taken = ours.load_weights(coco.model.state_dict())
    total = len(ours.model.state_dict())
    assert 0.9 * total < taken < total
    name = "model.9.cv1.conv.weight"
    torch.testing.assert_close(ours.model.state_dict()[name], coco.model.state_dict()[name])


def test_an_ultralytics_checkpoint_is_converted_once(tmp_path: Path, net: YOLOv8Seg) -> None:
    path = tmp_path / "some-seg.pt"
    torch.save({"model": net.model.half(), "ema": None, "train_args": {}}, path)
    net.model.float()
    weights = pretrained_weights(str(path))
    assert weights.keys() == net.model.state_dict().keys()
    plain = tmp_path / "some-seg.weights.pt"
    written = plain.stat().st_mtime_ns
    assert torch.load(plain, weights_only=True).keys() == weights.keys()
    pretrained_weights(str(path))
    assert plain.stat().st_mtime_ns == written


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


def test_a_hostile_checkpoint_is_refused_and_does_nothing(tmp_path: Path) -> None:
    path, canary = tmp_path / "evil.pt", tmp_path / "canary"
    torch.save({"model": Hostile(canary)}, path)
    with pytest.raises(DataError, match=r"evil\.pt.*refused"):
        pretrained_weights(str(path))
    assert not canary.exists()


def test_weights_that_cannot_be_had_name_both_ways_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def refuse(*_: object) -> str:
        raise ConnectionError("no network")

    monkeypatch.setattr(yolo, "attempt_download_asset", refuse)
    for name in ("yolov8s-seg.pt", str(tmp_path / "gone.pt")):
        with pytest.raises(ConfigError, match=r"model\.weights=<path to the \.pt>.*model\.weights=null"):
            pretrained_weights(name)


def test_importing_the_network_leaves_torch_as_it_was() -> None:
    assert torch.save.__module__ == "torch.serialization"


def test_mask_targets_are_centred_where_masks_are_drawn() -> None:
    """A mask drawn from a perfect prototype lies on the instance: no systematic shift, whatever its position."""
    shifts = []
    for start in range(8, 24):
        index_map = torch.zeros((1, 64, 64), dtype=torch.uint8)
        index_map[:, start : start + 16, start : start + 16] = 1
        prototype = mask_targets(index_map).float() * 2 - 1
        drawn = torch.nn.functional.interpolate(prototype[None], (64, 64), mode="bilinear")[0, 0] > 0
        centre = drawn.nonzero().float().mean(0)
        shifts.append((centre - (start + 7.5)).tolist())
    assert torch.tensor(shifts).mean(0).abs().max() <= 0.01


def test_boxes_and_masks_are_decoded_in_float32_under_autocast(net: YOLOv8Seg) -> None:
    """Far from the origin bfloat16 has steps of several pixels; decoded boxes must not."""
    images = torch.rand(1, 3, 64, 1216, generator=torch.Generator().manual_seed(5))
    net = copy.deepcopy(net).eval()
    for branch in net.model.model[-1].cv2:
        torch.nn.init.normal_(branch[-1].bias, std=3)  # boxes of an untrained head lie on round numbers
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        raw = net.decode(images)
        (found,) = suppress(raw, score=1e-9, limit=50)
        drawn = draw(found, (64, 1216))
    assert raw.boxes.dtype == found.coefficients.dtype == torch.float32
    far = raw.boxes[raw.boxes > 600]
    assert len(far) > 100 and (far != far.to(torch.bfloat16).float()).float().mean() > 0.9
    with torch.no_grad():
        (outputs, _), _ = net.model(images)
    # What is left is the rounding inside the network, far below the step of 4 at pixel 600.
    centre, size = outputs[0, :2].T, outputs[0, 2:4].T
    expected = torch.cat([centre - size / 2, centre + size / 2], 1)
    assert (raw.boxes[0] - expected).abs().median() < 0.2
    assert drawn.masks.any()
