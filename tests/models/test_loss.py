"""The loss against Ultralytics' own, fed by Ultralytics' own formatting and collation of the same instances."""

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spineseg.data.slices import SliceReader, SliceRef, SliceSample, collate, instance_targets
from spineseg.models.yolo import InstanceTargets, YOLOv8Seg, mask_targets

LEVELS = tuple(range(8, 25))  # T1 to L5
SIZE = (64, 160)


def column(seed: int) -> np.ndarray:
    """A slice of level ids: touching vertebrae of one column, each with a spinous process as a part of its own."""
    generator = np.random.default_rng(seed)
    labels = np.zeros(SIZE, np.uint8)
    edges = np.cumsum(generator.integers(9, 26, 8))
    for level, (start, stop) in zip(generator.permutation(LEVELS), pairwise(edges), strict=False):
        if stop > SIZE[1]:
            break
        labels[20:44, start:stop] = level  # touches the one before
        labels[4 : int(generator.integers(6, 14)), start + 2 : stop] = level  # a second part
        labels[28:32, start + 3 : start + 6] = 0  # a hole
    return labels


def empty(_: int) -> np.ndarray:
    return np.zeros(SIZE, np.uint8)


def speck(_: int) -> np.ndarray:
    """An instance that has no pixel left at the prototypes' size, beside a large one."""
    labels = np.zeros(SIZE, np.uint8)
    labels[20:44, 10:50] = 12
    labels[0:2, 100:102] = 13
    return labels


def samples_of(slices: list[np.ndarray], named: bool) -> list[SliceSample]:
    reader = SliceReader((-200.0, 1000.0), 1, "levels" if named else "vertebra", LEVELS)
    samples = []
    for i, labels in enumerate(slices):
        index_map, classes, boxes = instance_targets(labels, np.arange(256, dtype=np.uint8), reader, min_pixels=4)
        image = torch.rand((3, *SIZE), generator=torch.Generator().manual_seed(i))
        tensors = [torch.from_numpy(value) for value in (index_map, classes, boxes)]
        samples.append(
            SliceSample(image=image, index_map=tensors[0], classes=tensors[1], boxes=tensors[2], ref=_ref(i))
        )
    return samples


def _ref(i: int) -> SliceRef:
    return SliceRef("case", i)


def their_batch(samples: list[SliceSample], overlap: bool, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Ultralytics' ``Format`` and ``collate_fn`` on the same instances.

    Only its rasteriser is replaced, by one that looks an instance's bitmap up in the same index map: a polygon is not
    the same mask. Its order (falling area), numbering and merging of instances are its own.
    """
    from ultralytics.data import utils
    from ultralytics.data.augment import Format
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.utils.instance import Instances

    formatted = []
    for sample in samples:
        index_map = mask_targets(sample["index_map"][None])[0]
        count = len(sample["classes"])

        def bitmap(imgsz: Any, polygons: Any, color: int = 1, downsample_ratio: int = 1, m: Tensor = index_map) -> Any:
            number = round(float(np.asarray(polygons).reshape(-1)[0]))
            return ((m == number).numpy() * color).astype(np.uint8)

        patch.setattr(utils, "polygon2mask", bitmap)
        segments = np.repeat(np.arange(1.0, count + 1), 2).reshape(count, 1, 2)
        boxes = sample["boxes"].numpy().astype(np.float32)
        labels = {
            "img": np.zeros((*SIZE, 3), np.uint8),
            "cls": sample["classes"].numpy()[:, None],
            "instances": Instances(boxes, segments, None, bbox_format="xyxy", normalized=False),
        }
        formatted.append(Format(return_mask=True, mask_ratio=4, mask_overlap=overlap)(labels))
    return YOLODataset.collate_fn(formatted)


def our_targets(samples: list[SliceSample]) -> tuple[Tensor, InstanceTargets]:
    batch = collate(samples)
    names = ("index_map", "classes", "boxes", "batch_index")
    return batch["images"], InstanceTargets(**{name: batch[name] for name in names})  # type: ignore[typeddict-item,literal-required]


def network(num_classes: int) -> YOLOv8Seg:
    """Trained for a moment, so that the assignment rests on more than the start values."""
    torch.manual_seed(0)
    net = YOLOv8Seg(channels=3, num_classes=num_classes, scale="n")
    for level in net.model.model[-1].cv3:
        nn.init.normal_(level[-1].weight, std=0.5)
    return net.train()


CASES = {
    "touching, two parts, holes": [column(1), column(2)],
    "an empty image among others": [column(3), empty(0), column(4), empty(0)],
    "nothing but empty images": [empty(0), empty(0)],
    "an instance too small for the prototypes": [speck(0), column(5)],
}


@pytest.mark.parametrize("overlap", [True, False], ids=["overlap_mask", "a mask an instance"])
@pytest.mark.parametrize("named", [False, True], ids=["one class", "levels"])
@pytest.mark.parametrize("case", CASES)
def test_the_loss_is_ultralytics(case: str, named: bool, overlap: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sum and every term to 1e-5, and the gradient of each weight to 1e-4 of its norm."""
    from ultralytics.nn.tasks import SegmentationModel
    from ultralytics.utils.loss import v8SegmentationLoss

    classes = len(LEVELS) if named else 1
    net = network(classes)
    samples = samples_of(CASES[case], named)
    images, targets = our_targets(samples)
    other = SegmentationModel("yolov8n-seg.yaml", ch=3, nc=classes, verbose=False)
    other.load_state_dict(net.model.state_dict())
    other.args = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5, overlap_mask=overlap)
    other.train()
    batch = their_batch(samples, overlap, monkeypatch)
    if overlap and case.startswith("touching"):
        assert not torch.equal(batch["masks"], mask_targets(targets["index_map"])), "their order is another one"
    ours, parts = net.loss(net(images), targets)
    theirs, named_parts = v8SegmentationLoss(other)(other(images), batch)
    torch.testing.assert_close(ours, theirs.sum(), rtol=1e-5, atol=1e-5)
    assert parts.keys() == named_parts.keys()
    for name, value in named_parts.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    ours.backward()
    theirs.sum().backward()
    for (name, mine), his in zip(net.model.named_parameters(), other.parameters(), strict=True):
        if his.grad is not None and mine.grad is not None:
            # By norm: single entries are differences of large sums.
            assert (mine.grad - his.grad).norm() <= 1e-4 * his.grad.norm() + 1e-6, name


@pytest.mark.parametrize("seed", range(5))
def test_mask_targets_are_ultralytics(seed: int) -> None:
    """Bit for bit what its resizing makes of each instance's bitmap, where no two instances tie for a pixel."""
    import cv2

    labels = column(seed)
    found = mask_targets(torch.from_numpy(labels)[None])[0].numpy()
    levels = np.unique(labels[labels > 0])
    theirs = np.stack([cv2.resize((labels == v).astype(np.uint8), (SIZE[1] // 4, SIZE[0] // 4)) for v in levels]) > 0
    ours = found == levels[:, None, None]
    alone = theirs.sum(0) < 2
    assert (ours == theirs)[:, alone].all() and alone.mean() > 0.9
    assert (ours <= theirs).all() and (ours.any(0) == theirs.any(0)).all()
